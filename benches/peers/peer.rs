//! The backend and the proxies, each with the configuration that its own documentation recommends.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::front::{Front, Identity};
use crate::process::{self, Server};

/// What every request asks for.
pub(crate) const TARGET: &str = "/api/v2/items";
/// The token of every request, in Sanctum's shape.
pub(crate) const TOKEN: &str = "17|Zq3vN8sXb1Lk5TgWc7HdRj2MfYp9UaEo4KiVn6Bt0b6a2f31";

/// What the backend answers with.
pub(crate) const BACKEND_BODY: &str = r#"{"data":[{"id":1,"name":"Aerial lift 12 m","available":true},{"id":2,"name":"Generator 20 kVA","available":false}],"meta":{"page":1,"total":2}}"#;
const INTROSPECTION_BODY: &str =
    r#"{"data":{"id":"17","name":"peers","abilities":["items:read"],"expires_at":null}}"#;

/// A proxy that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PeerKind {
    /// The gateway, as `cargo bench` built it.
    Gateway,
    /// nginx that forwards and checks nothing.
    Nginx,
    /// haproxy that forwards and checks nothing.
    Haproxy,
    /// nginx that checks the token, its introspection cached.
    AuthRequest,
    /// haproxy that copies bytes: the least that a hop can cost.
    Relay,
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gateway => "stockaj-gateway",
            Self::Nginx => "nginx, no check",
            Self::Haproxy => "haproxy, no check",
            Self::AuthRequest => "nginx auth_request",
            Self::Relay => "haproxy TCP relay",
        })
    }
}

impl PeerKind {
    /// Whether it is driven with this in front of it.
    pub(crate) const fn speaks(self, front: Front) -> bool {
        match self {
            Self::Gateway | Self::Nginx | Self::Haproxy => true,
            Self::AuthRequest | Self::Relay => !front.is_encrypted(),
        }
    }
}

/// The same for all: nginx with one worker that answers from memory and never closes.
#[derive(Debug)]
pub(crate) struct Backend {
    address: SocketAddr,
    _server: Server,
}

impl Backend {
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let address = process::free_address()?;
        let http = format!(
            "keepalive_timeout 1h; keepalive_requests 1000000000; keepalive_time 24h;
             default_type application/json;
             server {{
                 listen {address} backlog=4096;
                 location / {{ return 200 '{BACKEND_BODY}'; }}
                 location = /api/v2/token {{ return 200 '{INTROSPECTION_BODY}'; }}
             }}"
        );
        let server = start_nginx("backend", 1, &http, address, directory)?;
        Ok(Self { address, _server: server })
    }
}

/// A proxy before the backend.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) kind: PeerKind,
    pub(crate) front: Front,
    pub(crate) address: SocketAddr,
    pub(crate) server: Server,
    pub(crate) version: String,
}

impl Peer {
    pub(crate) fn start(
        kind: PeerKind,
        front: Front,
        backend: &Backend,
        identity: &Identity,
        directory: &Path,
    ) -> Result<Self> {
        let address = process::free_address()?;
        let directory = &directory.join(format!("{front:?}"));
        fs::create_dir_all(directory)?;
        let tls = front.is_encrypted().then_some(identity);
        let backend = backend.address;
        let (server, version) = match kind {
            PeerKind::Gateway => {
                let program = Path::new(env!("CARGO_BIN_EXE_stockaj-gateway"));
                (start_gateway(program, address, backend, tls, directory)?, version(program, "--version")?)
            }
            PeerKind::Nginx => {
                let http =
                    nginx_proxy(address, backend, front, tls, "location / { proxy_pass http://backend; }");
                (start_nginx("nginx", 2, &http, address, directory)?, nginx_version()?)
            }
            PeerKind::AuthRequest => {
                let cache = directory.join("introspection");
                let locations = "
                    location / { auth_request /introspection; proxy_pass http://backend; }
                    location = /introspection {
                        internal;
                        proxy_pass http://backend/api/v2/token;
                        proxy_pass_request_body off;
                        proxy_set_header Content-Length '';
                        proxy_cache introspection;
                        proxy_cache_key $http_authorization;
                        proxy_cache_valid 200 60s;
                        proxy_cache_valid 401 5s;
                        proxy_cache_lock on;
                    }";
                let http = format!(
                    "proxy_cache_path {} keys_zone=introspection:10m; {}",
                    cache.display(),
                    nginx_proxy(address, backend, front, tls, locations)
                );
                (start_nginx("auth-request", 2, &http, address, directory)?, nginx_version()?)
            }
            PeerKind::Haproxy => {
                let program = process::find("haproxy")?;
                (start_haproxy("http", &program, address, backend, tls, directory)?, version(&program, "-v")?)
            }
            PeerKind::Relay => {
                let program = process::find("haproxy")?;
                (start_haproxy("tcp", &program, address, backend, None, directory)?, version(&program, "-v")?)
            }
        };
        Ok(Self { kind, front, address, server, version })
    }

    /// What is asked for.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.front.is_encrypted() { "https" } else { "http" };
        format!("{scheme}://{}{TARGET}", self.address)
    }
}

