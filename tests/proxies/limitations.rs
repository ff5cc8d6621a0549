//! Deviations of a proxy from the proxy listener, as its page says.

use super::{ITEMS, READER, start};
use crate::support::proxies::{Kind, Protocol};

const TWO: [(&str, &str); 2] = [("Authorization", "Bearer 2|reader"), ("Authorization", "Bearer 1|writer")];

/// Envoy joins the lines of Authorization and Content-Type before it describes them.
pub(super) fn assert_joined_credentials(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, "");
    assert_eq!(proxied.ask("GET", ITEMS, &TWO, b"").status, 401, "{kind:?}");
    proxied.assert_nothing_arrived("two tokens");
    assert_eq!(proxied.ask("GET", "/up", &TWO, b"").status, 200, "{kind:?}");
    let arrived = proxied.env.backend.take_requests();
    assert_eq!(arrived[0].field("authorization"), Some("Bearer 2|reader,Bearer 1|writer"), "{kind:?}");
}

/// Traefik fails to describe a body without bytes and without a length.
pub(super) fn assert_empty_body_is_500(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, "");
    let fields = [("Authorization", &*format!("Bearer {READER}")), ("Transfer-Encoding", "chunked")];
    let mut client = proxied.client();
    let fields = fields.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    client.send(format!("GET {ITEMS} HTTP/1.1\r\nHost: stockaj.example\r\n{fields}\r\n0\r\n\r\n"));
    assert_eq!(client.response().status, 500);
    proxied.assert_nothing_arrived("an empty body");
    for (target, body, status) in [(ITEMS, "12", 401), ("/up", "12", 401), (ITEMS, "1", 200)] {
        let token = format!("Bearer {READER}");
        let response = proxied.ask("GET", target, &[("Authorization", &token)], body.as_bytes());
        assert_eq!(response.status, status, "{target} {body}");
    }
}

/// Caddy and Traefik answer it themselves, and do not ask.
pub(super) fn assert_options_asterisk(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, "");
    let response = proxied.ask("OPTIONS", "*", &[], b"");
    assert!([200, 404].contains(&response.status), "{kind:?}: {response:?}");
    proxied.assert_nothing_arrived("OPTIONS *");
}

/// HTTP/1.0 is 426.
pub(super) fn assert_http_1_0(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, "");
    let mut client = proxied.client();
    client.send("GET /up HTTP/1.0\r\nHost: stockaj.example\r\n\r\n");
    assert_eq!(client.response().status, 426);
    proxied.assert_nothing_arrived("HTTP/1.0");
}
