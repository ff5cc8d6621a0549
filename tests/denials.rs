//! The fields of a 403 for a missing ability, over both versions of HTTP.

use crate::support::http2::Http2Client;
use crate::support::{Answer, Fields, Response, TestEnv};

const ITEM: &str = "/api/v2/both";
const SHOP: &str = "https://shop.example";
const LINK: &str = "<https://help.example/tokens#abilities>; rel=\"help\"";

fn start(yaml: &str) -> TestEnv {
    let routes = "abilities:\n  routes:\n    \
                  /api/v2/both: {GET: {all: [items:read, rents:read]}, PUT: {any: [a, b]}, POST: deny}\n    \
                  /api/v2/mine: {GET: items:read}\n";
    let builder = TestEnv::builder().token("1|reader", &["items:read"]);
    builder.yaml("listen:\n  h2c: true\n").yaml(yaml).yaml(routes).start()
}

/// Over HTTP/1.1 and over HTTP/2.
fn both(env: &TestEnv, method: &str, path: &str, fields: &[(&str, &str)]) -> [Response; 2] {
    let fields = [&[("authorization", "Bearer 1|reader")][..], fields].concat();
    let mut client = Http2Client::connect(env.gateway.address());
    [
        env.gateway.client().request(method, path, &fields, b""),
        client.request(method, path, &fields, b"").answer(),
    ]
}

fn values<'a>(fields: &'a Fields, name: &str) -> Vec<&'a str> {
    let named = fields.0.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
    named.map(|(_, value)| &**value).collect()
}

#[test]
fn configured_denials_name_the_required_ability_and_a_link() {
    let yaml = "denials: {required_ability: true, link: 'https://help.example/tokens#abilities'}\n";
    let env = start(yaml);
    for (method, required, scope) in [
        ("GET", "items:read, rents:read", "items:read rents:read"),
        ("HEAD", "items:read, rents:read", "items:read rents:read"),
        ("PUT", "a | b", "a b"),
    ] {
        for answer in both(&env, method, ITEM, &[]) {
            assert_eq!(answer.status, 403);
            let body = if method == "HEAD" { "" } else { r#"{"message":"This action is unauthorized."}"# };
            assert_eq!(answer.text(), body);
            assert_eq!(values(&answer.fields, "x-required-ability"), [required], "{method}");
            assert_eq!(values(&answer.fields, "link"), [LINK]);
            let challenge = format!(r#"Bearer realm="stockaj", error="insufficient_scope", scope="{scope}""#);
            assert_eq!(values(&answer.fields, "www-authenticate"), [challenge]);
            assert_eq!(values(&answer.fields, "access-control-expose-headers"), [""; 0]);
        }
    }
    // Denied for every token, unmapped, or without a token: there is no required ability.
    for (method, path, token) in [
        ("POST", ITEM, "Bearer 1|reader"),
        ("GET", "/unmapped", "Bearer 1|reader"),
        ("GET", ITEM, "Basic eA=="),
    ] {
        let answer = env.gateway.client().request(method, path, &[("Authorization", token)], b"");
        assert!(matches!(answer.status, 401 | 403));
        assert_eq!(values(&answer.fields, "x-required-ability"), [""; 0], "{method} {path}");
        assert_eq!(values(&answer.fields, "link"), [""; 0], "{method} {path}");
    }
}

#[test]
fn denials_have_no_extra_fields_by_default() {
    let env = start("");
    for answer in both(&env, "GET", ITEM, &[]) {
        assert_eq!(answer.status, 403);
        for name in ["x-required-ability", "link"] {
            assert_eq!(values(&answer.fields, name), [""; 0]);
        }
    }
}

#[test]
fn allowed_origins_can_read_the_fields_of_a_denial() {
    let env = start("denials: {required_ability: true}\ncors: {origins: ['https://shop.example']}\n");
    for answer in both(&env, "GET", ITEM, &[("origin", SHOP)]) {
        assert_eq!(values(&answer.fields, "access-control-allow-origin"), [SHOP]);
        let exposed = values(&answer.fields, "access-control-expose-headers").join(", ");
        assert!(
            exposed.starts_with("WWW-Authenticate, ") && exposed.ends_with(", X-Required-Ability, Link"),
            "{exposed}"
        );
    }
}

#[test]
fn denial_fields_of_the_backend_are_forwarded() {
    for yaml in ["", "denials: {required_ability: true, link: 'https://help.example/'}\n"] {
        let env = start(yaml);
        let fields = [("Link", "</api/v2/mine?page=2>; rel=\"next\""), ("X-Required-Ability", "its:own")];
        env.backend.answer(move |_| Answer::with(403, &fields, "its own"));
        for answer in both(&env, "GET", "/api/v2/mine", &[]) {
            assert_eq!((answer.status, answer.text()), (403, "its own"));
            assert_eq!(values(&answer.fields, "link"), [fields[0].1]);
            assert_eq!(values(&answer.fields, "x-required-ability"), [fields[1].1]);
        }
    }
}
