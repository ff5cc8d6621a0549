//! Introspects tokens, over the connections of one worker.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{Request, StatusCode};
use tokio::runtime::{self, LocalOptions};

use super::hash::TokenHash;
use super::introspection::{self, IntrospectionResponse, MAX_ANSWER, NoVerdict, ReceivedResponse};
use crate::client::call::Call;
use crate::client::pool::Pool;
use crate::client::{CollectError, Connector};
use crate::config::settings;
use crate::policy::headers;
use crate::telemetry::metrics::IntrospectionOutcome;
use crate::telemetry::spans::{IntrospectionSpan, Span, Trace};

/// The introspector of one worker.
pub struct Introspector {
    settings: Arc<settings::Settings>,
    pool: Rc<Pool>,
}

impl Introspector {
    /// An introspector that uses `pool` and `settings`.
    pub const fn new(settings: Arc<settings::Settings>, pool: Rc<Pool>) -> Self {
        Self { settings, pool }
    }

    /// Its settings.
    pub fn settings(&self) -> &settings::Introspection {
        &self.settings.introspection
    }

    /// The same introspector and connections with other settings.
    pub fn with_settings(&self, settings: Arc<settings::Settings>) -> Self {
        Self { settings, pool: Rc::clone(&self.pool) }
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self, now: Instant) {
        self.pool.sweep(now);
    }

    /// Introspects `token` for a request that is part of `trace`, within `introspection.timeout`.
    pub async fn introspect(
        &self,
        token: &str,
        hash: &TokenHash,
        trace: Option<&Trace>,
    ) -> IntrospectionResponse {
        let Self { settings, pool } = self;
        Introspection { settings: &settings.introspection, pool }.introspect(token, hash, trace).await
    }

    /// Introspects a token once, outside of any runtime.
    ///
    /// # Errors
    /// If the TLS of `introspection` cannot be configured, or the system provides no event queue.
    pub fn introspect_once(
        introspection: &settings::Introspection,
        token: &str,
    ) -> Result<IntrospectionResponse, Box<dyn std::error::Error>> {
        let connector =
            Connector::new(&introspection.destination, &introspection.tls, introspection.timeout)?;
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        Ok(runtime.block_on(async {
            let pool = Pool::new(Arc::new(connector), Duration::ZERO, None, introspection.timeout);
            let once = Introspection { settings: introspection, pool: &pool };
            once.introspect(token, &TokenHash::of(token), None).await
        }))
    }
}

/// An introspection over a pool.
struct Introspection<'a> {
    settings: &'a settings::Introspection,
    pool: &'a Rc<Pool>,
}

impl Introspection<'_> {
    async fn introspect(
        &self,
        token: &str,
        hash: &TokenHash,
        trace: Option<&Trace>,
    ) -> IntrospectionResponse {
        let settings = self.settings;
        let span = trace.map(Trace::begin_introspection);
        let mut status = None;
        let exchange = self.exchange(token, hash, span.as_ref(), &mut status);
        let answer = match tokio::time::timeout(settings.timeout, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => IntrospectionResponse::NoVerdict(error),
            Err(_) => IntrospectionResponse::NoVerdict(NoVerdict::TimedOut(settings.timeout)),
        };
        if let Some(span) = span {
            let (method, path) = (settings.style.method(), settings.target.path());
            span.finish(format!("{method} {path}"), |fields| {
                describe(fields, settings, status, &answer);
            });
        }
        answer
    }

    async fn exchange(
        &self,
        token: &str,
        hash: &TokenHash,
        span: Option<&IntrospectionSpan<'_>>,
        status: &mut Option<StatusCode>,
    ) -> Result<IntrospectionResponse, NoVerdict> {
        let settings = self.settings;
        let (mut request, body) = introspection::request(settings, token)?.into_parts();
        if let Some(span) = span {
            span.mark(&mut request.headers);
        }
        let request = Request::from_parts(request, ());
        let mut call = Call::new(request.method(), body.clone());
        let kept = self.pool.take_idle(Instant::now(), None);
        let reused = kept.is_some();
        let mut lease = match kept {
            Some(lease) => lease,
            None => self.pool.connect(None).await?,
        };
        let mut sent = lease.send(&request, &mut call).await;
        if reused && sent.is_err() {
            // The server may have closed a kept connection meanwhile. Introspecting twice changes nothing.
            lease = self.pool.connect(None).await?;
            call = Call::new(request.method(), body);
            sent = lease.send(&request, &mut call).await;
        }
        let (mut head, ()) = sent?.into_parts();
        *status = Some(head.status);
        headers::prepare_response(head.status, &mut head.headers).map_err(NoVerdict::Ambiguous)?;
        let answer = lease.collect(call, MAX_ANSWER).await.map_err(|error| match error {
            CollectError::TooLarge => NoVerdict::TooLarge,
            CollectError::Exchange(error) => NoVerdict::Transport(error),
        })?;
        let response = ReceivedResponse { status: head.status, fields: &head.headers, body: &answer };
        Ok(introspection::read(settings, &response, hash.as_bytes(), SystemTime::now()))
    }
}

/// Adds the attributes of the span of an introspection, without the token and the URL's query.
fn describe(
    span: &mut Span,
    settings: &settings::Introspection,
    status: Option<StatusCode>,
    answer: &IntrospectionResponse,
) {
    span.note("http.request.method", settings.style.method().to_string());
    span.note_server(&settings.destination);
    span.note("url.template", settings.target.path().to_owned());
    if let Some(status) = status {
        span.note("http.response.status_code", status.as_u16());
    }
    let outcome = match answer {
        IntrospectionResponse::Active(_) => IntrospectionOutcome::Active,
        IntrospectionResponse::Inactive { .. } => IntrospectionOutcome::Inactive,
        IntrospectionResponse::NoVerdict(why) => {
            match status.filter(|status| *status != StatusCode::OK) {
                Some(status) => span.fail(status.as_str().to_owned()),
                None => span.fail(why.kind()),
            }
            IntrospectionOutcome::NoVerdict
        }
    };
    span.note("stockaj_gateway.introspection.outcome", outcome.as_str());
}
