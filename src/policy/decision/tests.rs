use std::sync::Arc;

use http::HeaderValue;

use super::super::map::{MapBuilder, RouteOptions, Unmapped};
use super::super::network::{RouteNetworks, parse_network};
use super::super::query::{QueryRules, RawCheck, RawParameter};
use super::super::refusal::Missing;
use super::*;

#[test]
fn query_takes_no_part_in_reading_a_request() {
    for (method, target, expected) in [
        ("GET", "/a/b?c=/../d", Ok("/a/b")),
        ("GET", "/a?", Ok("/a")),
        ("OPTIONS", "*", Ok("*")),
        ("GET", "*", Err(Refusal::BadRequest("path does not begin with a slash"))),
        ("G T", "/a", Err(Refusal::BadRequest("method that is not served"))),
        ("TRACE", "/a", Err(Refusal::BadRequest("method that is not served"))),
    ] {
        let read = read_request(&AbilityMap::default(), method, target);
        let path = read.as_ref().map(|(_, path)| path.as_str()).map_err(Clone::clone);
        assert_eq!(path, expected, "{method} {target}");
    }
}

#[test]
fn refusals_have_a_fixed_order() {
    let word = |word| Requirement::from_word(word).unwrap();
    let mut builder = MapBuilder::new(Unmapped::Deny);
    let both = Requirement::all(["a", "b"]).unwrap();
    let rules =
        [(Method::GET, both, None), (Method::PUT, word("public"), None), (Method::POST, word("deny"), None)];
    builder.route("/x", rules).unwrap();
    let map = builder.build();
    let (inactive, malformed) = (Refusal::InactiveToken, Refusal::MalformedToken);
    let holder = |names: &[&str]| KnownCaller::with(Abilities::new(names.iter().copied()));
    let challenge = r#"Bearer realm="stockaj", error="insufficient_scope", scope="a b""#;
    let missing_ability = Refusal::MissingAbility(Arc::new(Missing {
        challenge: HeaderValue::from_static(challenge),
        required: HeaderValue::from_static("a, b"),
    }));
    for (method, caller, expected) in [
        ("PUT", KnownCaller::Refused(inactive.clone()), Ok(Reason::Public)),
        ("DELETE", KnownCaller::Nobody, Err(Refusal::MissingToken)),
        ("DELETE", KnownCaller::Refused(malformed.clone()), Err(malformed)),
        ("DELETE", KnownCaller::Refused(inactive.clone()), Err(Refusal::MethodNotMapped)),
        ("POST", holder(&["*"]), Err(Refusal::Denied)),
        ("GET", KnownCaller::Refused(inactive.clone()), Err(inactive)),
        ("GET", holder(&["a"]), Err(missing_ability)),
        ("GET", holder(&["a", "b"]), Ok(Reason::Allowed)),
        ("HEAD", holder(&["*"]), Ok(Reason::Allowed)),
    ] {
        let (read, path) = read_request(&map, method, "/x").unwrap();
        assert_eq!(
            decide(&map, &map.find(&read, &path), RouteInputs::default(), &caller),
            expected,
            "{method} {caller:?}"
        );
    }
}

#[test]
fn without_a_verdict_only_mapped_requests_are_undecided() {
    let word = |word| Requirement::from_word(word).unwrap();
    let mut builder = MapBuilder::new(Unmapped::Deny);
    let rules = [(Method::GET, "a"), (Method::PUT, "public"), (Method::POST, "deny")];
    let rules = rules.map(|(method, text)| (method, word(text), None));
    builder.route("/x", rules).unwrap();
    let map = builder.build();
    for (method, path, expected) in [
        (Method::GET, "/x", None),
        (Method::PUT, "/x", Some(Ok(Reason::Public))),
        (Method::POST, "/x", Some(Err(Refusal::Denied))),
        (Method::DELETE, "/x", Some(Err(Refusal::MethodNotMapped))),
        (Method::GET, "/y", Some(Err(Refusal::Unmapped))),
    ] {
        let routed = route(&map, &method, &CanonicalPath::new(path).unwrap(), RouteInputs::default());
        assert_eq!(decide_by(routed, Known::Token, &ClientAddress::Unknown), expected, "{method} {path}");
    }
}

#[test]
fn only_a_public_route_permits_without_a_token() {
    for (word, is_public, permits_preflight) in [
        ("public", true, true),
        ("authenticated", false, true),
        ("a", false, true),
        ("*", false, true),
        ("deny", false, false),
    ] {
        let mut builder = MapBuilder::new(Unmapped::Authenticated);
        let rule = (Method::GET, Requirement::from_word(word).unwrap(), None);
        builder.route("/x", [rule]).unwrap();
        let map = builder.build();
        let routed = route(&map, &Method::GET, &CanonicalPath::new("/x").unwrap(), RouteInputs::default());
        assert_eq!(matches!(routed.next(), NextStep::Public(_)), is_public, "{word}");
        assert_eq!(routed.permit_preflight().is_ok(), permits_preflight, "{word}");
        for mode in [Mode::Enforce, Mode::Shadow] {
            let permit = routed.permit_in_shadow(mode, &Refusal::MissingToken);
            assert!(permit.is_none(), "the map is enforced: {word}");
        }
    }
}

