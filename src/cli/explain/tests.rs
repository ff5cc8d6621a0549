use std::time::Duration;

use http::Method;

use super::*;
use crate::policy::ability::{Abilities, Requirement};
use crate::policy::map::{MapBuilder, RouteOptions, Unmapped};
use crate::policy::network::RouteNetworks;
use crate::policy::query::{QueryRules, RawCheck, RawParameter, RawValue};
use crate::policy::shadow::Mode;
use crate::policy::source_location::SourceLocation;

fn map(unmapped: Unmapped) -> AbilityMap {
    let place = |line| Some(SourceLocation { file: "stockaj.yaml".into(), line, column: 5 });
    let word = |word| Requirement::from_word(word).unwrap();
    let mut builder = MapBuilder::new(unmapped);
    builder.route("/up", [(Method::GET, word("public"), place(3))]).unwrap();
    let all = Requirement::all(["items:read", "items:update"]).unwrap();
    builder
        .route(
            "/api/v2/items/{id}",
            [
                (Method::GET, word("items:read"), place(7)),
                (Method::POST, all, place(8)),
                (Method::DELETE, word("deny"), None),
            ],
        )
        .unwrap();
    let timeout = Some(Duration::from_secs(120));
    let options = RouteOptions { body: Some(500 << 20), timeout, ..RouteOptions::default() };
    builder.route_with("/uploads", options, [(Method::POST, word("items:create"), place(9))]).unwrap();
    builder.build()
}

fn explained(unmapped: Unmapped, method: &str, target: &str, caller: &KnownCaller) -> (Exit, String) {
    let mut output = anstream::StripStream::new(Vec::new());
    let exit =
        explain(&map(unmapped), (method, target), caller, ClientAddress::Unknown, &mut output).unwrap();
    (exit, String::from_utf8(output.into_inner()).unwrap())
}

fn holder(names: &[&str]) -> KnownCaller {
    KnownCaller::with(Abilities::new(names.iter().copied()))
}

#[test]
fn allowed_request_shows_every_step() {
    let (exit, text) =
        explained(Unmapped::Deny, "GET", "/api/v2/items/%35/?a=%2F", &holder(&["rents:read", "items:read"]));
    assert_eq!(exit, Exit::Success);
    assert_eq!(
        text,
        "\
request      GET /api/v2/items/%35/?a=%2F
path         /api/v2/items/5 (rewritten: this is matched and forwarded)
query        forwarded as sent; the decision does not read it
route        /api/v2/items/{id}
requirement  items:read (stockaj.yaml:7)
token        active, with items:read, rents:read
verdict      allowed (allowed)
"
    );
}

#[test]
fn limits_of_a_route_are_shown() {
    let (exit, text) = explained(Unmapped::Deny, "POST", "/uploads", &holder(&["items:create"]));
    assert_eq!(exit, Exit::Success);
    assert_eq!(
        text,
        "\
request      POST /uploads
path         /uploads (as sent)
method       POST; `_method` is ignored, so is X-HTTP-Method-Override unless `backend.method_override` is `honour`
route        /uploads
requirement  items:create (stockaj.yaml:9)
body         500MiB at most, instead of `limits.body`
timeout      2m, instead of `backend.timeout`
token        active, with items:create
verdict      allowed (allowed)
"
    );
}

#[test]
fn public_route_needs_no_token() {
    let (exit, text) = explained(Unmapped::Deny, "HEAD", "/up", &KnownCaller::Nobody);
    assert_eq!(exit, Exit::Success);
    assert_eq!(
        text,
        "\
request      HEAD /up
path         /up (as sent)
route        /up
requirement  public (stockaj.yaml:3)
verdict      allowed (public)
"
    );
}

#[test]
fn missing_abilities_are_listed_with_advice() {
    let (exit, text) = explained(Unmapped::Deny, "POST", "/api/v2/items/5", &holder(&["items:read"]));
    assert_eq!(exit, Exit::Failure);
    assert_eq!(
        text,
        "\
request      POST /api/v2/items/5
path         /api/v2/items/5 (as sent)
method       POST; `_method` is ignored, so is X-HTTP-Method-Override unless `backend.method_override` is `honour`
route        /api/v2/items/{id}
requirement  {all: [items:read, items:update]} (stockaj.yaml:8)
token        active, with items:read
missing      items:update
advice       add items:update to the token, or create a new one with: items:read,items:update
verdict      denied with 403 (missing_ability)
"
    );
}

