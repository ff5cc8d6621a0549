//! The decision on a request: one state machine without I/O.
//!
//! [`Routed`] → [`NeedsToken`] → [`NeedsVerdict`] → [`Permit`]. Each state is made from the one before, so that no step
//! can be left out and all users decide in one order: the gateway, tunnels, candidate maps, `explain` and `test`. The
//! gateway reads credentials and introspects between the states; [`decide`] is for a caller that is known beforehand.

use http::Method;

use super::ability::{Abilities, Requirement, RequirementKind};
use super::map::{AbilityMap, RouteMatch};
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
}

/// The inputs of a request that rules for the query read.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueryInputs<'a> {
    /// The query as sent, without its `?`.
    pub query: Option<&'a str>,
    /// Whether the request is a GET or HEAD with a body.
    pub has_unexpected_body: bool,
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
}

/// A request with a well-formed token, of which introspection has to report the abilities.
#[derive(Clone, Copy, Debug)]
pub struct NeedsVerdict<'map> {
    requirement: &'map Requirement,
    query: Option<QueryCheck<'map>>,
}

/// Looks up the route of a request. Allocates nothing.
pub fn route<'map>(
    map: &'map AbilityMap,
    method: &Method,
    path: &CanonicalPath<'_>,
    inputs: QueryInputs<'map>,
) -> Routed<'map> {
    Routed::of(map, map.find(method, path), inputs)
}

impl<'a> QueryInputs<'a> {
    /// The inputs of a request without a body.
    pub const fn of(query: Option<&'a str>) -> Self {
        Self { query, has_unexpected_body: false }
    }
}

impl<'map> Routed<'map> {
    /// The state of a request for which `map` found this.
    pub fn of(map: &'map AbilityMap, found: RouteMatch<'map>, inputs: QueryInputs<'map>) -> Self {
        let query = map
            .query_rules(&found)
            .map(|rules| QueryCheck::new(rules, inputs.query, inputs.has_unexpected_body));
        Self { map, found, query }
    }

