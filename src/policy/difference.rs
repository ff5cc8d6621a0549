//! Compares two ability maps: the requests that a change newly allows or denies.

mod callers;
mod query;

use core::time::Duration;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use http::Method;

use super::ability::Requirement;
use super::classes::{PathClass, TooMany, classes};
use super::deprecation::Deprecation;
use super::map::{AbilityMap, RouteMatch, RouteOptions, Rule, Unmapped};
use super::network::Networks;
use super::shadow::Mode;
use super::target::METHODS;

use self::callers::callers;

pub use self::callers::Callers;
pub use self::query::QueryChange;

/// The differences between two maps.
#[derive(Debug)]
pub struct Difference<'map> {
    /// The changed decisions, sorted by path.
    pub changes: Vec<Change<'map>>,
    /// The changed route options, sorted by path.
    pub options: Vec<OptionsChange>,
    /// The changed requirements of query parameters, sorted by path.
    pub queries: Vec<QueryChange>,
    /// The classes of paths of both maps; empty if the maps are equal.
    pub classes: Vec<PathClass>,
}

/// A change of the decisions on some methods and paths.
#[derive(Debug)]
pub struct Change<'map> {
    /// The methods with this change. Methods whose rules are on the same line and have equal requirements share a change.
    pub methods: Vec<&'static Method>,
    /// The paths as a pattern, such as `/api/v2/items/{id}`; `(unmapped)` without a route.
    pub path: String,
    /// One of the paths.
    pub sample: String,
    /// The old map's rule.
    pub old: ComparedMap<'map>,
    /// The new map's rule.
    pub new: ComparedMap<'map>,
    /// The callers that only the old map allows.
    pub denied: Option<Callers>,
    /// The callers that only the new map allows.
    pub allowed: Option<Callers>,
}

/// The lookup of a request in one of the maps.
#[derive(Debug)]
pub struct ComparedMap<'map> {
    map: &'map AbilityMap,
    found: RouteMatch<'map>,
    /// Whether the map [refuses](AbilityMap::check_path) the path, so that `found` has no effect.
    refused: bool,
}

/// A change of the route options for some paths. Each pair is the old value and the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionsChange {
    /// See [`Change::path`].
    pub path: String,
    /// `body`, in bytes; `None` for `limits.body`.
    pub body: (Option<u64>, Option<u64>),
    /// `mode`
    pub mode: (Mode, Mode),
    /// `timeout`; `None` for `backend.timeout`.
    pub timeout: (Option<Duration>, Option<Duration>),
    /// `from`; `None` if requests may come from anywhere.
    pub from: (Option<Networks>, Option<Networks>),
    /// `deprecated`
    pub deprecated: (Option<Arc<Deprecation>>, Option<Arc<Deprecation>>),
}

/// Compares two maps over all paths, methods and abilities.
///
/// # Errors
/// [`TooMany`] if the maps differ and have too many classes of paths.
pub fn difference<'map>(old: &'map AbilityMap, new: &'map AbilityMap) -> Result<Difference<'map>, TooMany> {
    let mut difference =
        Difference { changes: Vec::new(), options: Vec::new(), queries: Vec::new(), classes: Vec::new() };
    if are_equal(old, new) {
        return Ok(difference);
    }
    difference.classes = classes(old, new)?;
    for class in &difference.classes {
        let path = common_path(old, new, class);
        difference.changes.extend(changes(old, new, class, &path));
        difference.queries.extend(query::changes(old, new, class, &path));
        difference.options.extend(options_change(old, new, class, path));
    }
    difference.changes.sort_by(|one, other| one.path.cmp(&other.path));
    difference.options.sort_by(|one, other| one.path.cmp(&other.path));
    difference.queries.sort_by(|one, other| one.path.cmp(&other.path));
    difference.queries.dedup();
    Ok(difference)
}

fn options_change(
    old: &AbilityMap,
    new: &AbilityMap,
    class: &PathClass,
    path: String,
) -> Option<OptionsChange> {
    if class.refused != [false; 2] {
        return None;
    }
    // The options do not depend on the method.
    let sides = [(old, class.old), (new, class.new)].map(|(map, route)| {
        let found = map.found(route, &Method::GET);
        let RouteOptions { body, timeout, from, deprecated, .. } = map.options(&found);
        ((*body, *timeout, from.as_ref().map(|from| &from.networks), deprecated), map.mode(&found))
    });
    let [(options, mode), (options_now, mode_now)] = sides;
    let everywhere = (old.mode(&RouteMatch::NoRoute), new.mode(&RouteMatch::NoRoute));
    let is_everywhere = (mode, mode_now) == everywhere;
    // A change of the default mode is reported once, for the paths without a route.
    let path = match (class.old, class.new) {
        (None, None) => "(without a mode of its own)".to_owned(),
        (_, _) if options == options_now && is_everywhere => return None,
        _ => path,
    };
    let (body, timeout, from, deprecated) = options;
    let (body_now, timeout_now, from_now, deprecated_now) = options_now;
    let change = OptionsChange {
        path,
        body: (body, body_now),
        mode: (mode, mode_now),
        timeout: (timeout, timeout_now),
        from: (from.cloned(), from_now.cloned()),
        deprecated: (deprecated.clone(), deprecated_now.clone()),
    };
    (sides[0] != sides[1]).then_some(change)
}

