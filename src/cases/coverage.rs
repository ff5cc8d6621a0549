//! The rules of a map that checks reach.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::{CheckResult, PolicyTests};
use crate::policy::decision::split_query;
use crate::policy::map::{Route, RouteMatch};
use crate::policy::source_location::SourceLocation;

/// The method of rules for queries, which belong to all methods of their route.
const ANY_METHOD: &str = "*";

/// The rules of each tested map, and whether a check reaches them.
#[derive(Debug, Default)]
pub struct Coverage {
    maps: Vec<(PathBuf, Vec<RuleCoverage>)>,
}

/// A rule, and whether a check reaches it.
#[derive(Debug)]
pub struct RuleCoverage {
    /// The route's template.
    pub template: String,
    /// The method, or `*` for the requirement of a query parameter.
    pub method: &'static str,
    /// The number of the requirement among those of the route's query, and the parameter with its value; `None` for the
    /// requirement of a method.
    pub parameter: Option<(usize, String)>,
    /// The requirement of the rule.
    pub requirement: String,
    /// Its place.
    pub place: Option<SourceLocation>,
    reached: bool,
}

impl Coverage {
    /// Adds the outcomes of a file. Files that test the same map share its coverage.
    pub fn add(&mut self, tests: &PolicyTests, outcomes: &[CheckResult<'_>]) {
        // Files may name the same map by different paths.
        let file = tests.map_file.canonicalize().unwrap_or_else(|_| tests.map_file.clone());
        let rules = match self.maps.iter().position(|(known, _)| *known == file) {
            Some(index) => &mut self.maps[index].1,
            None => {
                self.maps.push((file, tests.map.routes().flat_map(rules).collect()));
                let last = self.maps.len() - 1;
                &mut self.maps[last].1
            }
        };
        let mut reached: HashSet<(&str, &str, Option<usize>)> = HashSet::new();
        for outcome in outcomes {
            let Some(found @ RouteMatch::Rule { route, rule }) = &outcome.found else { continue };
            let Some(route) = tests.map.route(*route) else { continue };
            // HEAD may reach the rule of GET.
            if let Some((method, _)) = route.rules().find(|(_, it)| std::ptr::eq(*it, *rule)) {
                reached.insert((route.template(), method.as_str(), None));
            }
            let (_, query) = split_query(&outcome.check.target);
            if let (Some(rules), Some(query)) = (tests.map.query_rules(found), query) {
                // What an ambiguous query has before its error does not count.
                let mut numbers = Vec::new();
                let read = rules.visit(query, |number, _| {
                    numbers.push(number);
                    Ok(())
                });
                if read.is_ok() {
                    let of_query = numbers.into_iter().map(|it| (route.template(), ANY_METHOD, Some(it)));
                    reached.extend(of_query);
                }
            }
        }
        for rule in rules {
            let number = rule.parameter.as_ref().map(|(number, _)| *number);
            rule.reached |= reached.contains(&(&*rule.template, rule.method, number));
        }
    }

    /// The rules that no check reaches, by map, in the order of their places.
    pub fn unreached(&self) -> Vec<&RuleCoverage> {
        let mut unreached = Vec::new();
        for (_, rules) in &self.maps {
            let mut of_map: Vec<&RuleCoverage> = rules.iter().filter(|rule| !rule.reached).collect();
            let position = |place: &SourceLocation| (Arc::clone(&place.file), place.line, place.column);
            of_map.sort_by_key(|rule| rule.place.as_ref().map(position));
            unreached.extend(of_map);
        }
        unreached
    }

    /// The number of rules.
    pub fn rules(&self) -> usize {
        self.maps.iter().map(|(_, rules)| rules.len()).sum()
    }
}

/// The rules of the methods of a route, then those of the parameters of its query.
fn rules(route: &Route) -> impl Iterator<Item = RuleCoverage> {
    let methods = route.rules().map(|(method, rule)| RuleCoverage {
        template: route.template().to_owned(),
        method: method.as_str(),
        parameter: None,
        requirement: rule.requirement.to_string(),
        place: rule.place.clone(),
        reached: false,
    });
    let parameters = route.options().query.iter().flat_map(|rules| rules.requirements().enumerate());
    methods.chain(parameters.map(|(number, it)| RuleCoverage {
        template: route.template().to_owned(),
        method: ANY_METHOD,
        parameter: Some((number, it.subject.to_string())),
        requirement: it.requirement.to_string(),
        place: it.place.clone(),
        reached: false,
    }))
}
