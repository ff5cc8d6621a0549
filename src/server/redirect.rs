//! The redirect listener: redirects plain HTTP to https and serves nothing.
//!
//! A token in a request to it has crossed the network in plain text, which a redirect cannot undo. It is meant for
//! people who type a host name into a browser.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, LOCATION};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::acceptor::{AFTER_FAILURE, Accepted, Acceptor};
use super::proxy_protocol;
use super::raw_response;
use super::reload::Current;
use crate::config::settings::Settings;
use crate::listener::Listener;
use crate::listener::connections::{ConnectionSlot, ConnectionSlots};
use crate::policy::framing::{self, Bounds, FramingFault, Scan, Scanner};
use crate::policy::headers::X_REQUEST_ID;
use crate::policy::map::AbilityMap;
use crate::policy::refusal::Refusal;
use crate::policy::singleton;
use crate::policy::target::Target;
use crate::response::own;
use crate::response::record::new_request_id;
use crate::telemetry::metrics::Metrics;

/// Largest number of open connections.
const CONNECTIONS: usize = 256;
/// Longest duration of a connection, which carries one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Redirects requests while it is polled.
pub(super) async fn serve(listener: Listener, current: Current, metrics: Arc<Metrics>) -> io::Result<()> {
    let (door, _file) = Acceptor::open(listener)?;
    let connections = ConnectionSlots::new(CONNECTIONS);
    loop {
        let accepted = match door.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "redirect: cannot accept a connection"
                );
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        let address = match &accepted {
            Accepted::Tcp(_, address) => Some(address.ip()),
            Accepted::Unix(_) => None,
        };
        let place = connections.admit(address).await;
        let settings = Arc::clone(&current.load().settings);
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            let served = async {
                match accepted {
                    Accepted::Tcp(stream, address) => {
                        let mut stream = TcpStream::from_std(stream)?;
                        if settings.listen.proxy_protocol && settings.listen.trusts(address.ip()) {
                            proxy_protocol::take_header(&mut stream).await.map_err(io::Error::other)?;
                        }
                        connection(stream, &settings, &metrics, &place).await
                    }
                    Accepted::Unix(stream) => {
                        let mut stream = UnixStream::from_std(stream)?;
                        if settings.listen.proxy_protocol {
                            proxy_protocol::take_header(&mut stream).await.map_err(io::Error::other)?;
                        }
                        connection(stream, &settings, &metrics, &place).await
                    }
                }
            };
            tokio::select! {
                served = timeout(PATIENCE, served) => if let Ok(Err(error)) = served {
                    tracing::debug!(error = &error as &dyn std::error::Error, "redirect: connection failed");
                },
                () = place.evicted() => tracing::debug!("redirect: connection evicted for a new one"),
            }
        });
    }
}

/// Serves the one request of a connection. The scanner checks its head first, as on the proxy listener: hyper would cut
/// `#…` off a target and repair line ends.
async fn connection<S>(
    mut stream: S,
    settings: &Settings,
    metrics: &Metrics,
    place: &ConnectionSlot,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let bounds = settings.limits.bounds();
    let head = match read_head(&mut stream, bounds).await? {
        Ok(head) => head,
        Err((refusal, to_head)) => {
            let response = own::refuse(&refusal, new_request_id());
            stream.write_all(&raw_response::encode(&response, to_head)).await?;
            stream.shutdown().await?;
            // Unread data would reset the connection before the client has read the response.
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            return Ok(());
        }
    };
    let (reader, writer) = tokio::io::split(stream);
    let io = tokio::io::join(io::Cursor::new(head).chain(reader), writer);
    let service = service_fn(async |request| {
        place.start_request();
        Ok::<_, Infallible>(answer(&request, &settings.abilities, metrics))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .max_header_size(bounds.head + 1)
        .max_headers(bounds.fields)
        .serve_connection(TokioIo::new(io), service);
    served.await.map_err(io::Error::other)
}

/// A head and the data after it; or the refusal, and whether it is of a HEAD request.
async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    bounds: Bounds,
) -> io::Result<Result<Zeroizing<Vec<u8>>, (Refusal, bool)>> {
    let mut scanner = Scanner::new(bounds);
    let mut piece = Zeroizing::new(vec![0; 4096]);
    // The head may contain a token, of which a growing vector would leave a copy in memory.
    let mut head = Zeroizing::new(Vec::with_capacity(bounds.head + piece.len()));
    loop {
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..length]);
        let Scan { clear, fault } = scanner.scan(&head);
        match fault {
            // Errors after the head do not matter.
            _ if clear > 0 => return Ok(Ok(head)),
            None => {}
            Some(FramingFault::Head(refusal)) => {
                return Ok(Err((refusal, framing::method(&head) == Some(b"HEAD"))));
            }
            Some(FramingFault::Body(why)) => return Ok(Err((Refusal::BadRequest(why), false))),
        }
    }
}

fn answer(request: &Request<Incoming>, abilities: &AbilityMap, metrics: &Metrics) -> Response<Full<Bytes>> {
    let location = match location(request, abilities) {
        Ok(location) => location,
        Err(refusal) => return own::refuse(&refusal, new_request_id()).map(Full::new),
    };
    metrics.redirected();
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let fields = response.headers_mut();
    fields.insert(LOCATION, location);
    fields.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    fields.insert(X_REQUEST_ID, new_request_id());
    response
}

/// The URL to redirect a request to, unless the https listener would refuse the request as ambiguous.
fn location(request: &Request<Incoming>, abilities: &AbilityMap) -> Result<HeaderValue, Refusal> {
    singleton::check(request.headers())?;
    let target = Target::read(request.method(), request.uri(), request.headers())?;
    abilities.check_path(&target.path)?;
    HeaderValue::try_from(target.by_https())
        .map_err(|_| Refusal::BadRequest("a target that is not a valid field value"))
}
