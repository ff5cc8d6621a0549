//! Takes a client's connection over: who it is, and what it speaks.

use std::rc::Rc;
use std::time::Instant;

use tokio::net::{TcpStream, UnixStream};

use super::core::{Core, Serving};
use super::http1;
use super::listen::Accepted;
use super::transport::{Transport, Watched};
use crate::peer::Peer;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
}

/// Serves a connection until it ends.
pub(super) async fn serve(core: Rc<Core>, accepted: Accepted) {
    let serving = core.serving();
    let settings = serving.gateway.settings();
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
    let peer = Rc::new(Peer::new(address, trusted, serving.tls.is_some(), Instant::now()));
    let Some((transport, protocol)) = encrypt(&serving, stream).await else { return };

    let _open = core.enter(&peer);
    let watched = Watched { transport, peer: Rc::clone(&peer) };
    match protocol {
        Protocol::Http1 => http1::serve(&core, serving, &peer, watched).await,
    }
}

/// The transport under TLS, where the listener has it, and what was agreed on to speak over it.
async fn encrypt(serving: &Serving, transport: Transport) -> Option<(Transport, Protocol)> {
    let Some(acceptor) = &serving.tls else { return Some((transport, Protocol::Http1)) };
    let Transport::Tcp(stream) = transport else { return Some((transport, Protocol::Http1)) };
    let handshake = acceptor.accept(stream);
    match tokio::time::timeout(serving.gateway.settings().limits.header_timeout, handshake).await {
        Ok(Ok(stream)) => Some((Transport::Tls(Box::new(stream)), Protocol::Http1)),
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}
