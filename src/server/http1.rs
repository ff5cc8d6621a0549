//! An HTTP/1 connection of a client.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::last_response::{linger, refuse};
use super::scanned_io::ScannedIo;
use super::transport::RecordedIo;
use super::worker::state::{GRACE, Worker, WorkerState};
use crate::downstream::state::Shutdown;
use crate::downstream::{ClientListener, Downstream};
use crate::gateway::tunnel::TunnelSlot;
use crate::policy::refusal::Refusal;

/// Announces the end of the connection, unless it becomes a tunnel.
#[cold]
fn announce_close<B>(response: &mut Response<B>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    state: Rc<WorkerState>,
    downstream: &Rc<Downstream>,
    recorded: RecordedIo,
) {
    let settings = Arc::clone(state.gateway.settings());
    let limits = &settings.limits;
    let tunnel_slot = TunnelSlot::default();
    let service = service_fn(|request: Request<Incoming>| {
        let gateway = worker.gateway();
        let (downstream, tunnel_slot) = (Rc::clone(downstream), &tunnel_slot);
        let (mut head, body) = request.into_parts();
        async move {
            let response = match downstream.listener {
                ClientListener::Proxy => gateway.answer(&downstream, &mut head, body, tunnel_slot).await,
                // Boxed, so that the futures of the proxy's requests stay small.
                ClientListener::Decision => {
                    Box::pin(gateway.answer_proxy(&downstream, &mut head, body)).await
                }
            };
            let mut answered = Ok::<_, Infallible>(response);
            if let Ok(response) = &mut answered
                && downstream.state.shutdown() != Shutdown::None
            {
                announce_close(response);
            }
            answered
        }
    });
    let io = TokioIo::new(ScannedIo::new(recorded, limits.bounds()));
    downstream.state.set_unread_while_serving(true);
    let mut connection = state.http1.serve_connection(io, service);
    // A connection must not keep the gateway of an earlier configuration.
    drop(state);
    let (mut is_last, mut broke_off, mut is_good) = (false, false, true);
    let ended = poll_fn(|context| {
        downstream.state.set_waker(context.waker());
        match downstream.state.shutdown() {
            Shutdown::None | Shutdown::Announced => {}
            Shutdown::Graceful if is_last => {}
            Shutdown::Graceful => {
                is_last = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            Shutdown::HeaderTimeout => return Poll::Ready(Some(Refusal::RequestTimeout)),
            Shutdown::Immediate => {
                (broke_off, is_good) = (true, false);
                return Poll::Ready(None);
            }
        }
        let Poll::Ready(ended) = Pin::new(&mut connection).poll(context) else {
            downstream.read_ahead(context);
            return Poll::Pending;
        };
        if let Err(error) = ended {
            (broke_off, is_good) = (error.is_user(), false);
            tracing::debug!(error = &error as &dyn std::error::Error, "client connection failed");
        }
        Poll::Ready(None)
    });
    let timed_out = ended.await;
    downstream.state.set_unread_while_serving(false);
    let parts = connection.into_parts();
    let scanned = parts.io.into_inner();
    if let Some(tunnel) = tunnel_slot.take()
        && is_good
        && scanned.may_switch()
    {
        let (client, mut early) = scanned.into_parts();
        early.splice(..0, parts.read_buf);
        tunnel.run(client, early, downstream, || worker.gateway()).await;
        return;
    }
    if let Some(refusal) = timed_out.or_else(|| scanned.refused()) {
        refuse(worker, downstream, scanned, &refusal).await;
    } else if broke_off {
        scanned.break_off();
    } else if scanned.is_mid_body() {
        linger(scanned.into_transport(), limits.header_timeout).await;
    } else if downstream.state.shutdown() == Shutdown::Announced {
        // A client that pipelines may have sent further requests.
        linger(scanned.into_transport(), GRACE).await;
    }
}
