//! The shipped map against the authentication guide: every ability permits exactly the requests in the guide.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{BINARY, Builder, RawClient, Response, TestEnv};

/// The guide's three tables, as requests. `{id}` stands for any id.
pub(crate) const GUIDE: [(&str, &[&str]); 19] = [
    (
        "items:read",
        &[
            "GET /items",
            "GET /items/{id}",
            "GET /variants",
            "GET /variants/{id}",
            "GET /types",
            "GET /types/{id}",
            "GET /tags",
            "GET /tags/{id}",
        ],
    ),
    ("renters:read", &["GET /renters", "GET /renters/{id}"]),
    ("rents:read", &["GET /rentals", "GET /rentals/{id}"]),
    ("webhooks:read", &["GET /webhooks", "GET /webhooks/{id}"]),
    (
        "notifications:read",
        &["GET /notifications", "GET /notifications/{id}", "GET /notifications/preferences"],
    ),
    ("instance:read", &["GET /instance"]),
    ("items:create", &["POST /items", "POST /variants", "POST /types", "POST /tags"]),
    (
        "items:update",
        &[
            "PUT /items/{id}",
            "PATCH /items/{id}",
            "PUT /variants/{id}",
            "PATCH /variants/{id}",
            "PUT /types/{id}",
            "PATCH /types/{id}",
            "PUT /tags/{id}",
            "PATCH /tags/{id}",
        ],
    ),
    (
        "items:delete",
        &[
            "DELETE /items/{id}",
            "POST /items/{id}/restore",
            "DELETE /variants/{id}",
            "POST /variants/{id}/restore",
            "DELETE /types/{id}",
            "POST /types/{id}/restore",
            "DELETE /tags/{id}",
            "POST /tags/{id}/restore",
        ],
    ),
    ("renters:create", &["POST /renters"]),
    ("renters:update", &["PUT /renters/{id}", "PATCH /renters/{id}"]),
    ("renters:delete", &["DELETE /renters/{id}", "POST /renters/{id}/restore"]),
    ("rents:create", &["POST /rentals"]),
    ("rents:update", &["PUT /rentals/{id}", "PATCH /rentals/{id}"]),
    ("rents:delete", &["DELETE /rentals/{id}"]),
    ("kiosk:scan", &["POST /kiosk/scan", "GET /kiosk/search"]),
    (
        "webhooks:manage",
        &["POST /webhooks", "PUT /webhooks/{id}", "PATCH /webhooks/{id}", "DELETE /webhooks/{id}"],
    ),
    (
        "notifications:manage",
        &[
            "PATCH /notifications/{id}",
            "DELETE /notifications/{id}",
            "PUT /notifications/preferences",
            "PATCH /notifications/preferences",
        ],
    ),
    ("instance:manage", &["PUT /instance", "PATCH /instance"]),
];

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const FORBIDDEN: &str = r#"{"message":"This action is unauthorized."}"#;

