//! The files under `deploy/`, checked by the tools that read them.

mod helm;
mod kubernetes;
mod overlay;
mod release;
mod sidecar;
mod systemd;