#[test]
fn method_parameter_in_the_query_is_reported_as_ignored() {
    for (method, query, is_reported) in [
        ("GET", "_method=DELETE", true),
        ("DELETE", "a=b&%5Fmethod=DELETE", true),
        ("GET", ".method=DELETE", true),
        ("GET", "%20_method=DELETE", true),
        ("GET", "+_method", true),
        ("GET", "_method%00x=DELETE", true),
        ("GET", "method=DELETE", false),
        ("GET", "a=_method", false),
        ("GET", "_methods=a&_METHOD=b", false),
        ("POST", "a=b", true),
    ] {
        let target = format!("/api/v2/items/5?{query}");
        let (_, text) = explained(Unmapped::Deny, method, &target, &holder(&["items:read"]));
        let line = text.lines().find(|line| line.starts_with("method       "));
        let line = line.map(|line| line.contains(method) && line.contains("`_method` is ignored"));
        assert_eq!(line, is_reported.then_some(true), "{method} {query}\n{text}");
    }
}

#[test]
fn shadow_mode_shows_the_denial_and_that_it_is_not_enforced() {
    let rule = [(Method::GET, Requirement::from_word("items:read").unwrap(), None)];
    let mut builder = MapBuilder::new(Unmapped::Deny).in_mode(Mode::Shadow);
    builder.route("/items", rule.clone()).unwrap();
    let check = RawCheck::Requirement(Requirement::deny());
    let query = QueryRules::new(vec![RawParameter { name: "a".into(), check, place: None }], None).unwrap();
    let options = RouteOptions { query: Some(query.into()), ..RouteOptions::default() };
    builder.route_with("/listed", options, rule).unwrap();
    let map = builder.build();
    let networks = Some([].into_iter().collect());
    let abilities = Abilities::new(["items:read"]);
    let from_nowhere = KnownCaller::Active(ActiveToken { abilities, allowed_from: networks });
    let forwarded = "mode         shadow: the request is forwarded; the verdict is only logged and counted";
    let required =
        "mode         shadow, but refusals of the token are enforced unless `shadow_authentication` is true";
    let enforced = "mode         shadow, but this refusal is enforced in every mode";
    for (target, caller, expected, exit) in [
        ("/items", holder(&["items:create"]), Some(forwarded), Exit::Failure),
        ("/nowhere", holder(&["*"]), Some(forwarded), Exit::Failure),
        ("/items", KnownCaller::Nobody, Some(required), Exit::Failure),
        ("/items", KnownCaller::Refused(Refusal::ExpiredToken), Some(required), Exit::Failure),
        ("/items", from_nowhere, Some(required), Exit::Failure),
        ("/items", KnownCaller::Refused(Refusal::Blocked), Some(enforced), Exit::Failure),
        ("/items", KnownCaller::Refused(Refusal::NoVerdict), Some(enforced), Exit::Failure),
        ("/listed?a[=1", holder(&["*"]), Some(enforced), Exit::Failure),
        ("/listed?a=1", holder(&["items:read"]), Some(forwarded), Exit::Failure),
        ("/items", holder(&["items:read"]), None, Exit::Success),
    ] {
        let mut output = anstream::StripStream::new(Vec::new());
        assert_eq!(
            explain(&map, ("GET", target), &caller, ClientAddress::Unknown, &mut output).unwrap(),
            exit
        );
        let text = String::from_utf8(output.into_inner()).unwrap();
        assert_eq!(text.lines().find(|line| line.starts_with("mode ")), expected, "{text}");
    }
}

#[test]
fn rejected_path_is_not_matched() {
    let (exit, text) = explained(Unmapped::Deny, "GET", "/api/v2/%2e%2e/up", &KnownCaller::Nobody);
    assert_eq!(exit, Exit::Failure);
    assert_eq!(
        text,
        "\
request      GET /api/v2/%2e%2e/up
verdict      denied with 400 (bad_request): dot segment in the path
"
    );
}

