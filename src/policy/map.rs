//! The compiled ability map.

mod builder;
mod rules;
#[cfg(test)]
mod tests;
mod trie;

use core::time::Duration;
use std::sync::Arc;

use http::Method;

use super::ability::{Requirement, RequirementKind};
use super::deprecation::Deprecation;
use super::network::RouteNetworks;
use super::path::CanonicalPath;
use super::query::QueryRules;
use super::refusal::Refusal;
use super::shadow::Mode;

pub use builder::MapBuilder;
pub use rules::{Route, RouteOptions, Rule};
pub(super) use trie::Node;

/// The decision on paths that no route matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmapped {
    /// The request is refused.
    #[default]
    Deny,
    /// The request is forwarded with any active token.
    Authenticated,
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
    shortest_timeout: Option<Duration>,
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
    pub fn options(&self, found: &RouteMatch<'_>) -> &RouteOptions {
        self.options_of(found.route())
    }

    /// The options of the route with this number; the defaults without a route.
    pub fn options_of(&self, route: Option<usize>) -> &RouteOptions {
        static DEFAULTS: RouteOptions =
            RouteOptions { body: None, mode: None, query: None, timeout: None, from: None, deprecated: None };
        route.and_then(|number| self.route(number)).map_or(&DEFAULTS, Route::options)
    }

    /// The rules for the query of a request that a rule of a route matches; `None` if the decision does not read it.
    pub fn query_rules(&self, found: &RouteMatch<'_>) -> Option<&QueryRules> {
        match found {
            RouteMatch::Rule { route, .. } => self.route(*route)?.options.query.as_deref(),
            RouteMatch::NoMethod { .. } | RouteMatch::NoRoute => None,
        }
    }

    /// The networks that a request must come from if a rule of a route matches it; `None` if it may come from anywhere.
    pub fn networks(&self, found: &RouteMatch<'_>) -> Option<&RouteNetworks> {
        match found {
            RouteMatch::Rule { route, .. } => self.route(*route)?.options.from.as_deref(),
            RouteMatch::NoMethod { .. } | RouteMatch::NoRoute => None,
        }
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

    /// The shortest `timeout` of a route; `None` if no route has one.
    pub const fn shortest_timeout(&self) -> Option<Duration> {
        self.shortest_timeout
    }

    /// The requirements of all methods, then those of the parameters of all queries.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        let of_methods = self.routes.iter().flat_map(Route::rules).map(|(_, rule)| &rule.requirement);
        let queries = self.routes.iter().filter_map(|route| route.options.query.as_deref());
        of_methods.chain(queries.flat_map(QueryRules::requirements).map(|it| &it.requirement))
    }

    /// The templates of the routes that are deprecated.
    pub fn deprecations(&self) -> impl Iterator<Item = (&str, &Arc<Deprecation>)> {
        self.routes.iter().filter_map(|route| Some((route.template(), route.options.deprecated.as_ref()?)))
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
