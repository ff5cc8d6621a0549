//! The proxies that are compared.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::backend::{self, Backend};
use crate::front::{Front, Identity};
use crate::install;
use crate::process::{self, Server};
use crate::proxies::{Place, caddy, envoy, gateway, haproxy, nginx, traefik};

/// A target that requires an ability.
const TARGET: &str = "/api/v2/items";
/// A target that the shipped map makes public.
const PUBLIC_TARGET: &str = "/up";

/// The token of every request, in Sanctum's shape.
pub(crate) const TOKEN: &str = "17|Zq3vN8sXb1Lk5TgWc7HdRj2MfYp9UaEo4KiVn6Bt0b6a2f31";

/// A proxy that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PeerKind {
    /// The gateway without access log.
    Gateway,
    /// The gateway with its access log in a file.
    GatewayLog,
    /// A public route of the gateway: its cost without authorization.
    GatewayPublic,
    /// nginx that forwards without checks.
    Nginx,
    /// Like `Nginx`, with its access log in a file.
    NginxLog,
    /// nginx that checks the token, with cached introspection.
    AuthRequest,
    /// nginx that asks the gateway's decision listener.
    NginxDecision,
    /// haproxy that forwards without checks.
    Haproxy,
    /// haproxy that copies bytes: the minimum cost of a hop.
    Relay,
    /// Envoy that forwards without checks.
    EnvoyPlain,
    /// Envoy with HTTP `ext_authz` and an authorizer that allows everything.
    Envoy,
    /// Envoy that asks the gateway's decision listener by HTTP.
    EnvoyDecision,
    /// Envoy that asks the gateway's decision listener by gRPC.
    EnvoyGrpcDecision,
    /// Caddy that forwards without checks.
    CaddyPlain,
    /// Caddy with `forward_auth` and an authorizer that allows everything.
    Caddy,
    /// Caddy that asks the gateway's decision listener.
    CaddyDecision,
    /// Traefik that forwards without checks.
    TraefikPlain,
    /// Traefik with ForwardAuth and an authorizer that allows everything.
    Traefik,
    /// Traefik that asks the gateway's decision listener.
    TraefikDecision,
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gateway => "stockaj-gateway",
            Self::GatewayLog => "stockaj-gateway, access log",
            Self::GatewayPublic => "stockaj-gateway, public route",
            Self::Nginx => "nginx, no check",
            Self::NginxLog => "nginx, no check, access log",
            Self::AuthRequest => "nginx `auth_request`, cached",
            Self::NginxDecision => "nginx, stockaj-gateway decides",
            Self::Haproxy => "haproxy, no check",
            Self::Relay => "haproxy, TCP relay",
            Self::EnvoyPlain => "Envoy, no check",
            Self::Envoy => "Envoy `ext_authz`",
            Self::EnvoyDecision => "Envoy, stockaj-gateway decides (HTTP)",
            Self::EnvoyGrpcDecision => "Envoy, stockaj-gateway decides (gRPC)",
            Self::CaddyPlain => "Caddy, no check",
            Self::Caddy => "Caddy `forward_auth`",
            Self::CaddyDecision => "Caddy, stockaj-gateway decides",
            Self::TraefikPlain => "Traefik, no check",
            Self::Traefik => "Traefik ForwardAuth",
            Self::TraefikDecision => "Traefik, stockaj-gateway decides",
        })
    }
}

impl PeerKind {
    /// The same program without checks, if this one asks an authorizer.
    pub(crate) const fn without_check(self) -> Option<Self> {
        match self {
            Self::AuthRequest | Self::NginxDecision => Some(Self::Nginx),
            Self::Envoy | Self::EnvoyDecision | Self::EnvoyGrpcDecision => Some(Self::EnvoyPlain),
            Self::Caddy | Self::CaddyDecision => Some(Self::CaddyPlain),
            Self::Traefik | Self::TraefikDecision => Some(Self::TraefikPlain),
            _ => None,
        }
    }

    /// Whether it is measured with this protocol.
    pub(crate) const fn speaks(self, front: Front) -> bool {
        matches!(self, Self::Gateway | Self::Nginx | Self::Haproxy) || !front.is_encrypted()
    }
}

/// CPU time of a proxy and its authorizer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    pub(crate) proxy: Duration,
    /// Zero without an authorizer.
    pub(crate) authorizer: Duration,
}

