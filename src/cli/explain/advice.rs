//! Advice for denied requests: the remedies of Stockaj's guide, with the abilities named.

use crate::policy::ability::{Abilities, Requirement, RequirementKind};
use crate::policy::decision::{KnownCaller, missing};
use crate::policy::refusal::Refusal;

/// How to get the request allowed; `None` if neither a change of the token nor of the map would help.
pub(super) fn advice(
    refusal: &Refusal,
    requirement: Option<&Requirement>,
    caller: &KnownCaller,
) -> Option<String> {
    match (refusal, caller, requirement) {
        (
            Refusal::MissingAbility(_) | Refusal::QueryDenied { .. },
            KnownCaller::Active(held),
            Some(requirement),
        ) if requirement.abilities().next().is_some() => Some(missing_abilities(requirement, held)),
        (Refusal::QueryDenied { .. }, ..) => {
            Some("no ability allows this parameter or value; change the `query` of the route".to_owned())
        }
        (Refusal::Unmapped | Refusal::MethodNotMapped | Refusal::Denied, ..) => {
            Some("no ability allows this request; change the map".to_owned())
        }
        (Refusal::ExpiredToken, ..) => Some("create a new token: this one has expired".to_owned()),
        (Refusal::InactiveToken, ..) => {
            Some("create a new token: this one is unknown to the introspector, or revoked".to_owned())
        }
        _ => None,
    }
}

fn missing_abilities(requirement: &Requirement, held: &Abilities) -> String {
    let new = |more: &[&str]| {
        let names: Vec<&str> = held.names().chain(more.iter().copied()).collect();
        names.join(",")
    };
    match requirement.kind() {
        RequirementKind::Any(names) if names.len() > 1 => {
            let choice: Vec<&str> = requirement.abilities().collect();
            format!("add one of {} to the token, or create a new one with it", choice.join(", "))
        }
        RequirementKind::Any(_) => {
            let only: Vec<&str> = requirement.abilities().collect();
            format!("add {} to the token, or create a new one with: {}", only.join(", "), new(&only))
        }
        _ => {
            let mut more = missing(requirement, held);
            more.dedup();
            format!("add {} to the token, or create a new one with: {}", more.join(", "), new(&more))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_missing_abilities() {
        let holder = |names: &[&str]| KnownCaller::Active(Abilities::new(names.iter().copied()));
        for (requirement, held, expected) in [
            (Requirement::all(["b"]), &["a"][..], "add b to the token, or create a new one with: a,b"),
            (
                Requirement::all(["a", "b", "c"]),
                &["a"],
                "add b, c to the token, or create a new one with: a,b,c",
            ),
            (Requirement::any(["b"]), &[], "add b to the token, or create a new one with: b"),
            (
                Requirement::any(["b", "c"]),
                &["a"],
                "add one of b, c to the token, or create a new one with it",
            ),
        ] {
            let requirement = requirement.unwrap();
            let caller = holder(held);
            let KnownCaller::Active(abilities) = &caller else { continue };
            let refusal = requirement.check(abilities).unwrap_err();
            assert_eq!(advice(&refusal, Some(&requirement), &caller).as_deref(), Some(expected));
        }
    }

    #[test]
    fn other_refusals_have_fixed_advice_or_none() {
        let caller = KnownCaller::Nobody;
        for (refusal, expected) in [
            (Refusal::Unmapped, Some("no ability allows")),
            (Refusal::MethodNotMapped, Some("no ability allows")),
            (Refusal::Denied, Some("no ability allows")),
            (Refusal::ExpiredToken, Some("create a new token")),
            (Refusal::InactiveToken, Some("create a new token")),
            (Refusal::NoVerdict, None),
            (Refusal::MissingToken, None),
            (Refusal::MalformedToken, None),
            (Refusal::BadRequest("why"), None),
        ] {
            let advice = advice(&refusal, None, &caller);
            assert_eq!(advice.is_some(), expected.is_some(), "{refusal:?}");
            assert!(advice.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{refusal:?}");
        }
    }
}
