//! A model of how nginx, PHP and Laravel read a request, checked against the gateway's decision: whatever the client
//! sends, the dispatched route never needs an ability that the decision did not require. `laravel.rs` checks the model
//! against a real Laravel.

pub mod generator;
mod laravel;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use proptest::prop_assert;
use proptest::test_runner::{Config, TestRunner};
use stockaj_gateway::internals::config;
use stockaj_gateway::internals::policy::ability::{Requirement, RequirementKind};
use stockaj_gateway::internals::policy::headers::{Credentials, Forwarding, UpstreamFields};
use stockaj_gateway::internals::policy::map::{AbilityMap, RouteMatch};
use stockaj_gateway::internals::policy::method::{MethodOverride, overriding};
use stockaj_gateway::internals::policy::target::Target;
use stockaj_gateway::internals::policy::trusted_fields::TrustedFields;

use self::laravel::matches;
pub use self::laravel::{Dispatched, Laravel, Sent};

/// Routes of the application that the shipped map lacks: one that POST shares with stronger verbs, a literal next to a
/// parameter, a remainder, and a page without a token.
const FURTHER_ROUTES: &str = "\
/api/v2/items/search: {GET: items:read}
/api/v2/items/{id}/photos: {GET: items:read, POST: items:update, DELETE: items:delete}
/api/v2/me: {GET: authenticated, POST: instance:manage}
/api/v2/reports/{*rest}: {GET: rents:read, POST: {all: [rents:read, items:read]}}
";

/// Weak rules next to the strict routes: a request that matches one of them must never be dispatched to a strict route.
const WEAK_ROUTES: &str = "\
/{*rest}: {GET: public, POST: public, PUT: public, PATCH: public, DELETE: public, OPTIONS: public}
/api/{*rest}: {GET: authenticated, POST: authenticated, PUT: authenticated, PATCH: authenticated}
/api/v2/{a}/{b}/{c}/{*rest}: {GET: items:read, POST: items:read, DELETE: items:read}
";

