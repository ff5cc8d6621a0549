//! Advice for denied requests: the remedies of Stockaj's guide, with the abilities named.

use crate::policy::ability::{Abilities, Requirement, RequirementKind};
use crate::policy::decision::{KnownCaller, missing};
use crate::policy::network::{ClientAddress, NetworkRule};
use crate::policy::refusal::Refusal;

/// How to get the request allowed; `None` if neither a change of the token nor of the map would help.
pub(super) fn advice(
    refusal: &Refusal,
    requirement: Option<&Requirement>,
    caller: &KnownCaller,
    client: ClientAddress,
) -> Option<String> {
    match (refusal, caller, requirement) {
        (
            Refusal::MissingAbility(_) | Refusal::QueryDenied { .. },
            KnownCaller::Active(held),
            Some(requirement),
        ) if requirement.abilities().next().is_some() => {
            Some(missing_abilities(requirement, &held.abilities))
        }
        (Refusal::QueryDenied { .. }, ..) => {
            Some("no ability allows this parameter or value; change the `query` of the route".to_owned())
        }
        (Refusal::WrongNetwork(rule), ..) => Some(match (client, rule) {
            (ClientAddress::Known(_), NetworkRule::Route) => {
                "send the request from one of the networks, or add its network to `from` of the route"
                    .to_owned()
            }
            (ClientAddress::Known(_), NetworkRule::Token) => {
                "send the request from one of the networks, or add its network to those of the token"
                    .to_owned()
            }
            _ => "give the client's address with `--from`: an unknown address is refused".to_owned(),
        }),
        (Refusal::Unmapped | Refusal::MethodNotMapped | Refusal::Denied, ..) => {
            Some("no ability allows this request; change the map".to_owned())
        }
        (Refusal::ExpiredToken, ..) => Some("create a new token: this one has expired".to_owned()),
        (Refusal::Blocked, ..) => Some(
            "create a new token: `blocked` in gateway.yaml names this one by its id or its name".to_owned(),
        ),
        (Refusal::InactiveToken, ..) => {
            Some("create a new token: this one is unknown to the introspector, or revoked".to_owned())
        }
        (Refusal::NotYetValid, ..) => {
            Some("wait until the token is valid, or correct the clock of this machine".to_owned())
        }
        (Refusal::UnexpectedClaim(_), ..) => {
            Some("get a token that was issued for this service, or correct `introspection.expect`".to_owned())
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
    use crate::policy::expected_claims::Claim;

    #[test]
    fn advice_names_the_missing_abilities() {
        let holder = |names: &[&str]| KnownCaller::with(Abilities::new(names.iter().copied()));
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
            let KnownCaller::Active(token) = &caller else { continue };
            let refusal = requirement.check(&token.abilities).unwrap_err();
            let advice = advice(&refusal, Some(&requirement), &caller, ClientAddress::Unknown);
            assert_eq!(advice.as_deref(), Some(expected));
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
            (Refusal::NotYetValid, Some("wait until the token is valid")),
            (Refusal::UnexpectedClaim(Claim::Audience), Some("get a token that was issued for this service")),
            (Refusal::InactiveToken, Some("create a new token")),
            (Refusal::WrongNetwork(NetworkRule::Token), Some("give the client's address")),
            (Refusal::Blocked, Some("create a new token")),
            (Refusal::NoVerdict, None),
            (Refusal::MissingToken, None),
            (Refusal::MalformedToken, None),
            (Refusal::BadRequest("why"), None),
        ] {
            let advice = advice(&refusal, None, &caller, ClientAddress::Unknown);
            assert_eq!(advice.is_some(), expected.is_some(), "{refusal:?}");
            assert!(advice.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{refusal:?}");
        }
    }
}
