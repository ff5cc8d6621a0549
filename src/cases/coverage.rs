//! Which rules no check has reached.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Outcome, PolicyTests};
use crate::policy::map::{Found, Route};
use crate::policy::source_location::SourceLocation;

/// The rules of each map that was tested, and which of them some check has reached.
#[derive(Debug, Default)]
pub struct Coverage {
    maps: Vec<(PathBuf, Vec<Covered>)>,
}

/// A rule, and whether a check has reached it.
#[derive(Debug)]
pub struct Covered {
    /// The route's template.
    pub template: String,
    /// The method.
    pub method: &'static str,
    /// What the rule asks for.
    pub requirement: String,
    /// Where it is written.
    pub place: Option<SourceLocation>,
    reached: bool,
}

impl Coverage {
    /// Adds what the checks of a file have reached. Files that test the same map add to each other.
    pub fn add(&mut self, tests: &PolicyTests, outcomes: &[Outcome<'_>]) {
        // Several files may name one map in several ways.
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
                Some(Found::Rule { route, rule }) => {
                    let route = tests.map.route(*route)?;
                    // HEAD may have reached GET's.
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

    /// The rules that no check has reached, map by map, in the order of their places.
    pub fn unreached(&self) -> Vec<&Covered> {
        let mut unreached = Vec::new();
        for (_, rules) in &self.maps {
            let mut of_map: Vec<&Covered> = rules.iter().filter(|rule| !rule.reached).collect();
            let position = |place: &SourceLocation| (Arc::clone(&place.file), place.line, place.column);
            of_map.sort_by_key(|rule| rule.place.as_ref().map(position));
            unreached.extend(of_map);
        }
        unreached
    }

    /// How many rules there are.
    pub fn rules(&self) -> usize {
        self.maps.iter().map(|(_, rules)| rules.len()).sum()
    }
}

fn rules(route: &Route) -> impl Iterator<Item = Covered> {
    route.rules().map(|(method, rule)| Covered {
        template: route.template().to_owned(),
        method: method.as_str(),
        requirement: rule.requirement.to_string(),
        place: rule.place.clone(),
        reached: false,
    })
}