/// The `abilities` sections to test with Laravel. The first is the strict one, whose routes Laravel has.
pub fn maps() -> [(&'static str, String); 3] {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/stockaj.yaml");
    let abilities = |unmapped: &str, weak: &str| {
        let file = file.display();
        let routes: String =
            FURTHER_ROUTES.lines().chain(weak.lines()).map(|line| format!("    {line}\n")).collect();
        format!("abilities:\n  file: {file}\n  unmapped: {unmapped}\n  routes:\n{routes}")
    };
    [
        ("unmapped: deny", abilities("deny", "")),
        ("unmapped: authenticated", abilities("authenticated", "")),
        ("weak routes beside", abilities("deny", WEAK_ROUTES)),
    ]
}

/// Compiles an `abilities` section.
pub fn compile(abilities: &str) -> Arc<AbilityMap> {
    let text = format!(
        "backend: {{url: 'http://127.0.0.1:9'}}\nintrospection: {{url: 'http://127.0.0.1:9'}}\n{abilities}"
    );
    match config::load_text("model", text) {
        Ok(loaded) => loaded.settings.abilities,
        Err(report) => panic!("{report}"),
    }
}

/// The gateway's decision: the requirement and the forwarded request. `None` if the request is refused whatever the
/// token.
fn decide(map: &AbilityMap, sent: &Sent, setting: MethodOverride) -> Option<(Requirement, Sent)> {
    let uri: Uri = sent.target.parse().ok()?;
    let method: Method = sent.method.parse().ok()?;
    let mut fields = HeaderMap::new();
    for (name, value) in &sent.fields {
        fields.append(name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?);
    }
    fields.entry("host").or_insert(HeaderValue::from_static("stockaj.example"));
    let decided = overriding(&method, &fields, setting).ok()?.unwrap_or_else(|| method.clone());
    let (requirement, target) = {
        let target = Target::read(&method, &uri, &fields).ok()?;
        map.check_path(&target.path).ok()?;
        let requirement = match map.find(&decided, &target.path) {
            // Decided before the token, and therefore before `requirement`.
            RouteMatch::Rule { rule, .. } if *rule.requirement.kind() == RequirementKind::Public => {
                rule.requirement.clone()
            }
            found => map.requirement(&found).ok()?.clone(),
        };
        let query = target.query.map_or_else(String::new, |query| format!("?{query}"));
        (requirement, format!("{}{query}", target.path.as_str()))
    };
    let credentials = match requirement.kind() {
        RequirementKind::Public => Credentials::AsSent,
        _ => Credentials::Token {
            authorization: HeaderValue::from_static("Bearer 1|x"),
            identity: None,
            cookies: false,
        },
    };
    let trusted_fields = TrustedFields::default();
    let forwarding = Forwarding {
        method: &method,
        decided: &decided,
        version: Version::HTTP_11,
        client: &HeaderValue::from_static("192.0.2.1"),
        encrypted: false,
        trusted: false,
        trusted_fields: &trusted_fields,
        request_id: &HeaderValue::from_static("id"),
        host: None,
        credentials,
        trace: None,
        chunked: false,
        expects_continue: false,
        upgrades: false,
    };
    let mut written = HeaderMap::new();
    UpstreamFields::new(&fields, forwarding).ok()?.write(&mut written);
    let fields = written;
    let fields = fields.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let forwarded =
        Sent { method: sent.method.clone(), target, fields: fields.collect(), body: sent.body.clone() };
    Some((requirement, forwarded))
}

/// The violation, if the backend dispatches a request with a requirement that was not checked.
fn violation(strict: &AbilityMap, asked: &Requirement, dispatched: &Dispatched) -> Option<String> {
    let needed = dispatched.requirement(strict);
    let is_covered = needed == *asked || *needed.kind() == RequirementKind::Public;
    (!is_covered).then(|| format!("{dispatched:?} needs `{needed}`, asked for was `{asked}`"))
}

/// A deliberately naive gateway: matches the raw path, and forwards everything unchanged.
fn naive(map: &AbilityMap, sent: &Sent) -> Option<(Requirement, Sent)> {
    let method: Method = sent.method.parse().ok()?;
    let path = sent.target.split('?').next()?;
    let mut routes = map.routes().filter(|route| matches(route.template(), path));
    let requirement = match routes.next() {
        Some(route) => route.rule(&method)?.requirement.clone(),
        None => map.requirement(&RouteMatch::NoRoute).ok()?.clone(),
    };
    Some((requirement, sent.clone()))
}

/// Checks a gateway against the model many times; returns the numbers of refusals, dispatches and violations.
fn hold_against_model(
    abilities: &str,
    decide: impl Fn(&AbilityMap, &Sent) -> Option<(Requirement, Sent)>,
    cases: u32,
    fails: bool,
) -> [u32; 3] {
    let strict = compile(&maps()[0].1);
    let map = compile(abilities);
    let laravel = Laravel::with_routes_of(&strict);
    let counts = [const { Cell::new(0) }; 3];
    let count = |index: usize| counts[index].set(counts[index].get() + 1);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&generator::requests(laravel.routes()), |sent| {
        match decide(&map, &sent) {
            None => count(0),
            Some((asked, forwarded)) => {
                let Some(dispatched) = laravel.dispatches(&forwarded) else { return Ok(()) };
                count(1);
                if let Some(violation) = violation(&strict, &asked, &dispatched) {
                    count(2);
                    prop_assert!(!fails, "{violation}; forwarded: {forwarded:?}");
                }
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    counts.map(Cell::into_inner)
}

#[test]
fn model_never_dispatches_an_undecided_route() {
    let pin = maps().map(|(name, abilities)| (name, abilities, MethodOverride::Pin));
    let [.., (name, abilities)] = maps();
    for (name, abilities, setting) in pin.into_iter().chain([(name, abilities, MethodOverride::Honour)]) {
        let decide = |map: &AbilityMap, sent: &Sent| decide(map, sent, setting);
        let [refused, dispatched, violations] = hold_against_model(&abilities, decide, 5_000, true);
        println!("{name}, {setting:?}: {refused} refused, {dispatched} dispatched");
        assert!(refused > 600 && dispatched > 600 && violations == 0, "{name}: {refused} {dispatched}");
    }
}

/// The comparison detects the requests that a naive gateway lets pass.
#[test]
fn model_finds_violations_of_a_naive_gateway() {
    for (name, abilities) in maps() {
        let [.., violations] = hold_against_model(&abilities, naive, 4_000, false);
        println!("{name}: {violations} violations");
        assert!(violations > 10, "{name}: {violations}");
    }
}

/// Requests with the verb and route that a real Laravel dispatched; `laravel.rs` sends them to it.
pub fn seen() -> Vec<(Sent, Option<(&'static str, &'static str)>)> {
    let id = "/api/v2/items/{id}";
    let restore = "/api/v2/items/{id}/restore";
    let form = "application/x-www-form-urlencoded";
    let post = |target: &str| Sent::new("POST", target);
    vec![
        (Sent::new("GET", "/api%2Fv2%2Fitems"), Some(("GET", "/api/v2/items"))),
        (Sent::new("GET", "/api/v2/items/5%2Fphotos"), Some(("GET", "/api/v2/items/{id}/photos"))),
        (Sent::new("GET", "/%61pi/v2/items/5"), Some(("GET", id))),
        (Sent::new("GET", "/%2561pi/v2/items/5"), None),
        (Sent::new("GET", "/api/v2/items/5%252Fphotos"), Some(("GET", id))),
        (Sent::new("GET", "/api/v2/rentals/5#/items"), Some(("GET", "/api/v2/rentals/{id}"))),
        (Sent::new("HEAD", "/index.php/api/v2/items/5"), Some(("HEAD", id))),
        (Sent::new("GET", "/%69ndex.php/api/v2/items/5"), Some(("GET", id))),
        (Sent::new("GET", "/index%2ephp/api/v2/items/5"), Some(("GET", id))),
        (Sent::new("GET", "/index.phpapi/v2/items/5"), Some(("GET", id))),
        (Sent::new("GET", "/INDEX.PHP/api/v2/items/5"), None),
        (Sent::new("GET", "/api/v2/items/5//"), Some(("GET", id))),
        (Sent::new("GET", "/api/v2//items/5"), None),
        (Sent::new("GET", "/api/v2/./items/5"), None),
        (Sent::new("GET", "/API/v2/items/5"), None),
        (Sent::new("GET", "/api/v2/items/.."), Some(("GET", id))),
        (post("/api/v2/items/%2e%2e/restore"), Some(("POST", restore))),
        (Sent::new("GET", "/api/v2/items/5;x"), Some(("GET", id))),
        (Sent::new("GET", "/api/v2/items/5%0A"), Some(("GET", id))),
        (Sent::new("DELETE", "/api/v2/items/search"), Some(("DELETE", id))),
        (Sent::new("OPTIONS", "/api/v2/items/5"), None),
        (Sent::new("GET", "http://other.example/api/v2/items/5"), Some(("GET", id))),
        (post("/api/v2/items/5").field("X-HTTP-Method-Override", "delete"), Some(("DELETE", id))),
        (post("/api/v2/items/5?%5Fmethod=put"), Some(("PUT", id))),
        (post("/api/v2/items/5?_method=put").body(form, "+.method=PATCH+"), Some(("PATCH", id))),
        (post("/api/v2/items/5?_method=put").body(form, "_method[]=PATCH"), None),
        (post("/api/v2/items/5?_method=put").body(form, "_method=PATCH+"), Some(("PATCH", id))),
        (
            post("/api/v2/items").body("a/b+json", "{\"\\u005fmethod\": \"get\"}"),
            Some(("GET", "/api/v2/items")),
        ),
        (
            post("/api/v2/items?_method=GET")
                .body(form, "_method=DELETE")
                .field("X-HTTP-Method-Override", "POST"),
            Some(("POST", "/api/v2/items")),
        ),
    ]
}

#[test]
fn model_agrees_with_recorded_dispatches_of_laravel() {
    let laravel = Laravel::with_routes_of(&compile(&maps()[0].1));
    for (sent, expected) in seen() {
        let dispatched = laravel.dispatches(&sent);
        let dispatched = dispatched.as_ref().map(|it| (&*it.verb, &*it.route));
        assert_eq!(dispatched, expected, "{sent:?}");
    }
}
