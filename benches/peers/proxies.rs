//! The configuration of each proxy: as its documentation recommends for a reverse proxy, without limits that a
//! benchmark would reach.

pub(crate) mod caddy;
pub(crate) mod envoy;
pub(crate) mod gateway;
pub(crate) mod haproxy;
pub(crate) mod nginx;
pub(crate) mod shipped;
pub(crate) mod traefik;

use std::net::SocketAddr;
use std::path::Path;

use crate::front::{Front, Identity};

/// Worker threads or processes of every proxy.
pub(crate) const WORKERS: u8 = 2;

/// Addresses, protocol and files of a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) backend: SocketAddr,
    pub(crate) front: Front,
    /// `None` for plain HTTP.
    pub(crate) tls: Option<&'a Identity>,
    pub(crate) directory: &'a Path,
}
