//! The ability map: built once, immutable, and asked once per request.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use http::Method;

use super::ability::{Requirement, RequirementKind};
use super::path::{CanonicalPath, decoded};
use super::refusal::Refusal;
use super::route::{Pattern, RouteError, Segment};
use super::shadow::Mode;
use super::target::{METHODS, method_number};

/// What becomes of a path that no route matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmapped {
    /// Refused.
    #[default]
    Deny,
    /// Forwarded with any active token.
    Authenticated,
}

/// Where in a file a rule stands, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named.
    pub file: std::sync::Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One method of one route.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it asks for.
    pub requirement: Requirement,
    /// Where it is written.
    pub place: Option<Place>,
}

/// What a route says beside its methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteOptions {
    /// `body`: the most that a request's body may have, in bytes, instead of `limits.body`.
    pub body: Option<u64>,
    /// `mode`: whether what the map refuses here is refused, instead of the global `mode`.
    pub mode: Option<Mode>,
}

/// A route: a pattern and a rule for each of its methods.
#[derive(Clone, Debug)]
pub struct Route {
    pattern: Pattern,
    options: RouteOptions,
    /// By the method's place in [`METHODS`].
    rules: [Option<Rule>; METHODS.len()],
}

impl Route {
    fn new(
        pattern: Pattern,
        options: RouteOptions,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<Place>)>,
    ) -> Result<Self, RouteError> {
        let mut rules = [const { None }; METHODS.len()];
        for (method, requirement, place) in methods {
            match method_number(&method).map(|number| &mut rules[number]) {
                Some(rule @ None) => *rule = Some(Rule { requirement, place }),
                Some(Some(_)) => return Err(RouteError::DuplicateMethod(method)),
                None => return Err(RouteError::Method(method)),
            }
        }
        Ok(Self { pattern, options, rules })
    }

    /// Its pattern.
    pub const fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// What it says beside its methods.
    pub const fn options(&self) -> &RouteOptions {
        &self.options
    }

    /// Its pattern as written, such as `/api/v2/items/{id}`.
    pub fn template(&self) -> &str {
        self.pattern.template()
    }

    /// Its methods and their rules in the order of [`METHODS`], implied HEAD left out.
    pub fn rules(&self) -> impl Iterator<Item = (&'static Method, &Rule)> {
        static LISTED: [Method; METHODS.len()] = METHODS;
        LISTED.iter().zip(&self.rules).filter_map(|(method, rule)| Some((method, rule.as_ref()?)))
    }

    /// The rule for a method. HEAD follows GET unless it is named.
    pub fn rule(&self, method: &Method) -> Option<&Rule> {
        let rule = self.rules[method_number(method)?].as_ref();
        if *method == Method::HEAD { rule.or_else(|| self.rule(&Method::GET)) } else { rule }
    }
}

/// The ability map, compiled.
#[derive(Debug)]
pub struct AbilityMap {
    unmapped: Unmapped,
    /// Of what has none of its own.
    mode: Mode,
    /// What `unmapped: authenticated` asks for.
    authenticated: Requirement,
    /// In matching order.
    routes: Box<[Route]>,
    root: Node,
}

/// What the map says about a method and a path.
#[derive(Clone, Copy, Debug)]
pub enum Found<'map> {
    /// A route, and its rule for the method.
    Rule {
        /// The number of the route: its index among [`AbilityMap::templates`].
        route: usize,
        /// The rule.
        rule: &'map Rule,
    },
    /// The most specific route lacks the method.
    NoMethod {
        /// The number of the route.
        route: usize,
    },
    /// No route matches the path.
    NoRoute,
}

impl Found<'_> {
    /// The number of the route, where one matches.
    pub const fn route(&self) -> Option<usize> {
        match self {
            Self::Rule { route, .. } | Self::NoMethod { route } => Some(*route),
            Self::NoRoute => None,
        }
    }
}

/// The patterns that share their first segments.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The route whose pattern ends here.
    pub(super) route: Option<usize>,
    /// Sorted by their segment.
    literals: Vec<(Box<[u8]>, Node)>,
    pub(super) parameter: Option<Box<Node>>,
    /// The route whose pattern ends here with `{*rest}`.
    pub(super) rest: Option<usize>,
}

impl Node {
    fn insert(&mut self, segments: &[Segment], route: usize) {
        match segments {
            [] => self.route = Some(route),
            [Segment::Literal(literal), others @ ..] => {
                let index = match self.literals.binary_search_by(|(known, _)| known.cmp(literal)) {
                    Ok(index) => index,
                    Err(index) => {
                        self.literals.insert(index, (literal.clone(), Self::default()));
                        index
                    }
                };
                self.literals[index].1.insert(others, route);
            }
            [Segment::Parameter, others @ ..] => self.parameter.get_or_insert_default().insert(others, route),
            [Segment::Rest, ..] => self.rest = Some(route),
        }
    }

