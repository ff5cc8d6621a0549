//! The rules of a map that checks reach.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::{CheckResult, PolicyTests};
use crate::policy::map::{Route, RouteMatch};
use crate::policy::source_location::SourceLocation;

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
    /// The method.
    pub method: &'static str,
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
        let reached: HashSet<(&str, &str)> = outcomes
            .iter()
            .filter_map(|outcome| match &outcome.found {
                Some(RouteMatch::Rule { route, rule }) => {
                    let route = tests.map.route(*route)?;
                    // HEAD may reach the rule of GET.
                    let (method, _) = route.rules().find(|(_, it)| std::ptr::eq(*it, *rule))?;
                    Some((route.template(), method.as_str()))
                }
                _ => None,
            })
            .collect();
        for rule in rules {
            rule.reached |= reached.contains(&(&*rule.template, rule.method));
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

fn rules(route: &Route) -> impl Iterator<Item = RuleCoverage> {
    route.rules().map(|(method, rule)| RuleCoverage {
        template: route.template().to_owned(),
        method: method.as_str(),
        requirement: rule.requirement.to_string(),
        place: rule.place.clone(),
        reached: false,
    })
}
