//! The decision on a request: one state machine without I/O.
//!
//! [`Routed`] → [`NeedsToken`] → [`NeedsVerdict`] → [`Permit`]. Each state is made from the one before, so that no step
//! can be left out and all users decide in one order: the gateway, tunnels, candidate maps, `explain` and `test`. The
//! gateway reads credentials and introspects between the states; [`decide`] is for a caller that is known beforehand.

use http::Method;

use super::ability::{Abilities, Requirement, RequirementKind};
use super::map::{AbilityMap, RouteMatch, RouteOptions};
use super::network::{ClientAddress, NetworkRule, Networks};
use super::path::CanonicalPath;
use super::query::{QueryCheck, QueryNeeds};
use super::refusal::{Reason, Refusal};
use super::shadow::{Mode, ShadowSettings};
use super::target::read_path;

/// Proof that a request may be forwarded. Forwarding consumes it.
///
/// A decision alone makes one. Nothing else compiles:
///
/// ```compile_fail,E0423
/// let permit = stockaj_gateway::internals::policy::decision::Permit(());
/// ```
#[derive(Debug)]
#[must_use = "forwarding takes the permit"]
pub struct Permit(());

/// A request whose route is known.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'map> {
    map: &'map AbilityMap,
    found: RouteMatch<'map>,
    /// `None` if the route has no rules for its query.
    query: Option<QueryCheck<'map>>,
    /// Whether the networks of the route do not include the client.
    is_outside_route: bool,
}

/// The inputs of a request that options of its route read.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteInputs<'a> {
    /// The client's address.
    pub client: ClientAddress,
    /// The query as sent, without its `?`.
    pub query: Option<&'a str>,
    /// Whether the request is a GET or HEAD with a body.
    pub has_unexpected_body: bool,
}

/// What introspection has reported about an active token.
#[derive(Clone, Copy, Debug)]
pub struct TokenRights<'a> {
    /// The abilities.
    pub abilities: &'a Abilities,
    /// The networks that its requests must come from; `None` if they may come from anywhere.
    pub allowed_from: Option<&'a Networks>,
}

/// The next step of a decision.
#[derive(Debug)]
pub enum NextStep<'map> {
    /// The request may be forwarded: the route is `public`.
    Public(Permit),
    /// The decision needs the request's credentials.
    NeedsToken(NeedsToken<'map>),
    /// The request is refused, whatever its credentials are.
    Refused(Refusal),
}

/// The request of a route that is not `public`.
#[derive(Debug)]
pub struct NeedsToken<'map> {
    /// An error if no token satisfies the map.
    requirement: Result<&'map Requirement, Refusal>,
    query: Option<QueryCheck<'map>>,
    is_outside_route: bool,
}

/// A request with a well-formed token, of which introspection has to report the abilities.
#[derive(Clone, Copy, Debug)]
pub struct NeedsVerdict<'map> {
    requirement: &'map Requirement,
    query: Option<QueryCheck<'map>>,
    is_outside_route: bool,
}

/// Looks up the route of a request. Allocates nothing.
pub fn route<'map>(
    map: &'map AbilityMap,
    method: &Method,
    path: &CanonicalPath<'_>,
    inputs: RouteInputs<'map>,
) -> Routed<'map> {
    Routed::of(map, map.find(method, path), inputs)
}

impl<'a> RouteInputs<'a> {
    /// The inputs of a request without a body.
    pub const fn of(query: Option<&'a str>, client: ClientAddress) -> Self {
        Self { client, query, has_unexpected_body: false }
    }
}

impl<'map> Routed<'map> {
    /// The state of a request for which `map` found this.
    pub fn of(map: &'map AbilityMap, found: RouteMatch<'map>, inputs: RouteInputs<'map>) -> Self {
        Self::with_options(map, (found, map.options(&found)), inputs)
    }

    /// The same, if the `options` of what was found are known.
    pub fn with_options(
        map: &'map AbilityMap,
        (found, options): (RouteMatch<'map>, &'map RouteOptions),
        inputs: RouteInputs<'map>,
    ) -> Self {
        let (mut query, mut is_outside_route) = (None, false);
        if matches!(found, RouteMatch::Rule { .. }) {
            let RouteInputs { client, query: sent, has_unexpected_body } = inputs;
            query = options.query.as_deref().map(|rules| QueryCheck::new(rules, sent, has_unexpected_body));
            is_outside_route = options.from.as_deref().is_some_and(|from| !from.networks.include(client));
        }
        Self { map, found, query, is_outside_route }
    }

    /// The state of this request if the networks of its route included the client.
    pub const fn without_networks(self) -> Self {
        Self { is_outside_route: false, ..self }
    }

