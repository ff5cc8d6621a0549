//! The differences between a map and an OpenAPI document.

use std::collections::{BTreeSet, HashSet};

use http::Method;

use super::document::{Description, Operation, QueryParameter, Security};
use super::ignore::IgnoredPaths;
use super::{alternatives, declared, requirement_of_scopes, sample, template};
use crate::policy::ability::{Requirement, RequirementKind};
use crate::policy::decision::read_request;
use crate::policy::map::{AbilityMap, RouteMatch};
use crate::policy::route::Pattern;
use crate::policy::source_location::SourceLocation;

/// A difference between a map and a document, or an operation that a wider route covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub kind: DriftKind,
    /// The method.
    pub method: Method,
    /// The path of the operation, or of the route if there is none.
    pub path: String,
    /// The requirement of the document.
    pub declared: Option<String>,
    /// The requirement of the map.
    pub requirement: Option<String>,
    /// The route that decides, if it is not that of the operation.
    pub covered_by: Option<String>,
    /// The place of the operation.
    pub operation: Option<SourceLocation>,
    /// The place of the rule.
    pub rule: Option<SourceLocation>,
}

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftKind {
    /// The map has no rule for an operation and denies it.
    NoRule,
    /// The document has no operation for a rule.
    NoOperation,
    /// Rule and operation have different requirements.
    Differs,
    /// A wider route decides the operation. This is no difference.
    Covered,
}

impl DriftKind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRule => "no rule",
            Self::NoOperation => "no operation",
            Self::Differs => "differs",
            Self::Covered => "covered",
        }
    }
}

/// Compares a map with a document: operations in the order of the document, then rules in that of the map. Only counts
/// those of paths in `ignored`.
pub fn drift(description: &Description, map: &AbilityMap, ignored: &mut IgnoredPaths) -> Drift {
    let mut drift = Drift::default();
    let mut reached: HashSet<(usize, Method)> = HashSet::new();
    for operation in &description.operations {
        let finding = of_operation(operation, map, &mut reached);
        let is_ignored = ignored.contains(&operation.path);
        drift.add(finding, is_ignored);
        for finding in of_parameters(operation, map) {
            drift.add(Some(finding), is_ignored);
        }
    }
    let reached_routes: HashSet<usize> = reached.iter().map(|(route, _)| *route).collect();
    for (number, route) in map.routes().enumerate() {
        let is_ignored = ignored.contains(route.template());
        for (method, rule) in route.rules() {
            // Documents rarely list HEAD and OPTIONS.
            let goes_along = matches!(*method, Method::HEAD | Method::OPTIONS);
            let is_reached = reached.contains(&(number, method.clone()))
                || (goes_along && reached_routes.contains(&number));
            if !is_reached {
                let finding = Finding {
                    kind: DriftKind::NoOperation,
                    method: method.clone(),
                    path: route.template().to_owned(),
                    declared: None,
                    requirement: Some(rule.requirement.to_string()),
                    covered_by: None,
                    operation: None,
                    rule: rule.place.clone(),
                };
                drift.add(Some(finding), is_ignored);
            }
        }
    }
    drift
}

/// The result of a comparison.
#[derive(Debug, Default)]
pub struct Drift {
    /// Each difference, and operations that a wider route covers.
    pub findings: Vec<Finding>,
    /// The number of findings with ignored paths.
    pub ignored: usize,
}

impl Drift {
    fn add(&mut self, finding: Option<Finding>, is_ignored: bool) {
        if is_ignored {
            self.ignored += usize::from(finding.is_some());
        } else {
            self.findings.extend(finding);
        }
    }
}

fn of_operation(
    operation: &Operation,
    map: &AbilityMap,
    reached: &mut HashSet<(usize, Method)>,
) -> Option<Finding> {
    let finding = Finding {
        kind: DriftKind::NoRule,
        method: operation.method.clone(),
        path: operation.path.clone(),
        declared: declared(operation),
        requirement: None,
        covered_by: None,
        operation: operation.place.clone(),
        rule: None,
    };
    let sample = sample(&operation.path);
    // A path that is invalid in a request has no rule.
    let Ok((method, path)) = read_request(map, operation.method.as_str(), &sample) else {
        return Some(finding);
    };
    let RouteMatch::Rule { route: number, rule } = map.find(&method, &path) else { return Some(finding) };
    let route = map.route(number)?;
    // HEAD may find the rule of GET.
    if let Some((method, _)) = route.rules().find(|(_, it)| std::ptr::eq(*it, rule)) {
        reached.insert((number, method.clone()));
    }
    let is_its_own = Pattern::parse(&template(&operation.path)).is_ok_and(|own| own == *route.pattern());
    let kind = match (agrees(&operation.security, &rule.requirement), is_its_own) {
        (false, _) => DriftKind::Differs,
        (true, false) => DriftKind::Covered,
        (true, true) => return None,
    };
    Some(Finding {
        kind,
        requirement: Some(rule.requirement.to_string()),
        covered_by: (!is_its_own).then(|| route.template().to_owned()),
        rule: rule.place.clone(),
        ..finding
    })
}

