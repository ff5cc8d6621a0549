//! The backend, the introspector and the authorizers: nginx with responses from memory.

use std::net::SocketAddr;
use std::path::Path;

use crate::Result;
use crate::process::{self, Server};
use crate::proxies::nginx;

/// The body of every response of the backend.
pub(crate) const BODY: &str = r#"{"data":[{"id":1,"name":"Aerial lift 12 m","available":true},{"id":2,"name":"Generator 20 kVA","available":false}],"meta":{"page":1,"total":2}}"#;

/// The servers that are not measured never close a kept connection.
const KEPT: &str = "keepalive_timeout 1h; keepalive_requests 1000000000; keepalive_time 24h;";

/// The backend and the introspector in one: nginx with one worker.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    _server: Server,
}

impl Backend {
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let address = process::free_address()?;
        // A token is introspected under the number in front of it.
        let http = format!(
            "{KEPT} default_type application/json;
             map $http_authorization $token_id {{ default 17; '~^Bearer (?<number>[0-9]+)\\|' $number; }}
             server {{
                 listen {address} backlog=4096;
                 location / {{ return 200 '{BODY}'; }}
                 location = /api/v2/token {{
                     return 200 '{{\"data\":{{\"id\":\"$token_id\",\"name\":\"peers\",\"abilities\":[\"items:read\"],\"expires_at\":null}}}}';
                 }}
             }}"
        );
        let server = nginx::start("backend", 1, &http, address, directory)?;
        Ok(Self { address, _server: server })
    }
}

/// An authorization service that checks nothing: nginx with one worker that responds with 200. A real one would cost
/// more.
pub(crate) fn start_authorizer(name: &str, directory: &Path) -> Result<(Server, SocketAddr)> {
    let address = process::free_address()?;
    let http = format!("{KEPT} server {{ listen {address} backlog=4096; location / {{ return 200; }} }}");
    let server = nginx::start(&format!("{name}-authorizer"), 1, &http, address, directory)?;
    Ok((server, address))
}
