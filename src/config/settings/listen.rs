//! The listeners: `listen`, `decision` and `admin`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;
use secrecy::SecretString;

use crate::policy::described::DescriptionStyle;
use crate::policy::trusted_fields::TrustedFields;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and port; for port 0 the system chooses one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// In the syntax of `gateway.yaml`.
impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// `listen`
#[derive(Debug)]
pub struct Listen {
    /// `listen.address`
    pub address: ListenAddress,
    /// `listen.tls`: empty for plain HTTP; the first is the default.
    pub tls: Box<[ListenTls]>,
    /// `listen.redirect_address`: redirects plain HTTP to https.
    pub redirect_address: Option<ListenAddress>,
    /// `listen.hsts`: the value of the field; `None` if off.
    pub hsts: Option<HeaderValue>,
    /// `listen.trusted_proxies`: peers whose forwarding fields are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// `listen.trusted_fields`: identity fields that trusted proxies may set.
    pub trusted_fields: TrustedFields,
    /// `listen.proxy_protocol`: whether trusted proxies start their connections with a PROXY header.
    pub proxy_protocol: bool,
    /// `listen.h2c`: whether clients may use HTTP/2 without TLS.
    pub h2c: bool,
    /// `listen.drain_delay`: from SIGTERM to closing the listener.
    pub drain_delay: Duration,
    /// `listen.drain_timeout`: the time for requests in flight after that.
    pub drain_timeout: Duration,
}

impl Listen {
    /// Whether the forwarding fields of a peer with this address are trusted.
    pub fn trusts(&self, address: IpAddr) -> bool {
        contain(&self.trusted_proxies, address)
    }
}

/// Whether one of the networks contains the address.
fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// `decision`: the listener for proxies that ask for decisions and forward requests themselves.
#[derive(Debug)]
pub struct Decision {
    /// `decision.address`; `None` if the listener is off.
    pub address: Option<ListenAddress>,
    /// `decision.tls`: empty for plain HTTP; the first is the default.
    pub tls: Box<[ListenTls]>,
    /// `decision.trusted_proxies`: the peers that get decisions.
    pub trusted_proxies: Vec<IpNet>,
    /// `decision.style` and `decision.path_prefix`
    pub style: DescriptionStyle,
    /// `decision.answer`
    pub answer: AnswerStyle,
}

impl Decision {
    /// Whether a peer with this address gets decisions. File permissions control who can connect to a Unix socket, whose peers
    /// have no address.
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|address| contain(&self.trusted_proxies, address))
    }
}

/// Where an answer over HTTP has the status of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerStyle {
    /// The status of the answer itself.
    Status,
    /// X-Decision-Status; the answer itself always has 200.
    Header,
}

/// `listen.tls` and `decision.tls`: PEM files, read when the listener is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub private_key: PathBuf,
    /// The authorities of client certificates; `None` if clients need none.
    pub client_ca: Option<PathBuf>,
}

impl ListenTls {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.private_key].into_iter().chain(&self.client_ca)
    }
}

/// `admin`
#[derive(Debug)]
pub struct Admin {
    /// `admin.address`
    pub address: ListenAddress,
    /// `admin.token_file` or `admin.token`; if absent, only `/metrics`, `/healthz` and `/readyz` are served.
    pub token: Option<SecretString>,
}
