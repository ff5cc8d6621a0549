//! The rule that decides a request, in a line.

use http::Method;

use crate::policy::map::{AbilityMap, RouteMatch, Unmapped};

/// The rule for a request for which [`AbilityMap::find`] returned `found`, such as `/api/v2/items POST: items:create`, or
/// what the map lacks.
pub(super) fn rule_text(map: &AbilityMap, found: &RouteMatch<'_>, method: &Method) -> String {
    let template = |number: usize| map.templates().nth(number).unwrap_or_default();
    match found {
        RouteMatch::Rule { route, rule } => {
            // HEAD uses the rule for GET unless it has its own.
            let is_implied = *method == Method::HEAD
                && map.route(*route).is_some_and(|it| it.rules().all(|(method, _)| *method != Method::HEAD));
            let method = if is_implied { &Method::GET } else { method };
            format!("{} {method}: {}", template(*route), rule.requirement)
        }
        RouteMatch::NoMethod { route } => format!("{} has no {method}", template(*route)),
        RouteMatch::NoRoute => match map.unmapped() {
            Unmapped::Deny => "no route; unmapped: deny".to_owned(),
            Unmapped::Authenticated => "no route; unmapped: authenticated".to_owned(),
        },
    }
}
