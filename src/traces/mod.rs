//! Spans on their way to a collector, by OTLP over HTTP.
//!
//! A thread of its own gathers them and sends them, over connections of our own, so that there is one TLS, one resolver
//! and one provider. It ends when nobody is left who could hand it a span, and what it has by then is sent.

mod otlp;

use std::io;
use std::rc::Rc;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use prost::Message as _;
use tokio::runtime::{self, LocalOptions};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use self::otlp::ExportResponse;
use crate::client::call::Call;
use crate::client::pool::{LeaseError, Pool};
use crate::client::{CollectError, Connector, ConnectorError, ExchangeError};
use crate::config::settings;
use crate::telemetry::metrics::{Metrics, SpanOutcome};
use crate::telemetry::spans::{Span, Tracer};
use crate::watch::contents;

/// How many spans may wait. Beyond that they are dropped.
const MOST_WAITING: usize = 2048;
/// How many are sent at once.
const BATCH: usize = 512;
/// How often spans are sent that the collector does not take, in all.
const ATTEMPTS: u32 = 3;
/// The pause after a first failure; the next one is four times as long.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest answer of a collector that is read, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;
/// How long a connection to it is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the end waits for what has not been sent.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is said that spans are dropped, at most.
const SILENCE: Duration = Duration::from_secs(60);

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const OURSELVES: HeaderValue =
    HeaderValue::from_static(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));

/// The way to a collector, and the spans that wait to take it.
#[derive(Debug)]
pub struct Way {
    settings: settings::Traces,
    connector: Arc<Connector>,
    /// What is in the files that `traces.tls` names; none where one cannot be read.
    contents: Vec<Option<[u8; 32]>>,
    /// None: no more are taken.
    sender: Mutex<Option<Sender<Span>>>,
    /// None: they are being sent.
    receiver: Mutex<Option<Receiver<Span>>>,
}

impl Way {
    /// By these settings: the one `before`, where they are the same.
    ///
    /// # Errors
    /// Where TLS cannot be set up as asked.
    pub fn to(settings: &settings::Traces, before: Option<&Arc<Self>>) -> Result<Arc<Self>, ConnectorError> {
        let contents: Vec<_> = settings.tls.files().map(contents).collect();
        if let Some(before) = before
            && before.settings == *settings
            && before.contents == contents
        {
            return Ok(Arc::clone(before));
        }
        let connector = Arc::new(Connector::new(&settings.destination, &settings.tls, settings.timeout)?);
        let (sender, receiver) = channel(MOST_WAITING);
        Ok(Arc::new(Self {
            settings: settings.clone(),
            connector,
            contents,
            sender: Mutex::new(Some(sender)),
            receiver: Mutex::new(Some(receiver)),
        }))
    }

    /// What one of `cores` cores records its requests with.
    pub fn tracer(&self, metrics: &Arc<Metrics>, cores: usize) -> Option<Rc<Tracer>> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let cores = u32::try_from(cores).unwrap_or(u32::MAX);
        let settings::Traces { sample_ratio, max_per_second, .. } = self.settings;
        let max_per_second = max_per_second.div_ceil(cores.max(1));
        Some(Rc::new(Tracer::new(sender, Arc::clone(metrics), sample_ratio, max_per_second)))
    }

    /// Has the thread end as soon as the last core has let go of it.
    fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The collectors that spans go to: that of the configuration of now, and those of others whose last spans are on
/// their way.
pub struct Exports {
    metrics: Arc<Metrics>,
    instance: Arc<str>,
    running: Mutex<Vec<Running>>,
}

struct Running {
    way: Arc<Way>,
    /// Closed by the thread's end.
    ended: std::sync::mpsc::Receiver<()>,
}

impl Exports {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let instance = format!("{:032x}", fastrand::u128(..)).into();
        Self { metrics, instance, running: Mutex::default() }
    }

    /// From now on by this way, or not at all. Where it is the same nothing changes.
    ///
    /// # Errors
    /// Where the system gives no thread; spans are dropped then.
    pub fn adopt(&self, way: Option<&Arc<Way>>) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .retain(|running| running.ended.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected));
        for before in running.iter().filter(|running| way.is_none_or(|way| !Arc::ptr_eq(way, &running.way))) {
            before.way.close();
        }
        self.metrics.traces(way.is_some());
        let Some(way) = way else { return Ok(()) };
        let Some(spans) = way.receiver.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let (end, ended) = std::sync::mpsc::channel();
        let (metrics, instance) = (Arc::clone(&self.metrics), Arc::clone(&self.instance));
        let to = Arc::clone(way);
        thread::Builder::new().name("traces".to_owned()).spawn(move || {
            let runtime =
                runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                // The pool cannot leave its thread.
                Ok(runtime) => runtime.block_on(async {
                    let pool = Pool::new(Arc::clone(&to.connector), IDLE_TIMEOUT, None, to.settings.timeout);
                    let told = metrics.spans_dropped();
                    let export = Export {
                        settings: &to.settings,
                        pool,
                        metrics: &metrics,
                        instance: &instance,
                        told,
                        told_at: None,
                    };
                    export.run(spans).await;
                }),
                Err(error) => tracing::error!(%error, "no spans are sent"),
            }
            drop(end);
        })?;
        running.push(Running { way: Arc::clone(way), ended });
        Ok(())
    }

    /// Sends what there is, after the last core has ended: not for long, and not at all `in_a_hurry`.
    pub fn stop(&self, in_a_hurry: bool) {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let until = Instant::now() + if in_a_hurry { Duration::ZERO } else { PATIENCE };
        for running in &running {
            running.way.close();
        }
        for running in &running {
            let left = until.saturating_duration_since(Instant::now());
            if running.ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the collector takes too long: its last spans are lost");
            }
        }
    }
}