    /// The map's result for the method and the path.
    pub const fn found(&self) -> &RouteMatch<'map> {
        &self.found
    }

    /// The rules for its query with the query; `None` if the route has none.
    pub const fn query(&self) -> Option<QueryCheck<'map>> {
        self.query
    }

    /// The next step.
    pub fn next(&self) -> NextStep<'map> {
        let requirement = self.map.requirement(&self.found);
        let needs = match &self.query {
            None => QueryNeeds::Nothing,
            Some(query) => match query.needs() {
                Ok(needs) => needs,
                Err(refusal) => return NextStep::Refused(refusal),
            },
        };
        let is_public = |it: &Requirement| matches!(it.kind(), RequirementKind::Public);
        let Self { query, is_outside_route, .. } = *self;
        match (requirement, needs) {
            (Ok(requirement), _) if is_public(requirement) && is_outside_route => {
                NextStep::Refused(Refusal::WrongNetwork(NetworkRule::Route))
            }
            (Ok(requirement), QueryNeeds::Nothing) if is_public(requirement) => NextStep::Public(Permit(())),
            (Ok(requirement), QueryNeeds::Denied(refusal)) if is_public(requirement) => {
                NextStep::Refused(refusal)
            }
            (Ok(_), QueryNeeds::Denied(refusal)) => {
                NextStep::NeedsToken(NeedsToken { requirement: Err(refusal), query: None, is_outside_route })
            }
            (requirement, _) => NextStep::NeedsToken(NeedsToken { requirement, query, is_outside_route }),
        }
    }

    /// The state of this request with a well-formed token; `None` if the route is public or no token satisfies the map.
    pub fn with_any_token(&self) -> Option<NeedsVerdict<'map>> {
        match self.next() {
            NextStep::Public(_) | NextStep::Refused(_) => None,
            NextStep::NeedsToken(needs_token) => needs_token.with_token(Ok(())).ok().map(|((), state)| state),
        }
    }

    /// The permit of a CORS preflight for this request. A browser sends a preflight without credentials, so it is
    /// permitted if any token would be.
    ///
    /// # Errors
    /// [`Refusal::Unmapped`], [`Refusal::MethodNotMapped`] or [`Refusal::Denied`]; [`Refusal::WrongNetwork`] because of
    /// the route's networks; [`Refusal::BadRequest`] or [`Refusal::QueryDenied`] because of the query.
    pub(super) fn permit_preflight(&self) -> Result<Permit, Refusal> {
        // An ambiguous query first: shadow mode forwards the other refusals.
        let needs = self.query.map(|query| query.needs()).transpose()?;
        self.map.requirement(&self.found)?;
        if self.is_outside_route {
            return Err(Refusal::WrongNetwork(NetworkRule::Route));
        }
        match needs {
            Some(QueryNeeds::Denied(refusal)) => Err(refusal),
            Some(QueryNeeds::Nothing | QueryNeeds::Token) | None => Ok(Permit(())),
        }
    }

    /// The permit of a request that was refused, if the map's mode is shadow and shadow mode forwards requests with this
    /// `refusal`. `authentication` is `shadow_authentication`.
    pub fn permit_in_shadow(&self, authentication: Mode, refusal: &Refusal) -> Option<Permit> {
        let leniency = ShadowSettings { mode: self.map.mode(&self.found), authentication };
        leniency.permits(refusal).then_some(Permit(()))
    }
}

impl<'map> NeedsToken<'map> {
    /// The next state for a request with these credentials: a well-formed token, or the refusal of what was sent.
    ///
    /// # Errors
    /// The refusal of the credentials; for a well-formed token [`Refusal::Unmapped`], [`Refusal::MethodNotMapped`],
    /// [`Refusal::Denied`] or [`Refusal::QueryDenied`] if no token satisfies the map, which saves the introspection.
    pub fn with_token<T>(self, token: Result<T, Refusal>) -> Result<(T, NeedsVerdict<'map>), Refusal> {
        let token = token?;
        Ok((
            token,
            NeedsVerdict {
                requirement: self.requirement?,
                query: self.query,
                is_outside_route: self.is_outside_route,
            },
        ))
    }
}

impl<'map> NeedsVerdict<'map> {
    /// The requirement of the rule for the method.
    pub const fn requirement(&self) -> &'map Requirement {
        self.requirement
    }

    /// The rules for its query with the query; `None` if the route has none.
    pub const fn query(&self) -> Option<QueryCheck<'map>> {
        self.query
    }

    /// The least of the values that `of` gives for the requirements of the method and of the query.
    pub fn least<T: Ord>(&self, of: impl Fn(&Requirement) -> Option<T>) -> Option<T> {
        let mut least = of(self.requirement);
        if let Some(query) = &self.query {
            query.requirements(|requirement| least = least.take().into_iter().chain(of(requirement)).min());
        }
        least
    }

    /// The permit for an active token with these rights, used by `client`.
    ///
    /// # Errors
    /// [`Refusal::MissingAbility`]; [`Refusal::WrongNetwork`] for the networks of the route, then for those of the token;
    /// [`Refusal::QueryDenied`] for the first parameter of the query whose requirement the token does not satisfy.
    pub fn authorize(&self, rights: TokenRights<'_>, client: &ClientAddress) -> Result<Permit, Refusal> {
        self.requirement.check(rights.abilities)?;
        if self.is_outside_route {
            return Err(Refusal::WrongNetwork(NetworkRule::Route));
        }
        rights.check_networks(client)?;
        match &self.query {
            None => {}
            Some(query) => query.authorize(rights.abilities)?,
        }
        Ok(Permit(()))
    }
}

