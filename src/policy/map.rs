//! The compiled ability map.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use http::Method;

use super::ability::{Requirement, RequirementKind};
use super::path::{CanonicalPath, decoded};
use super::refusal::Refusal;
use super::route::{Pattern, RouteError, Segment};
use super::shadow::Mode;
use super::source_location::SourceLocation;
use super::target::{METHODS, method_number};

/// The decision on paths that no route matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmapped {
    /// The request is refused.
    #[default]
    Deny,
    /// The request is forwarded with any active token.
    Authenticated,
}

/// The rule for one method of a route.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The requirement.
    pub requirement: Requirement,
    /// Its location in a file.
    pub place: Option<SourceLocation>,
}

/// The options of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteOptions {
    /// `body`: the largest request body in bytes; `None` for `limits.body`.
    pub body: Option<u64>,
    /// `mode`: whether refusals are enforced; `None` for the global `mode`.
    pub mode: Option<Mode>,
}

/// A pattern with options and a rule for each of its methods.
#[derive(Clone, Debug)]
pub struct Route {
    pattern: Pattern,
    options: RouteOptions,
    /// Indexed by [`method_number`].
    rules: [Option<Rule>; METHODS.len()],
}

impl Route {
    fn new(
        pattern: Pattern,
        options: RouteOptions,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<SourceLocation>)>,
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

    /// The pattern.
    pub const fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The options.
    pub const fn options(&self) -> &RouteOptions {
        &self.options
    }

    /// The pattern as written, such as `/api/v2/items/{id}`.
    pub fn template(&self) -> &str {
        self.pattern.template()
    }

    /// The methods and their rules in the order of [`METHODS`], without implied HEAD.
    pub fn rules(&self) -> impl Iterator<Item = (&'static Method, &Rule)> {
        static LISTED: [Method; METHODS.len()] = METHODS;
        LISTED.iter().zip(&self.rules).filter_map(|(method, rule)| Some((method, rule.as_ref()?)))
    }

    /// The rule for a method. HEAD uses the rule for GET unless it has its own.
    pub fn rule(&self, method: &Method) -> Option<&Rule> {
        let rule = self.rules[method_number(method)?].as_ref();
        if *method == Method::HEAD { rule.or_else(|| self.rule(&Method::GET)) } else { rule }
    }
}

/// The ability map, compiled.
#[derive(Debug)]
pub struct AbilityMap {
    unmapped: Unmapped,
    /// The mode of routes without one, and of unmapped paths.
    mode: Mode,
    /// The requirement of `unmapped: authenticated`.
    authenticated: Requirement,
    /// In matching order.
    routes: Box<[Route]>,
    root: Node,
}

/// The result of looking up a method and a path.
#[derive(Clone, Copy, Debug)]
pub enum RouteMatch<'map> {
    /// A route has a rule for the method.
    Rule {
        /// The number of the route: its index in [`AbilityMap::routes`].
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

impl RouteMatch<'_> {
    /// The number of the route; `None` if no route matches.
    pub const fn route(&self) -> Option<usize> {
        match self {
            Self::Rule { route, .. } | Self::NoMethod { route } => Some(*route),
            Self::NoRoute => None,
        }
    }
}

/// A node of the trie of patterns: the patterns with the same first segments.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The route whose pattern ends here.
    pub(super) route: Option<usize>,
    /// The decoded literals that may follow, sorted.
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

    /// The most specific route for the remaining segments, `None` at the end of the path. Visits each node at most once,
    /// since the trie has one path to it.
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

    /// The decoded literals that may follow.
    pub(super) fn literals(&self) -> impl Iterator<Item = &[u8]> {
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
    /// The map without routes, which denies every request.
    fn default() -> Self {
        MapBuilder::default().build()
    }
}

impl AbilityMap {
    /// Looks up `method` and `path`. Allocates nothing.
    pub fn find<'map>(&'map self, method: &Method, path: &CanonicalPath<'_>) -> RouteMatch<'map> {
        let Some(below_root) = path.as_str().strip_prefix('/') else { return RouteMatch::NoRoute };
        let remaining = (!below_root.is_empty()).then_some(below_root.as_bytes());
        self.found(self.root.find(remaining), method)
    }

    /// Refuses a path with a segment that [names the front controller](CanonicalPath::names_front_controller), unless
    /// the matching route has that segment as a literal. `{id}`, `{*rest}` and `unmapped` do not match such a segment.
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

