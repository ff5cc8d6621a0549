//! nginx: kept connections to the backend, HTTP/1.1, a socket per worker.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use super::{Place, WORKERS, shipped};
use crate::Result;
use crate::front::Front;
use crate::install;
use crate::process::Server;

/// Forwards and checks nothing.
pub(crate) fn plain(place: &Place<'_>) -> Result<Server> {
    proxy("nginx", place, "", "location / { proxy_pass http://backend; }")
}

/// The same with an access log, in the format and with the buffering that are nginx's defaults.
pub(crate) fn with_access_log(place: &Place<'_>) -> Result<Server> {
    let log = format!("access_log {};", place.directory.join("access.log").display());
    proxy("nginx-log", place, "", &format!("{log} location / {{ proxy_pass http://backend; }}"))
}

/// Checks the token, whose introspection is cached.
pub(crate) fn auth_request(place: &Place<'_>) -> Result<Server> {
    let cache = place.directory.join("introspection");
    let cache = format!("proxy_cache_path {} keys_zone=introspection:10m;", cache.display());
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
    proxy("auth-request", place, &cache, locations)
}

/// Asks the gateway's decision listener about each request, with the shipped file.
pub(crate) fn decision(place: &Place<'_>, decision: SocketAddr) -> Result<Server> {
    let file = shipped::write("nginx.conf", place, decision)?;
    let (directory, file) = (place.directory.to_string_lossy(), file.to_string_lossy());
    let arguments = ["-p", &directory, "-e", "stderr", "-g", "daemon off; user root;", "-c", &file];
    Server::start("nginx-decision", &install::find("nginx")?, &arguments, place.address, place.directory)
}

pub(crate) fn version() -> Result<String> {
    install::version(&install::find("nginx")?, "-v")
}

fn proxy(name: &str, place: &Place<'_>, http: &str, server: &str) -> Result<Server> {
    let Place { address, backend, front, tls, directory } = place;
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
    let http = format!(
        "{http}
         upstream backend {{ server {backend}; keepalive 256; keepalive_requests 1000000000; keepalive_time 24h; }}
         keepalive_requests 1000000000; keepalive_time 24h;
         proxy_http_version 1.1;
         proxy_set_header Connection '';
         server {{ listen {address} {speaks} reuseport backlog=4096; {tls} {server} }}"
    );
    start(name, WORKERS, &http, *address, directory)
}

/// Starts nginx with this `http` section.
pub(crate) fn start(
    name: &str,
    workers: u8,
    http: &str,
    address: SocketAddr,
    directory: &Path,
) -> Result<Server> {
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
    Server::start(name, &install::find("nginx")?, &arguments, address, directory)
}
