//! The announced end of a route reaches clients of Envoy beside the fields of the backend.

use super::{ITEMS, READER, start};
use crate::support::Answer;
use crate::support::proxies::{Kind, Protocol};

const RULES: &str = "\
cors: {origins: [https://shop.example]}
abilities:
  routes:
    /up: {GET: public}
    /api/v2/items: {GET: items:read, deprecated: {sunset: 2030-01-02, link: 'https://docs.example/v3'}}
";

fn assert_announced(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, RULES);
    let of_backend = [
        ("Vary", "Accept"),
        ("Link", "</api/v2/items?page=2>; rel=\"next\""),
        ("Access-Control-Expose-Headers", "X-Total"),
    ];
    proxied.env.backend.answer(move |_| Answer::with(200, &of_backend, ""));
    let authorization = format!("Bearer {READER}");
    for (origin, is_allowed) in [("https://shop.example", true), ("https://other.example", false)] {
        let fields = [("Authorization", &*authorization), ("Origin", origin)];
        let response = proxied.ask("GET", ITEMS, &fields, b"");
        let values = |name: &str| {
            let lines = response.fields.0.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
            let mut values: Vec<String> = lines.map(|(_, value)| value.clone()).collect();
            values.sort();
            values
        };
        assert_eq!(values("sunset"), ["Wed, 02 Jan 2030 00:00:00 GMT"], "{kind:?}");
        let links = [of_backend[1].1, "<https://docs.example/v3>; rel=\"deprecation\""];
        assert_eq!(values("link"), links, "{kind:?}");
        // Envoy joins lines of some names.
        let elements = |name: &str| {
            let lines = values(name).join(",");
            let mut elements: Vec<String> = lines.split(',').map(|it| it.trim().to_owned()).collect();
            elements.sort();
            elements
        };
        assert_eq!(elements("vary"), ["Accept", "Origin"], "{kind:?}");
        let names: &[&str] = if is_allowed { &["Link", "Sunset", "X-Total"] } else { &["X-Total"] };
        assert_eq!(elements("access-control-expose-headers"), names, "{kind:?}");
    }
}

#[test]
#[ignore = "needs envoy: tests/run"]
fn announced_end_of_a_route_is_beside_the_fields_of_the_backend_over_http() {
    assert_announced(Kind::EnvoyHttp);
}

#[test]
#[ignore = "needs envoy: tests/run"]
fn announced_end_of_a_route_is_beside_the_fields_of_the_backend_over_grpc() {
    assert_announced(Kind::EnvoyGrpc);
}