impl TokenRights<'_> {
    /// Checks that the token may be used by `client`.
    ///
    /// # Errors
    /// [`Refusal::WrongNetwork`] for the networks of the token.
    #[inline]
    pub fn check_networks(&self, client: &ClientAddress) -> Result<(), Refusal> {
        match self.allowed_from {
            Some(networks) if !networks.include(*client) => Err(Refusal::WrongNetwork(NetworkRule::Token)),
            _ => Ok(()),
        }
    }
}

/// The caller of a decision for which nothing has to be introspected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownCaller {
    /// A caller without a token.
    Nobody,
    /// The holder of an active token.
    Active(ActiveToken),
    /// The holder of a token that is not active or malformed, and the refusal.
    Refused(Refusal),
}

/// An active token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveToken {
    /// The abilities.
    pub abilities: Abilities,
    /// The networks that its requests must come from; `None` if they may come from anywhere.
    pub allowed_from: Option<Networks>,
}

impl KnownCaller {
    /// The holder of an active token that may be used from anywhere.
    pub const fn with(abilities: Abilities) -> Self {
        Self::Active(ActiveToken { abilities, allowed_from: None })
    }
}

impl ActiveToken {
    /// The rights of the token.
    pub const fn rights(&self) -> TokenRights<'_> {
        TokenRights { abilities: &self.abilities, allowed_from: self.allowed_from.as_ref() }
    }
}

/// The method and the canonical path of a request. Only rules for the query read it.
///
/// # Errors
/// [`Refusal::BadRequest`] for a method that is not served, for a path that two parsers could read differently, and
/// for one that `map` [refuses](AbilityMap::check_path).
pub fn read_request<'a>(
    map: &AbilityMap,
    method: &str,
    target: &'a str,
) -> Result<(Method, CanonicalPath<'a>), Refusal> {
    let (path, _query) = split_query(target);
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| Refusal::BadRequest("method that is not served"))?;
    let path = read_path(&method, path)?;
    map.check_path(&path)?;
    Ok((method, path))
}

/// A target's path and its query.
pub fn split_query(target: &str) -> (&str, Option<&str>) {
    target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)))
}

/// What is known about the caller's token when a map is evaluated.
#[derive(Clone, Copy, Debug)]
pub enum Known<'a> {
    /// There is no active token, and the refusal says why.
    Refused(&'a Refusal),
    /// The token is active.
    Active(TokenRights<'a>),
    /// The token is well-formed. Whether it is active is not known.
    Token,
}

/// The decision on a request of `caller` without a body: [`Reason::Public`] or [`Reason::Allowed`].
///
/// # Errors
/// The refusal.
pub fn decide(
    map: &AbilityMap,
    found: &RouteMatch<'_>,
    inputs: RouteInputs<'_>,
    caller: &KnownCaller,
) -> Result<Reason, Refusal> {
    let known = match caller {
        KnownCaller::Nobody => Known::Refused(&Refusal::MissingToken),
        KnownCaller::Active(token) => Known::Active(token.rights()),
        KnownCaller::Refused(refusal) => Known::Refused(refusal),
    };
    decide_by(Routed::of(map, *found, inputs), known, &inputs.client).unwrap_or(Err(Refusal::NoVerdict))
}

/// The decision on a request of `client` by what is `known` about the caller; `None` if it depends on the token's
/// verdict.
pub fn decide_by(
    routed: Routed<'_>,
    known: Known<'_>,
    client: &ClientAddress,
) -> Option<Result<Reason, Refusal>> {
    let needs_token = match routed.next() {
        NextStep::Public(_) => return Some(Ok(Reason::Public)),
        NextStep::Refused(refusal) => return Some(Err(refusal)),
        NextStep::NeedsToken(needs_token) => needs_token,
    };
    let token = match known {
        Known::Refused(refusal @ (Refusal::MissingToken | Refusal::MalformedToken)) => Err(refusal.clone()),
        Known::Refused(_) | Known::Active(_) | Known::Token => Ok(()),
    };
    let needs_verdict = match needs_token.with_token(token) {
        Ok(((), needs_verdict)) => needs_verdict,
        Err(refusal) => return Some(Err(refusal)),
    };
    match known {
        Known::Refused(refusal) => Some(Err(refusal.clone())),
        Known::Active(rights) => Some(needs_verdict.authorize(rights, client).map(|_permit| Reason::Allowed)),
        Known::Token => None,
    }
}

/// The abilities of an `all` requirement that `abilities` lacks; empty for other requirements.
pub fn missing<'a>(requirement: &'a Requirement, abilities: &Abilities) -> Vec<&'a str> {
    match requirement.kind() {
        RequirementKind::All(names) => {
            names.iter().map(|name| &**name).filter(|name| !abilities.can(name)).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
