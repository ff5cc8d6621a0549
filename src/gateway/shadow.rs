//! Shadow mode: forwards requests that a map in shadow mode refuses, and compares decisions with a candidate map.
//!
//! Used only if shadow mode is configured, after the ordinary decision.

use std::fmt::{self, Display, Formatter};
use std::rc::Rc;
use std::time::Instant;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method};

use super::context::ReadRequest;
use super::{AllowedRequest, Caller, Gateway};
use crate::config::settings::Shadow;
use crate::policy::bearer::{self, Token};
use crate::policy::cors;
use crate::policy::decision::{self, Known, NeedsVerdict, NextStep, Permit, Routed, decide_by};
use crate::policy::map::{AbilityMap, RouteMatch};
use crate::policy::network::{ClientAddress, NetworkRule, RouteNetworks};
use crate::policy::query::NumberedRequirement;
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::shadow::{Change, MapRole, Mode, change};
use crate::response::record::RequestRecord;
use crate::telemetry::metrics::RouteLabel;
use crate::tokens::hash::TokenHash;
use crate::tokens::lookup::{CachedToken, LookupRequest};

impl Gateway {
    /// The decision on a request that the ordinary decision has `decided`. The candidate map does not change it.
    pub(super) async fn decide_in_shadow<'a>(
        &'a self,
        shadow: &Shadow,
        request: &ReadRequest<'_>,
        record: &mut RequestRecord,
        decided: Result<AllowedRequest<'a>, Refusal>,
    ) -> Result<AllowedRequest<'a>, Refusal> {
        if bearer::at_most_one(&request.head.headers).is_err() {
            // Refused in every mode.
            return decided;
        }
        let decided = match decided {
            Ok(decision) => Ok(decision),
            Err(refusal) => self.decide_for_shadow_mode(shadow, request, record, refusal).await,
        };
        if let Some(candidate) = &shadow.candidate {
            self.compare(candidate, request, record, &decided).await;
        }
        decided
    }

    /// The decision on a refused request, which shadow mode may forward.
    async fn decide_for_shadow_mode(
        &self,
        shadow: &Shadow,
        request: &ReadRequest<'_>,
        record: &mut RequestRecord,
        refusal: Refusal,
    ) -> Result<AllowedRequest<'_>, Refusal> {
        let map = &self.settings.abilities;
        let routed = decision::route(map, &record.method, &request.target.path, request.route_inputs());
        let found = routed.found();
        let known = record.token.as_ref().zip(routed.with_any_token()).and_then(|(cached, needs_verdict)| {
            let needs = (needs_verdict, &request.client);
            self.refusal_by_cached_verdict(needs, cached, &refusal, record.started())
        });
        let shadowed = ShadowedRequest {
            routed,
            authentication: shadow.authentication,
            request,
            token: Token::from_fields(&request.head.headers, self.settings.limits.token_bytes),
        };
        let Some(permit) = shadowed.permit(known.as_ref().unwrap_or(&refusal)) else { return Err(refusal) };
        let refusal = known.unwrap_or(refusal);
        record.note_denied_rule(&refusal);
        let rule = LogRule::refused(MapRole::Enforced, map, found, &record.method, &refusal).to_string();
        let (permit, caller) = self.caller_in_shadow(&shadowed, permit, refusal, record).await?;
        let tunnel = match &caller {
            Caller::Token(cached, _) => {
                // Its abilities count as if the request were allowed, also if a parameter of its query is denied.
                let requirement = map.requirement(found).ok();
                self.limit(request, cached, (requirement, routed.query()), record)?
            }
            Caller::Public | Caller::Unauthenticated(_) => self.count_tunnel(request, None, record)?,
        };
        let decision = AllowedRequest { permit, caller, options: map.options(found), tunnel };
        record.note_shadow_change(Change::WouldDeny, MapRole::Enforced, self.label(found, None), rule, None);
        Ok(decision)
    }

    /// The caller of a refused request for which shadow mode has a `permit`, and the permit for what else refuses it.
    async fn caller_in_shadow(
        &self,
        shadowed: &ShadowedRequest<'_>,
        permit: Permit,
        refusal: Refusal,
        record: &mut RequestRecord,
    ) -> Result<(Permit, Caller), Refusal> {
        let request = shadowed.request;
        let (permit, refusal) = match shadowed.without_networks(permit, refusal)? {
            (permit, None) => return Ok((permit, Caller::Public)),
            (permit, Some(refusal)) => (permit, refusal),
        };
        let Ok(token) = &shadowed.token else {
            // The backend may read a token in the field that this gateway does not, and that token may be blocked.
            let may_be_blocked = request.head.headers.contains_key(AUTHORIZATION) && self.lookup.has_blocks();
            return if may_be_blocked {
                Err(refusal)
            } else {
                Ok((permit, Caller::Unauthenticated(refusal)))
            };
        };
        let cached = self.cached_token(*token, record, refusal).await.and_then(|cached| {
            // The map's refusal may have preceded that of the token's networks.
            match cached.verdict.rights().check_networks(&request.client) {
                Err(refusal) if shadowed.permit(&refusal).is_none() => Err(refusal),
                _ => Ok(cached),
            }
        });
        match cached {
            Ok(cached) => Ok((permit, Caller::Token(cached, token.authorization()))),
            Err(refusal) => match shadowed.permit(&refusal) {
                Some(permit) => Ok((permit, Caller::Unauthenticated(refusal))),
                None => Err(refusal),
            },
        }
    }

    /// The verdict of the token of a refused request.
    async fn cached_token(
        &self,
        token: Token<'_>,
        record: &mut RequestRecord,
        refusal: Refusal,
    ) -> Result<Rc<CachedToken>, Refusal> {
        if refusal.is_inactive_token() {
            return Err(refusal);
        }
        if let Some(cached) = &record.token {
            return Ok(Rc::clone(cached));
        }
        let request = LookupRequest {
            token,
            now: record.started(),
            introspected_since: None,
            trace: record.trace.as_ref(),
        };
        let client = self.failing_client(record.client);
        let cached = self.lookup.verdict(&request, client, &mut record.lookup).await?;
        record.token = Some(Rc::clone(&cached));
        Ok(cached)
    }

    /// The refusal that the cached verdict gives after a re-introspection without a verdict. That is a 503 in enforced
    /// mode, since a 403 could be wrong; in shadow mode, which sends no 403, the cached verdict is enough.
    pub(super) fn refusal_by_cached_verdict(
        &self,
        (needs_verdict, client): (NeedsVerdict<'_>, &ClientAddress),
        cached: &Rc<CachedToken>,
        refusal: &Refusal,
        now: Instant,
    ) -> Option<Refusal> {
        let is_unanswered = matches!(refusal, Refusal::NoVerdict | Refusal::Overloaded);
        if is_unanswered && self.lookup.is_usable(cached, now) {
            needs_verdict.authorize(cached.verdict.rights(), client).err()
        } else {
            None
        }
    }

    /// The refusal of a request, unless shadow mode forwards it.
    pub(super) fn enforce_unless_shadowed(
        &self,
        routed: Routed<'_>,
        refusal: Refusal,
    ) -> Result<(), Refusal> {
        let permit = |shadow: &Shadow| routed.permit_in_shadow(shadow.authentication, &refusal);
        match self.settings.shadow.as_ref().and_then(permit) {
            Some(_permit) => Ok(()),
            None => Err(refusal),
        }
    }

    /// The decision on a preflight, which is forwarded if the request that it announces would be.
    pub(super) fn decide_preflight_in_shadow(
        &self,
        shadow: &Shadow,
        request: &ReadRequest<'_>,
        requested: &HeaderValue,
        record: &mut RequestRecord,
        found: &RouteMatch<'_>,
        permit: Result<Permit, Refusal>,
    ) -> Result<Permit, Refusal> {
        let target = &request.target;
        let Some(method) = cors::supported_method(&target.path, requested) else { return permit };
        let permit = permit.or_else(|refusal| {
            let map = &self.settings.abilities;
            let routed = Routed::of(map, *found, request.route_inputs());
            let permit = routed.permit_in_shadow(shadow.authentication, &refusal);
            let permit = permit.ok_or_else(|| refusal.clone())?;
            record.note_denied_rule(&refusal);
            let rule = LogRule::refused(MapRole::Enforced, map, found, &method, &refusal);
            let label = self.label(found, None);
            record.note_shadow_change(Change::WouldDeny, MapRole::Enforced, label, rule.to_string(), None);
            Ok(permit)
        });
        if let Some(candidate) = &shadow.candidate {
            let overriding = self.settings.backend.method_override;
            let (candidate_found, decided) =
                cors::decide(candidate, &target.path, request.route_inputs(), requested, overriding);
            let by_candidate = candidate.check_path(&target.path).and(decided).map(|_permit| Reason::Public);
            let routes = (found, candidate, &candidate_found);
            self.note_difference(permit.is_ok(), &by_candidate, routes, &method, record, None);
        }
        permit
    }

    /// Compares the decision on a request with that of the candidate map.
    async fn compare(
        &self,
        candidate: &AbilityMap,
        request: &ReadRequest<'_>,
        record: &mut RequestRecord,
        decided: &Result<AllowedRequest<'_>, Refusal>,
    ) {
        let (inputs, client) = (request.route_inputs(), &request.client);
        let routed = decision::route(candidate, &record.method, &request.target.path, inputs);
        let found = *routed.found();
        let token = Token::from_fields(&request.head.headers, self.settings.limits.token_bytes);
        let known = match (decided, &record.token, &token) {
            // Not a refusal by the map: another map would not change it.
            (Err(refusal), ..) if !refusal.is_authorization_refusal() => return,
            (_, Some(cached), _) => Known::Active(cached.verdict.rights()),
            (Ok(AllowedRequest { caller: Caller::Unauthenticated(refusal), .. }), ..) => {
                Known::Refused(refusal)
            }
            (Err(refusal), ..) if refusal.is_inactive_token() => Known::Refused(refusal),
            (_, _, Err(refusal)) => Known::Refused(refusal),
            (_, _, Ok(_)) => Known::Token,
        };
        let refused = candidate.check_path(&request.target.path);
        let by_candidate =
            refused.err().map_or_else(|| decide_by(routed, known, client), |refusal| Some(Err(refusal)));
        let (by_candidate, cached) = match (by_candidate, token) {
            (Some(by_candidate), _) => (by_candidate, None),
            (None, Ok(token)) => {
                let verdict = self.verdict_for_candidate(token, record, decided.is_ok()).await;
                let known = match &verdict {
                    Some(Ok(cached)) => Known::Active(cached.verdict.rights()),
                    Some(Err(refusal)) => Known::Refused(refusal),
                    None => Known::Token,
                };
                match decide_by(routed, known, client) {
                    Some(by_candidate) => (by_candidate, verdict.and_then(Result::ok)),
                    None => return,
                }
            }
            (None, Err(_)) => return,
        };
        let method = record.method.clone();
        let enforced = self.settings.abilities.find(&method, &request.target.path);
        let routes = (&enforced, candidate, &found);
        self.note_difference(decided.is_ok(), &by_candidate, routes, &method, record, cached);
    }

    /// The verdict of a token that the enforced map did not need. Only a refused request is introspected for it: a request
    /// that is forwarded neither waits nor costs an introspection.
    async fn verdict_for_candidate(
        &self,
        token: Token<'_>,
        record: &mut RequestRecord,
        forwarded: bool,
    ) -> Option<Result<Rc<CachedToken>, Refusal>> {
        let started = record.started();
        if forwarded {
            return self.lookup.peek(&TokenHash::of(token.as_bytes()), started);
        }
        let request =
            LookupRequest { token, now: started, introspected_since: None, trace: record.trace.as_ref() };
        let client = self.failing_client(record.client);
        Some(self.lookup.verdict(&request, client, &mut record.lookup).await)
    }

    /// Records a difference between the decisions. `cached` is the token's verdict if the record does not have it.
    fn note_difference(
        &self,
        forwarded: bool,
        by_candidate: &Result<Reason, Refusal>,
        (enforced, candidate, found): (&RouteMatch<'_>, &AbilityMap, &RouteMatch<'_>),
        method: &Method,
        record: &mut RequestRecord,
        cached: Option<Rc<CachedToken>>,
    ) {
        let Some(change) = change(forwarded, by_candidate) else { return };
        let rule = match by_candidate {
            Ok(reason) => {
                let rule = LogRule { side: MapRole::Candidate, found, option: None, method, reason: *reason };
                rule.to_string()
            }
            Err(refusal) => {
                LogRule::refused(MapRole::Candidate, candidate, found, method, refusal).to_string()
            }
        };
        let label = self.label(enforced, found.route());
        record.note_shadow_change(change, MapRole::Candidate, label, rule, cached);
    }

    /// The route of the metric: that of the enforced map, or else of the candidate, whose routes are numbered after those
    /// of the enforced map.
    fn label(&self, enforced: &RouteMatch<'_>, candidate: Option<usize>) -> RouteLabel {
        let behind = |number| self.settings.abilities.routes().len() + number;
        let number = enforced.route().or_else(|| candidate.map(behind));
        self.route_label(number)
    }
}

