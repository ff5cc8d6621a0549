//! Takes a client's connection over: who it is, and what it speaks.

use std::rc::Rc;
use std::time::Instant;

use tokio::net::{TcpStream, UnixStream};

use super::core::{Core, Serving};
use super::listen::Accepted;
use super::transport::{Transport, Watched};
use super::{http1, tls};
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
    let Some(Agreed { transport, protocol, subject }) = encrypt(&serving, stream).await else { return };
    let mut peer = Peer::new(address, trusted, serving.tls.is_some(), Instant::now());
    peer.subject = subject;
    let peer = Rc::new(peer);

    let _open = core.enter(&peer);
    let watched = Watched { transport, peer: Rc::clone(&peer) };
    match protocol {
        Protocol::Http1 => http1::serve(&core, serving, &peer, watched).await,
    }
}

/// What a connection is spoken over, and what is spoken.
struct Agreed {
    transport: Transport,
    protocol: Protocol,
    /// Of the client's certificate.
    subject: Option<Box<str>>,
}

/// The transport under TLS, where the listener has it.
async fn encrypt(serving: &Serving, transport: Transport) -> Option<Agreed> {
    let (tls, stream) = match (&serving.tls, transport) {
        (Some(tls), Transport::Tcp(stream)) => (tls, stream),
        (_, transport) => return Some(Agreed { transport, protocol: Protocol::Http1, subject: None }),
    };
    match tokio::time::timeout(serving.gateway.settings().limits.header_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let subject = tls::subject(&stream);
            Some(Agreed { transport: Transport::Tls(Box::new(stream)), protocol: Protocol::Http1, subject })
        }
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}
