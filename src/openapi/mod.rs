//! OpenAPI documents: reads them, drafts maps from them, and compares them with maps.

pub mod convention;
pub mod document;
pub mod draft;
pub mod drift;
pub mod ignore;

use std::collections::BTreeSet;

use self::document::{Operation, Security};
use crate::policy::ability::{Requirement, RequirementError, RequirementKind};

/// Stands for a parameter in a sample path, and equals no literal segment.
const SAMPLE: &str = "0-sample-0";

/// The path of an operation in the syntax of maps: parameters of letters, digits and `_`, no slash at the end.
fn template(path: &str) -> String {
    let segments = path.split('/').map(|segment| {
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match name.filter(|name| !name.contains(['{', '}', '*'])) {
            Some(name) => format!("{{{}}}", name.replace(|it: char| !it.is_ascii_alphanumeric(), "_")),
            None => segment.to_owned(),
        }
    });
    let template = segments.collect::<Vec<_>>().join("/");
    match template.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() => shorter.to_owned(),
        _ => template,
    }
}

/// A path that a request for the operation may have.
pub fn sample(path: &str) -> String {
    let mut sample = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((_, behind)) = after.split_once('}') else { break };
        sample += before;
        sample += SAMPLE;
        rest = behind;
    }
    sample + rest
}

/// A requirement that represents scopes.
#[derive(Debug)]
struct ScopeRequirement {
    requirement: Requirement,
    /// Why it differs from the document; `None` if it does not.
    less: Option<String>,
}

/// The requirement that equals the alternatives, or the nearest stricter one.
fn requirement_of_scopes(alternatives: &[BTreeSet<String>]) -> ScopeRequirement {
    let mut problem = None;
    let usable: Vec<(&BTreeSet<String>, Requirement)> = alternatives
        .iter()
        .filter_map(|alternative| match all(alternative) {
            Ok(requirement) => Some((alternative, requirement)),
            Err(error) => {
                problem = Some(format!("a scope is not an ability: {error}"));
                None
            }
        })
        .collect();
    let single: BTreeSet<&str> = usable
        .iter()
        .filter(|(alternative, _)| alternative.len() == 1)
        .flat_map(|(alternative, _)| alternative.iter().map(String::as_str))
        .collect();
    let any = (single.len() > 1).then(|| Requirement::any(single.iter().copied()).ok()).flatten();
    let shortest = usable.iter().min_by_key(|(alternative, _)| alternative.len());
    let (requirement, declared) = match (any, shortest) {
        (Some(any), _) => (any, single.len()),
        (None, Some((_, all))) => (all.clone(), 1),
        (None, None) => (Requirement::deny(), 0),
    };
    let less = problem.or_else(|| {
        (declared < alternatives.len()).then(|| format!("narrower than {}", words(alternatives)))
    });
    ScopeRequirement { requirement, less }
}

fn all(scopes: &BTreeSet<String>) -> Result<Requirement, RequirementError> {
    Requirement::all(scopes.iter().map(String::as_str))
}

/// `a and b, or c`
fn words(alternatives: &[BTreeSet<String>]) -> String {
    let all = |it: &BTreeSet<String>| it.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
    alternatives.iter().map(all).collect::<Vec<_>>().join(", or ")
}

/// Describes what the document requires, in the syntax of maps if possible. `None` if the document does not specify it.
fn declared(operation: &Operation) -> Option<String> {
    let requirement_of_scopes = |alternatives: &[BTreeSet<String>]| match requirement_of_scopes(alternatives)
    {
        ScopeRequirement { requirement, less: None } => requirement.to_string(),
        ScopeRequirement { .. } => words(alternatives),
    };
    match &operation.security {
        Security::Unspecified => None,
        Security::Malformed => Some("malformed".to_owned()),
        Security::Public => Some("public".to_owned()),
        Security::Credentials => Some("a token".to_owned()),
        Security::Scopes(alternatives) => Some(requirement_of_scopes(alternatives)),
        Security::Optional(alternatives) if alternatives.is_empty() => Some("optional token".to_owned()),
        Security::Optional(alternatives) => Some(format!("{}, or none", requirement_of_scopes(alternatives))),
    }
}

/// The alternatives of a requirement; empty for a keyword.
fn alternatives(requirement: &Requirement) -> Option<BTreeSet<BTreeSet<&str>>> {
    match requirement.kind() {
        RequirementKind::All(names) => Some(BTreeSet::from([names.iter().map(|name| &**name).collect()])),
        RequirementKind::Any(names) => Some(names.iter().map(|name| BTreeSet::from([&**name])).collect()),
        RequirementKind::Public | RequirementKind::Authenticated | RequirementKind::Deny => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn operation(method: &str, path: &str, security: Security) -> Operation {
        Operation {
            method: method.parse().unwrap(),
            path: path.to_owned(),
            security,
            parameters: Vec::new(),
            place: None,
        }
    }

    pub(super) fn scopes(alternatives: &[&str]) -> Security {
        let set = |it: &&str| it.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
        Security::Scopes(alternatives.iter().map(set).collect())
    }

    #[test]
    fn paths_become_templates_of_the_map() {
        for (path, expected, request) in [
            ("/items/{id}", "/items/{id}", "/items/0-sample-0"),
            ("/items/{item-id}/", "/items/{item_id}", "/items/0-sample-0/"),
            ("/", "/", "/"),
            ("/a/{x}.json", "/a/{x}.json", "/a/0-sample-0.json"),
            ("/a/{x}-{y}", "/a/{x}-{y}", "/a/0-sample-0-0-sample-0"),
            ("/a/{*rest}", "/a/{*rest}", "/a/0-sample-0"),
            ("/a/{x", "/a/{x", "/a/{x"),
        ] {
            assert_eq!((template(path).as_str(), sample(path).as_str()), (expected, request), "{path}");
        }
    }

    #[test]
    fn scopes_become_the_nearest_requirement_that_is_not_wider() {
        let narrower = |text: &str| Some(format!("narrower than {text}"));
        for (scopes, expected, less) in [
            (&["a"][..], "a", None),
            (&["a b"], "{all: [a, b]}", None),
            (&["a", "b"], "{any: [a, b]}", None),
            (&["a b", "c"], "c", narrower("a and b, or c")),
            (&["a b", "c", "d"], "{any: [c, d]}", narrower("a and b, or c, or d")),
            (&["a b c", "d e"], "{all: [d, e]}", narrower("a and b and c, or d and e")),
            (&["public"], "deny", Some("a scope is not an ability: `public` is a keyword: it stands alone, not in a list of abilities".to_owned())),
            (&["a", "deny b"], "a", Some("a scope is not an ability: `deny` is a keyword: it stands alone, not in a list of abilities".to_owned())),
        ] {
            let alternatives: Vec<BTreeSet<String>> =
                scopes.iter().map(|it| it.split(' ').map(str::to_owned).collect()).collect();
            let found = requirement_of_scopes(&alternatives);
            assert_eq!((found.requirement.to_string().as_str(), found.less), (expected, less), "{scopes:?}");
        }
    }
}
