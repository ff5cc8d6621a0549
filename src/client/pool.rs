//! The keep-alive pool of one core.
//!
//! hyper-util's pooling client is shared by all cores and costs a lock and an allocation per request. Here
//! every core keeps its own connections, so that taking one and giving it back is a push and a pop.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::connect::{ConnectError, Connector};
use super::fault::Chain;

/// How long a core that is never without work goes on, while another waits, before it gives up a connection
/// for it. Longer saves connecting, shorter saves waiting.
const TURN: Duration = Duration::from_millis(50);

/// A bound on connections that the pools of all cores share.
#[derive(Debug)]
pub struct ConnectionBound {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl ConnectionBound {
    /// At most `connections` at a time.
    pub fn new(connections: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { permits, waiting: AtomicUsize::new(0) })
    }
}

/// Why no connection could be had.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// None could be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The new connection failed before it could carry a request.
    #[error("the connection failed at once: {}", Chain(.0))]
    Handshake(#[source] hyper::Error),
    /// All that are allowed are in use.
    #[error("all connections are in use")]
    Exhausted,
}

/// How many connections a pool has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Open, carrying a request.
    pub active: usize,
    /// Open, waiting for one.
    pub idle: usize,
}

/// The connections of one core to one destination.
pub struct Pool<B> {
    connector: Arc<Connector>,
    idle: RefCell<Vec<Idle<B>>>,
    open: Rc<Cell<usize>>,
    idle_timeout: Duration,
    bound: Option<Arc<ConnectionBound>>,
    returned: Notify,
    /// Those of this core who wait for a connection within the bound.
    waiting: Cell<usize>,
    yielded_at: Cell<Option<Instant>>,
    /// How long to wait for a connection when all that the bound allows are in use.
    patience: Duration,
    http1: http1::Builder,
}

struct Idle<B> {
    connection: Connection<B>,
    since: Instant,
}

/// One connection; closed at once when it is dropped.
struct Connection<B> {
    sender: SendRequest<B>,
    task: AbortHandle,
    /// Whether it goes on when hyper is done with it: as a tunnel.
    may_switch: Rc<Cell<bool>>,
}

impl<B> Drop for Connection<B> {
    /// Letting go of the sender is not enough: hyper keeps a connection, and with it the client's, for as
    /// long as the other side takes nothing of a request's body.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<B> Pool<B>
where
    B: Body<Data = bytes::Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool. A connection that was idle for `idle_timeout` is not used again.
    pub fn new(
        connector: Arc<Connector>,
        idle_timeout: Duration,
        bound: Option<Arc<ConnectionBound>>,
        patience: Duration,
    ) -> Rc<Self> {
        // Measured: one buffer through `send` costs a request less than several through `writev`, on both sides
        // together 2 µs of 24. hyper's own bound on header fields, 100, needs no allocation; a higher one does.
        let mut http1 = http1::Builder::new();
        http1.writev(false);
        Rc::new(Self {
            connector,
            idle: RefCell::default(),
            open: Rc::default(),
            idle_timeout,
            bound,
            returned: Notify::new(),
            waiting: Cell::new(0),
            yielded_at: Cell::new(None),
            patience,
            http1,
        })
    }