impl Difference<'_> {
    /// Whether no decision and no option changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.options.is_empty() && self.queries.is_empty()
    }
}

/// Whether routes, requirements and options are equal. Source locations do not count.
fn are_equal(old: &AbilityMap, new: &AbilityMap) -> bool {
    old.unmapped() == new.unmapped()
        && old.mode(&RouteMatch::NoRoute) == new.mode(&RouteMatch::NoRoute)
        && old.routes().len() == new.routes().len()
        && old.routes().zip(new.routes()).all(|(old, new)| {
            old.pattern() == new.pattern()
                && old.options() == new.options()
                && old
                    .rules()
                    .map(|(method, rule)| (method, &rule.requirement))
                    .eq(new.rules().map(|(method, rule)| (method, &rule.requirement)))
        })
}

fn common_path(old: &AbilityMap, new: &AbilityMap, class: &PathClass) -> String {
    let old = class.old.and_then(|route| old.route(route));
    let new = class.new.and_then(|route| new.route(route));
    match (old, new) {
        (Some(old), Some(new)) => new.pattern().meet(old.pattern()),
        (Some(one), None) | (None, Some(one)) => one.template().to_owned(),
        (None, None) => "(unmapped)".to_owned(),
    }
}

/// The changes of one class of paths.
fn changes<'map>(
    old: &'map AbilityMap,
    new: &'map AbilityMap,
    class: &PathClass,
    path: &str,
) -> Vec<Change<'map>> {
    static SERVED: [Method; METHODS.len()] = METHODS;
    let mut changes: Vec<Change<'map>> = Vec::new();
    for method in &SERVED {
        if class.sample == "*" && *method != Method::OPTIONS {
            continue;
        }
        let old = ComparedMap { map: old, found: old.found(class.old, method), refused: class.refused[0] };
        let new = ComparedMap { map: new, found: new.found(class.new, method), refused: class.refused[1] };
        let denied = callers(old.requirement(), new.requirement());
        let allowed = callers(new.requirement(), old.requirement());
        if denied.is_none() && allowed.is_none() {
            continue;
        }
        match changes.iter_mut().find(|it| it.old.has_same_rule(&old) && it.new.has_same_rule(&new)) {
            Some(change) => change.methods.push(method),
            None => changes.push(Change {
                methods: vec![method],
                path: path.to_owned(),
                sample: class.sample.clone(),
                old,
                new,
                denied,
                allowed,
            }),
        }
    }
    changes
}

impl<'map> ComparedMap<'map> {
    /// The rule; `None` if the map has none or refuses the path.
    pub const fn rule(&self) -> Option<&'map Rule> {
        match self.found {
            RouteMatch::Rule { rule, .. } if !self.refused => Some(rule),
            RouteMatch::Rule { .. } | RouteMatch::NoMethod { .. } | RouteMatch::NoRoute => None,
        }
    }

    /// The template of the route; `None` if no route matches.
    pub fn template(&self) -> Option<&'map str> {
        match self.found {
            RouteMatch::Rule { route, .. } | RouteMatch::NoMethod { route } => {
                self.map.templates().nth(route)
            }
            RouteMatch::NoRoute => None,
        }
    }

    /// The requirement; `None` if no caller is allowed.
    pub fn requirement(&self) -> Option<&'map Requirement> {
        if self.refused { None } else { self.map.requirement(&self.found).ok() }
    }

    /// Whether this and `other`, for the same paths, are reported as one: equal requirements in the same line.
    fn has_same_rule(&self, other: &Self) -> bool {
        let line = |rule: &Rule| rule.place.as_ref().map(|place| (place.file.clone(), place.line));
        match (self.rule(), other.rule()) {
            (Some(one), Some(other)) => one.requirement == other.requirement && line(one) == line(other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Display for ComparedMap<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match &self.found {
            _ if self.refused => formatter.write_str("400: `index.php` is not named by the route"),
            RouteMatch::Rule { rule, .. } => {
                write!(formatter, "{}", rule.requirement)?;
                match &rule.place {
                    Some(place) => write!(formatter, " ({}:{})", place.file, place.line),
                    None => Ok(()),
                }
            }
            RouteMatch::NoMethod { .. } => {
                write!(formatter, "no such method on {}", self.template().unwrap_or_default())
            }
            RouteMatch::NoRoute => match self.map.unmapped() {
                Unmapped::Deny => write!(formatter, "unmapped: deny"),
                Unmapped::Authenticated => write!(formatter, "unmapped: authenticated"),
            },
        }
    }
}

#[cfg(test)]
mod tests;