#[test]
fn shadow_mode_of_a_route_permits_what_the_map_refuses() {
    let map = MapBuilder::new(Unmapped::Deny).in_mode(Mode::Shadow).build();
    let routed = route(&map, &Method::GET, &CanonicalPath::new("/x").unwrap(), RouteInputs::default());
    for (refusal, authentication, permits) in [
        (Refusal::Unmapped, Mode::Enforce, true),
        (Refusal::MissingToken, Mode::Enforce, false),
        (Refusal::MissingToken, Mode::Shadow, true),
        (Refusal::NoVerdict, Mode::Shadow, false),
    ] {
        let permit = routed.permit_in_shadow(authentication, &refusal);
        assert_eq!(permit.is_some(), permits, "{refusal:?} in {authentication:?}");
    }
}

#[test]
fn missing_abilities_are_those_of_an_all_requirement() {
    let has = Abilities::new(["a"]);
    let all = Requirement::all(["a", "b", "c"]).unwrap();
    assert_eq!(missing(&all, &has), ["b", "c"]);
    assert_eq!(missing(&all, &Abilities::new(["*"])), [""; 0]);
    assert_eq!(missing(&Requirement::any(["b", "c"]).unwrap(), &has), [""; 0]);
}

fn networks(list: &[&str]) -> Networks {
    list.iter().map(|text| parse_network(text).unwrap()).collect()
}

/// A map whose routes, except `/free`, are for 10.0.0.0/8.
fn office_map(mode: Mode) -> AbilityMap {
    let word = |word| Requirement::from_word(word).unwrap();
    let mut builder = MapBuilder::new(Unmapped::Authenticated).in_mode(mode);
    let from = RouteNetworks { networks: networks(&["10.0.0.0/8"]), place: None };
    let options = RouteOptions { from: Some(Arc::new(from)), ..RouteOptions::default() };
    let rules = [
        (Method::GET, word("a"), None),
        (Method::PUT, word("public"), None),
        (Method::POST, word("deny"), None),
        (Method::OPTIONS, word("authenticated"), None),
    ];
    builder.route_with("/x", options, rules).unwrap();
    builder.route("/free", [(Method::GET, word("a"), None)]).unwrap();
    builder.build()
}

fn client(address: &str) -> ClientAddress {
    ClientAddress::from(address.parse().ok())
}

#[test]
fn networks_are_checked_after_the_token_and_its_abilities() {
    let map = office_map(Mode::Enforce);
    let holder = |names: &[&str], allowed_from: Option<&[&str]>| {
        let abilities = Abilities::new(names.iter().copied());
        KnownCaller::Active(ActiveToken { abilities, allowed_from: allowed_from.map(networks) })
    };
    let nobody = || KnownCaller::Nobody;
    let inactive = || KnownCaller::Refused(Refusal::InactiveToken);
    let any = || holder(&["a"], None);
    let only = |list: &[&str]| holder(&["*"], Some(list));
    for (request, from, caller, expected) in [
        ("GET /x", "10.1.2.3", any(), "allowed"),
        ("GET /x", "::ffff:10.1.2.3", any(), "allowed"),
        ("HEAD /x", "10.1.2.3", any(), "allowed"),
        ("GET /x", "203.0.113.9", any(), "Route"),
        ("HEAD /x", "203.0.113.9", any(), "Route"),
        ("OPTIONS /x", "203.0.113.9", any(), "Route"),
        ("GET /x", "unknown", any(), "Route"),
        // 401 first, then the ability.
        ("GET /x", "203.0.113.9", nobody(), "missing_token"),
        ("GET /x", "203.0.113.9", inactive(), "inactive_token"),
        ("GET /x", "203.0.113.9", holder(&["b"], None), "missing_ability"),
        ("GET /x", "203.0.113.9", holder(&["b"], Some(&[])), "missing_ability"),
        ("POST /x", "203.0.113.9", any(), "denied"),
        ("DELETE /x", "203.0.113.9", any(), "method_not_mapped"),
        // A public route.
        ("PUT /x", "10.1.2.3", nobody(), "public"),
        ("PUT /x", "203.0.113.9", nobody(), "Route"),
        ("PUT /x", "203.0.113.9", any(), "Route"),
        ("PUT /x", "unknown", nobody(), "Route"),
        // Other routes, and paths without one.
        ("GET /free", "203.0.113.9", any(), "allowed"),
        ("GET /free", "unknown", any(), "allowed"),
        ("GET /other", "203.0.113.9", any(), "allowed"),
        // The networks of the token.
        ("GET /free", "203.0.113.9", only(&["203.0.113.0/24"]), "allowed"),
        ("GET /free", "203.0.113.9", only(&["10.0.0.0/8"]), "Token"),
        ("GET /free", "203.0.113.9", only(&[]), "Token"),
        ("GET /free", "unknown", only(&["0.0.0.0/0", "::/0"]), "Token"),
        ("GET /other", "203.0.113.9", only(&["10.0.0.0/8"]), "Token"),
        ("PUT /x", "10.1.2.3", only(&[]), "public"),
        // Both must include the client; the route's are checked first.
        ("GET /x", "10.1.2.3", only(&["10.1.0.0/16"]), "allowed"),
        ("GET /x", "10.2.2.3", only(&["10.1.0.0/16"]), "Token"),
        ("GET /x", "203.0.113.9", only(&["203.0.113.0/24"]), "Route"),
        ("GET /x", "203.0.113.9", only(&[]), "Route"),
    ] {
        let (method, target) = request.split_once(' ').unwrap();
        let (method, path) = read_request(&map, method, target).unwrap();
        let inputs = RouteInputs::of(None, client(from));
        let decided = match decide(&map, &map.find(&method, &path), inputs, &caller) {
            Ok(reason) => reason.as_str().to_owned(),
            Err(Refusal::WrongNetwork(rule)) => format!("{rule:?}"),
            Err(refusal) => refusal.reason().as_str().to_owned(),
        };
        assert_eq!(decided, expected, "{request} from {from} by {caller:?}");
        let anywhere = RouteInputs { client: ClientAddress::Any, ..inputs };
        let decided = decide(&map, &map.find(&method, &path), anywhere, &caller);
        assert!(!matches!(decided, Err(Refusal::WrongNetwork(_))), "{request} by {caller:?}");
    }
}

