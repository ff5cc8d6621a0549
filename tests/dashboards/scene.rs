//! A gateway with every feature configured, and traffic of every kind.

use std::sync::Arc;

use crate::support::decision::{Asker, Style};
use crate::support::{Authority, OPERATED, TestEnv, Verdict};

/// A trace endpoint without a listener.
const TRACES: &str = "traces: {otlp_endpoint: \"http://127.0.0.1:9\"}\n";

/// A candidate map that refuses some of the requests below and allows some others.
const CANDIDATE: &str = "routes: {/up: {GET: public}, /nowhere: {GET: authenticated}}\n";

/// Starts the gateway with this Redis, and sends each kind of traffic once.
pub(super) fn start(redis: &str) -> TestEnv {
    let env = TestEnv::builder()
        .verdict("1|writer", Verdict::active(&["*"]).named("1", "writer"))
        .verdict("2|reader", Verdict::active(&["items:read"]).named("2", "reader"))
        .tls(&Arc::new(Authority::new()))
        .configure(|gateway| gateway.file("candidate.yaml", CANDIDATE))
        // The field's value is irrelevant: a token with `*` that is not a user's is a severe finding.
        .yaml("introspection:\n  response: {context: /data/name}\n")
        .yaml("usage: {path: usage.redb, flush_interval: 200ms, findings: {least_age: 0s}}\n")
        .yaml("shadow: candidate.yaml\n")
        .yaml("listen:\n  redirect_address: 127.0.0.1:0\n")
        .yaml(OPERATED)
        .yaml(&format!("redis: {{url: {redis}}}\nwebhook: {{secret: shared-with-stockaj}}\n"))
        .yaml("rate_limit: {shared: true}\n")
        .yaml(TRACES)
        .yaml("decision: {address: '127.0.0.1:0', trusted_proxies: [127.0.0.1]}\n")
        .start();
    env.traffic();
    // The findings are computed from the written usage, so all of it exists by then.
    env.gateway.wait_for_metric("usage_findings{kind=\"wildcard\",severity=\"high\"}", 1.0);
    env
}

impl TestEnv {
    /// Sends requests that are served and refused, with unknown and revoked tokens.
    pub(super) fn traffic(&self) {
        let mut client = self.gateway.client();
        for (method, target, token, status) in [
            ("GET", "/up", None, 200),
            ("GET", "/api/v2/items", Some("1|writer"), 200),
            ("GET", "/api/v2/items", Some("2|reader"), 200),
            ("POST", "/api/v2/items", Some("2|reader"), 403),
            ("GET", "/nowhere", Some("2|reader"), 403),
            ("GET", "/api/v2/items", Some("9|nobody"), 401),
            ("GET", "/api/v2/items", None, 401),
        ] {
            let field = token.map(|token| ("Authorization", format!("Bearer {token}")));
            let fields: Vec<_> = field.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(client.request(method, target, &fields, b"").status, status, "{method} {target}");
        }
        let mut proxy = Asker::connect(self.gateway.wait_for_listener("decision"), Style::Forwarded);
        for (target, status) in [("/up", 200), ("/api/v2/items", 401)] {
            assert_eq!(proxy.ask("GET", target, &[]).status, status, "{target}");
        }
        assert_eq!(self.operator("POST", "/tokens/revoke", r#"{"id":"1"}"#).status, 200);
        assert_eq!(self.gateway.admin_request("POST", "/webhook", &[], "{}").status, 401);
    }
}
