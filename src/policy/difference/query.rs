//! The changes of rules for queries.

use std::collections::BTreeSet;

use super::callers::{Callers, callers};
use crate::policy::ability::{Requirement, RequirementKind};
use crate::policy::classes::PathClass;
use crate::policy::map::{AbilityMap, Route};
use crate::policy::query::QueryRules;

/// A name or value that no rule lists.
const OTHER: &str = "0-other-0";

/// A change of the requirement of a query parameter for some paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryChange {
    /// See [`Change::path`](super::Change::path).
    pub path: String,
    /// The parameter or its value: `debug`, `include=renters`, `include=(others)` or `(others)`.
    pub subject: String,
    /// The requirements, old and new; `allow` for a parameter that nothing is required for.
    pub requirements: (String, String),
    /// The callers that only the old rules allow.
    pub denied: Option<Callers>,
    /// The callers that only the new rules allow.
    pub allowed: Option<Callers>,
}

/// The changes of one class of paths.
pub(super) fn changes(old: &AbilityMap, new: &AbilityMap, class: &PathClass, path: &str) -> Vec<QueryChange> {
    let (Some(old), Some(new)) = (route(old, class.old), route(new, class.new)) else { return Vec::new() };
    let (before, after) = (old.options().query.as_deref(), new.options().query.as_deref());
    if class.refused != [false; 2] || before == after {
        return Vec::new();
    }
    let listed = [before, after].into_iter().flatten().flat_map(QueryRules::listed);
    let samples: BTreeSet<(&str, &str)> = listed.collect();
    // A value that is not listed, of each name; and a name that is not listed.
    let others: BTreeSet<(&str, &str)> = samples.iter().map(|(name, _)| (*name, OTHER)).collect();
    let samples =
        samples.into_iter().filter(|(_, value)| !value.is_empty()).chain(others).chain([(OTHER, "")]);
    let is_public = |route: &Route| {
        route.rules().all(|(_, rule)| matches!(rule.requirement.kind(), RequirementKind::Public))
    };
    let nothing =
        if is_public(old) && is_public(new) { Requirement::public() } else { Requirement::authenticated() };
    let has_values = |name: &str| [before, after].into_iter().flatten().any(|rules| rules.has_values(name));
    let change = |(name, value): (&str, &str)| {
        let sides = [before, after].map(|rules| rules.and_then(|rules| requirement(rules, name, value)));
        let [one, other] = sides.each_ref().map(|it| it.as_ref().unwrap_or(&nothing));
        let (denied, allowed) = (callers(Some(one), Some(other)), callers(Some(other), Some(one)));
        let subject = match (name, value) {
            (OTHER, _) => "(others)".to_owned(),
            (_, OTHER) if has_values(name) => format!("{name}=(others)"),
            (_, OTHER) => name.to_owned(),
            _ => format!("{name}={value}"),
        };
        let text = |it: &Option<Requirement>| it.as_ref().map_or("allow".to_owned(), Requirement::to_string);
        let requirements = (text(&sides[0]), text(&sides[1]));
        let change = QueryChange { path: path.to_owned(), subject, requirements, denied, allowed };
        (change.denied.is_some() || change.allowed.is_some()).then_some(change)
    };
    let changes: Vec<QueryChange> = samples.filter_map(change).collect();
    if !changes.is_empty() {
        return changes;
    }
    // With another separator, or none, several values are one that is not listed.
    let separated: BTreeSet<(&str, String)> =
        [before, after].into_iter().flatten().flat_map(QueryRules::separated).collect();
    separated.iter().filter_map(|(name, value)| change((name, value))).collect()
}

fn route(map: &AbilityMap, number: Option<usize>) -> Option<&Route> {
    map.route(number?)
}

/// The requirement of a parameter; `None` if it is allowed.
fn requirement(rules: &QueryRules, name: &str, value: &str) -> Option<Requirement> {
    // A name that is the other spelling of a listed one is rejected.
    let needs = rules.needs_of(name, value).unwrap_or_else(Requirement::deny);
    Some(needs).filter(|it| !matches!(it.kind(), RequirementKind::Public))
}