/// The guide's requests, each with the ability that permits it.
pub(crate) fn guide() -> BTreeMap<(&'static str, String), &'static str> {
    let rows = GUIDE.iter().flat_map(|(ability, requests)| requests.iter().map(move |it| (*ability, it)));
    rows.map(|(ability, request)| {
        let (method, path) = request.split_once(' ').unwrap();
        ((method, format!("/api/v2{path}")), ability)
    })
    .collect()
}

/// `routes --format json` of the shipped map.
fn shipped_routes() -> Vec<Value> {
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/stockaj.yaml");
    let output =
        Command::new(BINARY).args(["routes", "--format", "json", "--config"]).arg(map).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A token with exactly these abilities.
pub(crate) fn token(abilities: &[&str]) -> String {
    format!("9|{}", abilities.join("+"))
}

/// All abilities except this one.
pub(crate) fn all_but(ability: &str) -> Vec<&'static str> {
    GUIDE.iter().map(|(it, _)| *it).filter(|it| *it != ability).collect()
}

/// A gateway with the shipped map, and an introspector that accepts every token of these tests.
fn shipped() -> TestEnv {
    shipped_with("")
}

/// The same with further sections of gateway.yaml.
pub(crate) fn shipped_with(yaml: &str) -> TestEnv {
    let mut builder = TestEnv::builder().configure(Builder::shipped_map).yaml(yaml);
    let of_guide = GUIDE.iter().flat_map(|(ability, _)| [vec![*ability], all_but(ability)]);
    for abilities in [vec![], vec!["*"]].into_iter().chain(of_guide) {
        builder = builder.token(&token(&abilities), &abilities);
    }
    builder.start()
}

fn ask(client: &mut RawClient, method: &str, path: &str, abilities: &[&str]) -> Response {
    let authorization = format!("Bearer {}", token(abilities));
    client.request(method, &path.replace("{id}", "17"), &[("Authorization", &authorization)], b"")
}

fn assert_forbidden(response: &Response, method: &str, scope: Option<&str>, context: &str) {
    let body = if method == "HEAD" { "" } else { FORBIDDEN };
    assert_eq!((response.status, response.text()), (403, body), "{context}");
    let mut challenge = r#"Bearer realm="stockaj", error="insufficient_scope""#.to_owned();
    if let Some(scope) = scope {
        challenge += &format!(", scope=\"{scope}\"");
    }
    assert_eq!(response.field("www-authenticate"), Some(&*challenge), "{context}");
}

#[test]
fn each_ability_permits_exactly_the_requests_of_the_guide() {
    let env = shipped();
    let mut client = env.gateway.client();
    for ((method, path), ability) in guide() {
        let context = format!("{method} {path} with {ability}");
        assert_eq!(ask(&mut client, method, &path, &[ability]).status, 200, "{context}");
        assert_eq!(ask(&mut client, method, &path, &["*"]).status, 200, "{context} as a User token");
        for abilities in [all_but(ability), vec![]] {
            let response = ask(&mut client, method, &path, &abilities);
            assert_forbidden(&response, method, Some(ability), &format!("{context} missing"));
        }
    }
}

#[test]
fn shipped_map_has_exactly_the_routes_of_the_guide() {
    let shipped: BTreeMap<(String, String), String> = shipped_routes()
        .iter()
        .filter(|route| route["requirement"] != "public")
        .map(|route| {
            let text =
                |name: &str| route[name].as_str().unwrap_or_else(|| panic!("{name} in {route}")).to_owned();
            ((text("method"), text("path")), text("requirement"))
        })
        .collect();
    let guide: BTreeMap<(String, String), String> = guide()
        .into_iter()
        .map(|((method, path), ability)| ((method.to_owned(), path), ability.to_owned()))
        .collect();
    assert_eq!(shipped, guide);
}

#[test]
fn backend_never_receives_requests_beyond_the_abilities_of_a_token() {
    let env = shipped();
    let guide = guide();
    let paths: BTreeSet<&str> = guide.keys().map(|(_, path)| path.as_str()).collect();
    let mut client = env.gateway.client();
    let mut expected = Vec::new();
    for path in &paths {
        for method in METHODS {
            let key = if method == "HEAD" { "GET" } else { method };
            let required = guide.get(&(key, (*path).to_owned())).copied();
            for (ability, _) in GUIDE {
                let response = ask(&mut client, method, path, &[ability]);
                let context = format!("{method} {path} with {ability}");
                if required == Some(ability) {
                    assert_eq!(response.status, 200, "{context}");
                    expected.push((method.to_owned(), path.replace("{id}", "17"), token(&[ability])));
                } else {
                    assert_forbidden(&response, method, required, &context);
                }
            }
            if required.is_none() {
                assert_forbidden(&ask(&mut client, method, path, &["*"]), method, None, path);
            }
        }
    }
    let seen: Vec<_> = env
        .backend
        .requests()
        .into_iter()
        .map(|it| (it.method.clone(), it.target.clone(), it.bearer().unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(seen, expected);
}
