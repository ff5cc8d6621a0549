//! An HTTP/2 connection of a client, with one task per stream.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

use super::complete_heads::CompleteHeads;
use super::header_blocks::LossyHead;
use super::http2_flood::{FrameLimitedIo, NO_ERROR, ReturnSlot, ReturnedTransport, go_away};
use super::http2_limits::ConnectionLimits;
use super::last_response::{linger, note_refused};
use super::transport::RecordedIo;
use super::worker::state::{Worker, WorkerState};
use crate::config::settings::Limits;
use crate::downstream::state::{ConnectionPhase, Shutdown};
use crate::downstream::{ClientListener, Downstream};
use crate::gateway::tunnel::TunnelSlot;
use crate::policy::http2::DroppedPart;
use crate::policy::refusal::Refusal;

/// Request body bytes per stream that may wait for the backend, in addition to the frame that is being sent.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Request body bytes of all streams. With the frames that are being sent, less than 1 MiB.
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// Response bytes that h2 buffers per stream; more than the stream's budget allows.
const SEND_BUFFER: usize = 128 * 1024;
/// The tasks of a connection's streams.
#[derive(Clone, Default)]
struct Streams {
    /// The stream that is about to be spawned.
    next: Rc<RefCell<Option<Rc<Downstream>>>>,
    tasks: Rc<RefCell<JoinSet<()>>>,
}

impl Streams {
    /// Aborts all remaining tasks.
    async fn end(&self) {
        let mut tasks = mem::take(&mut *self.tasks.borrow_mut());
        tasks.shutdown().await;
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let downstream = self.next.take();
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(async move {
            let mut stream = pin!(stream);
            poll_fn(|context| {
                if let Some(Downstream { state, .. }) = downstream.as_deref() {
                    state.set_waker(context.waker());
                    if state.shutdown() > Shutdown::Graceful {
                        // Dropping the stream resets it.
                        return Poll::Ready(());
                    }
                }
                let ended = stream.as_mut().poll(context);
                if let Some(downstream) = downstream.as_deref().filter(|_| ended.is_pending()) {
                    downstream.read_ahead(context);
                }
                ended
            })
            .await;
        });
    }
}

fn builder(limits: &Limits, own: &ConnectionLimits, streams: Streams) -> http2::Builder<Streams> {
    let mut http2 = http2::Builder::new(streams);
    http2.max_concurrent_streams(own.streams);
    http2.initial_stream_window_size(STREAM_WINDOW);
    http2.initial_connection_window_size(CONNECTION_WINDOW);
    http2.max_send_buf_size(SEND_BUFFER);
    http2.max_local_error_reset_streams(own.local_resets);
    http2.max_pending_accept_reset_streams(own.pending_resets);
    http2.max_header_list_size(own.header_list(limits));
    http2
}

/// Serves a connection until it ends.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    state: Rc<WorkerState>,
    downstream: &Rc<Downstream>,
    recorded: RecordedIo,
) {
    let settings = Arc::clone(state.gateway.settings());
    // The connection must not keep the current gateway alive.
    drop(state);
    let limits = &settings.limits;
    let streams = Streams::default();
    let lossy_head = Rc::new(LossyHead::default());
    let service = service_fn(|mut request: Request<Incoming>| {
        if let Some(why) = lossy_head.dropped() {
            request.extensions_mut().insert(DroppedPart(why));
        }
        let gateway = worker.gateway();
        let stream = Downstream::stream(downstream, Instant::now());
        streams.next.replace(Some(Rc::clone(&stream)));
        let (mut head, body) = request.into_parts();
        // Boxed because hyper moves it.
        Box::pin(async move {
            // HTTP/2 has no upgrades.
            let tunnel_slot = TunnelSlot::default();
            Ok::<_, Infallible>(match stream.listener {
                ClientListener::Proxy => gateway.answer(&stream, &mut head, body, &tunnel_slot).await,
                ClientListener::Decision => Box::pin(gateway.answer_proxy(&stream, &mut head, body)).await,
            })
        })
    });
    let own = ConnectionLimits::of(downstream);
    let quota = own.read_quota().map(Rc::new);
    let returned = ReturnSlot::default();
    let counted = FrameLimitedIo::new(recorded, &own, Rc::clone(&returned), Instant::now());
    let io = TokioIo::new(CompleteHeads::new(counted, Rc::clone(&lossy_head), quota.clone()));
    let ended = {
        let mut connection = pin!(builder(limits, &own, streams.clone()).serve_connection(io, service));
        let mut closing: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|context| {
            downstream.state.set_waker(context.waker());
            match downstream.state.shutdown() {
                Shutdown::None => {}
                Shutdown::Announced | Shutdown::Graceful if closing.is_some() => {}
                // After GOAWAY, requests that the client has already sent are still answered.
                Shutdown::Announced | Shutdown::Graceful => {
                    closing = Some(Box::pin(sleep(limits.header_timeout)));
                    connection.as_mut().graceful_shutdown();
                }
                Shutdown::HeaderTimeout => return Poll::Ready(ConnectionEnd::TimedOut),
                Shutdown::Immediate => return Poll::Ready(ConnectionEnd::Now),
            }
            if let Some(quota) = &quota {
                quota.renew();
            }
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(match ended {
                    Ok(()) => ConnectionEnd::Closed,
                    Err(error) => {
                        tracing::debug!(error = &error as &dyn std::error::Error, "client connection failed");
                        ConnectionEnd::Broken
                    }
                });
            }
            if lossy_head.record_dispatched() || quota.as_ref().is_some_and(|quota| quota.is_used_up()) {
                context.waker().wake_by_ref();
            }
            // The client may have gone without reading GOAWAY.
            while let Some(time_limit) = &mut closing
                && time_limit.as_mut().poll(context).is_ready()
            {
                if downstream.state.phase().0 == ConnectionPhase::Idle {
                    return Poll::Ready(ConnectionEnd::Now);
                }
                closing = Some(Box::pin(sleep(limits.header_timeout)));
            }
            Poll::Pending
        })
        .await
    };
    streams.end().await;
    let Some(ReturnedTransport { mut recorded, fault, is_between }) = returned.take() else { return };
    let (refusal, code) = match (ended, fault) {
        (ConnectionEnd::Closed | ConnectionEnd::Now, _) => return,
        (ConnectionEnd::Broken, None) => return linger(recorded, limits.header_timeout).await,
        (ConnectionEnd::Broken, Some(fault)) => (fault.refusal(), fault.code()),
        (ConnectionEnd::TimedOut, _) => (Refusal::RequestTimeout, NO_ERROR),
    };
    note_refused(worker, downstream, &refusal);
    let farewell = async {
        if is_between && recorded.write_all(&go_away(code)).await.is_ok() {
            linger(recorded, limits.header_timeout).await;
        }
    };
    let _ = tokio::time::timeout(limits.header_timeout, farewell).await;
}

/// How a connection ended.
enum ConnectionEnd {
    /// Regularly.
    Closed,
    /// By a protocol error of the client, which was reported to it, or by a failure of the transport.
    Broken,
    /// Because a part of a request did not arrive in time.
    TimedOut,
    /// Immediately.
    Now,
}
