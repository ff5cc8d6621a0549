//! Rules for queries, in front of a real Laravel.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::site::{Front, Site, exchange};
use super::{connect, for_each, gateway, introspector};
use crate::model::{self, Laravel};
use crate::queries::nasty_queries;

/// The token may read items, but neither renters nor anything that is denied.
const TOKEN: &str = "1|items:read";

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
    let map = "abilities:\n  routes:\n    /api/v2/items:\n      GET: items:read\n      query:\n        \
               include: {split: ',', values: {variants: items:read, renters: renters:read}}\n        \
               fields[renters]: renters:read\n        in_clude: renters:read\n        debug: deny\n";
    let laravel = Laravel::with_routes_of(&model::compile(map));
    let site = Site::start(&laravel);
    let introspector = introspector([TOKEN].into_iter());
    let queries = nasty_queries(1500);
    for front in [Front::Plain, Front::Serve] {
        let gateway = gateway(&site, front, map, &introspector);
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
        });
        println!("{front:?}: {read:?} queries reached Laravel, {refused:?} did not");
        assert!(read.into_inner() > 100 && refused.into_inner() > 500);
    }
}