/// A refused request that shadow mode may forward.
struct ShadowedRequest<'a> {
    routed: Routed<'a>,
    authentication: Mode,
    request: &'a ReadRequest<'a>,
    token: Result<Token<'a>, Refusal>,
}

impl ShadowedRequest<'_> {
    /// The permit if shadow mode forwards requests with this refusal.
    fn permit(&self, refusal: &Refusal) -> Option<Permit> {
        self.routed.permit_in_shadow(self.authentication, refusal)
    }

    /// The refusal that is left if the networks of the route do not count, and the permit for it. `None` if the request is
    /// public then.
    fn without_networks(
        &self,
        permit: Permit,
        refusal: Refusal,
    ) -> Result<(Permit, Option<Refusal>), Refusal> {
        if !matches!(refusal, Refusal::WrongNetwork(NetworkRule::Route)) {
            return Ok((permit, Some(refusal)));
        }
        let other = match (self.routed.without_networks().next(), &self.token) {
            (NextStep::Public(public), _) => return Ok((public, None)),
            (NextStep::NeedsToken(_), Ok(_)) => return Ok((permit, Some(refusal))),
            (NextStep::Refused(other), _) => other,
            // A parameter of the query requires a token.
            (NextStep::NeedsToken(_), Err(other)) => other.clone(),
        };
        match self.permit(&other) {
            Some(permit) => Ok((permit, Some(other))),
            None => Err(other),
        }
    }
}

