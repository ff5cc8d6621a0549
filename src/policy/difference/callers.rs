//! The callers that satisfy one requirement and not another.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

use crate::policy::ability::{Abilities, Requirement, RequirementKind};

/// The callers that satisfy one requirement and not another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callers {
    /// Whether callers without a token are included.
    pub without_token: bool,
    /// The smallest sets of abilities of the included tokens. The empty set is a token without abilities.
    pub abilities: Vec<Vec<Box<str>>>,
    text: String,
}

/// The callers that satisfy `one` and not `other`. Requirements are monotone: more abilities never satisfy less. So the
/// smallest sets of abilities are sufficient.
pub(super) fn callers(one: Option<&Requirement>, other: Option<&Requirement>) -> Option<Callers> {
    let allows = |names: &[&str]| {
        let abilities = Abilities::new(names.iter().copied());
        other.is_some_and(|other| other.check(&abilities).is_ok())
    };
    let one = one?.kind();
    let other = other.map_or(&RequirementKind::Deny, Requirement::kind);
    let without_token = matches!(one, RequirementKind::Public) && !matches!(other, RequirementKind::Public);
    let smallest: Vec<Vec<&str>> = smallest(one).into_iter().filter(|names| !allows(names)).collect();
    if smallest.is_empty() && !without_token {
        return None;
    }
    let text = text(one, other, without_token, &smallest);
    let owned = |names: Vec<&str>| names.into_iter().map(Into::into).collect();
    Some(Callers { without_token, abilities: smallest.into_iter().map(owned).collect(), text })
}

/// The smallest sets of abilities that satisfy a requirement.
fn smallest(kind: &RequirementKind) -> Vec<Vec<&str>> {
    match kind {
        RequirementKind::Public | RequirementKind::Authenticated => vec![Vec::new()],
        RequirementKind::Deny => Vec::new(),
        RequirementKind::All(_) => vec![names(kind).into_iter().collect()],
        RequirementKind::Any(_) => names(kind).into_iter().map(|name| vec![name]).collect(),
    }
}

fn names(kind: &RequirementKind) -> BTreeSet<&str> {
    match kind {
        RequirementKind::All(names) | RequirementKind::Any(names) => {
            names.iter().map(|name| &**name).collect()
        }
        RequirementKind::Public | RequirementKind::Authenticated | RequirementKind::Deny => BTreeSet::new(),
    }
}

/// Describes the callers that satisfy `one` and not `other`.
fn text(one: &RequirementKind, other: &RequirementKind, without_token: bool, sets: &[Vec<&str>]) -> String {
    const UNAUTHENTICATED: &str = "callers without a token";
    let has = names(one);
    let tokens = match (one, sets) {
        (_, []) => return UNAUTHENTICATED.to_owned(),
        (RequirementKind::Any(_), sets) => format!("tokens with {}", sets.concat().join(" or ")),
        (RequirementKind::All(_), _) => format!("tokens with {}", joined(&has, " and ")),
        _ => "tokens".to_owned(),
    };
    let required = names(other);
    let lacking = match other {
        RequirementKind::All(_) if matches!(one, RequirementKind::Any(_)) && required.len() > 1 => {
            format!(" that do not have all of {}", joined(&required, ", "))
        }
        RequirementKind::All(_) => {
            let held = if matches!(one, RequirementKind::All(_)) { has } else { BTreeSet::new() };
            format!(" that lack {}", joined(&required.difference(&held).copied().collect(), " or "))
        }
        RequirementKind::Any(_) if required.len() > 1 => {
            format!(" that have none of {}", joined(&required, ", "))
        }
        RequirementKind::Any(_) => format!(" that lack {}", joined(&required, "")),
        RequirementKind::Public | RequirementKind::Authenticated | RequirementKind::Deny => String::new(),
    };
    match (without_token, &*lacking, &*tokens) {
        (true, "", "tokens") => "every caller".to_owned(),
        (true, ..) => format!("{UNAUTHENTICATED}, and {tokens}{lacking}"),
        (false, "", "tokens") => "every token".to_owned(),
        (false, ..) => format!("{tokens}{lacking}"),
    }
}

fn joined(names: &BTreeSet<&str>, separator: &str) -> String {
    names.iter().copied().collect::<Vec<_>>().join(separator)
}

impl Display for Callers {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}
