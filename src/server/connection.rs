//! One client's connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::core::Core;
use super::head::Scanned;
use super::last_answer::{linger, refuse};
use super::listen::Accepted;
use super::transport::{Transport, Watched};
use crate::config::settings::Limits;
use crate::peer::{Ending, Peer};
use crate::policy::framing::Bounds;
use crate::policy::refusal::Refusal;

/// hyper's own number of header fields, for which it needs no allocation.
const FIELDS_ON_THE_STACK: usize = 100;

/// How connections are read.
pub(super) fn http1(limits: &Limits) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    // The sweep watches over time-outs: hyper's own sets a timer for every request.
    http1.header_read_timeout(None);
    // The scanner in front of hyper has refused what is beyond the bounds, with an answer of ours.
    http1.max_header_size(limits.header_bytes + 1);
    // See the pool's connections: the same saving.
    http1.writev(false);
    http1.max_buf_size(limits.header_bytes.max(64 * 1024) + 1);
    if limits.header_count != FIELDS_ON_THE_STACK {
        http1.max_headers(limits.header_count);
    }
    http1
}

/// Serves a connection until it ends.
pub(super) async fn serve(core: Rc<Core>, accepted: Accepted) {
    let settings = core.gateway.settings();
    let (address, stream) = match accepted {
        Accepted::Tcp(stream, address) => {
            (Some(address.ip()), TcpStream::from_std(stream).map(Transport::Tcp))
        }
        Accepted::Unix(stream) => (None, UnixStream::from_std(stream).map(Transport::Unix)),
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot take over a connection");
            return;
        }
    };
    let trusted = address.is_some_and(|address| settings.listen.trusts(address));
    let peer = Rc::new(Peer::new(address, trusted, core.tls.is_some(), Instant::now()));
    let Some(transport) = encrypt(&core, stream).await else { return };

    let _open = core.enter(&peer);
    let service = service_fn(|request| {
        let core = Rc::clone(&core);
        let peer = Rc::clone(&peer);
        async move { Ok::<_, Infallible>(core.gateway.answer(&peer, request).await) }
    });
    let watched = Watched { transport, peer: Rc::clone(&peer) };
    let io = TokioIo::new(Scanned::new(watched, bounds(&settings.limits)));
    let mut connection = core.http1.serve_connection(io, service);
    let (mut is_last, mut broke_off) = (false, false);
    let ended = poll_fn(|context| {
        peer.activity.driven_by(context.waker());
        match peer.activity.ending() {
            Ending::Not => {}
            Ending::Soon if is_last => {}
            Ending::Soon => {
                is_last = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            Ending::TimedOut => return Poll::Ready(Some(Refusal::RequestTimeout)),
            Ending::Now => {
                broke_off = true;
                return Poll::Ready(None);
            }
        }
        Pin::new(&mut connection).poll(context).map(|ended| {
            if let Err(error) = ended {
                broke_off = error.is_user();
                tracing::debug!(error = &error as &dyn std::error::Error, "a client's connection broke off");
            }
            None
        })
    });
    let timed_out = ended.await;
    let scanned = connection.into_parts().io.into_inner();
    if let Some(refusal) = timed_out.or_else(|| scanned.refused()) {
        refuse(&core, &peer, scanned, &refusal).await;
    } else if broke_off {
        scanned.break_off();
    } else if scanned.is_mid_body() {
        linger(scanned.into_transport(), settings.limits.header_timeout).await;
    }
}

/// What the scanner lets through.
const fn bounds(limits: &Limits) -> Bounds {
    Bounds { head: limits.header_bytes, fields: limits.header_count, target: limits.target_bytes }
}

/// The transport under TLS, where the listener has it.
async fn encrypt(core: &Core, transport: Transport) -> Option<Transport> {
    let Some(acceptor) = &core.tls else { return Some(transport) };
    let Transport::Tcp(stream) = transport else { return Some(transport) };
    let handshake = acceptor.accept(stream);
    match tokio::time::timeout(core.gateway.settings().limits.header_timeout, handshake).await {
        Ok(Ok(stream)) => Some(Transport::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}
