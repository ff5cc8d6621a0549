//! Collects routes and compiles them to a map.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use http::Method;

use super::rules::{Route, RouteOptions};
use super::trie::Node;
use super::{AbilityMap, Unmapped};
use crate::policy::ability::Requirement;
use crate::policy::route::{Pattern, RouteError};
use crate::policy::shadow::Mode;
use crate::policy::source_location::SourceLocation;

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
        let shortest_timeout = routes.iter().filter_map(|route| route.options().timeout).min();
        let authenticated = Requirement::authenticated();
        AbilityMap { unmapped, mode, authenticated, routes, root, shortest_timeout }
    }
}
