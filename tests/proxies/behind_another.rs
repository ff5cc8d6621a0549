//! Proxies behind a load balancer at [`CLIENT`], with the edits that their pages demand.

use super::{ITEMS, READER};
use crate::support::proxies::{CLIENT, Kind, Proxied};
use crate::support::{RawClient, Response, TestEnv};

/// The load balancer is a trusted proxy of the gateway, too.
const NETWORKS: &str = "listen:
  trusted_proxies: [127.0.0.2]
abilities:
  routes:
    /up: {GET: public}
    /api/v2/items: {GET: items:read, from: [203.0.113.0/24]}
    /api/v2/items/{id}: {GET: items:read, DELETE: items:delete, from: [127.0.0.0/8]}
";
const ITEM: &str = "/api/v2/items/5";
const TOKEN: (&str, &str) = ("Authorization", "Bearer 2|reader");
/// What the load balancer adds.
const FORWARDED: (&str, &str) = ("X-Forwarded-For", "203.0.113.5");

/// What a load balancer passes on from its client. By these fields proxies describe requests to the gateway.
const DESCRIPTIONS: [(&str, &str); 6] = [
    ("X-Forwarded-Method", "GET"),
    ("X-Forwarded-Uri", "/up"),
    ("X-Original-Method", "GET"),
    ("X-Original-URI", "/up"),
    ("X-Envoy-Original-Path", "/up"),
    ("X-Envoy-Original-Method", "GET"),
];

/// Further fields that backends trust.
const HOSTILE: [(&str, &str); 8] = [
    ("X-Forwarded-User", "evil"),
    ("X-Forwarded-Email", "evil"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-Path", "/evil"),
    ("X-Original-URL", "/evil"),
    ("X-Real-Id", "evil"),
    ("X-Token-Id", "evil"),
    ("X-Remote-User", "evil"),
];

fn start(kind: Kind) -> Proxied {
    let yaml = format!("{}{NETWORKS}", kind.decision());
    Proxied::behind_another(kind, TestEnv::builder().token(READER, &["items:read"]).yaml(&yaml).start())
}

fn ask(proxied: &Proxied, source: &str, request: (&str, &str), fields: &[(&str, &str)]) -> Response {
    let (method, target) = request;
    RawClient::connect_from(source, proxied.address).request(method, target, fields, b"")
}

/// The gateway decides on the client's address, not on that of the load balancer.
pub(super) fn assert_networks(kind: Kind) {
    let proxied = start(kind);
    let sent = [TOKEN, FORWARDED];
    assert_eq!(ask(&proxied, CLIENT, ("GET", ITEMS), &sent).status, 200, "{kind:?}");
    let arrived = proxied.env.backend.take_requests();
    let [request] = &arrived[..] else { panic!("{kind:?}: {arrived:?}") };
    let addresses = request.field("x-forwarded-for").unwrap_or_default();
    assert!(addresses.starts_with("203.0.113.5"), "{kind:?}: {addresses}");
    assert_eq!(ask(&proxied, CLIENT, ("GET", ITEM), &sent).status, 403, "{kind:?}");
    // The client itself claims an address before that of the load balancer.
    let claimed = ("X-Forwarded-For", "203.0.113.5, 198.51.100.1");
    assert_eq!(ask(&proxied, CLIENT, ("GET", ITEMS), &[TOKEN, claimed]).status, 403, "{kind:?}");
    // Envoy counts proxies, and does not know them by their addresses.
    if !matches!(kind, Kind::EnvoyHttp | Kind::EnvoyGrpc) {
        assert_eq!(ask(&proxied, "127.0.0.3", ("GET", ITEMS), &sent).status, 403, "{kind:?}");
    }
    proxied.assert_nothing_arrived("from another network");
}

/// Guessed tokens count for the address that guesses.
pub(super) fn assert_failures(kind: Kind) {
    let yaml = format!("{}limits: {{failures_per_address: 3}}\n", kind.decision());
    let proxied = Proxied::start(kind, TestEnv::builder().token(READER, &["items:read"]).yaml(&yaml).start());
    let guess = |source, number: usize| {
        let token = format!("Bearer 9|guess{number}");
        ask(&proxied, source, ("GET", ITEMS), &[("Authorization", &token)]).status
    };
    let statuses: Vec<u16> = (0..20).map(|number| guess("127.0.0.3", number)).collect();
    assert!(statuses.starts_with(&[401]) && statuses.contains(&429), "{kind:?}: {statuses:?}");
    assert_eq!(guess("127.0.0.4", 20), 401, "{kind:?}: another address");
    proxied.assert_nothing_arrived("guessed tokens");
}

/// Fields that the load balancer passes on describe no other request.
pub(super) fn assert_descriptions(kind: Kind) {
    let proxied = start(kind);
    let pairs = DESCRIPTIONS.chunks(2);
    for fields in pairs.chain([&DESCRIPTIONS[..]]) {
        let sent = [&[FORWARDED, ("Cookie", "laravel_session=evil")], fields].concat();
        let response = ask(&proxied, CLIENT, ("DELETE", ITEM), &sent);
        assert!([400, 401].contains(&response.status), "{kind:?} {fields:?}: {response:?}");
        proxied.assert_nothing_arrived("another description");
        let response = ask(&proxied, CLIENT, ("GET", ITEMS), &[&[TOKEN, FORWARDED], fields].concat());
        assert!([200, 400].contains(&response.status), "{kind:?} {fields:?}: {response:?}");
        for request in proxied.env.backend.take_requests() {
            assert_eq!((&*request.method, &*request.target), ("GET", ITEMS), "{kind:?} {fields:?}");
        }
    }
    for field in HOSTILE {
        ask(&proxied, CLIENT, ("GET", ITEMS), &[TOKEN, FORWARDED, field]);
        for request in proxied.env.backend.take_requests() {
            assert!(!request.raw_head.windows(4).any(|it| it == b"evil"), "{kind:?} {field:?}");
        }
    }
}
