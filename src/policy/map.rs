//! The ability map: built once, immutable, and asked once per request.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use http::Method;

use super::ability::{Abilities, Permit, Requirement, RequirementKind};
use super::path::{CanonicalPath, decoded};
use super::refusal::Refusal;
use super::route::{Pattern, RouteError, Segment};
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

/// One method of one route.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it asks for.
    pub requirement: Requirement,
    /// Where it is written.
    pub place: Option<Place>,
}

/// A route: a pattern and a rule for each of its methods.
#[derive(Clone, Debug)]
pub struct Route {
    pattern: Pattern,
    /// By the method's place in [`METHODS`].
    rules: [Option<Rule>; METHODS.len()],
}

impl Route {
    fn new(
        pattern: Pattern,
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
        Ok(Self { pattern, rules })
    }

    /// Its pattern.
    pub const fn pattern(&self) -> &Pattern {
        &self.pattern
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
    /// What `unmapped: authenticated` asks for.
    authenticated: Requirement,
    /// In matching order.
    routes: Box<[Route]>,
    root: Node,
}

/// What the map says of a request.
#[derive(Debug)]
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

/// The patterns that share their first segments.
#[derive(Debug, Default)]
struct Node {
    /// The route whose pattern ends here.
    route: Option<usize>,
    /// Sorted by their segment.
    literals: Vec<(Box<[u8]>, Node)>,
    parameter: Option<Box<Node>>,
    /// The route whose pattern ends here with `{*rest}`.
    rest: Option<usize>,
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

    fn literal(&self, segment: &[u8], is_encoded: bool) -> Option<&Self> {
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
        match self.root.find(remaining) {
            Some(route) => match self.routes[route].rule(method) {
                Some(rule) => Found::Rule { route, rule },
                None => Found::NoMethod { route },
            },
            None => Found::NoRoute,
        }
    }

    /// What must be satisfied by a request of which the map says `found`.
    ///
    /// # Errors
    /// [`Refusal::Unmapped`] and [`Refusal::Denied`] for what no token can have: there is nothing to
    /// introspect then.
    pub fn requirement<'map>(&'map self, found: &Found<'map>) -> Result<&'map Requirement, Refusal> {
        match found {
            Found::Rule { rule, .. } => match rule.requirement.kind() {
                RequirementKind::Deny => Err(Refusal::Denied),
                _ => Ok(&rule.requirement),
            },
            Found::NoMethod { .. } => Err(Refusal::Unmapped),
            Found::NoRoute => match self.unmapped {
                Unmapped::Deny => Err(Refusal::Unmapped),
                Unmapped::Authenticated => Ok(&self.authenticated),
            },
        }
    }

    /// The permit for a path that no route matches, with an active token.
    ///
    /// # Errors
    /// [`Refusal::Unmapped`] under `unmapped: deny`.
    pub fn permit_unmapped(&self, abilities: &Abilities) -> Result<Permit, Refusal> {
        self.requirement(&Found::NoRoute)?.permit(abilities)
    }

    /// What becomes of a path that no route matches.
    pub const fn unmapped(&self) -> Unmapped {
        self.unmapped
    }

    /// The routes by their numbers, which is the order of matching.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Route> {
        self.routes.iter()
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
        Self { unmapped, routes: BTreeMap::new() }
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
        self.add(pattern, methods, false).map(drop)
    }

    /// Adds a route that replaces the equal one of [`route`](Self::route) as a whole, and gives back what it
    /// replaced.
    ///
    /// # Errors
    /// As for [`route`](Self::route), but that only a route which itself came by `replace` is in the way.
    pub fn replace(
        &mut self,
        pattern: &str,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<Place>)>,
    ) -> Result<Option<Route>, RouteError> {
        self.add(pattern, methods, true)
    }

    fn add(
        &mut self,
        pattern: &str,
        methods: impl IntoIterator<Item = (Method, Requirement, Option<Place>)>,
        replaces: bool,
    ) -> Result<Option<Route>, RouteError> {
        let pattern = Pattern::parse(pattern)?;
        let route = Route::new(pattern.clone(), methods)?;
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
        let routes: Box<[Route]> = self.routes.into_values().map(|gathered| gathered.route).collect();
        let mut root = Node::default();
        for (number, route) in routes.iter().enumerate() {
            root.insert(route.pattern.segments(), number);
        }
        AbilityMap { unmapped: self.unmapped, authenticated: Requirement::authenticated(), routes, root }
    }
}