    /// The most specific route for the segments that remain, none for the end of the path. Visits each node
    /// at most once, since a node is reached by one way only.
    fn find(&self, remaining: Option<&[u8]>) -> Option<usize> {
        let Some(remaining) = remaining else { return self.route };
        let mut is_encoded = false;
        let end = remaining.iter().position(|&byte| {
            is_encoded |= byte == b'%';
            byte == b'/'
        });
        let (segment, others) = match end {
            Some(end) => (&remaining[..end], Some(&remaining[end + 1..])),
            None => (remaining, None),
        };
        self.literal(segment, is_encoded)
            .and_then(|node| node.find(others))
            .or_else(|| self.parameter.as_ref().and_then(|node| node.find(others)))
            .or(self.rest)
    }

    /// The literals that may come next, decoded.
    pub(super) fn named(&self) -> impl Iterator<Item = &[u8]> {
        self.literals.iter().map(|(literal, _)| &**literal)
    }

    pub(super) fn literal(&self, segment: &[u8], is_encoded: bool) -> Option<&Self> {
        let index = if is_encoded {
            self.literals.binary_search_by(|(literal, _)| literal.iter().copied().cmp(decoded(segment)))
        } else {
            self.literals.binary_search_by(|(literal, _)| (**literal).cmp(segment))
        };
        Some(&self.literals[index.ok()?].1)
    }
}

impl Default for AbilityMap {
    /// The map without a route, which denies everything.
    fn default() -> Self {
        MapBuilder::default().build()
    }
}

impl AbilityMap {
    /// What the map says of `method` on `path`. Allocates nothing.
    pub fn find<'map>(&'map self, method: &Method, path: &CanonicalPath<'_>) -> Found<'map> {
        let Some(below_root) = path.as_str().strip_prefix('/') else { return Found::NoRoute };
        let remaining = (!below_root.is_empty()).then_some(below_root.as_bytes());
        self.found(self.root.find(remaining), method)
    }

    /// Refuses a path with a segment that [names the front controller](CanonicalPath::names_front_controller), unless
    /// the route that matches it has that segment as a literal: `{id}`, `{*rest}` and `unmapped` do not stand for it.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`], for every method.
    pub fn check_path(&self, path: &CanonicalPath<'_>) -> Result<(), Refusal> {
        const FRONT_CONTROLLER: Refusal = Refusal::BadRequest("path names the backend's front controller");
        if !path.names_front_controller() {
            return Ok(());
        }
        let route = self.find(&Method::GET, path).route().and_then(|number| self.route(number));
        match route {
            Some(route) if route.pattern.names_front_controllers(path) => Ok(()),
            _ => Err(FRONT_CONTROLLER),
        }
    }

    /// What the map says of `method` on a path for which it finds the route with this number, or none.
    pub fn found(&self, route: Option<usize>, method: &Method) -> Found<'_> {
        match route {
            Some(route) => match self.routes[route].rule(method) {
                Some(rule) => Found::Rule { route, rule },
                None => Found::NoMethod { route },
            },
            None => Found::NoRoute,
        }
    }

    pub(super) const fn root(&self) -> &Node {
        &self.root
    }

    /// What must be satisfied by a request of which the map says `found`.
    ///
    /// # Errors
    /// [`Refusal::Unmapped`], [`Refusal::MethodNotMapped`] and [`Refusal::Denied`] if no token can satisfy the
    /// request: the gateway then does not introspect.
    pub fn requirement<'map>(&'map self, found: &Found<'map>) -> Result<&'map Requirement, Refusal> {
        match found {
            Found::Rule { rule, .. } => match rule.requirement.kind() {
                RequirementKind::Deny => Err(Refusal::Denied),
                _ => Ok(&rule.requirement),
            },
            Found::NoMethod { .. } => Err(Refusal::MethodNotMapped),
            Found::NoRoute => match self.unmapped {
                Unmapped::Deny => Err(Refusal::Unmapped),
                Unmapped::Authenticated => Ok(&self.authenticated),
            },
        }
    }

    /// What a route that was `found` says beside its methods; what a route without options does where there is none.
    pub fn options(&self, found: &Found<'_>) -> RouteOptions {
        found
            .route()
            .and_then(|number| self.route(number))
            .map_or_else(RouteOptions::default, |it| it.options)
    }

    /// Whether it is enforced what the map refuses of a request of which it says `found`.
    pub fn mode(&self, found: &Found<'_>) -> Mode {
        self.options(found).mode.unwrap_or(self.mode)
    }

    /// The mode of routes without one of their own, and of paths that no route matches.
    pub const fn default_mode(&self) -> Mode {
        self.mode
    }

    /// Whether there is anything that is not enforced.
    pub fn is_shadowed(&self) -> bool {
        self.mode == Mode::Shadow || self.routes.iter().any(|route| route.options.mode == Some(Mode::Shadow))
    }

    /// What becomes of a path that no route matches.
    pub const fn unmapped(&self) -> Unmapped {
        self.unmapped
    }

    /// The routes by their numbers, which is the order of matching.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Route> {
        self.routes.iter()
    }

    /// The route with this number.
    pub fn route(&self, number: usize) -> Option<&Route> {
        self.routes.get(number)
    }

    /// The routes' templates as written, such as `/api/v2/items/{id}`, by their numbers.
    pub fn templates(&self) -> impl ExactSizeIterator<Item = &str> {
        self.routes.iter().map(Route::template)
    }
}