/// A proxy before the backend.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) kind: PeerKind,
    pub(crate) front: Front,
    pub(crate) address: SocketAddr,
    pub(crate) version: String,
    server: Server,
    authorizer: Option<Server>,
}

impl Peer {
    /// Starts a proxy; `program` is the gateway.
    pub(crate) fn start(
        kind: PeerKind,
        front: Front,
        program: &Path,
        backend: &Backend,
        identity: &Identity,
        directory: &Path,
    ) -> Result<Self> {
        let address = process::free_address()?;
        let directory = &directory.join(format!("{front:?}-{kind:?}"));
        fs::create_dir_all(directory)?;
        let tls = front.is_encrypted().then_some(identity);
        let place = &Place { address, backend: backend.address, front, tls, directory };
        let of_gateway = || install::version(program, "--version");
        let mut authorizer = None;
        let mut started = |(server, address): (Server, SocketAddr)| {
            authorizer = Some(server);
            address
        };
        let trivial = |name| backend::start_authorizer(name, directory);
        let decision = |style| gateway::start_decision(program, place, style);
        let (server, version) = match kind {
            PeerKind::Gateway | PeerKind::GatewayPublic => {
                (gateway::start("gateway", program, place, false)?, of_gateway()?)
            }
            PeerKind::GatewayLog => (gateway::start("gateway", program, place, true)?, of_gateway()?),
            PeerKind::Nginx => (nginx::plain(place)?, nginx::version()?),
            PeerKind::NginxLog => (nginx::with_access_log(place)?, nginx::version()?),
            PeerKind::AuthRequest => (nginx::auth_request(place)?, nginx::version()?),
            PeerKind::Haproxy => (haproxy::start("http", place)?, haproxy::version()?),
            PeerKind::Relay => (haproxy::start("tcp", place)?, haproxy::version()?),
            PeerKind::NginxDecision => {
                (nginx::decision(place, started(decision("forwarded")?))?, nginx::version()?)
            }
            PeerKind::EnvoyPlain => (envoy::start(place, None)?, envoy::version()?),
            PeerKind::Envoy => (envoy::start(place, Some(started(trivial("envoy")?)))?, envoy::version()?),
            PeerKind::EnvoyDecision => {
                let decision = started(decision("path_prefix")?);
                (envoy::decision("envoy-http.yaml", place, decision)?, envoy::version()?)
            }
            PeerKind::EnvoyGrpcDecision => {
                let decision = started(decision("path_prefix")?);
                (envoy::decision("envoy-grpc.yaml", place, decision)?, envoy::version()?)
            }
            PeerKind::CaddyPlain => (caddy::start(place, None)?, caddy::version()?),
            PeerKind::Caddy => (caddy::start(place, Some(started(trivial("caddy")?)))?, caddy::version()?),
            PeerKind::CaddyDecision => {
                (caddy::decision(place, started(decision("forwarded")?))?, caddy::version()?)
            }
            PeerKind::TraefikPlain => (traefik::start(place, None)?, traefik::version()?),
            PeerKind::Traefik => {
                (traefik::start(place, Some(started(trivial("traefik")?)))?, traefik::version()?)
            }
            PeerKind::TraefikDecision => {
                (traefik::decision(place, started(decision("forwarded")?))?, traefik::version()?)
            }
        };
        Ok(Self { kind, front, address, version, server, authorizer })
    }

    /// Target of every request.
    pub(crate) const fn target(&self) -> &'static str {
        match self.kind {
            PeerKind::GatewayPublic => PUBLIC_TARGET,
            _ => TARGET,
        }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.front.is_encrypted() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.address, self.target())
    }

    /// The result of `work`, and the CPU time that the proxy used for it.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Cpu)> {
        let before = self.cpu_time()?;
        let result = work()?;
        let after = self.cpu_time()?;
        let cpu = Cpu {
            proxy: after.proxy.saturating_sub(before.proxy),
            authorizer: after.authorizer.saturating_sub(before.authorizer),
        };
        Ok((result, cpu))
    }

    fn cpu_time(&self) -> Result<Cpu> {
        let authorizer = self.authorizer.as_ref().map_or(Ok(Duration::ZERO), Server::cpu_time)?;
        Ok(Cpu { proxy: self.server.cpu_time()?, authorizer })
    }
}
