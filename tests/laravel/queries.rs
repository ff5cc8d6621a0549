//! Rules for queries, in front of a real Laravel.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::site::{Front, Site, exchange};
use super::{connect, for_each, gateway, introspector};
use crate::model::{self, Laravel};
use crate::queries::nasty_queries;
use crate::support::http2::Http2Client;

/// The token may read items, but neither renters nor anything that is denied.
const TOKEN: &str = "1|items:read";
/// The token may read both.
const BOTH: &str = "2|items:read+renters:read";

const MAP: &str = "\
abilities:
  routes:
    /api/v2/items:
      GET: items:read
      query:
        include: {split: ',', values: {variants: items:read, renters: renters:read}}
        fields[renters]: renters:read
        in_clude: renters:read
        debug: deny
";

/// The fault of a query that Laravel has read.
fn fault(query: &Value) -> Option<String> {
    let mut leaves = Vec::new();
    let mut rest: Vec<&Value> = query.get("include").into_iter().collect();
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(entries) => rest.extend(entries.values()),
            Value::Array(entries) => rest.extend(entries),
            leaf => leaves.extend(leaf.as_str().unwrap_or_default().split(',').map(str::to_owned)),
        }
    }
    let other = leaves.into_iter().find(|leaf| !matches!(leaf.as_str(), "" | "variants"));
    let denied = ["debug", "in_clude"].into_iter().find(|name| query.get(name).is_some());
    let fields = query.pointer("/fields/renters").map(|_| "fields[renters]".to_owned());
    other.or(denied.map(str::to_owned)).or(fields)
}

#[test]
#[ignore = "needs laravel: tests/run"]
fn laravel_reads_no_parameter_that_the_token_may_not_send() {
    let laravel = Laravel::with_routes_of(&model::compile(MAP));
    let site = Site::start(&laravel);
    let introspector = introspector([TOKEN].into_iter());
    let queries = nasty_queries(1500);
    for front in [Front::Plain, Front::Serve] {
        let gateway = gateway(&site, front, MAP, &introspector);
        let (read, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        for_each(&queries, |_, query| {
            let request = format!(
                "GET /api/v2/items?{query} HTTP/1.1\r\nHost: stockaj.example\r\nAuthorization: Bearer {TOKEN}\r\n\
                 Connection: close\r\n\r\n"
            );
            let response = exchange(connect(&gateway), request.as_bytes(), false).expect("a response");
            if response.status != 200 {
                assert!(matches!(response.status, 400 | 403), "{} for {query}", response.status);
                refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let understood: Value = serde_json::from_slice(&response.body).unwrap();
            read.fetch_add(1, Ordering::Relaxed);
            let fault = fault(&understood["query"]);
            assert!(fault.is_none(), "{query} reached Laravel as {}", understood["query"]);
            assert_eq!(understood["resources"].get("renters"), None, "{query}");
        });
        println!("{front:?}: {read:?} queries reached Laravel, {refused:?} did not");
        assert!(read.into_inner() > 100 && refused.into_inner() > 500);
    }
}

/// Over both protocols, in the query and in bodies, of which Laravel reads the include before that of the query.
#[test]
#[ignore = "needs laravel: tests/run"]
fn laravel_returns_no_resource_that_the_token_does_not_cover() {
    const RENTER: &str = "renter@stockaj.example";
    let laravel = Laravel::with_routes_of(&model::compile(MAP));
    let site = Site::start(&laravel);
    let introspector = introspector([TOKEN, BOTH].into_iter());
    let targets =
        ["", "?include=variants", "?include=renters", "?include[]=renters", "?include=variants,renters"];
    let bodies = [
        ("", ""),
        ("application/json", r#"{"include":"renters"}"#),
        ("application/x-www-form-urlencoded", "include=renters"),
    ];
    for front in [Front::Plain, Front::Serve] {
        let gateway = gateway(&site, front, &format!("listen:\n  h2c: true\n{MAP}"), &introspector);
        for (token, target, (content_type, body)) in product(&targets, &bodies) {
            let path = format!("/api/v2/items{target}");
            let authorization = format!("Bearer {token}");
            let mut fields = vec![("authorization", &*authorization)];
            if !body.is_empty() {
                fields.push(("content-type", content_type));
            }
            let over_http_1 = gateway.client().request("GET", &path, &fields, body.as_bytes());
            let mut client = Http2Client::connect(gateway.address());
            let over_http_2 = client.request("GET", &path, &fields, body.as_bytes()).answer();
            let asks_for_renters = target.contains("renters");
            for (status, text) in
                [(over_http_1.status, over_http_1.text()), (over_http_2.status, over_http_2.text())]
            {
                let context = format!("{front:?} {token} {target} {body}: {text}");
                let expected = match (body, token) {
                    ("", TOKEN) if asks_for_renters => 403,
                    ("", _) => 200,
                    _ => 400,
                };
                assert_eq!(status, expected, "{context}");
                let may_see = token == BOTH && asks_for_renters && body.is_empty();
                assert_eq!(text.contains(RENTER), may_see, "{context}");
            }
        }
    }
}

/// Each token with each target and each body.
fn product<'a>(
    targets: &'a [&'a str],
    bodies: &'a [(&'a str, &'a str)],
) -> impl Iterator<Item = (&'static str, &'a str, (&'a str, &'a str))> {
    let tokens = [TOKEN, BOTH].into_iter();
    tokens.flat_map(move |token| {
        targets.iter().flat_map(move |target| bodies.iter().map(move |body| (token, *target, *body)))
    })
}