    /// The result for `method` on a path that matches the route with this number, or no route.
    pub fn found(&self, route: Option<usize>, method: &Method) -> RouteMatch<'_> {
        match route {
            Some(route) => match self.routes[route].rule(method) {
                Some(rule) => RouteMatch::Rule { route, rule },
                None => RouteMatch::NoMethod { route },
            },
            None => RouteMatch::NoRoute,
        }
    }

    pub(super) const fn root(&self) -> &Node {
        &self.root
    }

    /// The requirement of a request for which [`find`](Self::find) returned `found`.
    ///
    /// # Errors
    /// [`Refusal::Unmapped`], [`Refusal::MethodNotMapped`] and [`Refusal::Denied`] if no token can satisfy the
    /// request: the gateway then does not introspect.
    pub fn requirement<'map>(&'map self, found: &RouteMatch<'map>) -> Result<&'map Requirement, Refusal> {
        match found {
            RouteMatch::Rule { rule, .. } => match rule.requirement.kind() {
                RequirementKind::Deny => Err(Refusal::Denied),
                _ => Ok(&rule.requirement),
            },
            RouteMatch::NoMethod { .. } => Err(Refusal::MethodNotMapped),
            RouteMatch::NoRoute => match self.unmapped {
                Unmapped::Deny => Err(Refusal::Unmapped),
                Unmapped::Authenticated => Ok(&self.authenticated),
            },
        }
    }

    /// The options of the found route; the defaults without a route.
    pub fn options(&self, found: &RouteMatch<'_>) -> RouteOptions {
        found
            .route()
            .and_then(|number| self.route(number))
            .map_or_else(RouteOptions::default, |it| it.options)
    }

    /// Whether refusals of a request for which [`find`](Self::find) returned `found` are enforced.
    pub fn mode(&self, found: &RouteMatch<'_>) -> Mode {
        self.options(found).mode.unwrap_or(self.mode)
    }

    /// The mode of routes without one of their own, and of unmapped paths.
    pub const fn default_mode(&self) -> Mode {
        self.mode
    }

    /// Whether any route or the default is in shadow mode.
    pub fn is_shadowed(&self) -> bool {
        self.mode == Mode::Shadow || self.routes.iter().any(|route| route.options.mode == Some(Mode::Shadow))
    }

    /// The decision on paths that no route matches.
    pub const fn unmapped(&self) -> Unmapped {
        self.unmapped
    }

    /// The routes in matching order, indexed by their numbers.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Route> {
        self.routes.iter()
    }

    /// The route with this number.
    pub fn route(&self, number: usize) -> Option<&Route> {
        self.routes.get(number)
    }

    /// The templates of the routes, such as `/api/v2/items/{id}`, indexed by their numbers.
    pub fn templates(&self) -> impl ExactSizeIterator<Item = &str> {
        self.routes.iter().map(Route::template)
    }
}

/// Builds an [`AbilityMap`].
#[derive(Debug, Default)]
pub struct MapBuilder {
    unmapped: Unmapped,
    mode: Mode,
    routes: BTreeMap<Pattern, AddedRoute>,
}

#[derive(Debug)]
struct AddedRoute {
    route: Route,
    /// Whether [`MapBuilder::replace`] added it.
    replaces: bool,
}

impl MapBuilder {
    /// A builder without routes.
    pub fn new(unmapped: Unmapped) -> Self {
        Self { unmapped, mode: Mode::default(), routes: BTreeMap::new() }
    }

    /// Sets the default mode, initially [`Mode::Enforce`].
    pub fn in_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Adds a route that [`replace`](Self::replace) may replace.
    ///
    /// # Errors
    /// [`RouteError`] for an invalid pattern or method, or if a route for the same paths exists. The builder is unchanged
    /// then.
    pub fn route(
        &mut self,
        pattern: &str,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<SourceLocation>)>,
    ) -> Result<(), RouteError> {
        self.route_with(pattern, RouteOptions::default(), methods)
    }

    /// Adds a route with options that [`replace`](Self::replace) may replace.
    ///
    /// # Errors
    /// See [`route`](Self::route).
    pub fn route_with(
        &mut self,
        pattern: &str,
        options: RouteOptions,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<SourceLocation>)>,
    ) -> Result<(), RouteError> {
        self.add(pattern, options, methods, false).map(drop)
    }

    /// Adds a route that replaces the equal one of [`route`](Self::route) as a whole. Returns the replaced route.
    ///
    /// # Errors
    /// See [`route`](Self::route). Of equal routes only one that `replace` added is an error.
    pub fn replace(
        &mut self,
        pattern: &str,
        options: RouteOptions,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<SourceLocation>)>,
    ) -> Result<Option<Route>, RouteError> {
        self.add(pattern, options, methods, true)
    }

    fn add(
        &mut self,
        pattern: &str,
        options: RouteOptions,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<SourceLocation>)>,
        replaces: bool,
    ) -> Result<Option<Route>, RouteError> {
        let pattern = Pattern::parse(pattern)?;
        let route = Route::new(pattern.clone(), options, methods)?;
        match self.routes.entry(pattern) {
            Entry::Vacant(entry) => {
                entry.insert(AddedRoute { route, replaces });
                Ok(None)
            }
            Entry::Occupied(mut entry) if replaces && !entry.get().replaces => {
                Ok(Some(entry.insert(AddedRoute { route, replaces }).route))
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

    /// Compiles the map.
    pub fn build(self) -> AbilityMap {
        let Self { unmapped, mode, routes } = self;
        let routes: Box<[Route]> = routes.into_values().map(|added| added.route).collect();
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
        // Parameters are named by depth: matchit requires equal names for equal positions.
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
}