/// nginx's own advice for a proxy: kept connections to the backend, HTTP/1.1, no log, a socket per worker.
fn nginx_proxy(
    address: SocketAddr,
    backend: SocketAddr,
    front: Front,
    tls: Option<&Identity>,
    locations: &str,
) -> String {
    let tls = tls.map_or_else(String::new, |identity| {
        format!(
            "ssl_certificate {}; ssl_certificate_key {}; ssl_session_cache shared:SSL:10m;",
            identity.certificate.display(),
            identity.private_key.display()
        )
    });
    let speaks = match front {
        Front::Http1 => "",
        Front::Tls => "ssl",
        Front::Http2 => "ssl http2",
    };
    format!(
        "upstream backend {{ server {backend}; keepalive 256; keepalive_requests 1000000000; keepalive_time 24h; }}
         keepalive_requests 1000000000; keepalive_time 24h;
         proxy_http_version 1.1;
         proxy_set_header Connection '';
         server {{ listen {address} {speaks} reuseport backlog=4096; {tls} {locations} }}"
    )
}

fn start_nginx(name: &str, workers: u8, http: &str, address: SocketAddr, directory: &Path) -> Result<Server> {
    let prefix = directory.join(name);
    fs::create_dir(&prefix)?;
    let configuration = format!(
        "daemon off; user root; pid nginx.pid; error_log stderr warn;
         worker_processes {workers}; worker_rlimit_nofile 65536;
         events {{ worker_connections 8192; }}
         http {{
             access_log off;
             client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
             uwsgi_temp_path uwsgi; scgi_temp_path scgi;
             {http}
         }}"
    );
    let file = prefix.join("nginx.conf");
    fs::write(&file, configuration)?;
    let arguments = ["-p", &prefix.to_string_lossy(), "-c", &file.to_string_lossy(), "-e", "stderr"];
    Server::start(name, &process::find("nginx")?, &arguments, address, directory)
}

fn start_haproxy(
    mode: &str,
    program: &Path,
    address: SocketAddr,
    backend: SocketAddr,
    tls: Option<&Identity>,
    directory: &Path,
) -> Result<Server> {
    let tls = tls.map_or_else(String::new, |identity| {
        format!(" ssl crt {} alpn h2,http/1.1", identity.both.display())
    });
    let configuration = format!(
        "global
    nbthread 2
    maxconn 8192
defaults
    mode {mode}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen proxy
    bind {address}{tls}
    server backend {backend}
"
    );
    let file = directory.join(format!("haproxy-{mode}.cfg"));
    fs::write(&file, configuration)?;
    // -db: in the foreground, one process.
    Server::start(
        &format!("haproxy-{mode}"),
        program,
        &["-db", "-f", &file.to_string_lossy()],
        address,
        directory,
    )
}

fn start_gateway(
    program: &Path,
    address: SocketAddr,
    backend: SocketAddr,
    tls: Option<&Identity>,
    directory: &Path,
) -> Result<Server> {
    let admin = process::free_address()?;
    let mut listen = serde_json::json!({"address": address.to_string()});
    if let Some(identity) = tls {
        let Identity { certificate, private_key, .. } = identity;
        listen["tls"] = serde_json::json!({"certificate": certificate, "private_key": private_key});
    }
    let configuration = serde_json::json!({
        "listen": listen,
        "admin": {"address": admin.to_string()},
        "backend": {"url": format!("http://{backend}")},
        "introspection": {"url": format!("http://{backend}/api/v2/token")},
        "runtime": {"threads": 2},
        "log": {"level": "warn", "access": false},
        "abilities": {"file": concat!(env!("CARGO_MANIFEST_DIR"), "/config/stockaj.yaml")},
    });
    let file = directory.join("gateway.yaml");
    fs::write(&file, configuration.to_string())?; // JSON is YAML
    Server::start("gateway", program, &["run", "--config", &file.to_string_lossy()], address, directory)
}

fn nginx_version() -> Result<String> {
    version(&process::find("nginx")?, "-v")
}

/// The first line of what a program says about itself; nginx says it on standard error.
fn version(program: &Path, flag: &str) -> Result<String> {
    let output = Command::new(program).arg(flag).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}