    /// The most recently used idle connection, if there is one that still lives.
    pub fn take_idle(self: &Rc<Self>, now: Instant) -> Option<Lease<B>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, since }) = idle.pop() {
            if connection.sender.is_ready() && now.saturating_duration_since(since) < self.idle_timeout {
                return Some(Lease { connection, pool: Rc::clone(self), since: Some(since), is_last: false });
            }
        }
        None
    }

    /// A new connection, within the bound.
    ///
    /// # Errors
    /// [`LeaseError::Exhausted`] when the bound leaves none for as long as `patience`; otherwise what went
    /// wrong with connecting.
    pub async fn connect(self: &Rc<Self>) -> Result<Lease<B>, LeaseError> {
        let permit = match &self.bound {
            None => None,
            Some(bound) => match self.wait_for_turn(bound).await? {
                Turn::Permit(permit) => Some(permit),
                Turn::Returned(lease) => return Ok(lease),
            },
        };
        let stream = self.connector.connect().await?;
        let (sender, connection) =
            self.http1.handshake(TokioIo::new(stream)).await.map_err(LeaseError::Handshake)?;
        let open = OpenGuard::new(&self.open);
        let may_switch = Rc::new(Cell::new(false));
        let switched = Rc::clone(&may_switch);
        let task = tokio::task::spawn_local(async move {
            let _counted = (open, permit);
            // Whoever waits for the answer is told of a failure through the request itself.
            let _ = connection.with_upgrades().await;
            if switched.get() {
                // It counts until it is dropped.
                std::future::pending::<()>().await;
            }
        });
        let connection = Connection { sender, task: task.abort_handle(), may_switch };
        Ok(Lease { connection, pool: Rc::clone(self), since: None, is_last: false })
    }

    async fn wait_for_turn(self: &Rc<Self>, bound: &Arc<ConnectionBound>) -> Result<Turn<B>, LeaseError> {
        if let Ok(permit) = Arc::clone(&bound.permits).try_acquire_owned() {
            return Ok(Turn::Permit(permit));
        }
        let _waiting = Waiting::new(&bound.waiting, &self.waiting);
        let wait = async {
            let mut permit = std::pin::pin!(Arc::clone(&bound.permits).acquire_owned());
            loop {
                let returned = self.returned.notified();
                if let Some(lease) = self.take_idle(Instant::now()) {
                    return Ok(Turn::Returned(lease));
                }
                tokio::select! {
                    permit = &mut permit => {
                        return permit.map(Turn::Permit).map_err(|_| LeaseError::Exhausted);
                    }
                    () = returned => {}
                }
            }
        };
        tokio::time::timeout(self.patience, wait).await.unwrap_or(Err(LeaseError::Exhausted))
    }

    /// Closes what was idle for too long, what died, and, while another core waits for a connection, one
    /// more. To be called about once a second.
    pub fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|kept| {
            !kept.connection.sender.is_closed()
                && now.saturating_duration_since(kept.since) < self.idle_timeout
        });
        if self.others_wait() && !idle.is_empty() {
            idle.remove(0);
        }
    }

    /// How many connections there are now.
    pub fn census(&self) -> Census {
        let idle = self.idle.borrow().len();
        Census { active: self.open.get().saturating_sub(idle), idle }
    }

    /// Whether another core waits for a connection.
    fn others_wait(&self) -> bool {
        self.bound.as_ref().is_some_and(|bound| bound.waiting.load(Ordering::Relaxed) > self.waiting.get())
    }

    fn keep(&self, connection: Connection<B>) {
        let now = Instant::now();
        if self.others_wait() && self.yielded_at.get().is_none_or(|at| now.duration_since(at) >= TURN) {
            // Closed, so that another core may open one: this one would never be without work.
            self.yielded_at.set(Some(now));
            return;
        }
        self.idle.borrow_mut().push(Idle { connection, since: now });
        if self.waiting.get() > 0 {
            self.returned.notify_one();
        }
    }
}

enum Turn<B> {
    Permit(OwnedSemaphorePermit),
    Returned(Lease<B>),
}

/// A connection that is ready for one request.
///
/// Dropping it closes the connection; [`Lease::give_back`] keeps it.
pub struct Lease<B> {
    connection: Connection<B>,
    pool: Rc<Pool<B>>,
    since: Option<Instant>,
    is_last: bool,
}

impl<B> Lease<B>
where
    B: Body<Data = bytes::Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// How long the connection waited for this request. Zero where it is new.
    pub fn waited(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Sends `request`, and waits for the head of the answer.
    ///
    /// # Errors
    /// Hands the request back where not a byte of it was sent.
    pub fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + use<B> {
        self.connection.sender.try_send_request(request)
    }

    /// Has the connection count until it is dropped, although hyper may be done with it before: its next request may
    /// make a tunnel of it.
    pub fn may_switch(&self) {
        self.connection.may_switch.set(true);
    }

    /// Makes this request the connection's last: it is not kept.
    pub const fn close_afterwards(&mut self) {
        self.is_last = true;
    }

    /// Keeps the connection for another request, as soon as it has finished with this one.
    pub fn give_back(self) {
        let Self { mut connection, pool, is_last, .. } = self;
        if is_last || connection.sender.is_closed() {
            return;
        }
        connection.may_switch.set(false);
        if connection.sender.is_ready() {
            pool.keep(connection);
            return;
        }
        // The answer came before the request's body was at its end, or hyper has yet to notice that both are.
        tokio::task::spawn_local(async move {
            if let Ok(Ok(())) = tokio::time::timeout(pool.idle_timeout, connection.sender.ready()).await {
                pool.keep(connection);
            }
        });
    }
}

struct OpenGuard(Rc<Cell<usize>>);

impl OpenGuard {
    fn new(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

struct Waiting<'a> {
    overall: &'a AtomicUsize,
    here: &'a Cell<usize>,
}

impl<'a> Waiting<'a> {
    fn new(overall: &'a AtomicUsize, here: &'a Cell<usize>) -> Self {
        overall.fetch_add(1, Ordering::Relaxed);
        here.set(here.get() + 1);
        Self { overall, here }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.overall.fetch_sub(1, Ordering::Relaxed);
        self.here.set(self.here.get() - 1);
    }
}
