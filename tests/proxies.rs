//! nginx, Traefik, Caddy and Envoy with the shipped files of `deploy/proxies/`: each forwards exactly what the gateway
//! allows.

mod announcements; // `deprecated` of a route, beside fields of the backend
mod behind_another; // with the edits of the pages for a load balancer in front
mod caddy;
mod caddy_old; // its oldest version
mod envoy_grpc;
mod envoy_http;
mod failures; // revocation, outages of the introspector and of the gateway
mod http2; // what only HTTP/2 can express
mod limitations; // what pages say that a proxy cannot do
mod messages; // what the backend receives, and what refused clients receive
mod nginx;
mod pages; // versions, and edits for a load balancer
mod to_clients; // fields of answers for clients
mod traefik;

use crate::abilities::{GUIDE, all_but, guide, shipped_with, token};
use crate::support::proxies::{Kind, Protocol, Proxied};
use crate::support::{Response, TestEnv};

const READER: &str = "2|reader";
const ITEMS: &str = "/api/v2/items";
const FORBIDDEN: &str = r#"{"message":"This action is unauthorized."}"#;

/// A proxy before the usual map, with these further sections of gateway.yaml.
fn start(kind: Kind, protocol: Protocol, yaml: &str) -> Proxied {
    let yaml = format!("{}{yaml}", kind.decision());
    Proxied::start_for(kind, protocol, TestEnv::builder().token(READER, &["items:read"]).yaml(&yaml).start())
}

impl Proxied {
    /// Sends a request on a new connection.
    fn ask(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_ask(method, target, fields, body).expect("a response")
    }

    /// The status of `GET /api/v2/items`.
    fn status(&self, token: &str) -> u16 {
        self.get(ITEMS, token).status
    }

    /// `GET target` with a token.
    fn get(&self, target: &str, token: &str) -> Response {
        self.ask("GET", target, &[("Authorization", &format!("Bearer {token}"))], b"")
    }

    fn assert_nothing_arrived(&self, context: &str) {
        let arrived = self.env.backend.take_requests();
        assert!(arrived.is_empty(), "{:?} {context}: {arrived:?}", self.kind);
    }
}

/// Each ability permits exactly the requests of the guide.
fn assert_guide(kind: Kind, protocol: Protocol) {
    assert_eq!(GUIDE.len(), 19);
    let proxied = Proxied::start_for(kind, protocol, shipped_with(&kind.decision()));
    let ask = |method: &str, path: &str, abilities: &[&str]| {
        let authorization = format!("Bearer {}", token(abilities));
        proxied.ask(method, path, &[("Authorization", &authorization)], b"")
    };
    for ((method, path), ability) in guide() {
        let path = path.replace("{id}", "17");
        for abilities in [&[ability][..], &["*"]] {
            let context = format!("{kind:?} {method} {path} with {abilities:?}");
            assert_eq!(ask(method, &path, abilities).status, 200, "{context}");
            let arrived = proxied.env.backend.take_requests();
            let [request] = &arrived[..] else { panic!("{context}: {arrived:?}") };
            let seen = (&*request.method, &*request.target, request.bearer());
            assert_eq!(seen, (method, &*path, Some(&*token(abilities))), "{context}");
        }
        for abilities in [all_but(ability), vec![]] {
            let context = format!("{kind:?} {method} {path} with {abilities:?}");
            let response = ask(method, &path, &abilities);
            assert_eq!((response.status, response.text()), (403, FORBIDDEN), "{context}");
            let challenge =
                format!(r#"Bearer realm="stockaj", error="insufficient_scope", scope="{ability}""#);
            assert_eq!(response.field("www-authenticate"), Some(&*challenge), "{context}");
            proxied.assert_nothing_arrived(&context);
        }
    }
}
