//! A gateway under test, between a backend and an introspector.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::gateway::Builder;
use super::http2_upstream::Http2Upstream;
use super::manual_backend::ManualBackend;
use super::{Authority, Gateway, Introspector, Process, Response, Upstream, Verdict};

/// The Authorization field of the token that every [`TestEnv::builder`] introspector accepts, with the ability `*`.
pub const WRITER: (&str, &str) = ("Authorization", "Bearer 1|writer");

/// The Authorization field of the admin token in [`OPERATED`].
pub const OPERATOR: (&str, &str) = ("Authorization", "Bearer an-operators-token");

/// The configuration section that sets the admin token.
pub const OPERATED: &str = "admin:\n  token: an-operators-token\n";

/// A running gateway with its backend and its introspector.
pub struct TestEnv<B = Upstream> {
    pub gateway: Gateway,
    pub backend: B,
    pub introspector: Introspector,
}

/// The kind of backend that the gateway forwards to.
pub trait Backend {
    /// The URL of the backend, without a path.
    fn url(&self) -> String;

    /// Additional lines of the `backend` section.
    fn settings(&self) -> String {
        String::new()
    }
}

impl Backend for Upstream {
    fn url(&self) -> String {
        self.url()
    }

    fn settings(&self) -> String {
        self.client_tls()
    }
}

impl Backend for ManualBackend {
    fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}

impl Backend for Http2Upstream {
    fn url(&self) -> String {
        self.url()
    }

    fn settings(&self) -> String {
        "  http2: true\n".to_owned()
    }
}

impl Backend for SocketAddr {
    fn url(&self) -> String {
        format!("http://{self}")
    }
}

impl Backend for TcpListener {
    fn url(&self) -> String {
        Backend::url(&self.local_addr().unwrap())
    }
}

impl Backend for Process {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
}

/// Builds a [`TestEnv`].
pub struct TestEnvBuilder<B = Upstream> {
    gateway: Builder,
    backend: B,
    path: &'static str,
    introspector: Introspector,
}

impl TestEnv {
    /// Uses a scripted echo backend, an introspector that accepts [`WRITER`], and a small ability map.
    pub fn builder() -> TestEnvBuilder {
        TestEnvBuilder {
            gateway: Gateway::builder(),
            backend: Upstream::start(),
            path: "",
            introspector: Introspector::start(),
        }
        .token("1|writer", &["*"])
    }

    /// Starts an environment with these additional sections of gateway.yaml.
    pub fn start(yaml: &str) -> Self {
        Self::builder().yaml(yaml).start()
    }
}

impl<B> TestEnv<B> {
    /// The status of `GET target` with a token.
    pub fn status(&self, target: &str, token: &str) -> u16 {
        self.gateway.get(target, Some(token)).status
    }

    /// Sends a request with the admin token to the admin listener.
    pub fn operator(&self, method: &str, target: &str, body: &str) -> Response {
        self.gateway.admin_request(method, target, &[OPERATOR], body)
    }
}

impl<B: Backend> TestEnvBuilder<B> {
    /// Replaces the backend.
    pub fn backend<C>(self, backend: C) -> TestEnvBuilder<C> {
        TestEnvBuilder { gateway: self.gateway, backend, path: self.path, introspector: self.introspector }
    }

    /// Sets the path of the backend's URL.
    pub fn backend_path(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    /// Replaces the introspector, and adds these tokens to it.
    pub fn introspector(mut self, introspector: Introspector) -> Self {
        self.introspector = introspector;
        self
    }

    /// Adds a token with these abilities to the introspector.
    pub fn token(self, token: &str, abilities: &[&str]) -> Self {
        self.verdict(token, Verdict::active(abilities))
    }

    /// Sets the introspector's verdict for a token.
    pub fn verdict(self, token: &str, verdict: Verdict) -> Self {
        self.introspector.set_verdict(token, verdict);
        self
    }

    /// Adds sections to gateway.yaml, as [`Builder::yaml`] does.
    pub fn yaml(self, text: &str) -> Self {
        self.configure(|gateway| gateway.yaml(text))
    }

    /// Serves TLS with a certificate of `localhost`.
    pub fn tls(self, authority: &Arc<Authority>) -> Self {
        self.configure(|gateway| gateway.tls(authority))
    }

    /// Changes the gateway's builder.
    pub fn configure(mut self, change: impl FnOnce(Builder) -> Builder) -> Self {
        self.gateway = change(self.gateway);
        self
    }

    /// Starts the gateway and waits until it listens.
    pub fn start(self) -> TestEnv<B> {
        let Self { gateway, backend, path, introspector } = self;
        let gateway = gateway.backend_at(&backend, path).introspector(&introspector).start();
        TestEnv { gateway, backend, introspector }
    }
}
