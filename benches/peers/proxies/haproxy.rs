//! haproxy, as a proxy of HTTP or of TCP.

use std::fs;

use super::{Place, WORKERS};
use crate::Result;
use crate::install;
use crate::process::Server;

/// `mode` is `http` or `tcp`.
pub(crate) fn start(mode: &str, place: &Place<'_>) -> Result<Server> {
    let Place { address, backend, tls, directory, .. } = place;
    let tls = tls.map_or_else(String::new, |identity| {
        format!(" ssl crt {} alpn h2,http/1.1", identity.both.display())
    });
    let configuration = format!(
        "global
    nbthread {WORKERS}
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
    let name = format!("haproxy-{mode}");
    let file = directory.join(format!("{name}.cfg"));
    fs::write(&file, configuration)?;
    // -db: in the foreground, one process.
    let arguments = ["-db", "-f", &file.to_string_lossy()];
    Server::start(&name, &install::find("haproxy")?, &arguments, *address, directory)
}

pub(crate) fn version() -> Result<String> {
    install::version(&install::find("haproxy")?, "-v")
}