#[test]
fn verdicts_follow_the_order_of_a_decision() {
    let nobody = || KnownCaller::Nobody;
    let malformed = || KnownCaller::Refused(Refusal::MalformedToken);
    let inactive = || KnownCaller::Refused(Refusal::InactiveToken);
    let no_verdict = || KnownCaller::Refused(Refusal::NoVerdict);
    let every = || holder(&["*"]);
    let none = || holder(&[]);
    for (unmapped, method, target, caller, expected) in [
        (Unmapped::Deny, "get", "/up", every(), "denied with 400 (bad_request): method that is not served"),
        (Unmapped::Deny, "G T", "/up", every(), "denied with 400 (bad_request): method that is not served"),
        (Unmapped::Deny, "TRACE", "/up", every(), "denied with 400 (bad_request): method that is not served"),
        (Unmapped::Deny, "GET", "/up#", every(), "denied with 400 (bad_request): fragment in the target"),
        (
            Unmapped::Deny,
            "GET",
            "*",
            every(),
            "denied with 400 (bad_request): path does not begin with a slash",
        ),
        (Unmapped::Deny, "GET", "/up", malformed(), "allowed (public)"),
        (Unmapped::Deny, "GET", "/nowhere", nobody(), "denied with 401 (missing_token)"),
        (Unmapped::Deny, "GET", "/nowhere", malformed(), "denied with 401 (malformed_token)"),
        (Unmapped::Deny, "GET", "/nowhere", inactive(), "denied with 403 (unmapped)"),
        (Unmapped::Deny, "GET", "/nowhere", no_verdict(), "denied with 403 (unmapped)"),
        (Unmapped::Deny, "OPTIONS", "*", every(), "denied with 403 (unmapped)"),
        (Unmapped::Deny, "DELETE", "/api/v2/items/5", nobody(), "denied with 401 (missing_token)"),
        (Unmapped::Deny, "DELETE", "/api/v2/items/5", inactive(), "denied with 403 (denied)"),
        (Unmapped::Deny, "DELETE", "/api/v2/items/5", every(), "denied with 403 (denied)"),
        (Unmapped::Authenticated, "PUT", "/api/v2/items/5", every(), "denied with 403 (method_not_mapped)"),
        (Unmapped::Authenticated, "PUT", "/nowhere", none(), "allowed (allowed)"),
        (Unmapped::Authenticated, "PUT", "/nowhere", inactive(), "denied with 401 (inactive_token)"),
        (Unmapped::Deny, "GET", "/api/v2/items/5", inactive(), "denied with 401 (inactive_token)"),
        (Unmapped::Deny, "GET", "/api/v2/items/5", no_verdict(), "denied with 503 (no_verdict)"),
        (Unmapped::Deny, "GET", "/api/v2/items/5", none(), "denied with 403 (missing_ability)"),
        (Unmapped::Deny, "HEAD", "/api/v2/items/5", every(), "allowed (allowed)"),
    ] {
        let (exit, text) = explained(unmapped, method, target, &caller);
        let verdict = text.lines().last().and_then(|line| line.strip_prefix("verdict      "));
        assert_eq!(verdict, Some(expected), "{method} {target}\n{text}");
        assert_eq!(exit == Exit::Success, expected.starts_with("allowed"), "{method} {target}");
    }
}

#[test]
fn abilities_are_parsed_from_the_command_line() {
    for (abilities, expected) in [
        (None, Exit::Failure),
        (Some(vec![]), Exit::Failure),
        (Some(vec![String::new()]), Exit::Failure),
        (Some(vec!["rents:read".to_owned(), " items:read".to_owned()]), Exit::Success),
    ] {
        let arguments = Arguments {
            method: "GET".to_owned(),
            path: "/api/v2/items/5".to_owned(),
            config: ConfigArgument { config: None },
            abilities,
            token_stdin: false,
            from: None,
            allowed_from: None,
        };
        let caller = arguments.caller(Path::new("unread")).unwrap();
        let request = (&*arguments.method, &*arguments.path);
        let client = ClientAddress::Unknown;
        let exit = explain(&map(Unmapped::Deny), request, &caller.0, client, &mut Vec::new()).unwrap();
        assert_eq!(exit, expected, "{arguments:?}");
    }
}

