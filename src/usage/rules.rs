//! The rules that requests are counted under: route, method and requirement.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;

use crate::policy::ability::{Requirement, RequirementKind};
use crate::policy::map::{AbilityMap, Unmapped};
use crate::policy::target::{METHODS, method_number};

/// The route of requests that match no route.
pub const UNMAPPED: &str = "unmapped";

/// A rule, independent of the map that contains it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The route template, or [`UNMAPPED`].
    pub route: Arc<str>,
    /// The method.
    pub method: Box<str>,
    /// The requirement, as written in YAML.
    pub requirement: Box<str>,
    /// The abilities in the requirement, in its order.
    pub abilities: Box<[Box<str>]>,
    /// Whether one of the abilities suffices.
    pub is_any: bool,
}

impl Rule {
    fn new(route: &Arc<str>, method: &Method, requirement: &Requirement) -> Self {
        Self {
            route: Arc::clone(route),
            method: method.as_str().into(),
            is_any: matches!(requirement.kind(), RequirementKind::Any(_)),
            requirement: requirement.to_string().into(),
            abilities: requirement.abilities().map(Into::into).collect(),
        }
    }
}

/// All rules of the process. A rule keeps its number across reloads.
#[derive(Debug, Default)]
pub struct Rules(Mutex<Registry>);

#[derive(Debug, Default)]
struct Registry {
    rules: Vec<Arc<Rule>>,
    numbers: HashMap<Arc<Rule>, u32>,
}

/// The numbers of the rules of one map.
#[derive(Clone, Debug)]
pub struct RuleNumbers {
    /// A row of numbers by method: first for unmapped paths, then for each route.
    numbers: Arc<[u32]>,
}

impl RuleNumbers {
    /// The number of a rule by the number of its route in the map, or `None` for an unmapped path. Returns `None` for
    /// an unknown method.
    pub fn number(&self, route: Option<usize>, method: &Method) -> Option<u32> {
        let row = route.map_or(0, |route| route + 1);
        self.numbers.get(row * METHODS.len() + method_number(method)?).copied()
    }
}

impl Rules {
    /// Numbers the rules of a map. Call it for each loaded map, before its first request.
    pub fn register(&self, map: &AbilityMap) -> RuleNumbers {
        let mut registry = self.registry();
        let unmapped = match map.unmapped() {
            Unmapped::Deny => Requirement::deny(),
            Unmapped::Authenticated => Requirement::authenticated(),
        };
        let nothing = Requirement::deny();
        let mut numbers = Vec::with_capacity((map.routes().len() + 1) * METHODS.len());
        let name: Arc<str> = UNMAPPED.into();
        numbers.extend(METHODS.iter().map(|method| registry.number(Rule::new(&name, method, &unmapped))));
        for route in map.routes() {
            let template: Arc<str> = route.template().into();
            numbers.extend(METHODS.iter().map(|method| {
                let requirement = route.rule(method).map_or(&nothing, |rule| &rule.requirement);
                registry.number(Rule::new(&template, method, requirement))
            }));
        }
        RuleNumbers { numbers: numbers.into() }
    }

    /// The rule with this number.
    pub fn get(&self, number: u32) -> Option<Arc<Rule>> {
        self.registry().rules.get(number as usize).cloned()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    fn number(&mut self, rule: Rule) -> u32 {
        if let Some(number) = self.numbers.get(&rule) {
            return *number;
        }
        let rule = Arc::new(rule);
        let number = self.rules.len() as u32;
        self.rules.push(Arc::clone(&rule));
        self.numbers.insert(rule, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::map::MapBuilder;

    #[test]
    fn rule_keeps_its_number_across_maps() {
        let map = |unmapped, word: &str| {
            let mut builder = MapBuilder::new(unmapped);
            let any = Requirement::any(["a", "b"]).unwrap();
            let get = Requirement::from_word(word).unwrap();
            builder.route("/x/{id}", [(Method::GET, get, None), (Method::PUT, any, None)]).unwrap();
            builder.build()
        };
        let rules = Rules::default();
        let first = rules.register(&map(Unmapped::Deny, "a"));
        let second = rules.register(&map(Unmapped::Authenticated, "b"));
        let number = |numbers: &RuleNumbers, route, method: &Method| numbers.number(route, method).unwrap();
        let named = |number| {
            let rule: Arc<Rule> = rules.get(number).unwrap();
            format!(
                "{} {} {} {:?} {}",
                rule.method, rule.route, rule.requirement, rule.abilities, rule.is_any
            )
        };
        assert_eq!(named(number(&first, None, &Method::GET)), r#"GET unmapped deny [] false"#);
        assert_eq!(named(number(&second, None, &Method::GET)), r#"GET unmapped authenticated [] false"#);
        assert_eq!(named(number(&first, Some(0), &Method::GET)), r#"GET /x/{id} a ["a"] false"#);
        assert_eq!(named(number(&first, Some(0), &Method::HEAD)), r#"HEAD /x/{id} a ["a"] false"#);
        assert_eq!(named(number(&second, Some(0), &Method::GET)), r#"GET /x/{id} b ["b"] false"#);
        let any = number(&first, Some(0), &Method::PUT);
        assert_eq!(named(any), r#"PUT /x/{id} {any: [a, b]} ["a", "b"] true"#);
        assert_eq!(number(&second, Some(0), &Method::PUT), any);
        assert_eq!(named(number(&first, Some(0), &Method::DELETE)), r#"DELETE /x/{id} deny [] false"#);
        assert_eq!(first.number(Some(1), &Method::GET), None);
        assert_eq!(first.number(None, &Method::TRACE), None);
        assert!(rules.get(u32::MAX).is_none());
    }
}
