//! A gateway that has everything configured, and traffic of every kind.

use std::sync::Arc;

use crate::support::{Authority, Gateway, Introspector, RawClient, Upstream, Verdict};

/// Nobody listens where the spans go.
const TRACES: &str = "traces: {otlp_endpoint: \"http://127.0.0.1:9\"}\n";
const OPERATOR: (&str, &str) = ("Authorization", "Bearer an-operators-token");

/// What it would enforce one day: of the tokens below some would be refused, and some would be let in.
const CANDIDATE: &str = "routes: {/up: {GET: public}, /nowhere: {GET: authenticated}}\n";

/// A gateway with all features, its backend and its introspector.
pub(super) struct Scene {
    pub gateway: Gateway,
    _upstream: Upstream,
    _introspector: Introspector,
    _candidate: tempfile::NamedTempFile,
    _ledger: tempfile::TempDir,
}

impl Scene {
    /// With this Redis; its traffic has been there once.
    pub(super) fn new(redis: &str) -> Self {
        let upstream = Upstream::start();
        let introspector = Introspector::start();
        introspector.know("1|writer", Verdict::active(&["*"]).named("1", "writer"));
        introspector.know("2|reader", Verdict::active(&["items:read"]).named("2", "reader"));
        let authority = Arc::new(Authority::new());
        let builder = Gateway::builder().backend(&upstream).introspector(&introspector).tls(&authority);
        let candidate = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(candidate.path(), CANDIDATE).unwrap();
        let ledger = tempfile::tempdir().unwrap();
        let path = ledger.path().join("usage.redb");
        let gateway = builder
            // Whatever it is: a token that may do everything and is no user's is a severe finding.
            .yaml("introspection:\n  response: {context: /data/name}\n")
            .yaml(&format!(
                "usage: {{path: {}, flush_interval: 200ms, findings: {{least_age: 0s}}}}\n",
                path.display()
            ))
            .yaml(&format!("shadow: {}\n", candidate.path().display()))
            .yaml("listen:\n  redirect_address: 127.0.0.1:0\n")
            .yaml("admin:\n  token: an-operators-token\n")
            .yaml(&format!("redis: {{url: {redis}}}\nwebhook: {{secret: shared-with-stockaj}}\n"))
            .yaml(TRACES)
            .start();
        let scene = Self {
            gateway,
            _upstream: upstream,
            _introspector: introspector,
            _candidate: candidate,
            _ledger: ledger,
        };
        scene.traffic();
        // All that there is of usage is there when what was written is assessed.
        scene.gateway.wait_for_metric("usage_findings{kind=\"wildcard\",severity=\"high\"}", 1.0);
        scene
    }

    /// What is served, refused, not known, revoked.
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
        let admin = |target: &str, fields: &[_], body: &[u8]| {
            RawClient::connect(self.gateway.admin()).request("POST", target, fields, body).status
        };
        assert_eq!(admin("/tokens/revoke", &[OPERATOR], br#"{"id":"1"}"#), 200);
        assert_eq!(admin("/webhook", &[], b"{}"), 401);
    }
}
