//! A second listener, for those who come by plain HTTP: it sends them on to https, and serves nothing.
//!
//! A token that was sent to it has crossed the network for everyone to read, and a redirect does not take that back:
//! it is for people who type a name into a browser.

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
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::listen::{AFTER_FAILURE, Accepted, Door};
use super::proxied;
use super::reload::Current;
use crate::answer;
use crate::exchange::new_request_id;
use crate::listener::Listener;
use crate::listener::connections::{Connections, Place};
use crate::policy::headers::X_REQUEST_ID;
use crate::policy::refusal::Refusal;
use crate::policy::target::Target;
use crate::telemetry::metrics::Metrics;

/// Connections that may be open at a time.
const CONNECTIONS: usize = 256;
/// For a whole connection, which carries one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Redirects, for as long as it is polled.
pub(super) async fn serve(listener: Listener, current: Current, metrics: Arc<Metrics>) -> io::Result<()> {
    let (door, _file) = Door::open(listener)?;
    let connections = Connections::new(CONNECTIONS);
    loop {
        let accepted = match door.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "nothing to be redirected");
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
                            proxied::take_header(&mut stream).await.map_err(io::Error::other)?;
                        }
                        connection(TokioIo::new(stream), &metrics, &place).await
                    }
                    Accepted::Unix(stream) => {
                        let mut stream = UnixStream::from_std(stream)?;
                        if settings.listen.proxy_protocol {
                            proxied::take_header(&mut stream).await.map_err(io::Error::other)?;
                        }
                        connection(TokioIo::new(stream), &metrics, &place).await
                    }
                }
                io::Result::Ok(())
            };
            tokio::select! {
                served = timeout(PATIENCE, served) => if let Ok(Err(error)) = served {
                    tracing::debug!(error = &error as &dyn std::error::Error, "nothing to be redirected");
                },
                () = place.evicted() => tracing::debug!("a redirected connection made room for another"),
            }
        });
    }
}

async fn connection<I>(io: I, metrics: &Metrics, place: &Place)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let answer = async |request| {
        place.request_began();
        Ok::<_, Infallible>(answer(&request, metrics))
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .max_header_size(16 * 1024)
        .serve_connection(io, service_fn(answer));
    if let Err(error) = served.await {
        tracing::debug!(error = &error as &dyn std::error::Error, "a redirected connection broke off");
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let location = Target::read(request.method(), request.uri(), request.headers()).and_then(|target| {
        HeaderValue::try_from(target.by_https())
            .map_err(|_| Refusal::BadRequest("a target that is no field value"))
    });
    let location = match location {
        Ok(location) => location,
        Err(refusal) => return answer::refuse(&refusal, new_request_id()).map(Full::new),
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
