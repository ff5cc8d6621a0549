//! Exports spans to an OpenTelemetry collector, by OTLP over HTTP.
//!
//! A separate thread batches and sends the spans. It uses the gateway's own connections, so that there is one TLS
//! stack, one resolver and one crypto provider. The thread ends when all senders of spans are dropped, after it has
//! sent the queued spans.

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
use crate::client::LeaseError;
use crate::client::call::Call;
use crate::client::pool::Pool;
use crate::client::{ClientKey, CollectError, Connector, ConnectorError, ExchangeError};
use crate::config::settings;
use crate::telemetry::metrics::{Metrics, SpanOutcome};
use crate::telemetry::spans::{Span, Tracer};

/// The size of the queue, in spans. Further spans are dropped.
const QUEUE_LENGTH: usize = 2048;
/// The maximum number of spans in one request.
const MAX_BATCH: usize = 512;
/// The total number of attempts to send a batch.
const MAX_ATTEMPTS: u32 = 3;
/// The pause after the first failure. Each further pause is four times as long.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The longest response of a collector that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// How long an idle connection to the collector is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the shutdown waits for the last spans.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// The minimum interval between log messages about dropped spans.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const USER_AGENT_VALUE: HeaderValue =
    HeaderValue::from_static(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));

/// A connection to a collector and the queue of spans for it.
#[derive(Debug)]
pub struct CollectorClient {
    key: ClientKey<settings::Traces>,
    connector: Arc<Connector>,
    /// `None` once the queue is closed.
    sender: Mutex<Option<Sender<Span>>>,
    /// `None` once the export thread has taken it.
    receiver: Mutex<Option<Receiver<Span>>>,
}

impl CollectorClient {
    /// Creates the client for `settings`, or returns `previous` if its settings and files are the same.
    ///
    /// # Errors
    /// Returns an error if TLS cannot be set up.
    pub fn for_settings(
        settings: &settings::Traces,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, ConnectorError> {
        let key = ClientKey::new(settings.clone(), |settings| &settings.tls);
        if let Some(previous) = previous.filter(|previous| previous.key == key) {
            return Ok(Arc::clone(previous));
        }
        let connector = Arc::new(Connector::new(&settings.destination, &settings.tls, settings.timeout)?);
        let (sender, receiver) = channel(QUEUE_LENGTH);
        Ok(Arc::new(Self {
            key,
            connector,
            sender: Mutex::new(Some(sender)),
            receiver: Mutex::new(Some(receiver)),
        }))
    }

    /// Creates the tracer of one of `workers` workers; `None` if the queue is closed. Each tracer gets an equal share
    /// of `max_per_second`.
    pub fn tracer(&self, metrics: &Arc<Metrics>, workers: usize) -> Option<Rc<Tracer>> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        let settings::Traces { sample_ratio, max_per_second, .. } = *self.key.settings();
        let max_per_second = max_per_second.div_ceil(workers.max(1));
        Some(Rc::new(Tracer::new(sender, Arc::clone(metrics), sample_ratio, max_per_second)))
    }

    /// Closes the queue. The export thread ends once the last tracer is dropped.
    fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The export threads: that of the current configuration, and those of previous ones that still send their last
/// spans.
pub struct TraceExporter {
    metrics: Arc<Metrics>,
    instance: Arc<str>,
    running: Mutex<Vec<RunningExporter>>,
}

struct RunningExporter {
    client: Arc<CollectorClient>,
    /// Disconnected when the thread ends.
    ended: std::sync::mpsc::Receiver<()>,
}

impl TraceExporter {
    /// Creates an exporter without a collector.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let instance = format!("{:032x}", fastrand::u128(..)).into();
        Self { metrics, instance, running: Mutex::default() }
    }

    /// Exports to `client` from now on, or not at all if it is `None`. Does nothing if `client` is the current one.
    ///
    /// # Errors
    /// Returns an error if the thread cannot be started. Spans are dropped then.
    pub fn apply(&self, client: Option<&Arc<CollectorClient>>) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .retain(|running| running.ended.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected));
        for previous in
            running.iter().filter(|running| client.is_none_or(|client| !Arc::ptr_eq(client, &running.client)))
        {
            previous.client.close();
        }
        self.metrics.set_traces(client.is_some());
        let Some(client) = client else { return Ok(()) };
        let Some(spans) = client.receiver.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let (end, ended) = std::sync::mpsc::channel();
        let (metrics, instance) = (Arc::clone(&self.metrics), Arc::clone(&self.instance));
        let thread_client = Arc::clone(client);
        thread::Builder::new().name("traces".to_owned()).spawn(move || {
            let runtime =
                runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                // The pool is not `Send`, so the thread creates it.
                Ok(runtime) => runtime.block_on(async {
                    let pool = Pool::new(
                        Arc::clone(&thread_client.connector),
                        IDLE_TIMEOUT,
                        None,
                        thread_client.key.settings().timeout,
                    );
                    let logged = metrics.spans_dropped();
                    let export = Export {
                        settings: thread_client.key.settings(),
                        pool,
                        metrics: &metrics,
                        instance: &instance,
                        logged,
                        logged_at: None,
                    };
                    export.run(spans).await;
                }),
                Err(error) => tracing::error!(%error, "cannot export spans"),
            }
            drop(end);
        })?;
        running.push(RunningExporter { client: Arc::clone(client), ended });
        Ok(())
    }

    /// Waits for the last spans to be sent, for up to 3 s, or not at all if `immediately`. Call it after the workers
    /// have ended.
    pub fn stop(&self, immediately: bool) {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let until = Instant::now() + if immediately { Duration::ZERO } else { SHUTDOWN_TIMEOUT };
        for running in &running {
            running.client.close();
        }
        for running in &running {
            let left = until.saturating_duration_since(Instant::now());
            if running.ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the collector took too long: the last spans were dropped");
            }
        }
    }
}

