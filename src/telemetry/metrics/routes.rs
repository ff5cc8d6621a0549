//! The counters of routes, by number and by template.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::shard::RouteShard;

/// The route label of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteLabel {
    /// A route of the map, from [`RouteNumbers::label`].
    Route(RouteNumber),
    /// No route matches the path: `route="unmapped"`.
    Unmapped,
    /// The request was refused before routing: `route="none"`.
    None,
}

/// The number of a route, valid for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteNumber(pub(super) usize);

pub(super) const UNMAPPED: RouteNumber = RouteNumber(0);
pub(super) const NONE: RouteNumber = RouteNumber(1);

impl RouteLabel {
    pub(super) const fn number(self) -> RouteNumber {
        match self {
            Self::Route(number) => number,
            Self::Unmapped => UNMAPPED,
            Self::None => NONE,
        }
    }
}

/// The counters of the routes of one ability map. A map that is loaded later uses the same counters for the same
/// template.
#[derive(Clone, Debug, Default)]
pub struct RouteNumbers(pub(super) Arc<[RouteNumber]>);

impl RouteNumbers {
    /// The label of the route with this index among the map's templates.
    pub fn label(&self, route: usize) -> RouteLabel {
        self.0.get(route).map_or(RouteLabel::Unmapped, |number| RouteLabel::Route(*number))
    }
}

/// The routes' counters, by number and by template.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) by_template: HashMap<Box<str>, RouteNumber>,
    pub(super) rows: Vec<RouteRow>,
}

/// The counters of one route: a shard per worker.
pub(super) struct RouteRow {
    pub(super) template: Box<str>,
    pub(super) shards: Box<[Arc<RouteShard>]>,
    /// The requests that were described on the decision listener. The first of them on a worker creates its shard.
    pub(super) described: Box<[OnceLock<Arc<RouteShard>>]>,
}

impl Routes {
    pub(super) fn number(&mut self, template: &str, shards: usize) -> RouteNumber {
        if let Some(number) = self.by_template.get(template) {
            return *number;
        }
        let number = RouteNumber(self.rows.len());
        self.rows.push(RouteRow {
            template: template.into(),
            shards: (0..shards).map(|_| Arc::new(RouteShard::default())).collect(),
            described: (0..shards).map(|_| OnceLock::new()).collect(),
        });
        self.by_template.insert(template.into(), number);
        number
    }
}