#[test]
fn rules_for_the_query_are_shown_with_the_one_that_decides() {
    let place = |line| Some(SourceLocation { file: "gateway.yaml".into(), line, column: 9 });
    let value = |value: &str, requirement: &str, line| RawValue {
        value: value.into(),
        requirement: Requirement::from_word(requirement).unwrap(),
        place: place(line),
    };
    let values = vec![value("variants", "items:read", 7), value("renters", "renters:read", 8)];
    let check = RawCheck::Values { split: Some(",".into()), values, deny_others: true };
    let include = RawParameter { name: "include".into(), check, place: place(6) };
    let query = Some(QueryRules::new(vec![include], None).unwrap().into());
    let mut builder = MapBuilder::new(Unmapped::Deny);
    let read = [(Method::GET, Requirement::from_word("items:read").unwrap(), place(4))];
    builder.route_with("/items", RouteOptions { query, ..RouteOptions::default() }, read).unwrap();
    let map = builder.build();
    let explained = |target: &str, names: &[&str]| {
        let mut output = anstream::StripStream::new(Vec::new());
        let exit =
            explain(&map, ("GET", target), &holder(names), ClientAddress::Unknown, &mut output).unwrap();
        (exit, String::from_utf8(output.into_inner()).unwrap())
    };
    let (exit, text) = explained("/items?page=2&include=variants,renters", &["items:read"]);
    assert_eq!(exit, Exit::Failure);
    assert_eq!(
        text,
        "\
request      GET /items?page=2&include=variants,renters
path         /items (as sent)
route        /items
requirement  items:read (gateway.yaml:4)
query        include=variants requires items:read (gateway.yaml:7)
query        include=renters requires renters:read (gateway.yaml:8)
token        active, with items:read
denied by    gateway.yaml:8:9 query include=renters
missing      renters:read
advice       add renters:read to the token, or create a new one with: items:read,renters:read
verdict      denied with 403 (query_denied)
"
    );
    assert_eq!(
        explained("/items?include=variants,renters", &["items:read", "renters:read"]).0,
        Exit::Success
    );
    for (target, line) in [
        ("/items?page=2", "query        no rule of the route applies to it\n"),
        (
            "/items?include=x",
            "advice       no ability allows this parameter or value; change the `query` of the route\n",
        ),
        (
            "/items?in%63lude[=x",
            "verdict      denied with 400 (bad_request): unbalanced brackets in the name of a query parameter\n",
        ),
    ] {
        let (_, text) = explained(target, &["*"]);
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn networks_of_route_and_token_are_shown_with_the_one_that_decides() {
    let network = |text: &str| parse_network(text).unwrap();
    let place = |line| Some(SourceLocation { file: "gateway.yaml".into(), line, column: 9 });
    let from = RouteNetworks { networks: [network("10.0.0.0/8")].into_iter().collect(), place: place(5) };
    let options = RouteOptions { from: Some(from.into()), ..RouteOptions::default() };
    let mut builder = MapBuilder::new(Unmapped::Deny);
    let read = [(Method::GET, Requirement::from_word("items:read").unwrap(), place(4))];
    builder.route_with("/items", options, read).unwrap();
    let map = builder.build();
    let explained = |client: &str, allowed_from: &[&str]| {
        let allowed_from = Some(allowed_from.iter().map(|text| network(text)).collect());
        let token = ActiveToken { abilities: Abilities::new(["items:read"]), allowed_from };
        let client = ClientAddress::from(client.parse().ok());
        let mut output = anstream::StripStream::new(Vec::new());
        let exit = explain(&map, ("GET", "/items"), &KnownCaller::Active(token), client, &mut output);
        (exit.unwrap(), String::from_utf8(output.into_inner()).unwrap())
    };
    let steps = "\
request      GET /items
path         /items (as sent)
route        /items
requirement  items:read (gateway.yaml:4)
from         10.0.0.0/8 (gateway.yaml:5)
token        active, with items:read
";
    for (client, allowed_from, exit, rest) in [
        (
            "10.1.2.3",
            &["10.1.0.0/16", "::1"][..],
            Exit::Success,
            "\
token from   10.1.0.0/16, ::1
verdict      allowed (allowed)
",
        ),
        (
            "203.0.113.9",
            &["10.1.0.0/16"],
            Exit::Failure,
            "\
token from   10.1.0.0/16
denied by    203.0.113.9 is outside the route's networks 10.0.0.0/8 (gateway.yaml:5:9)
advice       send the request from one of the networks, or add its network to `from` of the route
verdict      denied with 403 (wrong_network)
",
        ),
        (
            "10.2.2.3",
            &[],
            Exit::Failure,
            "\
token from   nowhere
denied by    10.2.2.3 is outside the token's networks, an empty list
advice       send the request from one of the networks, or add its network to those of the token
verdict      denied with 403 (wrong_network)
",
        ),
        (
            "unknown",
            &["0.0.0.0/0"],
            Exit::Failure,
            "\
token from   0.0.0.0/0
denied by    an unknown address is outside the route's networks 10.0.0.0/8 (gateway.yaml:5:9)
advice       give the client's address with `--from`: an unknown address is refused
verdict      denied with 403 (wrong_network)
",
        ),
    ] {
        assert_eq!(explained(client, allowed_from), (exit, format!("{steps}{rest}")));
    }
}
