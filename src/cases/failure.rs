//! Descriptions of failed checks.

use strsim::osa_distance;

use super::{Check, CheckResult, PolicyTests};
use crate::config::Failure;
use crate::policy::ability::{Abilities, Requirement, RequirementKind};
use crate::policy::decision::{ActiveToken, KnownCaller, missing, split_query};
use crate::policy::map::{AbilityMap, RouteMatch, Unmapped};
use crate::policy::network::{ClientAddress, NetworkRule, WrongNetwork};
use crate::policy::query::NumberedRequirement;
use crate::policy::refusal::{Reason, Refusal};

/// Describes a check: `items are read: GET /api/v2/items as reader`.
pub fn label(check: &Check) -> String {
    let name = check.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
    let sender = match (&check.sender.name, &check.sender.caller) {
        (Some(name), _) => format!("as {name}"),
        (None, KnownCaller::Active(token)) => format!("with {}", listed(&token.abilities)),
        (None, KnownCaller::Refused(Refusal::Blocked)) => "with a blocked token".to_owned(),
        (None, _) => "without a token".to_owned(),
    };
    let from = match check.client {
        ClientAddress::Known(address) => format!(" from {address}"),
        ClientAddress::Unknown | ClientAddress::Any => String::new(),
    };
    let allowed_from = match &check.sender.caller {
        KnownCaller::Active(ActiveToken { allowed_from: Some(networks), .. }) => {
            format!(" allowed from [{}]", networks.summary())
        }
        _ => String::new(),
    };
    format!("{name}{} {} {sender}{allowed_from}{from}", check.method, check.target)
}

/// Describes a failed check for people.
pub fn explain(tests: &PolicyTests, outcome: &CheckResult<'_>) -> Failure {
    let CheckResult { check, found, .. } = outcome;
    let rule = match found {
        Some(found) if matches!(outcome.decision, Err(Refusal::WrongNetwork(_))) => {
            let is_by_route = outcome.decision == Err(Refusal::WrongNetwork(NetworkRule::Route));
            let from = tests.map.networks(found).filter(|_| is_by_route);
            from.and_then(|from| Some((from.place.clone()?, format!("`from`: {}", from.networks.summary()))))
        }
        Some(RouteMatch::Rule { route, rule }) => rule.place.clone().map(|place| {
            let by_query = outcome.decision.as_ref().err().and_then(|it| parameter(&tests.map, outcome, it));
            if let Some(NumberedRequirement { subject, requirement, place: Some(place) }) = by_query {
                return (place.clone(), format!("the rule of `{subject}`: {requirement}"));
            }
            let template = tests.map.templates().nth(*route).unwrap_or_default();
            (place, format!("the rule of {template}: {}", rule.requirement))
        }),
        _ => None,
    };
    Failure {
        message: format!("{}: expected {}, decided {}", label(check), check.expected, outcome.actual()),
        why: why(&tests.map, outcome),
        rule,
        hint: hint(&tests.map, outcome),
    }
}

/// The reason of the decision.
fn why(map: &AbilityMap, outcome: &CheckResult<'_>) -> String {
    let requirement = outcome.found.as_ref().and_then(|found| map.requirement(found).ok());
    let template = |route| map.templates().nth(route).unwrap_or_default();
    match (&outcome.decision, &outcome.found, &outcome.check.sender.caller) {
        (Ok(Reason::Public), ..) => "the route is public and requires no token".to_owned(),
        (Ok(_), Some(RouteMatch::NoRoute), _) => {
            "no route matches, and `unmapped: authenticated` allows every active token".to_owned()
        }
        (Ok(_), _, KnownCaller::Active(token)) => allowed_because(requirement, &token.abilities),
        (Err(Refusal::BadRequest(why)), ..) => (*why).to_owned(),
        (Err(Refusal::Blocked), ..) => "the token is blocked, and the route is not public".to_owned(),
        (Err(Refusal::MissingToken), ..) => "there is no token, and the route is not public".to_owned(),
        (Err(Refusal::MethodNotMapped), Some(RouteMatch::NoMethod { route }), _) => {
            format!("{} has no {}, and no other route is tried", template(*route), outcome.check.method)
        }
        (Err(Refusal::Unmapped), ..) => "no route matches".to_owned(),
        (Err(Refusal::Denied), ..) => "the rule is `deny`, which denies every token".to_owned(),
        (Err(Refusal::MissingAbility(_)), _, KnownCaller::Active(token)) => {
            denied_because(requirement, &token.abilities)
        }
        (Err(Refusal::WrongNetwork(rule)), found, _) => {
            let route = found.as_ref().and_then(|found| map.networks(found));
            let token = match &outcome.check.sender.caller {
                KnownCaller::Active(token) => token.allowed_from.as_ref(),
                KnownCaller::Nobody | KnownCaller::Refused(_) => None,
            };
            WrongNetwork { client: outcome.check.client, rule: *rule, route, token }.to_string()
        }
        (Err(refusal @ Refusal::QueryDenied { .. }), ..) => {
            let Some(parameter) = parameter(map, outcome, refusal) else {
                return "the query is denied".to_owned();
            };
            let requirement = &parameter.requirement;
            format!("the rule `{}` of the query requires {requirement}", parameter.subject)
        }
        (Ok(reason), ..) => reason.as_str().to_owned(),
        (Err(refusal), ..) => refusal.reason().as_str().to_owned(),
    }
}

