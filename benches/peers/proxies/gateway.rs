//! The gateway.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::{Place, WORKERS};
use crate::Result;
use crate::front::Identity;
use crate::install;
use crate::process::{self, Server};

/// Starts the gateway with the shipped ability map. Its standard output, and so its access log, is a file.
pub(crate) fn start(name: &str, program: &Path, place: &Place<'_>, access_log: bool) -> Result<Server> {
    let map = install::root().join("config/stockaj.yaml");
    let log = if access_log { "info" } else { "warn" };
    let more = json!({"abilities": {"file": map}, "log": {"level": log, "access": access_log}});
    start_with(name, program, place, more)
}

/// Starts the gateway as the authorizer of another proxy; returns the address of its decision listener.
pub(crate) fn start_decision(program: &Path, place: &Place<'_>, style: &str) -> Result<(Server, SocketAddr)> {
    let map = install::root().join("config/stockaj.yaml");
    let decision = process::free_address()?;
    let place = &Place { address: process::free_address()?, ..*place };
    let more = json!({
        "abilities": {"file": map},
        "log": {"level": "warn", "access": false},
        "decision": {"address": decision.to_string(), "trusted_proxies": ["127.0.0.1"], "style": style},
    });
    Ok((start_with("gateway-decision", program, place, more)?, decision))
}

/// Starts the gateway with further sections of its configuration.
pub(crate) fn start_with(name: &str, program: &Path, place: &Place<'_>, more: Value) -> Result<Server> {
    let Place { address, backend, tls, directory, .. } = place;
    let mut listen = json!({"address": address.to_string()});
    if let Some(Identity { certificate, private_key, .. }) = tls {
        listen["tls"] = json!({"certificate": certificate, "private_key": private_key});
    }
    let mut configuration = json!({
        "listen": listen,
        "admin": {"address": process::free_address()?.to_string()},
        "backend": {"url": format!("http://{backend}")},
        "introspection": {"url": format!("http://{backend}/api/v2/token")},
        "runtime": {"threads": WORKERS},
    });
    if let (Some(all), Value::Object(more)) = (configuration.as_object_mut(), more) {
        all.extend(more);
    }
    let file = directory.join(format!("{name}.yaml"));
    fs::write(&file, configuration.to_string())?; // JSON is YAML
    Server::start(name, program, &["run", "--config", &file.to_string_lossy()], *address, directory)
}
