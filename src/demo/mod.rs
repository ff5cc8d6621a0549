//! An in-memory stand-in for Stockaj with the part of its API that demonstrates the gateway.
//!
//! It answers in Laravel's format (`data` around results, `message` around errors). Every path except `/up` requires
//! a known token. Like Stockaj behind the gateway, it does not check abilities. Paths under `/api/v2`: `token`
//! (introspection), `kiosk/scan`, `kiosk/search`, `instance`, and the collections `items`, `variants`, `types`,
//! `tags`, `renters`, `rentals`, `webhooks`, `notifications`.

mod application;
mod records;
pub mod tokens;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use application::{Application, Reply};

/// The largest request body, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// The bound stand-in. Connections wait in the accept queue until [`Stockaj::serve`].
#[derive(Debug)]
pub struct Stockaj {
    listener: TcpListener,
    address: SocketAddr,
}

impl Stockaj {
    /// Binds `address`. Port 0 selects a free port.
    ///
    /// # Errors
    /// Returns the error of the system if the address cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The bound address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes, then drops the open connections.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let application = Arc::new(Mutex::new(Application::new(SystemTime::now())));
        let mut connections = tokio::task::JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let application = Arc::clone(&application);
                        let service = service_fn(move |request| answer(Arc::clone(&application), request));
                        connections.spawn(
                            http1::Builder::new()
                                .timer(TokioTimer::new())
                                .serve_connection(TokioIo::new(stream), service),
                        );
                    }
                    // Out of file descriptors, or the client has disconnected: the next connection may succeed.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
                // Errors of a connection concern only its client.
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn answer(
    application: Arc<Mutex<Application>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let reply = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => application.lock().unwrap_or_else(PoisonError::into_inner).answer(
            &head.method,
            head.uri.path(),
            head.uri.query(),
            &head.headers,
            &body.to_bytes(),
        ),
        Err(_) => Reply::message(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large."),
    };
    let body = reply.body.as_ref().map(ToString::to_string);
    let mut response = Response::new(Full::from(body.unwrap_or_default()));
    *response.status_mut() = reply.status;
    let fields = response.headers_mut();
    if reply.body.is_some() {
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(allow) = reply.allow {
        fields.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}
