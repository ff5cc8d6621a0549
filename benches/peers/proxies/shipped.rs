//! Proxies that ask the gateway, with the files of `deploy/proxies/`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Place;
use crate::{Result, install};

/// Writes a file of `deploy/proxies/` with the ports of this place, and returns its path.
pub(crate) fn write(name: &str, place: &Place<'_>, decision: SocketAddr) -> Result<PathBuf> {
    let mut text = fs::read_to_string(install::root().join("deploy/proxies").join(name))?;
    let ports = [("8080", place.address), ("8081", decision), ("8000", place.backend)];
    // In two steps, since a new port may contain a shipped one.
    for (port, _) in ports {
        text = text.replace(port, &format!("<{port}>"));
    }
    for (port, address) in ports {
        text = text.replace(&format!("<{port}>"), &address.port().to_string());
    }
    let file = place.directory.join(name);
    fs::write(&file, text)?;
    Ok(file)
}