/// Gathers the routes of an [`AbilityMap`].
#[derive(Debug, Default)]
pub struct MapBuilder {
    unmapped: Unmapped,
    mode: Mode,
    routes: BTreeMap<Pattern, Gathered>,
}

#[derive(Debug)]
struct Gathered {
    route: Route,
    /// Whether it came by [`MapBuilder::replace`].
    replaces: bool,
}

impl MapBuilder {
    /// A builder without routes.
    pub fn new(unmapped: Unmapped) -> Self {
        Self { unmapped, mode: Mode::default(), routes: BTreeMap::new() }
    }

    /// The mode of what has none of its own; without this it is [`Mode::Enforce`].
    pub fn in_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Adds a route of the file that others may replace.
    ///
    /// # Errors
    /// [`RouteError`] for a mistake in the pattern or the methods, or where a route that matches the same paths
    /// is there already; the builder is as it was then.
    pub fn route(
        &mut self,
        pattern: &str,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<Place>)>,
    ) -> Result<(), RouteError> {
        self.route_with(pattern, RouteOptions::default(), methods)
    }

    /// The same with options.
    ///
    /// # Errors
    /// As for [`route`](Self::route).
    pub fn route_with(
        &mut self,
        pattern: &str,
        options: RouteOptions,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<Place>)>,
    ) -> Result<(), RouteError> {
        self.add(pattern, options, methods, false).map(drop)
    }

    /// Adds a route that replaces the equal one of [`route`](Self::route) as a whole, and gives back what it
    /// replaced.
    ///
    /// # Errors
    /// As for [`route`](Self::route), but that only a route which itself came by `replace` is in the way.
    pub fn replace(
        &mut self,
        pattern: &str,
        options: RouteOptions,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<Place>)>,
    ) -> Result<Option<Route>, RouteError> {
        self.add(pattern, options, methods, true)
    }

    fn add(
        &mut self,
        pattern: &str,
        options: RouteOptions,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<Place>)>,
        replaces: bool,
    ) -> Result<Option<Route>, RouteError> {
        let pattern = Pattern::parse(pattern)?;
        let route = Route::new(pattern.clone(), options, methods)?;
        match self.routes.entry(pattern) {
            Entry::Vacant(entry) => {
                entry.insert(Gathered { route, replaces });
                Ok(None)
            }
            Entry::Occupied(mut entry) if replaces && !entry.get().replaces => {
                Ok(Some(entry.insert(Gathered { route, replaces }).route))
            }
            Entry::Occupied(entry) => {
                let earlier = &entry.get().route;
                Err(RouteError::Equal {
                    earlier: earlier.template().into(),
                    place: earlier.rules().find_map(|(_, rule)| rule.place.clone()),
                })
            }
        }
    }

    /// The map.
    pub fn build(self) -> AbilityMap {
        let Self { unmapped, mode, routes } = self;
        let routes: Box<[Route]> = routes.into_values().map(|gathered| gathered.route).collect();
        let mut root = Node::default();
        for (number, route) in routes.iter().enumerate() {
            root.insert(route.pattern.segments(), number);
        }
        AbilityMap { unmapped, mode, authenticated: Requirement::authenticated(), routes, root }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Written<'a> = &'a [(&'a str, &'a [(&'a str, &'a str)])];

    fn methods(written: &[(&str, &str)]) -> Vec<(Method, Requirement, Option<Place>)> {
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
            Found::Rule { route, rule } => format!("{} {}", template(route), rule.requirement),
            Found::NoMethod { route } => format!("{} -", template(route)),
            Found::NoRoute => "-".to_owned(),
        }
    }

    #[test]
    fn the_most_specific_route_wins_whatever_the_order() {
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
                // No falling through to `{id}`, which would delete the item 'search'.
                ("DELETE", "/api/items/search", "/api/items/search -"),
                ("DELETE", "/api/items/searchx", "/api/items/{id} delete"),
                ("HEAD", "/api/items/5/restore", "/api/items/{id}/restore deny"),
                // Back from the literal `search` to `{id}`, and from there to `{*rest}`.
                ("POST", "/api/items/search/restore", "/api/items/{id}/restore restore"),
                ("GET", "/api/items/search/1/deep", "/api/items/search/{x}/deep deep"),
                ("GET", "/api/items/search/1/flat", "/api/{*rest} api"),
                ("GET", "/api/other/5/restore", "/api/{kind}/5/restore kind"),
                ("GET", "/api/other/6/restore", "/api/{*rest} api"),
                // The backend decodes before it compares.
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
    fn a_rest_is_not_empty() {
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
    fn what_no_token_can_have_is_refused_before_introspection() {
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
    fn the_target_of_a_server_wide_options_has_no_route() {
        let map = map(Unmapped::Deny, &[("/{*rest}", &[("OPTIONS", "a")]), ("/", &[("OPTIONS", "a")])]);
        assert!(matches!(map.find(&Method::OPTIONS, &CanonicalPath::asterisk()), Found::NoRoute));
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
    fn equal_routes_are_a_mistake_within_one_file() {
        let place = Some(Place { file: "a.yaml".into(), line: 3, column: 5 });
        let rule = |place: &Option<Place>| [(Method::GET, Requirement::public(), place.clone())];
        let mut builder = MapBuilder::default();
        builder.route("/a/{id}", rule(&place)).unwrap();
        builder.route("/b", rule(&None)).unwrap();
        let earlier = RouteError::Equal { earlier: "/a/{id}".into(), place: place.clone() };
        assert_eq!(builder.route("/a/{item}", rule(&None)), Err(earlier));

        let none = RouteOptions::default();
        let replaced = builder.replace("/a/{item}", none, methods(&[("POST", "deny")])).unwrap().unwrap();
        assert_eq!(replaced.template(), "/a/{id}");
        assert!(builder.replace("/c", none, rule(&None)).unwrap().is_none());
        for (pattern, earlier) in [("/a/{other}", "/a/{item}"), ("/c", "/c")] {
            let error = builder.replace(pattern, none, rule(&None)).unwrap_err();
            assert_eq!(error, RouteError::Equal { earlier: earlier.into(), place: None });
        }
        let map = builder.build();
        assert_eq!(map.templates().collect::<Vec<_>>(), ["/a/{item}", "/b", "/c"]);
        assert_eq!(found(&map, "GET", "/a/1"), "/a/{item} -", "replaced as a whole");
    }

    #[test]
    fn methods_are_those_that_are_served_and_each_there_once() {
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

    /// The contract's rule, said naively: of the patterns that match, the least.
    fn naive<'a>(templates: &'a [String], path: &str) -> Option<&'a str> {
        let segments: Vec<&str> = path[1..].split('/').collect();
        let matches = |template: &str| {
            let pattern: Vec<&str> = template[1..].split('/').collect();
            let (pattern, enough) = match pattern.split_last() {
                Some((last, others)) if last.starts_with("{*") => (others, segments.len() > others.len()),
                _ => (&*pattern, segments.len() == pattern.len()),
            };
            enough
                && pattern.iter().zip(&segments).all(|(one, segment)| one.starts_with('{') || one == segment)
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
        // A parameter is called after its depth, as matchit wants it.
        let segment = prop_oneof![3 => Just("a"), 2 => Just("b"), 2 => Just("{}")];
        let template =
            (proptest::collection::vec(segment, 1..5), any::<bool>()).prop_map(|(segments, rest)| {
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
        fn the_map_agrees_with_a_naive_matcher_and_with_matchit(
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
                let answer = match map.find(&Method::GET, &CanonicalPath::new(path).unwrap()) {
                    Found::Rule { route, .. } => map.templates().nth(route),
                    Found::NoMethod { .. } | Found::NoRoute => None,
                };
                prop_assert_eq!(answer, expected, "{}", path);
                if accepted {
                    prop_assert_eq!(router.at(path).ok().map(|it| it.value.as_str()), expected, "matchit, {}", path);
                }
            }
        }
    }
}