/// The parameters of an operation whose listed values are other than those of the map's rules for the query.
fn of_parameters(operation: &Operation, map: &AbilityMap) -> Vec<Finding> {
    let sample = sample(&operation.path);
    let Ok((method, path)) = read_request(map, operation.method.as_str(), &sample) else { return Vec::new() };
    let found = map.find(&method, &path);
    let (Some(rules), RouteMatch::Rule { rule, .. }) = (map.query_rules(&found), &found) else {
        return Vec::new();
    };
    let findings = operation.parameters.iter().filter_map(|QueryParameter { name, values, .. }| {
        let denied: Vec<&str> =
            values.iter().map(String::as_str).filter(|value| rules.denies(name, value)).collect();
        let listed = rules.listed().filter(|(listed, value)| **listed == **name && !value.is_empty());
        let unknown: Vec<&str> =
            listed.map(|(_, value)| value).filter(|value| !values.iter().any(|it| it == value)).collect();
        let texts =
            [("denies", denied), ("also lists", unknown)].into_iter().filter(|(_, it)| !it.is_empty());
        let texts: Vec<String> = texts.map(|(verb, it)| format!("{verb} {}", it.join(", "))).collect();
        (!texts.is_empty()).then(|| Finding {
            kind: DriftKind::Differs,
            method: operation.method.clone(),
            path: operation.path.clone(),
            declared: Some(format!("query {name}: {}", values.join(", "))),
            requirement: Some(texts.join("; ")),
            covered_by: None,
            operation: operation.place.clone(),
            rule: rule.place.clone(),
        })
    });
    findings.collect()
}

/// Whether a rule has the requirement of the document, or the nearest one that a rule can have.
fn agrees(security: &Security, requirement: &Requirement) -> bool {
    let is_public = matches!(requirement.kind(), RequirementKind::Public);
    match security {
        Security::Unspecified => true,
        Security::Credentials | Security::Malformed => !is_public,
        Security::Public => is_public,
        Security::Scopes(scopes) => agrees_with_scopes(scopes, requirement),
        // On a public route the backend decides about requests without credentials.
        Security::Optional(scopes) => {
            is_public || scopes.is_empty() || agrees_with_scopes(scopes, requirement)
        }
    }
}