    /// The map's result for the method and the path.
    pub const fn found(&self) -> &RouteMatch<'map> {
        &self.found
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
        match (requirement, needs) {
            (Ok(requirement), QueryNeeds::Nothing) if is_public(requirement) => NextStep::Public(Permit(())),
            (Ok(requirement), QueryNeeds::Denied(refusal)) if is_public(requirement) => {
                NextStep::Refused(refusal)
            }
            (Ok(_), QueryNeeds::Denied(refusal)) => {
                NextStep::NeedsToken(NeedsToken { requirement: Err(refusal), query: None })
            }
            (requirement, _) => NextStep::NeedsToken(NeedsToken { requirement, query: self.query }),
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
    /// [`Refusal::Unmapped`], [`Refusal::MethodNotMapped`] or [`Refusal::Denied`]; [`Refusal::BadRequest`] or
    /// [`Refusal::QueryDenied`] because of the query.
    pub(super) fn permit_preflight(&self) -> Result<Permit, Refusal> {
        self.map.requirement(&self.found)?;
        match self.query.map(|query| query.needs()).transpose()? {
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
        Ok((token, NeedsVerdict { requirement: self.requirement?, query: self.query }))
    }
}

impl<'map> NeedsVerdict<'map> {
    /// The requirement of the rule for the method.
    pub const fn requirement(&self) -> &'map Requirement {
        self.requirement
    }

    /// The least of the values that `of` gives for the requirements of the method and of the query.
    pub fn least<T: Ord>(&self, of: impl Fn(&Requirement) -> Option<T>) -> Option<T> {
        let mut least = of(self.requirement);
        if let Some(query) = &self.query {
            query.requirements(|requirement| least = least.take().into_iter().chain(of(requirement)).min());
        }
        least
    }

    /// The permit for an active token with `abilities`.
    ///
    /// # Errors
    /// [`Refusal::MissingAbility`]; [`Refusal::QueryDenied`] for the first parameter of the query whose requirement the
    /// token does not satisfy.
    pub fn authorize(&self, abilities: &Abilities) -> Result<Permit, Refusal> {
        self.requirement.check(abilities)?;
        match &self.query {
            None => {}
            Some(query) => query.authorize(abilities)?,
        }
        Ok(Permit(()))
    }
}

/// The caller of a decision for which nothing has to be introspected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownCaller {
    /// A caller without a token.
    Nobody,
    /// The holder of an active token.
    Active(Abilities),
    /// The holder of a token that is not active or malformed, and the refusal.
    Refused(Refusal),
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
    Active(&'a Abilities),
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
    query: Option<&str>,
    caller: &KnownCaller,
) -> Result<Reason, Refusal> {
    let known = match caller {
        KnownCaller::Nobody => Known::Refused(&Refusal::MissingToken),
        KnownCaller::Active(abilities) => Known::Active(abilities),
        KnownCaller::Refused(refusal) => Known::Refused(refusal),
    };
    decide_by(Routed::of(map, *found, QueryInputs::of(query)), known).unwrap_or(Err(Refusal::NoVerdict))
}

/// The decision by what is `known` about the caller; `None` if it depends on the token's verdict.
pub fn decide_by(routed: Routed<'_>, known: Known<'_>) -> Option<Result<Reason, Refusal>> {
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
        Known::Active(abilities) => Some(needs_verdict.authorize(abilities).map(|_permit| Reason::Allowed)),
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
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;

    use super::super::map::{MapBuilder, Unmapped};
    use super::super::refusal::Missing;
    use super::*;

    #[test]
    fn query_takes_no_part_in_reading_a_request() {
        for (method, target, expected) in [
            ("GET", "/a/b?c=/../d", Ok("/a/b")),
            ("GET", "/a?", Ok("/a")),
            ("OPTIONS", "*", Ok("*")),
            ("GET", "*", Err(Refusal::BadRequest("path does not begin with a slash"))),
            ("G T", "/a", Err(Refusal::BadRequest("method that is not served"))),
            ("TRACE", "/a", Err(Refusal::BadRequest("method that is not served"))),
        ] {
            let read = read_request(&AbilityMap::default(), method, target);
            let path = read.as_ref().map(|(_, path)| path.as_str()).map_err(Clone::clone);
            assert_eq!(path, expected, "{method} {target}");
        }
    }

    #[test]
    fn refusals_have_a_fixed_order() {
        let word = |word| Requirement::from_word(word).unwrap();
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let both = Requirement::all(["a", "b"]).unwrap();
        let rules = [
            (Method::GET, both, None),
            (Method::PUT, word("public"), None),
            (Method::POST, word("deny"), None),
        ];
        builder.route("/x", rules).unwrap();
        let map = builder.build();
        let (inactive, malformed) = (Refusal::InactiveToken, Refusal::MalformedToken);
        let holder = |names: &[&str]| KnownCaller::Active(Abilities::new(names.iter().copied()));
        let challenge = r#"Bearer realm="stockaj", error="insufficient_scope", scope="a b""#;
        let missing_ability = Refusal::MissingAbility(Arc::new(Missing {
            challenge: HeaderValue::from_static(challenge),
            required: HeaderValue::from_static("a, b"),
        }));
        for (method, caller, expected) in [
            ("PUT", KnownCaller::Refused(inactive.clone()), Ok(Reason::Public)),
            ("DELETE", KnownCaller::Nobody, Err(Refusal::MissingToken)),
            ("DELETE", KnownCaller::Refused(malformed.clone()), Err(malformed)),
            ("DELETE", KnownCaller::Refused(inactive.clone()), Err(Refusal::MethodNotMapped)),
            ("POST", holder(&["*"]), Err(Refusal::Denied)),
            ("GET", KnownCaller::Refused(inactive.clone()), Err(inactive)),
            ("GET", holder(&["a"]), Err(missing_ability)),
            ("GET", holder(&["a", "b"]), Ok(Reason::Allowed)),
            ("HEAD", holder(&["*"]), Ok(Reason::Allowed)),
        ] {
            let (read, path) = read_request(&map, method, "/x").unwrap();
            assert_eq!(decide(&map, &map.find(&read, &path), None, &caller), expected, "{method} {caller:?}");
        }
    }

    #[test]
    fn without_a_verdict_only_mapped_requests_are_undecided() {
        let word = |word| Requirement::from_word(word).unwrap();
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let rules = [(Method::GET, "a"), (Method::PUT, "public"), (Method::POST, "deny")];
        let rules = rules.map(|(method, text)| (method, word(text), None));
        builder.route("/x", rules).unwrap();
        let map = builder.build();
        for (method, path, expected) in [
            (Method::GET, "/x", None),
            (Method::PUT, "/x", Some(Ok(Reason::Public))),
            (Method::POST, "/x", Some(Err(Refusal::Denied))),
            (Method::DELETE, "/x", Some(Err(Refusal::MethodNotMapped))),
            (Method::GET, "/y", Some(Err(Refusal::Unmapped))),
        ] {
            let routed = route(&map, &method, &CanonicalPath::new(path).unwrap(), QueryInputs::default());
            assert_eq!(decide_by(routed, Known::Token), expected, "{method} {path}");
        }
    }

    #[test]
    fn only_a_public_route_permits_without_a_token() {
        for (word, is_public, permits_preflight) in [
            ("public", true, true),
            ("authenticated", false, true),
            ("a", false, true),
            ("*", false, true),
            ("deny", false, false),
        ] {
            let mut builder = MapBuilder::new(Unmapped::Authenticated);
            let rule = (Method::GET, Requirement::from_word(word).unwrap(), None);
            builder.route("/x", [rule]).unwrap();
            let map = builder.build();
            let routed =
                route(&map, &Method::GET, &CanonicalPath::new("/x").unwrap(), QueryInputs::default());
            assert_eq!(matches!(routed.next(), NextStep::Public(_)), is_public, "{word}");
            assert_eq!(routed.permit_preflight().is_ok(), permits_preflight, "{word}");
            for mode in [Mode::Enforce, Mode::Shadow] {
                let permit = routed.permit_in_shadow(mode, &Refusal::MissingToken);
                assert!(permit.is_none(), "the map is enforced: {word}");
            }
        }
    }

    #[test]
    fn shadow_mode_of_a_route_permits_what_the_map_refuses() {
        let map = MapBuilder::new(Unmapped::Deny).in_mode(Mode::Shadow).build();
        let routed = route(&map, &Method::GET, &CanonicalPath::new("/x").unwrap(), QueryInputs::default());
        for (refusal, authentication, permits) in [
            (Refusal::Unmapped, Mode::Enforce, true),
            (Refusal::MissingToken, Mode::Enforce, false),
            (Refusal::MissingToken, Mode::Shadow, true),
            (Refusal::NoVerdict, Mode::Shadow, false),
        ] {
            let permit = routed.permit_in_shadow(authentication, &refusal);
            assert_eq!(permit.is_some(), permits, "{refusal:?} in {authentication:?}");
        }
    }

    #[test]
    fn missing_abilities_are_those_of_an_all_requirement() {
        let has = Abilities::new(["a"]);
        let all = Requirement::all(["a", "b", "c"]).unwrap();
        assert_eq!(missing(&all, &has), ["b", "c"]);
        assert_eq!(missing(&all, &Abilities::new(["*"])), [""; 0]);
        assert_eq!(missing(&Requirement::any(["b", "c"]).unwrap(), &has), [""; 0]);
    }
}