/// The requirement of a query parameter that refuses the request.
fn parameter<'a>(
    map: &'a AbilityMap,
    outcome: &CheckResult<'a>,
    refusal: &Refusal,
) -> Option<&'a NumberedRequirement> {
    let Refusal::QueryDenied { rule, .. } = refusal else { return None };
    map.query_rules(outcome.found.as_ref()?)?.requirement(*rule)
}

/// The abilities that satisfy a requirement.
fn allowed_because(requirement: Option<&Requirement>, abilities: &Abilities) -> String {
    let named = |name: &str| abilities.names().any(|it| it == name);
    match requirement.map(Requirement::kind) {
        Some(RequirementKind::Authenticated) => "any active token suffices".to_owned(),
        Some(RequirementKind::All(names)) if names.iter().all(|name| named(name)) => {
            format!("the token has {}", names.join(" and "))
        }
        Some(RequirementKind::Any(names)) if names.iter().any(|name| named(name)) => {
            let has: Vec<&str> = names.iter().map(|name| &**name).filter(|name| named(name)).collect();
            format!("the token has {}, and one is enough", has.join(" and "))
        }
        _ => "the token has `*`, which grants every ability".to_owned(),
    }
}

/// The abilities that are missing.
fn denied_because(requirement: Option<&Requirement>, abilities: &Abilities) -> String {
    let Some(requirement) = requirement else { return "an ability is missing".to_owned() };
    let lacked = match requirement.kind() {
        RequirementKind::Any(names) => format!("none of {}", names.join(", ")),
        _ => format!("no {}", missing(requirement, abilities).join(" and no ")),
    };
    format!("the token has {lacked}; it has {}", listed(abilities))
}

/// A hint at a correction of the map or the request.
fn hint(map: &AbilityMap, outcome: &CheckResult<'_>) -> Option<String> {
    let found = outcome.found.as_ref()?;
    match (&outcome.decision, found) {
        (Err(refusal @ (Refusal::MissingAbility(_) | Refusal::QueryDenied { .. })), _) => {
            let parameter = parameter(map, outcome, refusal).map(|it| &it.requirement);
            let requirement = parameter.or_else(|| map.requirement(found).ok())?;
            requirement.abilities().next()?;
            let names: Vec<&str> = requirement.abilities().collect();
            let enough = match (&*names, requirement.kind()) {
                ([name], _) => format!("`{name}`"),
                (names, RequirementKind::Any(_)) => format!("any one of {}", names.join(", ")),
                (names, _) => format!("all of {}", names.join(", ")),
            };
            Some(format!("{enough} would suffice, as would `*`"))
        }
        (Err(Refusal::WrongNetwork(_)), _) if outcome.check.client == ClientAddress::Unknown => {
            Some("add the client's address to the case, such as `from: 10.1.2.3`".to_owned())
        }
        (Err(Refusal::MethodNotMapped), RouteMatch::NoMethod { route }) => {
            let methods: Vec<&str> = map.route(*route)?.rules().map(|(method, _)| method.as_str()).collect();
            Some(format!("its methods are {}", methods.join(", ")))
        }
        (Err(Refusal::Unmapped), RouteMatch::NoRoute) if map.unmapped() == Unmapped::Deny => {
            nearest_template(map, split_query(&outcome.check.target).0)
                .map(|template| format!("did you mean a path of {template}?"))
        }
        _ => None,
    }
}

/// The template that differs from a path by at most two letters of its literal segments.
fn nearest_template<'map>(map: &'map AbilityMap, path: &str) -> Option<&'map str> {
    const FURTHEST: usize = 2;
    const LONGEST: usize = 64;
    let segments: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let distance = |template: &str| -> Option<usize> {
        let pattern: Vec<&str> = template.split('/').collect();
        let pairs = (pattern.len() == segments.len()).then(|| pattern.iter().zip(&segments))?;
        let mut sum = 0;
        for (one, segment) in pairs.filter(|(one, _)| !one.starts_with('{')) {
            if segment.len() > LONGEST || one.len() > LONGEST {
                return None;
            }
            sum += osa_distance(one, segment);
        }
        (sum <= FURTHEST).then_some(sum)
    };
    let near = map.templates().filter_map(|template| Some((distance(template)?, template)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, template)| template)
}

/// `[items:read, rents:read]`
fn listed(abilities: &Abilities) -> String {
    format!("[{}]", abilities.names().collect::<Vec<_>>().join(", "))
}
