//! An HTTP/1 connection of a client.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::CONNECTION;
use http::{HeaderValue, Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::last_answer::{linger, refuse};
use super::scanned_io::ScannedIo;
use super::transport::Watched;
use super::worker::{GRACE, Worker, WorkerState};
use crate::config::settings::Limits;
use crate::downstream::Downstream;
use crate::downstream::state::Shutdown;
use crate::gateway::tunnel::TunnelSlot;
use crate::policy::refusal::Refusal;

/// Number of header fields for which hyper needs no allocation.
const FIELDS_ON_THE_STACK: usize = 100;

/// Smallest buffer of hyper, in bytes. hyper has one size for reading and writing, and a head has to fit in it.
const LEAST_BUFFER: usize = 16 * 1024;

/// hyper's settings for connections.
pub(super) fn builder(limits: &Limits) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    // Otherwise hyper reads while it serves, only to notice a client that leaves: two allocations of 8 KiB per request.
    // The sweep makes `ScannedIo` check for that instead.
    http1.half_close(true);
    // The sweep enforces the time limit. hyper's own sets a timer for every request.
    http1.header_read_timeout(None);
    // The scanner in front of hyper refuses larger heads, with the gateway's response.
    http1.max_header_size(limits.header_bytes + 1);
    // Copying a small response costs less than a vectored write.
    http1.writev(false);
    http1.max_buf_size(limits.header_bytes.max(LEAST_BUFFER) + 1);
    if limits.header_count != FIELDS_ON_THE_STACK {
        http1.max_headers(limits.header_count);
    }
    http1
}

/// Announces the end of the connection, unless it becomes a tunnel.
#[cold]
fn say_that_it_is_the_last<B>(response: &mut Response<B>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve(
    core: &Rc<Worker>,
    serving: Rc<WorkerState>,
    downstream: &Rc<Downstream>,
    watched: Watched,
) {
    let settings = Arc::clone(serving.gateway.settings());
    let limits = &settings.limits;
    let tunnel_slot = TunnelSlot::default();
    let service = service_fn(|request| {
        let gateway = core.gateway();
        let (downstream, tunnel_slot) = (Rc::clone(downstream), &tunnel_slot);
        async move {
            let mut answered = Ok::<_, Infallible>(gateway.answer(&downstream, request, tunnel_slot).await);
            if let Ok(response) = &mut answered
                && downstream.state.shutdown() != Shutdown::None
            {
                say_that_it_is_the_last(response);
            }
            answered
        }
    });
    let io = TokioIo::new(ScannedIo::new(watched, limits.bounds()));
    downstream.state.set_unread_while_serving(true);
    let mut connection = serving.http1.serve_connection(io, service);
    // A connection must not keep the gateway of an earlier configuration.
    drop(serving);
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
        Pin::new(&mut connection).poll(context).map(|ended| {
            if let Err(error) = ended {
                (broke_off, is_good) = (error.is_user(), false);
                tracing::debug!(error = &error as &dyn std::error::Error, "a client's connection broke off");
            }
            None
        })
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
        tunnel.run(client, early, downstream, || core.gateway()).await;
        return;
    }
    if let Some(refusal) = timed_out.or_else(|| scanned.refused()) {
        refuse(core, downstream, scanned, &refusal).await;
    } else if broke_off {
        scanned.break_off();
    } else if scanned.is_mid_body() {
        linger(scanned.into_transport(), limits.header_timeout).await;
    } else if downstream.state.shutdown() == Shutdown::Announced {
        // A client that pipelines may have sent further requests.
        linger(scanned.into_transport(), GRACE).await;
    }
}
