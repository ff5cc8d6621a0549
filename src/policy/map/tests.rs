use proptest::prelude::*;

use super::*;
use crate::policy::route::RouteError;
use crate::policy::source_location::SourceLocation;

type Written<'a> = &'a [(&'a str, &'a [(&'a str, &'a str)])];

fn methods(written: &[(&str, &str)]) -> Vec<(Method, Requirement, Option<SourceLocation>)> {
    written
        .iter()
        .map(|(method, word)| (method.parse().unwrap(), Requirement::from_word(word).unwrap(), None))
        .collect()
}

fn map(unmapped: Unmapped, routes: Written<'_>) -> AbilityMap {
    let mut builder = MapBuilder::new(unmapped);
    for (pattern, written) in routes {
        builder.route(pattern, methods(written)).unwrap();
    }
    builder.build()
}

/// `template requirement`, `template -` without the method, or `-`.
fn found(map: &AbilityMap, method: &str, path: &str) -> String {
    let template = |number| map.templates().nth(number).unwrap();
    match map.find(&method.parse().unwrap(), &CanonicalPath::new(path).unwrap()) {
        RouteMatch::Rule { route, rule } => format!("{} {}", template(route), rule.requirement),
        RouteMatch::NoMethod { route } => format!("{} -", template(route)),
        RouteMatch::NoRoute => "-".to_owned(),
    }
}

#[test]
fn most_specific_route_wins_in_any_order() {
    let mut routes: Vec<(&str, &[(&str, &str)])> = vec![
        ("/", &[("GET", "root")]),
        ("/{*rest}", &[("GET", "all")]),
        ("/api/{*rest}", &[("GET", "api")]),
        ("/api/items", &[("GET", "read"), ("POST", "create")]),
        ("/api/items/{id}", &[("GET", "read"), ("DELETE", "delete")]),
        ("/api/items/search", &[("GET", "search")]),
        ("/api/items/{id}/restore", &[("POST", "restore"), ("HEAD", "deny"), ("GET", "read")]),
        ("/api/items/search/{x}/deep", &[("GET", "deep")]),
        ("/api/{kind}/5/restore", &[("GET", "kind")]),
        ("/api/items:scan", &[("POST", "scan")]),
        ("/api/caf%C3%A9", &[("GET", "coffee")]),
    ];
    for _ in 0..routes.len() {
        routes.rotate_left(1);
        let map = map(Unmapped::Deny, &routes);
        for (method, path, expected) in [
            ("GET", "/", "/ root"),
            ("GET", "/up", "/{*rest} all"),
            ("GET", "/api", "/{*rest} all"),
            ("GET", "/api/", "/{*rest} all"),
            ("GET", "/api/x", "/api/{*rest} api"),
            ("GET", "/api/x/y/z", "/api/{*rest} api"),
            ("GET", "/api/items", "/api/items read"),
            ("GET", "/api/items/", "/api/items read"),
            ("GET", "/%61pi/items", "/api/items read"),
            ("HEAD", "/api/items", "/api/items read"),
            ("OPTIONS", "/api/items", "/api/items -"),
            ("PUT", "/api/items", "/api/items -"),
            ("GET", "/api/Items", "/api/{*rest} api"),
            ("GET", "/api/items/5", "/api/items/{id} read"),
            ("GET", "/api/items/%2B", "/api/items/{id} read"),
            ("GET", "/api/items/search", "/api/items/search search"),
            // No fallback to `{id}`, which would delete the item `search`.
            ("DELETE", "/api/items/search", "/api/items/search -"),
            ("DELETE", "/api/items/searchx", "/api/items/{id} delete"),
            ("HEAD", "/api/items/5/restore", "/api/items/{id}/restore deny"),
            // Backtracks from the literal `search` to `{id}`, and from there to `{*rest}`.
            ("POST", "/api/items/search/restore", "/api/items/{id}/restore restore"),
            ("GET", "/api/items/search/1/deep", "/api/items/search/{x}/deep deep"),
            ("GET", "/api/items/search/1/flat", "/api/{*rest} api"),
            ("GET", "/api/other/5/restore", "/api/{kind}/5/restore kind"),
            ("GET", "/api/other/6/restore", "/api/{*rest} api"),
            // The backend decodes a path before it matches routes.
            ("POST", "/api/items:scan", "/api/items:scan scan"),
            ("POST", "/api/items%3Ascan", "/api/items:scan scan"),
            ("POST", "/api/items%3ascan", "/api/items:scan scan"),
            ("POST", "/api/items%253Ascan", "/api/{*rest} -"),
            ("GET", "/api/caf%c3%a9", "/api/caf%C3%A9 coffee"),
        ] {
            assert_eq!(found(&map, method, path), expected, "{method} {path}");
        }
    }
}

