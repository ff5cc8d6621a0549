//! A route of the map, with its options and its rules.

// Unlike `std::time`, `core::time` has no clock.
use core::time::Duration;
use std::sync::Arc;

use http::Method;

use crate::policy::ability::Requirement;
use crate::policy::deprecation::Deprecation;
use crate::policy::network::RouteNetworks;
use crate::policy::query::QueryRules;
use crate::policy::route::{Pattern, RouteError};
use crate::policy::shadow::Mode;
use crate::policy::source_location::SourceLocation;
use crate::policy::target::{METHODS, method_number};

/// The rule for one method of a route.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The requirement.
    pub requirement: Requirement,
    /// Its location in a file.
    pub place: Option<SourceLocation>,
}

/// The options of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteOptions {
    /// `body`: the largest request body in bytes; `None` for `limits.body`.
    pub body: Option<u64>,
    /// `mode`: whether refusals are enforced; `None` for the global `mode`.
    pub mode: Option<Mode>,
    /// `query`: the rules for the parameters of the query; `None` if the decision does not read it.
    pub query: Option<Arc<QueryRules>>,
    /// `timeout`: the longest time from the end of the request body to the first byte of the response; `None` for
    /// `backend.timeout`.
    pub timeout: Option<Duration>,
    /// `from`: the networks that requests must come from; `None` if they may come from anywhere.
    pub from: Option<Arc<RouteNetworks>>,
    /// `deprecated`: the announced end of the route; `None` if it has none.
    pub deprecated: Option<Arc<Deprecation>>,
}

/// A pattern with options and a rule for each of its methods.
#[derive(Clone, Debug)]
pub struct Route {
    pub(super) pattern: Pattern,
    pub(super) options: RouteOptions,
    /// Indexed by [`method_number`].
    rules: [Option<Rule>; METHODS.len()],
}

impl Route {
    pub(super) fn new(
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