/// Why a collector did not take spans.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    #[error("the collector cannot be reached: {0}")]
    Connect(#[from] LeaseError),
    #[error("the collector's answer broke off or is malformed: {0}")]
    Transport(#[from] ExchangeError),
    #[error("the collector's answer broke off or is too long: {0}")]
    Answer(#[source] CollectError),
    #[error("the collector took longer than {0:?}")]
    TimedOut(Duration),
    #[error("the collector answered {0}")]
    Status(StatusCode),
    #[error("the collector rejected spans")]
    Rejected,
    #[error("they came faster than the collector took them")]
    Behind,
}

impl ExportError {
    /// Whether they may be sent again (OTLP 1.0, "Failures").
    fn is_temporary(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Transport(_) | Self::Answer(_) | Self::TimedOut(_) => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Request(_) | Self::Rejected | Self::Behind => false,
        }
    }
}

/// One thread's sending.
struct Export<'a> {
    settings: &'a settings::Traces,
    pool: Rc<Pool>,
    metrics: &'a Metrics,
    instance: &'a str,
    /// How many spans were dropped of which the log has told, and when.
    told: u64,
    told_at: Option<Instant>,
}

impl Export<'_> {
    /// Sends spans until nobody is left who could hand over any.
    async fn run(mut self, mut spans: Receiver<Span>) {
        let mut batch = Vec::new();
        while let Some(first) = spans.recv().await {
            batch.push(first);
            let gather = async {
                while batch.len() < BATCH
                    && let Some(span) = spans.recv().await
                {
                    batch.push(span);
                }
            };
            // Whether in time or not: it is in the batch.
            let _ = timeout(self.settings.flush_interval, gather).await;
            let count = batch.len() as u64;
            let sent = self.send(batch.drain(..)).await;
            let rejected = match &sent {
                Ok(rejected) => (*rejected).min(count),
                Err(_) => count,
            };
            self.metrics.spans(SpanOutcome::Exported, count - rejected);
            self.metrics.spans(SpanOutcome::Dropped, rejected);
            self.tell(match sent {
                Ok(0) => ExportError::Behind,
                Ok(_) => ExportError::Rejected,
                Err(error) => error,
            });
        }
    }

    /// Says in the log, now and then, how many spans were dropped, and what came last.
    fn tell(&mut self, why: ExportError) {
        let dropped = self.metrics.spans_dropped();
        if dropped == self.told || self.told_at.is_some_and(|at| at.elapsed() < SILENCE) {
            return;
        }
        let error: &dyn std::error::Error = &why;
        tracing::warn!(error, spans = dropped - self.told, "spans were dropped");
        self.told = dropped;
        self.told_at = Some(Instant::now());
    }

    /// How many of the spans the collector rejected.
    async fn send(&self, spans: impl IntoIterator<Item = Span>) -> Result<u64, ExportError> {
        let message = otlp::request(spans, &self.settings.service_name, self.instance).encode_to_vec();
        let message = Bytes::from(message);
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let patience = self.settings.timeout;
            let answer = timeout(patience, self.exchange(message.clone(), attempt == 1)).await;
            match answer.unwrap_or(Err(ExportError::TimedOut(patience))) {
                Err(error) if error.is_temporary() && attempt < ATTEMPTS => sleep(pause).await,
                done => return done,
            }
            pause *= 4;
            attempt += 1;
        }
    }

    async fn exchange(&self, message: Bytes, may_reuse: bool) -> Result<u64, ExportError> {
        let settings = self.settings;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(&settings.target);
        request.headers_mut().clone_from(&settings.headers);
        request.headers_mut().insert(HOST, settings.authority.clone());
        request.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
        request.headers_mut().insert(USER_AGENT, OURSELVES);
        let kept = if may_reuse { self.pool.take_idle(Instant::now()) } else { None };
        let mut lease = match kept {
            Some(lease) => lease,
            None => self.pool.connect().await?,
        };
        request.headers_mut().insert(CONTENT_LENGTH, message.len().into());
        let mut call = Call::new(request.method(), Full::new(message));
        let status = lease.send(&request, &mut call).await?.status();
        let answer = lease.collect(call, LONGEST_ANSWER).await.map_err(ExportError::Answer)?;
        if !status.is_success() {
            return Err(ExportError::Status(status));
        }
        // What cannot be read rejects nothing.
        let answer = ExportResponse::decode(&*answer).unwrap_or_default();
        let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}
