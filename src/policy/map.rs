//! The ability map: built once, immutable, and asked once per request.

use http::Method;

use super::ability::Requirement;
use super::path::CanonicalPath;

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

/// The ability map, compiled.
#[derive(Debug, Default)]
pub struct AbilityMap {}

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

impl AbilityMap {
    /// What the map says of `method` on `path`. Allocates nothing.
    pub fn find<'map>(&'map self, method: &Method, path: &CanonicalPath<'_>) -> Found<'map> {
        let _ = (method, path);
        Found::NoRoute
    }

    /// What becomes of a path that no route matches.
    pub const fn unmapped(&self) -> Unmapped {
        Unmapped::Deny
    }

    /// The routes' templates as written, such as `/api/v2/items/{id}`, by their numbers.
    pub fn templates(&self) -> impl ExactSizeIterator<Item = &str> {
        std::iter::empty()
    }
}
