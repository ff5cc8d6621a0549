//! Compares the ability map with a naive matcher, for any routes and requests.
//!
//! `data` is text. A line `/pattern METHOD=word …` is a route (with `!` before it, one that replaces), a line
//! `METHOD /path` a request; `authenticated` on a line of its own is `unmapped: authenticated`.

use http::Method;
use stockaj_gateway::internals::policy::ability::{Requirement, RequirementKind};
use stockaj_gateway::internals::policy::map::{MapBuilder, RouteMatch, RouteOptions, Unmapped};
use stockaj_gateway::internals::policy::path::CanonicalPath;
use stockaj_gateway::internals::policy::refusal::Refusal;
use stockaj_gateway::internals::policy::route::RouteError;

use super::target::decode;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(Vec<u8>),
    Parameter,
    Rest,
}

/// A route of the naive matcher.
struct Route {
    segments: Vec<Segment>,
    template: String,
    rules: Vec<(Method, String)>,
    replaces: bool,
}

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let unmapped = if text.lines().any(|line| line == "authenticated") {
        Unmapped::Authenticated
    } else {
        Unmapped::Deny
    };
    let mut builder = MapBuilder::new(unmapped);
    let mut routes: Vec<Route> = Vec::new();
    for line in text.lines() {
        let (line, replaces) = line.strip_prefix('!').map_or((line, false), |line| (line, true));
        if line.starts_with('/') {
            add(line, replaces, &mut builder, &mut routes);
        }
    }
    let map = builder.build();
    assert_eq!(map.routes().len(), routes.len());
    routes.sort_by(|one, other| one.segments.cmp(&other.segments));
    let templates: Vec<&str> = map.templates().collect();
    assert_eq!(templates, routes.iter().map(|route| &*route.template).collect::<Vec<_>>());

    for line in text.lines() {
        let Some((method, path)) = line.split_once(' ').filter(|(_, path)| path.starts_with('/')) else {
            continue;
        };
        let (Ok(method), Ok(path)) = (Method::from_bytes(method.as_bytes()), CanonicalPath::new(path)) else {
            continue;
        };
        let found = map.find(&method, &path);
        let route = routes.iter().find(|route| matches(&route.segments, path.as_str()));
        let rule = route.and_then(|route| rule(route, &method));
        let (number, requirement) = match &found {
            RouteMatch::Rule { route, rule } => (Some(*route), Some(rule.requirement.to_string())),
            RouteMatch::NoMethod { route } => (Some(*route), None),
            RouteMatch::NoRoute => (None, None),
        };
        assert_eq!(number.map(|number| templates[number]), route.map(|route| &*route.template), "{line}");
        assert_eq!(requirement.as_deref(), rule, "{line}");
        let is_named = route.is_some_and(|route| names_front_controllers(&route.segments, path.as_str()));
        assert_eq!(map.check_path(&path).is_ok(), is_named || !path.names_front_controller(), "{line}");
        match (map.requirement(&found), route, rule, unmapped) {
            (Ok(requirement), _, Some(rule), _) => {
                assert!(requirement.to_string() == rule && *requirement.kind() != RequirementKind::Deny);
            }
            (Ok(requirement), None, None, Unmapped::Authenticated) => {
                assert_eq!(*requirement.kind(), RequirementKind::Authenticated);
            }
            (Err(Refusal::Denied), Some(_), Some("deny"), _)
            | (Err(Refusal::MethodNotMapped), Some(_), None, _)
            | (Err(Refusal::Unmapped), None, None, Unmapped::Deny) => {}
            (answer, ..) => panic!("{line}: {answer:?}"),
        }
    }
}

/// Adds a route to both matchers, or to neither.
fn add(line: &str, replaces: bool, builder: &mut MapBuilder, routes: &mut Vec<Route>) {
    let mut words = line.split(' ');
    let template = words.next().unwrap_or_default();
    let mut rules = Vec::new();
    for word in words {
        let Some((method, word)) = word.split_once('=') else { return };
        let (Ok(method), Ok(requirement)) =
            (Method::from_bytes(method.as_bytes()), Requirement::from_word(word))
        else {
            return;
        };
        rules.push((method, requirement, None));
    }
    let segments = match template {
        "/" => Vec::new(),
        _ => template[1..].split('/').map(segment).collect(),
    };
    let route = Route {
        template: template.to_owned(),
        rules: rules
            .iter()
            .map(|(method, requirement, _)| (method.clone(), requirement.to_string()))
            .collect(),
        segments,
        replaces,
    };
    let earlier = routes.iter().position(|other| other.segments == route.segments);
    let added = if replaces {
        builder.replace(template, RouteOptions::default(), rules)
    } else {
        builder.route(template, rules).map(|()| None)
    };
    match (added, earlier) {
        (Ok(None), None) => routes.push(route),
        (Ok(Some(replaced)), Some(earlier)) if replaces && !routes[earlier].replaces => {
            assert_eq!(replaced.template(), routes[earlier].template);
            routes[earlier] = route;
        }
        (Err(RouteError::Equal { earlier: template, .. }), Some(earlier))
            if !replaces || routes[earlier].replaces =>
        {
            assert_eq!(*template, *routes[earlier].template);
        }
        (Err(error), _) => assert!(!matches!(error, RouteError::Equal { .. }), "{line}: {error}"),
        (Ok(_), _) => panic!("{line}: two equal routes"),
    }
}

fn segment(text: &str) -> Segment {
    match text {
        _ if text.starts_with("{*") => Segment::Rest,
        _ if text.starts_with('{') => Segment::Parameter,
        _ => Segment::Literal(decode(text.as_bytes())),
    }
}

/// Whether each segment that names the front controller, in any number of encodings, is a literal of the pattern.
fn names_front_controllers(pattern: &[Segment], path: &str) -> bool {
    path[1..].split('/').enumerate().all(|(index, segment)| {
        let mut decoded = segment.as_bytes().to_vec();
        while decode(&decoded) != decoded {
            decoded = decode(&decoded);
        }
        !decoded.to_ascii_lowercase().starts_with(b"index.php")
            || matches!(pattern.get(index), Some(Segment::Literal(_)))
    })
}

/// HEAD uses the rule of GET unless it has its own.
fn rule<'a>(route: &'a Route, method: &Method) -> Option<&'a str> {
    let of = |method: &Method| route.rules.iter().find(|(it, _)| it == method).map(|(_, rule)| &**rule);
    of(method).or_else(|| if *method == Method::HEAD { of(&Method::GET) } else { None })
}

/// The first match of sorted routes is the most specific: from the left, a literal precedes `{id}`, which precedes
/// `{*rest}`.
fn matches(pattern: &[Segment], path: &str) -> bool {
    let mut left: Vec<&str> = if path == "/" { Vec::new() } else { path[1..].split('/').collect() };
    for segment in pattern {
        let fits = match segment {
            Segment::Rest => return !left.is_empty(),
            Segment::Parameter => !left.is_empty(),
            Segment::Literal(literal) => left.first().is_some_and(|it| decode(it.as_bytes()) == *literal),
        };
        if !fits {
            return false;
        }
        left.remove(0);
    }
    left.is_empty()
}