#[test]
fn preflight_is_permitted_from_the_networks_of_the_route_only() {
    for mode in [Mode::Enforce, Mode::Shadow] {
        let map = office_map(mode);
        for (method, target, from, permits) in [
            (Method::GET, "/x", "10.1.2.3", true),
            (Method::GET, "/x", "203.0.113.9", false),
            (Method::PUT, "/x", "203.0.113.9", false),
            (Method::GET, "/x", "unknown", false),
            (Method::GET, "/free", "203.0.113.9", true),
            (Method::GET, "/other", "unknown", true),
        ] {
            let path = CanonicalPath::new(target).unwrap();
            let routed = route(&map, &method, &path, RouteInputs::of(None, client(from)));
            let permit = routed.permit_preflight();
            assert_eq!(permit.is_ok(), permits, "{method} {target} from {from}");
            if let Err(refusal) = permit {
                assert_eq!(refusal, Refusal::WrongNetwork(NetworkRule::Route));
                let shadowed = routed.permit_in_shadow(Mode::Enforce, &refusal);
                assert_eq!(shadowed.is_some(), mode == Mode::Shadow, "{mode:?}");
            }
        }
    }
}

#[test]
fn networks_precede_the_rules_of_the_query_except_ambiguous_queries() {
    let word = |word| Requirement::from_word(word).unwrap();
    let parameter = |name: &str, requirement| RawParameter {
        name: name.into(),
        check: RawCheck::Requirement(requirement),
        place: None,
    };
    let rules = QueryRules::new(vec![parameter("more", word("b")), parameter("debug", word("deny"))], None);
    let from = RouteNetworks { networks: networks(&["10.0.0.0/8"]), place: None };
    let options = RouteOptions {
        query: Some(Arc::new(rules.unwrap())),
        from: Some(Arc::new(from)),
        ..RouteOptions::default()
    };
    let mut builder = MapBuilder::new(Unmapped::Deny);
    let methods = [(Method::GET, word("a"), None), (Method::PUT, word("public"), None)];
    builder.route_with("/x", options, methods).unwrap();
    let map = builder.build();
    let caller = KnownCaller::with(Abilities::new(["a"]));
    for (method, query, inside, outside) in [
        (Method::GET, "", "allowed", "wrong_network"),
        (Method::GET, "more", "query_denied", "wrong_network"),
        (Method::PUT, "more", "query_denied", "wrong_network"),
        (Method::PUT, "debug", "query_denied", "wrong_network"),
        // No token is sufficient, so that nothing is introspected.
        (Method::GET, "debug", "query_denied", "query_denied"),
        (Method::GET, "m[ore", "bad_request", "bad_request"),
        (Method::PUT, "m[ore", "bad_request", "bad_request"),
    ] {
        let found = map.find(&method, &CanonicalPath::new("/x").unwrap());
        for (from, expected) in [("10.1.2.3", inside), ("203.0.113.9", outside)] {
            let inputs = RouteInputs::of(Some(query), client(from));
            let decided = decide(&map, &found, inputs, &caller);
            let reason = decided.unwrap_or_else(|refusal| refusal.reason());
            assert_eq!(reason.as_str(), expected, "{method} {query} from {from}");
        }
    }
}
