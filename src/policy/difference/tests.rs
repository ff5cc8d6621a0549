use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::policy::ability::{Abilities, Requirement, RequirementKind};
use crate::policy::decision::{KnownCaller, RouteInputs, decide};
use crate::policy::deprecation::Moment;
use crate::policy::map::{MapBuilder, RouteOptions};
use crate::policy::path::CanonicalPath;
use crate::policy::route::Pattern;

type Routes = BTreeMap<String, BTreeMap<&'static str, Requirement>>;

fn requirement(text: &str) -> Requirement {
    match text.split_once(' ') {
        Some(("all", names)) => Requirement::all(names.split(' ')).unwrap(),
        Some((_, names)) => Requirement::any(names.split(' ')).unwrap(),
        None => Requirement::from_word(text).unwrap(),
    }
}

fn built(unmapped: Unmapped, routes: &Routes) -> AbilityMap {
    let mut builder = MapBuilder::new(unmapped);
    for (template, methods) in routes {
        let methods = methods.iter().map(|(method, it)| (method.parse().unwrap(), it.clone(), None));
        builder.route(template, methods).unwrap();
    }
    builder.build()
}

fn map(unmapped: Unmapped, routes: &[(&str, &[(&'static str, &str)])]) -> AbilityMap {
    let methods = |written: &[(&'static str, &str)]| {
        written.iter().map(|(method, text)| (*method, requirement(text))).collect()
    };
    let routes = routes.iter().map(|(template, written)| ((*template).to_owned(), methods(written)));
    built(unmapped, &routes.collect())
}

/// `- METHODS path: callers` for newly denied callers, `+ …` for newly allowed ones.
fn changes_of(old: &AbilityMap, new: &AbilityMap) -> Vec<String> {
    let mut lines = Vec::new();
    for change in difference(old, new).unwrap().changes {
        let methods: Vec<&str> = change.methods.iter().map(|method| method.as_str()).collect();
        for (sign, callers) in [('-', &change.denied), ('+', &change.allowed)] {
            if let Some(callers) = callers {
                lines.push(format!("{sign} {} {}: {callers}", methods.join(" "), change.path));
            }
        }
    }
    lines
}

#[test]
fn changed_requirement_denies_and_allows_callers() {
    const TOKENLESS: &str = "callers without a token";
    for (old, new, denied, allowed) in [
        ("a", "a", None, None),
        ("a", "any a", None, None),
        ("a", "all a a", None, None),
        ("a", "any * a", None, None),
        ("all a b", "all b a", None, None),
        ("deny", "deny", None, None),
        ("public", "authenticated", Some(TOKENLESS), None),
        ("public", "a", Some("callers without a token, and tokens that lack a"), None),
        ("public", "deny", Some("every caller"), None),
        ("authenticated", "a", Some("tokens that lack a"), None),
        ("authenticated", "all a b", Some("tokens that lack a or b"), None),
        ("authenticated", "any a b", Some("tokens that have none of a, b"), None),
        ("authenticated", "deny", Some("every token"), None),
        ("a", "deny", Some("tokens with a"), None),
        ("all a b", "deny", Some("tokens with a and b"), None),
        ("any a b", "deny", Some("tokens with a or b"), None),
        ("a", "b", Some("tokens with a that lack b"), Some("tokens with b that lack a")),
        ("a", "all a b", Some("tokens with a that lack b"), None),
        ("a", "any a b", None, Some("tokens with b that lack a")),
        (
            "all a b",
            "all b c",
            Some("tokens with a and b that lack c"),
            Some("tokens with b and c that lack a"),
        ),
        ("any a b", "all a b", Some("tokens with a or b that do not have all of a, b"), None),
        ("any a b", "b", Some("tokens with a that lack b"), None),
        (
            "any a b",
            "any b c d",
            Some("tokens with a that have none of b, c, d"),
            Some("tokens with c or d that have none of a, b"),
        ),
        ("a", "*", Some("tokens with a that lack *"), None),
        ("*", "all * a", None, None),
    ] {
        let side = |text| requirement(text);
        let (old_side, new_side) = (side(old), side(new));
        let text = |one: &Requirement, other: &Requirement| {
            let nobody = |it: &Requirement| matches!(it.kind(), RequirementKind::Deny);
            let callers = callers(Some(one).filter(|it| !nobody(it)), Some(other).filter(|it| !nobody(it)));
            callers.map(|callers| callers.to_string())
        };
        assert_eq!(text(&old_side, &new_side).as_deref(), denied, "{old} -> {new}, denied");
        assert_eq!(text(&new_side, &old_side).as_deref(), allowed, "{old} -> {new}, allowed");
    }
}

#[test]
fn changed_rules_are_reported_by_path() {
    let items: &[_] = &[("GET", "r"), ("DELETE", "d")];
    let before = map(Unmapped::Deny, &[("/items/{id}", items)]);
    for (after, expected) in [
        (map(Unmapped::Deny, &[("/items/{item}", items)]), &[][..]),
        (
            map(Unmapped::Deny, &[("/items/{id}", &[("GET", "x"), ("DELETE", "d")])]),
            &[
                "- GET HEAD /items/{id}: tokens with r that lack x",
                "+ GET HEAD /items/{id}: tokens with x that lack r",
            ],
        ),
        // A rule for HEAD.
        (
            map(Unmapped::Deny, &[("/items/{id}", &[("GET", "r"), ("DELETE", "d"), ("HEAD", "public")])]),
            &["+ HEAD /items/{id}: callers without a token, and tokens that lack r"],
        ),
        // A new route takes a path from another one and lacks one of its methods.
        (
            map(Unmapped::Deny, &[("/items/{id}", items), ("/items/search", &[("GET", "r"), ("POST", "s")])]),
            &["+ POST /items/search: tokens with s", "- DELETE /items/search: tokens with d"],
        ),
        (
            map(Unmapped::Deny, &[("/items/{id}", &[("GET", "r")]), ("/{*rest}", &[("DELETE", "d")])]),
            &["- DELETE /items/{id}: tokens with d", "+ DELETE /{*rest}: tokens with d"],
        ),
        (
            map(Unmapped::Authenticated, &[("/items/{id}", items)]),
            &["+ GET HEAD POST PUT PATCH DELETE OPTIONS (unmapped): every token"],
        ),
    ] {
        assert_eq!(changes_of(&before, &after), expected);
    }
}

#[test]
fn options_asterisk_is_unmapped_even_if_every_path_has_a_route() {
    let routes: &[(&str, &[_])] = &[("/", &[("GET", "a")]), ("/{*rest}", &[("GET", "a")])];
    let (deny, authenticated) = (map(Unmapped::Deny, routes), map(Unmapped::Authenticated, routes));
    assert_eq!(changes_of(&deny, &authenticated), ["+ OPTIONS (unmapped): every token"]);
    assert_eq!(difference(&deny, &authenticated).unwrap().changes[0].sample, "*");
}

#[test]
fn changed_options_are_reported() {
    let build = |mode, body, own| {
        let mut builder = MapBuilder::default().in_mode(mode);
        let rule = || [(Method::POST, requirement("a"), None)];
        builder
            .route_with("/up/{id}", RouteOptions { body, mode: own, ..RouteOptions::default() }, rule())
            .unwrap();
        builder.build()
    };
    let options_of = |old: &AbilityMap, new: &AbilityMap| {
        let options = difference(old, new).unwrap().options;
        options.into_iter().map(|it| (it.path, it.body, it.mode)).collect::<Vec<_>>()
    };
    let up = "/up/{id}".to_owned();
    let plain = build(Mode::Enforce, None, None);
    assert_eq!(
        options_of(&build(Mode::Enforce, Some(1), None), &plain),
        [(up.clone(), (Some(1), None), (Mode::Enforce, Mode::Enforce))]
    );
    assert_eq!(
        options_of(&plain, &build(Mode::Enforce, None, Some(Mode::Shadow))),
        [(up, (None, None), (Mode::Enforce, Mode::Shadow))]
    );
    assert_eq!(
        options_of(&plain, &build(Mode::Shadow, None, Some(Mode::Enforce))),
        [("(without a mode of its own)".to_owned(), (None, None), (Mode::Enforce, Mode::Shadow))]
    );
    assert_eq!(options_of(&plain, &build(Mode::Shadow, None, None)).len(), 1);
    assert_eq!(
        options_of(&plain, &build(Mode::Shadow, Some(1), None))[1],
        ("/up/{id}".to_owned(), (None, Some(1)), (Mode::Enforce, Mode::Shadow))
    );
}

#[test]
fn changed_timeout_is_a_changed_option() {
    let build = |seconds: Option<u64>| {
        let mut builder = MapBuilder::default();
        let options = RouteOptions { timeout: seconds.map(Duration::from_secs), ..RouteOptions::default() };
        builder.route_with("/up", options, [(Method::GET, requirement("a"), None)]).unwrap();
        builder.build()
    };
    let (old, new) = (build(None), build(Some(9)));
    let found = difference(&old, &new).unwrap();
    assert!(found.changes.is_empty() && !found.is_empty());
    assert_eq!(found.options[0].timeout, (None, Some(Duration::from_secs(9))));
    assert!(difference(&new, &build(Some(9))).unwrap().is_empty());
}

#[test]
fn announced_end_of_a_route_is_a_changed_option() {
    let build = |seconds: Option<i64>, text: &str| {
        let moment = |seconds| Moment { seconds, http_date: "-".into(), text: text.into() };
        let deprecated = seconds.map(|it| Deprecation::new(Some(moment(it)), None, None, None).unwrap());
        let options = RouteOptions { deprecated: deprecated.map(Arc::new), ..RouteOptions::default() };
        let mut builder = MapBuilder::default();
        builder.route_with("/up", options, [(Method::GET, requirement("a"), None)]).unwrap();
        builder.build()
    };
    let (old, new) = (build(None, ""), build(Some(0), "1970-01-01"));
    let found = difference(&old, &new).unwrap();
    assert!(found.changes.is_empty() && found.options.len() == 1);
    assert!(found.options[0].deprecated.0.is_none() && found.options[0].deprecated.1.is_some());
    let other_spelling = build(Some(0), "1970-01-01T00:00:00Z");
    assert!(difference(&new, &other_spelling).unwrap().is_empty());
}

#[test]
fn meet_is_the_pattern_of_common_paths() {
    for (one, other, expected) in [
        ("/", "/", "/"),
        ("/a/{x}", "/a/{y}", "/a/{x}"),
        ("/a/{x}", "/{y}/b", "/a/b"),
        ("/{y}/b", "/a/{x}", "/a/b"),
        ("/{*r}", "/a/{x}", "/a/{x}"),
        ("/a/{x}/c", "/a/{*r}", "/a/{x}/c"),
        ("/a/{*r}", "/{*s}", "/a/{*r}"),
        ("/{x}/{*r}", "/a/{y}/c", "/a/{y}/c"),
    ] {
        let pattern = |text| Pattern::parse(text).unwrap();
        assert_eq!(pattern(one).meet(&pattern(other)), expected, "{one} and {other}");
    }
}

#[test]
fn equal_maps_are_not_walked() {
    let templates: Vec<String> = (0..40)
        .map(|literal| {
            (0..40).map(|at| if at == literal { "/a".to_owned() } else { format!("/{{p{at}}}") }).collect()
        })
        .collect();
    let routes: Routes =
        templates.into_iter().map(|it| (it, BTreeMap::from([("GET", requirement("a"))]))).collect();
    let (one, same) = (built(Unmapped::Deny, &routes), built(Unmapped::Deny, &routes));
    assert!(difference(&one, &same).unwrap().is_empty());
    assert_eq!(difference(&one, &built(Unmapped::Authenticated, &routes)).unwrap_err(), TooMany);
}

fn routes() -> impl Strategy<Value = Routes> {
    let segment = prop_oneof![3 => Just("a"), 2 => Just("b"), 3 => Just("{}")];
    let template = (proptest::collection::vec(segment, 0..4), any::<bool>()).prop_map(|(segments, rest)| {
        let last = segments.len().saturating_sub(1);
        let written = segments.iter().enumerate().map(|(at, segment)| match (*segment, rest && at == last) {
            ("{}", true) => "/{*rest}".to_owned(),
            ("{}", false) => format!("/{{p{at}}}"),
            (literal, _) => format!("/{literal}"),
        });
        let template: String = written.collect();
        if template.is_empty() { "/".to_owned() } else { template }
    });
    let words =
        ["public", "authenticated", "deny", "x", "y", "*", "all x y", "any x y", "any y z", "all x *"];
    let requirement = proptest::sample::select(words.to_vec()).prop_map(requirement);
    let method = proptest::sample::select(vec!["GET", "HEAD", "POST", "OPTIONS"]);
    let methods = proptest::collection::btree_map(method, requirement, 0..4);
    proptest::collection::btree_map(template, methods, 0..6)
}

fn unmapped() -> impl Strategy<Value = Unmapped> {
    proptest::sample::select(vec![Unmapped::Deny, Unmapped::Authenticated])
}

fn allows(map: &AbilityMap, method: &Method, path: &CanonicalPath<'_>, granted: Option<&Abilities>) -> bool {
    let caller = granted.map_or(KnownCaller::Nobody, |granted| KnownCaller::with(granted.clone()));
    decide(map, &map.find(method, path), RouteInputs::default(), &caller).is_ok()
}

/// A caller for each outcome of the requirements above.
fn all_callers() -> Vec<Option<Abilities>> {
    let names = ["x", "y", "z", "*"];
    let sets = (0..1_u32 << names.len()).map(|set| {
        let granted = names.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0);
        Some(Abilities::new(granted.map(|(_, name)| *name)))
    });
    [None].into_iter().chain(sets).collect()
}

/// A path for each outcome of the routes above, and `*`.
fn all_paths() -> Vec<CanonicalPath<'static>> {
    let mut texts = vec![String::new()];
    let mut last = texts.clone();
    for _ in 0..4 {
        last =
            last.iter().flat_map(|path| ["a", "b", "c"].map(|segment| format!("{path}/{segment}"))).collect();
        texts.extend(last.iter().cloned());
    }
    texts[0] = "/".to_owned();
    let paths = texts.iter().map(|text| CanonicalPath::new(text).unwrap().into_owned());
    paths.chain([CanonicalPath::asterisk()]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reported_changes_are_the_differing_decisions(
        (old, new) in (routes(), routes()), (before, after) in (unmapped(), unmapped()), share in any::<bool>(),
    ) {
        // In half of the cases the new map extends the old one: unrelated maps test less.
        let new = if share { old.clone().into_iter().chain(new).collect() } else { new };
        let (old, new) = (built(before, &old), built(after, &new));
        let reported = difference(&old, &new).unwrap();
        let mut differing = 0;
        for path in all_paths() {
            for method in METHODS {
                if path.is_asterisk() && method != Method::OPTIONS {
                    continue;
                }
                for granted in all_callers() {
                    let verdicts = [&old, &new].map(|map| allows(map, &method, &path, granted.as_ref()));
                    differing += usize::from(verdicts[0] != verdicts[1]);
                    let ways = [(true, false), (false, true)];
                    for (way, (was, is)) in ways.into_iter().enumerate() {
                        // The class of this path, and its changes.
                        let is_reported = reported.changes.iter().any(|change| {
                            let callers = if way == 0 { &change.denied } else { &change.allowed };
                            change.methods.contains(&&method)
                                && is_of(&old, &new, change, &method, &path)
                                && callers.as_ref().is_some_and(|it| holds(it, change, way == 0, granted.as_ref()))
                        });
                        prop_assert_eq!(is_reported, verdicts == [was, is], "{:?} {} {:?}", &method, path.as_str(), &granted);
                    }
                }
            }
        }
        prop_assert_eq!(differing > 0, !reported.changes.is_empty());
        for change in &reported.changes {
            let path = if change.sample == "*" { CanonicalPath::asterisk() } else { CanonicalPath::new(&change.sample).unwrap() };
            for method in &change.methods {
                for (callers, was, is) in [(&change.denied, true, false), (&change.allowed, false, true)] {
                    let Some(callers) = callers else { continue };
                    let tokens = callers.abilities.iter().map(|set| Some(Abilities::new(set.iter().map(|name| &**name))));
                    let nobody = callers.without_token.then_some(None);
                    for granted in tokens.chain(nobody) {
                        prop_assert_eq!(allows(&old, method, &path, granted.as_ref()), was);
                        prop_assert_eq!(allows(&new, method, &path, granted.as_ref()), is);
                    }
                }
            }
        }
    }
}

/// Whether the two sides of a change are the lookups of the request.
fn is_of(
    old: &AbilityMap,
    new: &AbilityMap,
    change: &Change<'_>,
    method: &Method,
    path: &CanonicalPath<'_>,
) -> bool {
    let side = |map, side: &ComparedMap<'_>| {
        let found = ComparedMap {
            map,
            found: AbilityMap::find(map, method, path),
            refused: map.check_path(path).is_err(),
        };
        found.template() == side.template() && found.has_same_rule(side)
    };
    side(old, &change.old) && side(new, &change.new)
}

/// Whether a caller is included: it has one of the smallest sets, and does not satisfy the other side.
fn holds(callers: &Callers, change: &Change<'_>, denied: bool, granted: Option<&Abilities>) -> bool {
    let Some(granted) = granted else { return callers.without_token };
    let other = if denied { change.new.requirement() } else { change.old.requirement() };
    callers.abilities.iter().any(|set| set.iter().all(|name| granted.can(name)))
        && other.is_none_or(|other| other.check(granted).is_err())
}
