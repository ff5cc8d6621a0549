//! The rules that requests are counted under: route, method and requirement.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;

use super::report::Verdict;
use crate::policy::ability::{Requirement, RequirementKind};
use crate::policy::map::{AbilityMap, Route, Unmapped};
use crate::policy::query::{NumberedRequirement, QueryRules};
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
    /// The query parameter with this requirement, such as `include=renters`; `None` if the method has it.
    pub parameter: Option<Box<str>>,
}

impl Rule {
    fn new(route: &Arc<str>, method: &Method, requirement: &Requirement) -> Self {
        Self {
            route: Arc::clone(route),
            method: method.as_str().into(),
            is_any: matches!(requirement.kind(), RequirementKind::Any(_)),
            requirement: requirement.to_string().into(),
            abilities: requirement.abilities().map(Into::into).collect(),
            parameter: None,
        }
    }

    /// Whether its requests are also counted under the rule of the method: those with a parameter that the token may use.
    pub fn is_additional(&self, verdict: Verdict) -> bool {
        self.parameter.is_some() && verdict == Verdict::Allowed
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
    /// By route, the numbers of the rules of query parameters: a row by method for each requirement.
    parameters: Arc<HashMap<usize, Box<[Option<u32>]>>>,
}

impl RuleNumbers {
    /// The number of a rule by the number of its route in the map, or `None` for an unmapped path. Returns `None` for
    /// an unknown method.
    pub fn number(&self, route: Option<usize>, method: &Method) -> Option<u32> {
        let row = route.map_or(0, |route| route + 1);
        self.numbers.get(row * METHODS.len() + method_number(method)?).copied()
    }

    /// The number of the rule of a query parameter by the [number](QueryRules::requirement) of its requirement; `None` if
    /// nothing is counted for it, because it names no ability and denies nothing, or is the requirement of the method.
    pub fn parameter(&self, route: Option<usize>, method: &Method, requirement: usize) -> Option<u32> {
        let numbers = self.parameters.get(&route?)?;
        *numbers.get(requirement * METHODS.len() + method_number(method)?)?
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
        let mut parameters = HashMap::new();
        for (number, route) in map.routes().enumerate() {
            let template: Arc<str> = route.template().into();
            numbers.extend(METHODS.iter().map(|method| {
                let requirement = route.rule(method).map_or(&nothing, |rule| &rule.requirement);
                registry.number(Rule::new(&template, method, requirement))
            }));
            if let Some(query) = &route.options().query {
                let of_route = registry.parameters(&template, route, query);
                parameters.insert(number, of_route);
            }
        }
        RuleNumbers { numbers: numbers.into(), parameters: Arc::new(parameters) }
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
    fn parameters(&mut self, template: &Arc<str>, route: &Route, query: &QueryRules) -> Box<[Option<u32>]> {
        let mut numbers = Vec::new();
        for NumberedRequirement { subject, requirement, .. } in query.requirements() {
            let is_counted =
                !matches!(requirement.kind(), RequirementKind::Public | RequirementKind::Authenticated);
            numbers.extend(METHODS.iter().map(|method| {
                let has_other = route.rule(method).is_some_and(|rule| rule.requirement != *requirement);
                (is_counted && has_other).then(|| {
                    let rule = Rule::new(template, method, requirement);
                    self.number(Rule { parameter: Some(subject.clone()), ..rule })
                })
            }));
        }
        numbers.into()
    }

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
    use crate::policy::map::{MapBuilder, RouteOptions};
    use crate::policy::query::{RawCheck, RawParameter};

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

    #[test]
    fn requirements_of_parameters_have_rules_of_their_own() {
        let word = |word| Requirement::from_word(word).unwrap();
        let parameter = |name: &str, requirement| RawParameter {
            name: name.into(),
            check: RawCheck::Requirement(requirement),
            place: None,
        };
        let parameters = [
            ("renters", word("renters:read")),
            ("same", word("a")),
            ("debug", word("deny")),
            ("page", word("authenticated")),
        ];
        let parameters = parameters.map(|(name, requirement)| parameter(name, requirement)).into();
        let query = Some(Arc::new(QueryRules::new(parameters, None).unwrap()));
        let mut builder = MapBuilder::default();
        builder.route("/a", [(Method::GET, word("a"), None)]).unwrap();
        let options = RouteOptions { query, ..RouteOptions::default() };
        builder.route_with("/b", options, [(Method::GET, word("a"), None)]).unwrap();
        let rules = Rules::default();
        let numbers = rules.register(&builder.build());
        let of = |route, method: &Method, number| {
            let rule = rules.get(numbers.parameter(route, method, number)?)?;
            Some(format!("{} {} {:?} {:?}", rule.method, rule.requirement, rule.parameter, rule.abilities))
        };
        let renters = Some(r#"GET renters:read Some("renters") ["renters:read"]"#.to_owned());
        assert_eq!(of(Some(1), &Method::GET, 0), renters);
        assert!(of(Some(1), &Method::HEAD, 0).is_some_and(|it| it.starts_with("HEAD renters:read")));
        assert_eq!(of(Some(1), &Method::GET, 1), None, "the method requires the same");
        assert_eq!(of(Some(1), &Method::GET, 2), Some(r#"GET deny Some("debug") []"#.to_owned()));
        for (route, method, number) in [
            (Some(1), Method::GET, 3),
            (Some(1), Method::GET, 4),
            (Some(1), Method::POST, 0),
            (Some(0), Method::GET, 0),
            (None, Method::GET, 0),
        ] {
            assert_eq!(of(route, &method, number), None, "{route:?} {method} {number}");
        }
    }
}