/// The rule that decides, for the log: `candidate candidate.yaml:7:12 items:read (missing_ability)`.
struct LogRule<'a> {
    side: MapRole,
    /// The result of that side's map.
    found: &'a RouteMatch<'a>,
    /// The option of the route, or of the token, if one decides.
    option: Option<DecidingOption<'a>>,
    /// The method that was looked up.
    method: &'a Method,
    /// The outcome of the decision.
    reason: Reason,
}

/// The option that decides, if not the requirement of a method.
enum DecidingOption<'a> {
    /// The requirement of a query parameter.
    Parameter(&'a NumberedRequirement),
    /// The networks of the route.
    From(&'a RouteNetworks),
    /// The networks of the token.
    AllowedFrom,
}

impl<'a> LogRule<'a> {
    /// The rule of `map` that refuses a request.
    fn refused(
        side: MapRole,
        map: &'a AbilityMap,
        found: &'a RouteMatch<'a>,
        method: &'a Method,
        refusal: &Refusal,
    ) -> Self {
        let option = match refusal {
            Refusal::QueryDenied { rule, .. } => {
                let rules = map.query_rules(found);
                rules.and_then(|rules| rules.requirement(*rule)).map(DecidingOption::Parameter)
            }
            Refusal::WrongNetwork(NetworkRule::Route) => map.networks(found).map(DecidingOption::From),
            Refusal::WrongNetwork(NetworkRule::Token) => Some(DecidingOption::AllowedFrom),
            _ => None,
        };
        Self { side, found, option, method, reason: refusal.reason() }
    }
}

impl Display for LogRule<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.side.as_str())?;
        match (self.found, &self.option) {
            (_, Some(DecidingOption::Parameter(parameter))) => {
                write!(formatter, " {}: {}", parameter.located(), parameter.requirement)?;
            }
            (_, Some(DecidingOption::From(RouteNetworks { networks, place }))) => {
                if let Some(place) = place {
                    write!(formatter, " {place}")?;
                }
                write!(formatter, " from {}", networks.summary())?;
            }
            (_, Some(DecidingOption::AllowedFrom)) => formatter.write_str(" the token's networks")?,
            (RouteMatch::Rule { rule, .. }, None) => {
                if let Some(place) = &rule.place {
                    write!(formatter, " {place}")?;
                }
                write!(formatter, " {}", rule.requirement)?;
            }
            (RouteMatch::NoMethod { .. }, None) => write!(formatter, " without {}", self.method)?,
            (RouteMatch::NoRoute, None) => formatter.write_str(" without a route")?,
        }
        write!(formatter, " ({})", self.reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ability::Requirement;
    use crate::policy::map::{MapBuilder, Unmapped};
    use crate::policy::path::CanonicalPath;
    use crate::policy::source_location::SourceLocation;

    #[test]
    fn log_names_the_map_the_rule_and_its_location() {
        let location = SourceLocation { file: "candidate.yaml".into(), line: 7, column: 12 };
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let rule = (Method::GET, Requirement::from_word("items:read").unwrap(), Some(location));
        builder.route("/items", [rule]).unwrap();
        let map = builder.build();
        for (side, method, path, reason, text) in [
            (
                MapRole::Candidate,
                Method::GET,
                "/items",
                Reason::MissingAbility,
                "candidate candidate.yaml:7:12 items:read (missing_ability)",
            ),
            (
                MapRole::Enforced,
                Method::PUT,
                "/items",
                Reason::MethodNotMapped,
                "enforced without PUT (method_not_mapped)",
            ),
            (
                MapRole::Candidate,
                Method::GET,
                "/nowhere",
                Reason::Unmapped,
                "candidate without a route (unmapped)",
            ),
        ] {
            let found = map.find(&method, &CanonicalPath::new(path).unwrap());
            assert_eq!(
                LogRule { side, found: &found, option: None, method: &method, reason }.to_string(),
                text
            );
        }
    }
}