#[test]
fn rest_matches_at_least_one_segment() {
    let map = map(Unmapped::Deny, &[("/a/{*rest}", &[("GET", "x")]), ("/b/{id}", &[("GET", "y")])]);
    for (path, expected) in [
        ("/a", "-"),
        ("/a/", "-"),
        ("/a/b", "/a/{*rest} x"),
        ("/b", "-"),
        ("/b/c/d", "-"),
        ("/", "-"),
        ("/ab", "-"),
    ] {
        assert_eq!(found(&map, "GET", path), expected, "{path}");
    }
}

#[test]
fn requirement_is_a_refusal_if_no_token_can_satisfy_the_map() {
    let routes: Written<'_> = &[("/up", &[("GET", "public"), ("PUT", "deny"), ("POST", "a")])];
    for (unmapped, method, path, expected) in [
        (Unmapped::Deny, "GET", "/up", Ok("public")),
        (Unmapped::Deny, "POST", "/up", Ok("a")),
        (Unmapped::Deny, "PUT", "/up", Err(Refusal::Denied)),
        (Unmapped::Deny, "PATCH", "/up", Err(Refusal::MethodNotMapped)),
        (Unmapped::Deny, "GET", "/down", Err(Refusal::Unmapped)),
        (Unmapped::Authenticated, "PUT", "/up", Err(Refusal::Denied)),
        (Unmapped::Authenticated, "PATCH", "/up", Err(Refusal::MethodNotMapped)),
        (Unmapped::Authenticated, "TRACE", "/up", Err(Refusal::MethodNotMapped)),
        (Unmapped::Authenticated, "GET", "/down", Ok("authenticated")),
    ] {
        let map = map(unmapped, routes);
        let found = map.find(&method.parse().unwrap(), &CanonicalPath::new(path).unwrap());
        let requirement = map.requirement(&found).map(Requirement::to_string);
        assert_eq!(requirement.as_deref(), expected.as_ref().copied(), "{unmapped:?} {method} {path}");
    }
}

#[test]
fn options_asterisk_has_no_route() {
    let map = map(Unmapped::Deny, &[("/{*rest}", &[("OPTIONS", "a")]), ("/", &[("OPTIONS", "a")])]);
    assert!(matches!(map.find(&Method::OPTIONS, &CanonicalPath::asterisk()), RouteMatch::NoRoute));
}

#[test]
fn routes_are_numbered_in_matching_order() {
    let map =
        map(Unmapped::Deny, &[("/{*r}", &[]), ("/b/{x}", &[("HEAD", "h"), ("GET", "g")]), ("/b/a", &[])]);
    assert_eq!(map.templates().collect::<Vec<_>>(), ["/b/a", "/b/{x}", "/{*r}"]);
    let route = map.routes().nth(1).unwrap();
    let rules: Vec<String> =
        route.rules().map(|(method, rule)| format!("{method} {}", rule.requirement)).collect();
    assert_eq!(rules, ["GET g", "HEAD h"]);
}

#[test]
fn options_belong_to_their_route_and_are_replaced_with_it() {
    let body = |bytes| RouteOptions { body: Some(bytes), ..RouteOptions::default() };
    let mut builder = MapBuilder::default();
    for (pattern, options) in [("/a", body(1)), ("/b", body(2)), ("/c", RouteOptions::default())] {
        builder.route_with(pattern, options, methods(&[("POST", "a")])).unwrap();
    }
    let replaced = builder.replace("/b", RouteOptions::default(), methods(&[("POST", "b")])).unwrap();
    assert_eq!(replaced.unwrap().options(), &body(2));
    let map = builder.build();
    let bodies: Vec<_> = map.routes().map(|route| route.options().body).collect();
    assert_eq!(bodies, [Some(1), None, None]);
}