/// Spans were not exported.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the request is invalid: {0}")]
    Request(#[from] http::Error),
    #[error("the collector cannot be reached: {0}")]
    Connect(#[from] LeaseError),
    #[error("the response of the collector is truncated or malformed: {0}")]
    Transport(#[from] ExchangeError),
    #[error("the response of the collector is truncated or too long: {0}")]
    Response(#[source] CollectError),
    #[error("the collector did not respond within {0:?}")]
    TimedOut(Duration),
    #[error("the collector responded with {0}")]
    Status(StatusCode),
    #[error("the collector rejected spans")]
    Rejected,
    #[error("the queue was full: spans arrived faster than the collector accepted them")]
    QueueFull,
}

impl ExportError {
    /// Whether the batch may be sent again (OTLP 1.0, "Failures").
    fn is_temporary(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Transport(_) | Self::Response(_) | Self::TimedOut(_) => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Request(_) | Self::Rejected | Self::QueueFull => false,
        }
    }
}

/// The state of an export thread.
struct Export<'a> {
    settings: &'a settings::Traces,
    pool: Rc<Pool>,
    metrics: &'a Metrics,
    instance: &'a str,
    /// The number of dropped spans at the last log message, and its time.
    logged: u64,
    logged_at: Option<Instant>,
}

impl Export<'_> {
    /// Sends spans until the queue is closed.
    async fn run(mut self, mut spans: Receiver<Span>) {
        let mut batch = Vec::new();
        while let Some(first) = spans.recv().await {
            batch.push(first);
            let gather = async {
                while batch.len() < MAX_BATCH
                    && let Some(span) = spans.recv().await
                {
                    batch.push(span);
                }
            };
            // On a timeout, the spans so far are in `batch`.
            let _ = timeout(self.settings.flush_interval, gather).await;
            let count = batch.len() as u64;
            let sent = self.send(batch.drain(..)).await;
            let rejected = match &sent {
                Ok(rejected) => (*rejected).min(count),
                Err(_) => count,
            };
            self.metrics.spans(SpanOutcome::Exported, count - rejected);
            self.metrics.spans(SpanOutcome::Dropped, rejected);
            self.log_dropped(match sent {
                Ok(0) => ExportError::QueueFull,
                Ok(_) => ExportError::Rejected,
                Err(error) => error,
            });
        }
    }

    /// Logs how many spans were dropped since the last message, with the latest error, at most once a minute.
    fn log_dropped(&mut self, why: ExportError) {
        let dropped = self.metrics.spans_dropped();
        if dropped == self.logged || self.logged_at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        let error: &dyn std::error::Error = &why;
        tracing::warn!(error, spans = dropped - self.logged, "spans were dropped");
        self.logged = dropped;
        self.logged_at = Some(Instant::now());
    }

    /// Sends a batch. Returns how many of its spans the collector rejected.
    async fn send(&self, spans: impl IntoIterator<Item = Span>) -> Result<u64, ExportError> {
        let message = otlp::request(spans, &self.settings.service_name, self.instance).encode_to_vec();
        let message = Bytes::from(message);
        let mut pause = FIRST_RETRY_PAUSE;
        let mut attempt = 1;
        loop {
            let limit = self.settings.timeout;
            let response = timeout(limit, self.export_once(message.clone(), attempt == 1)).await;
            match response.unwrap_or(Err(ExportError::TimedOut(limit))) {
                Err(error) if error.is_temporary() && attempt < MAX_ATTEMPTS => sleep(pause).await,
                done => return done,
            }
            pause *= 4;
            attempt += 1;
        }
    }

    async fn export_once(&self, message: Bytes, may_reuse: bool) -> Result<u64, ExportError> {
        let settings = self.settings;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(&settings.target);
        request.headers_mut().clone_from(&settings.headers);
        request.headers_mut().insert(HOST, settings.authority.clone());
        request.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
        request.headers_mut().insert(USER_AGENT, USER_AGENT_VALUE);
        let kept = if may_reuse { self.pool.take_idle(Instant::now(), None) } else { None };
        let mut lease = match kept {
            Some(lease) => lease,
            None => self.pool.connect(None).await?,
        };
        request.headers_mut().insert(CONTENT_LENGTH, message.len().into());
        let mut call = Call::new(request.method(), Full::new(message));
        let status = lease.send(&request, &mut call).await?.status();
        let response = lease.collect(call, MAX_RESPONSE_BYTES).await.map_err(ExportError::Response)?;
        if !status.is_success() {
            return Err(ExportError::Status(status));
        }
        // A response that cannot be decoded counts as success.
        let response = ExportResponse::decode(&*response).unwrap_or_default();
        let rejected = response.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}