fn agrees_with_scopes(scopes: &[BTreeSet<String>], requirement: &Requirement) -> bool {
    let declared: BTreeSet<BTreeSet<&str>> =
        scopes.iter().map(|all| all.iter().map(String::as_str).collect()).collect();
    let nearest = requirement_of_scopes(scopes).requirement;
    let required = alternatives(requirement);
    required.as_ref() == Some(&declared)
        || required == alternatives(&nearest) && (required.is_some() || *requirement == nearest)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{operation, scopes};
    use super::*;
    use crate::policy::map::{MapBuilder, RouteOptions, Unmapped};
    use crate::policy::query::{QueryRules, RawCheck, RawParameter, RawValue};

    #[test]
    fn listed_values_are_compared_with_the_rules_for_the_query() {
        let value =
            |value: &str| RawValue { value: value.into(), requirement: Requirement::public(), place: None };
        let values = vec![value("variants"), value("tags")];
        let check = RawCheck::Values { split: None, values, deny_others: true };
        let include = RawParameter { name: "include".into(), check, place: None };
        let query = Some(QueryRules::new(vec![include], None).unwrap().into());
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let options = RouteOptions { query, ..RouteOptions::default() };
        let read = || [(Method::GET, Requirement::from_word("items:read").unwrap(), None)];
        builder.route_with("/items", options, read()).unwrap();
        builder.route("/rentals", read()).unwrap();
        let map = builder.build();
        let found = |path: &str, name: &str, values: &[&str]| {
            let mut described = operation("GET", path, scopes(&["items:read"]));
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            described.parameters = vec![QueryParameter { name: name.to_owned(), split: None, values }];
            of_parameters(&described, &map)
        };
        for (path, name, values) in [
            ("/items", "include", &["variants", "tags"][..]),
            ("/items", "sort", &["name"]),
            ("/rentals", "include", &["renters"]),
        ] {
            assert_eq!(found(path, name, values), [], "{path} {name}");
        }
        let finding = &found("/items", "include", &["variants", "renters"])[0];
        assert_eq!(finding.kind, DriftKind::Differs);
        assert_eq!(finding.declared.as_deref(), Some("query include: variants, renters"));
        assert_eq!(finding.requirement.as_deref(), Some("denies renters; also lists tags"));
    }

    #[test]
    fn differences_have_a_kind_and_both_requirements() {
        let mut builder = MapBuilder::new(Unmapped::Authenticated);
        let word = |word| Requirement::from_word(word).unwrap();
        let any = Requirement::any(["b", "a"]).unwrap();
        builder
            .route("/items", [(Method::GET, word("items:read"), None), (Method::POST, any, None)])
            .unwrap();
        builder.route("/items/{id}", [(Method::GET, word("items:read"), None)]).unwrap();
        builder
            .route(
                "/files/{*rest}",
                [(Method::GET, word("items:read"), None), (Method::PUT, word("x"), None)],
            )
            .unwrap();
        builder
            .route(
                "/up",
                [
                    (Method::GET, word("public"), None),
                    (Method::OPTIONS, word("public"), None),
                    (Method::HEAD, word("deny"), None),
                ],
            )
            .unwrap();
        builder
            .route("/old", [(Method::GET, word("deny"), None), (Method::HEAD, word("deny"), None)])
            .unwrap();
        let description = Description {
            title: String::new(),
            sends_requests: false,
            operations: vec![
                operation("GET", "/items", Security::Unspecified),
                operation("POST", "/items", scopes(&["a", "b"])),
                operation("DELETE", "/items", scopes(&["c"])),
                operation("HEAD", "/items/{itemId}", scopes(&["items:write"])),
                operation("GET", "/items/search", Security::Credentials),
                operation("GET", "/files/{a}/{b}", scopes(&["items:read"])),
                operation("GET", "/up", Security::Credentials),
                operation("GET", "/new", Security::Public),
                operation("GET", "/a b", Security::Unspecified),
            ],
        };
        let lines: Vec<String> = drift(&description, &builder.build(), &mut IgnoredPaths::default())
            .findings
            .into_iter()
            .map(|it| {
                let or = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
                let (declared, asks, by) = (or(it.declared), or(it.requirement), or(it.covered_by));
                format!("{}: {} {}: {declared}, {asks}, {by}", it.kind.as_str(), it.method, it.path)
            })
            .collect();
        assert_eq!(
            lines,
            [
                "no rule: DELETE /items: c, -, -",
                "differs: HEAD /items/{itemId}: items:write, items:read, -",
                "covered: GET /items/search: a token, items:read, /items/{id}",
                "covered: GET /files/{a}/{b}: items:read, items:read, /files/{*rest}",
                "differs: GET /up: a token, public, -",
                "no rule: GET /new: public, -, -",
                "no rule: GET /a b: -, -, -",
                "no operation: PUT /files/{*rest}: -, x, -",
                "no operation: GET /old: -, deny, -",
                "no operation: HEAD /old: -, deny, -",
            ]
        );
    }

    #[test]
    fn rules_agree_with_what_the_document_requires() {
        let optional = |alternatives: &[&str]| match scopes(alternatives) {
            Security::Scopes(scopes) => Security::Optional(scopes),
            other => other,
        };
        let all = |names: &[&str]| Requirement::all(names.iter().copied()).unwrap();
        let any = |names: &[&str]| Requirement::any(names.iter().copied()).unwrap();
        for (declared, requirement, expected) in [
            (scopes(&["a"]), all(&["a"]), true),
            (scopes(&["a"]), any(&["a"]), true),
            (scopes(&["a"]), any(&["a", "b"]), false),
            (scopes(&["a"]), all(&["a", "b"]), false),
            (scopes(&["a", "b"]), any(&["b", "a"]), true),
            (scopes(&["a b"]), all(&["b", "a"]), true),
            (scopes(&["a b", "c"]), all(&["c"]), true),
            (scopes(&["a b", "c"]), all(&["a", "b"]), false),
            (scopes(&["a b", "c"]), any(&["a", "c"]), false),
            (scopes(&["a"]), Requirement::authenticated(), false),
            (scopes(&["a"]), Requirement::public(), false),
            (scopes(&["a"]), Requirement::deny(), false),
            (scopes(&["deny"]), Requirement::deny(), true),
            (scopes(&["deny"]), Requirement::public(), false),
            (Security::Public, Requirement::public(), true),
            (Security::Public, Requirement::authenticated(), false),
            (Security::Credentials, Requirement::authenticated(), true),
            (Security::Credentials, Requirement::public(), false),
            (Security::Unspecified, Requirement::public(), true),
            (Security::Malformed, Requirement::public(), false),
            (Security::Malformed, all(&["a"]), true),
            (Security::Optional(Vec::new()), Requirement::public(), true),
            (Security::Optional(Vec::new()), all(&["a"]), true),
            (optional(&["a"]), Requirement::public(), true),
            (optional(&["a"]), all(&["a"]), true),
            (optional(&["a"]), all(&["b"]), false),
            (optional(&["a"]), Requirement::authenticated(), false),
        ] {
            assert_eq!(agrees(&declared, &requirement), expected, "{declared:?} {requirement}");
        }
    }
}
