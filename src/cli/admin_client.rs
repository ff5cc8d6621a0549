//! Sends requests to the admin listener of a running gateway.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::MAX_REPORT;
use crate::config::settings::{Admin, ListenAddress};
use crate::sanitize::sanitize;

/// Long enough to list or revoke many tokens: both read every cached verdict.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request has no successful response.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no response within {0:?}")]
    Timeout(Duration),
    #[error("the response is not HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be sent: {0}")]
    Request(#[from] http::Error),
    #[error("the response is incomplete: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "neither `admin.token_file` nor `admin.token` is set, and the request needs the admin token\n\
         help: write at least 16 random bytes to a file, such as the output of `openssl rand -hex 32`, and set \
         `admin.token_file` to its path; the gateway reloads the file"
    )]
    NoToken,
    #[error("the admin token cannot be sent")]
    Token(#[from] http::header::InvalidHeaderValue),
    #[error("the admin token of `admin.token_file` or `admin.token` is not that of the running gateway")]
    Unauthenticated,
    #[error("the gateway runs without an admin token, or this is not its admin listener")]
    NotFound,
    #[error("the gateway responds with {status}: {message}")]
    Rejected { status: u16, message: String },
}

/// Sends a request with the admin token.
///
/// # Errors
/// Also for any status other than 200.
pub(super) fn send_authenticated(
    admin: &Admin,
    request: http::request::Builder,
    body: Bytes,
) -> Result<Response<Bytes>, AdminError> {
    let token = admin.token.as_ref().ok_or(AdminError::NoToken)?;
    let bearer = Zeroizing::new(format!("Bearer {}", token.expose_secret()));
    let mut credentials = HeaderValue::from_str(&bearer)?;
    credentials.set_sensitive(true);
    let request = request.header(AUTHORIZATION, credentials).body(Full::new(body))?;
    let response = send(&admin.address, request, TIMEOUT)?;
    let status = response.status().as_u16();
    if status == 200 {
        return Ok(response);
    }
    let body: Option<Value> = serde_json::from_slice(response.body()).ok();
    let message = body.as_ref().and_then(|body| body.get("message")?.as_str());
    Err(match (status, message) {
        (401, _) => AdminError::Unauthenticated,
        (404, None | Some("Not Found.")) => AdminError::NotFound,
        (_, message) => AdminError::Rejected { status, message: sanitize(message.unwrap_or("-")) },
    })
}

/// Sends a request and reads the whole response. `limit` bounds both together.
pub(super) fn send(
    address: &ListenAddress,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Response<Bytes>, AdminError> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let response = async {
            match address {
                ListenAddress::Tcp(address) => {
                    exchange(TcpStream::connect(reachable(*address)).await?, request).await
                }
                ListenAddress::Unix(path) => exchange(UnixStream::connect(path).await?, request).await,
            }
        };
        timeout(limit, response).await.unwrap_or(Err(AdminError::Timeout(limit)))
    })
}

/// The address to connect to: the loopback address for a listener on every address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn exchange<S>(stream: S, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, AdminError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let fields = request.headers_mut();
    fields.entry(HOST).or_insert(HeaderValue::from_static("localhost"));
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let response = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_REPORT as usize).collect().await.map_err(AdminError::Body)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    tokio::select! {
        biased;
        response = response => response,
        // An error of the connection also ends `response`.
        never = async {
            let _ = connection.await;
            std::future::pending().await
        } => never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_address_is_reached_on_loopback() {
        for (listening, expected) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("192.0.2.1:9090", "192.0.2.1:9090"),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