#[test]
fn equal_routes_of_one_file_are_an_error() {
    let place = Some(SourceLocation { file: "a.yaml".into(), line: 3, column: 5 });
    let rule = |place: &Option<SourceLocation>| [(Method::GET, Requirement::public(), place.clone())];
    let mut builder = MapBuilder::default();
    builder.route("/a/{id}", rule(&place)).unwrap();
    builder.route("/b", rule(&None)).unwrap();
    let earlier = RouteError::Equal { earlier: "/a/{id}".into(), place: place.clone() };
    assert_eq!(builder.route("/a/{item}", rule(&None)), Err(earlier));

    let none = RouteOptions::default();
    let replaced = builder.replace("/a/{item}", none.clone(), methods(&[("POST", "deny")])).unwrap().unwrap();
    assert_eq!(replaced.template(), "/a/{id}");
    assert!(builder.replace("/c", none.clone(), rule(&None)).unwrap().is_none());
    for (pattern, earlier) in [("/a/{other}", "/a/{item}"), ("/c", "/c")] {
        let error = builder.replace(pattern, none.clone(), rule(&None)).unwrap_err();
        assert_eq!(error, RouteError::Equal { earlier: earlier.into(), place: None });
    }
    let map = builder.build();
    assert_eq!(map.templates().collect::<Vec<_>>(), ["/a/{item}", "/b", "/c"]);
    assert_eq!(found(&map, "GET", "/a/1"), "/a/{item} -", "replaced completely");
}

#[test]
fn unsupported_and_duplicate_methods_are_errors() {
    let mut builder = MapBuilder::default();
    for (written, error) in [
        (&[("TRACE", "a")][..], RouteError::Method(Method::TRACE)),
        (&[("CONNECT", "a")], RouteError::Method(Method::CONNECT)),
        (&[("get", "a")], RouteError::Method("get".parse().unwrap())),
        (&[("GET", "a"), ("GET", "a")], RouteError::DuplicateMethod(Method::GET)),
    ] {
        assert_eq!(builder.route("/a", methods(written)), Err(error));
    }
    assert!(builder.route("/a", methods(&[("GET", "a")])).is_ok(), "nothing was added before");
}

/// The rule of the contract: the least of the matching patterns.
fn naive<'a>(templates: &'a [String], path: &str) -> Option<&'a str> {
    let segments: Vec<&str> = path[1..].split('/').collect();
    let matches = |template: &str| {
        let pattern: Vec<&str> = template[1..].split('/').collect();
        let (pattern, enough) = match pattern.split_last() {
            Some((last, others)) if last.starts_with("{*") => (others, segments.len() > others.len()),
            _ => (&*pattern, segments.len() == pattern.len()),
        };
        enough && pattern.iter().zip(&segments).all(|(one, segment)| one.starts_with('{') || one == segment)
    };
    let rank = |template: &str| -> Vec<u8> {
        template[1..]
            .split('/')
            .map(|segment| if segment.starts_with("{*") { 2 } else { u8::from(segment.starts_with('{')) })
            .collect()
    };
    templates.iter().map(String::as_str).filter(|it| matches(it)).min_by_key(|it| rank(it))
}

fn templates() -> impl Strategy<Value = Vec<String>> {
    // Parameters are named by depth: matchit requires equal names for equal positions.
    let segment = prop_oneof![3 => Just("a"), 2 => Just("b"), 2 => Just("{}")];
    let template = (proptest::collection::vec(segment, 1..5), any::<bool>()).prop_map(|(segments, rest)| {
        let mut template = String::new();
        for (depth, segment) in segments.iter().enumerate() {
            let last = depth + 1 == segments.len();
            match (*segment, rest && last) {
                ("{}", true) => template.push_str("/{*rest}"),
                ("{}", false) => template.push_str(&format!("/{{p{depth}}}")),
                (literal, _) => template.push_str(&format!("/{literal}")),
            }
        }
        template
    });
    proptest::collection::btree_set(template, 0..12).prop_map(|templates| templates.into_iter().collect())
}

proptest! {
    #[test]
    fn lookup_agrees_with_a_naive_matcher_and_with_matchit(
        templates in templates(),
        paths in proptest::collection::vec("(/[abc]){1,6}", 1..24),
    ) {
        let mut builder = MapBuilder::default();
        for template in &templates {
            builder.route(template, methods(&[("GET", "public")])).unwrap();
        }
        let map = builder.build();
        let mut router = matchit::Router::new();
        let accepted = templates.iter().all(|template| router.insert(template, template).is_ok());
        for path in &paths {
            let expected = naive(&templates, path);
            let found = match map.find(&Method::GET, &CanonicalPath::new(path).unwrap()) {
                RouteMatch::Rule { route, .. } => map.templates().nth(route),
                RouteMatch::NoMethod { .. } | RouteMatch::NoRoute => None,
            };
            prop_assert_eq!(found, expected, "{}", path);
            if accepted {
                prop_assert_eq!(router.at(path).ok().map(|it| it.value.as_str()), expected, "matchit, {}", path);
            }
        }
    }
}
