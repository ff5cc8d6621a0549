//! Counts a request as usage of its token.

use std::sync::Arc;
use std::time::Instant;

use super::{RequestRecord, UsageCount};
use crate::policy::refusal::Reason;
use crate::policy::shadow::{Change, MapRole};
use crate::tokens::verdict::Verdict;
use crate::usage::batch::{CountedOutcome, CountedRequest, TokenDescription};

impl RequestRecord {
    /// Counts the request, if the map has decided it for its token.
    pub(super) fn count_usage(&self, usage: &UsageCount, now: Instant) {
        let (Some((_, reason)), Some(token)) = (self.outcome, self.any_token()) else { return };
        let shadow = self.shadow.as_deref().map(|shadow| (shadow.side, shadow.change));
        let Some(outcome) = outcome(reason, shadow) else { return };
        let of_parameter = |number: &usize| usage.rules.parameter(self.route_number, &self.method, *number);
        // A request that a parameter denies counts under the rule of that.
        let denied_by = self.denied_parameter.as_ref().and_then(of_parameter);
        let Some(rule) = denied_by.or_else(|| usage.rules.number(self.route_number, &self.method)) else {
            return;
        };
        let request = CountedRequest {
            rule,
            outcome,
            client: self.client,
            plain_http: self.plain_http,
            wrong_network: self.wrong_network.is_some(),
            now,
        };
        let parameters = self.parameters.iter().flat_map(|numbers| numbers.iter().filter_map(of_parameter));
        usage.worker.count_with(&token.usage_slot, &request, parameters, || describe(&token.verdict));
    }
}

/// The decision of the enforced map, whatever happened afterwards; `None` without one.
const fn outcome(reason: Reason, shadow: Option<(MapRole, Change)>) -> Option<CountedOutcome> {
    match reason {
        Reason::Allowed
        | Reason::Limited
        | Reason::BackendUnreachable
        | Reason::BackendBroken
        | Reason::BackendTimeout
        | Reason::ClientGone
        | Reason::InternalError => Some(match shadow {
            None | Some((_, Change::WouldAllow)) => CountedOutcome::Allowed,
            Some((MapRole::Candidate, Change::WouldDeny)) => CountedOutcome::AllowedWouldDeny,
            Some((MapRole::Enforced, Change::WouldDeny)) => CountedOutcome::DeniedShadowed,
        }),
        Reason::Unmapped
        | Reason::MethodNotMapped
        | Reason::Denied
        | Reason::MissingAbility
        | Reason::WrongNetwork
        | Reason::QueryDenied => Some(match shadow {
            Some((_, Change::WouldAllow)) => CountedOutcome::DeniedShadowed,
            None | Some((_, Change::WouldDeny)) => CountedOutcome::Denied,
        }),
        Reason::Public
        | Reason::MissingToken
        | Reason::MalformedToken
        | Reason::InactiveToken
        | Reason::ExpiredToken
        | Reason::NotYetValid
        | Reason::UnexpectedClaim
        | Reason::Blocked
        | Reason::NoVerdict
        | Reason::Overloaded
        | Reason::BadRequest => None,
    }
}

fn describe(verdict: &Verdict) -> TokenDescription {
    TokenDescription {
        id: Arc::clone(&verdict.id),
        name: verdict.name.clone(),
        context: verdict.context.clone(),
        workspace_id: verdict.workspace_id.clone(),
        abilities: verdict.abilities.clone(),
        created_at: verdict.created_at,
        expires_at: verdict.expires_at,
    }
}
