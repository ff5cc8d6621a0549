//! Shadow mode: refusals of a map that are recorded but not enforced.

use super::network::NetworkRule;
use super::refusal::{Reason, Refusal};

/// Whether refusals are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Refused requests are not forwarded.
    #[default]
    Enforce,
    /// Refusals are recorded, and the request is forwarded.
    Shadow,
}

impl Mode {
    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// How a decision that is not enforced differs from the enforced one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The request is forwarded and would be refused.
    WouldDeny,
    /// The request is refused and would be forwarded.
    WouldAllow,
}

impl Change {
    /// The word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WouldDeny => "would_deny",
            Self::WouldAllow => "would_allow",
        }
    }
}

/// The map whose decision differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapRole {
    /// The map of `abilities`, on a route in shadow mode.
    Enforced,
    /// The candidate map of `shadow`.
    Candidate,
}

impl MapRole {
    /// The word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Candidate => "candidate",
        }
    }
}

/// The refusals of a request that are not enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowSettings {
    /// The route's mode, for refusals by the map.
    pub mode: Mode,
    /// `shadow_authentication`, for refusals of the token on routes in shadow mode.
    pub authentication: Mode,
}

impl ShadowSettings {
    /// Whether a request with this refusal is forwarded. Ambiguous requests, limits, missing verdicts and blocks are no
    /// decisions of a map: their refusals are enforced in every mode.
    pub const fn permits(self, refusal: &Refusal) -> bool {
        let mode = match refusal {
            Refusal::Unmapped
            | Refusal::MethodNotMapped
            | Refusal::Denied
            | Refusal::MissingAbility(_)
            | Refusal::WrongNetwork(NetworkRule::Route)
            | Refusal::QueryDenied { .. } => Mode::Shadow,
            Refusal::MissingToken
            | Refusal::MalformedToken
            | Refusal::InactiveToken
            | Refusal::ExpiredToken
            | Refusal::NotYetValid
            | Refusal::UnexpectedClaim(_)
            // A property of the token, as its expiry is.
            | Refusal::WrongNetwork(NetworkRule::Token) => self.authentication,
            Refusal::BadRequest(_)
            | Refusal::Blocked
            | Refusal::NoVerdict
            | Refusal::Overloaded
            | Refusal::RequestTimeout
            | Refusal::PayloadTooLarge
            | Refusal::UriTooLong
            | Refusal::HeaderFieldsTooLarge
            | Refusal::VersionNotSupported
            | Refusal::WebSocketVersion
            | Refusal::TooManyAttempts(_)
            | Refusal::BackendUnreachable
            | Refusal::BackendBroken
            | Refusal::BackendTimeout
            | Refusal::InternalError => Mode::Enforce,
        };
        matches!((self.mode, mode), (Mode::Shadow, Mode::Shadow))
    }
}

/// How the decision `by_candidate` differs for a request that was forwarded or not; `None` if it does not.
pub const fn change(forwarded: bool, by_candidate: &Result<Reason, Refusal>) -> Option<Change> {
    match (forwarded, by_candidate) {
        (true, Err(_)) => Some(Change::WouldDeny),
        (false, Ok(_)) => Some(Change::WouldAllow),
        (true, Ok(_)) | (false, Err(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::ability::{Abilities, Requirement};
    use super::super::expected_claims::Claim;
    use super::super::map::{AbilityMap, MapBuilder, RouteOptions, Unmapped};
    use super::super::path::CanonicalPath;
    use super::super::refusal::{Exceeded, Limit};
    use super::*;

    #[test]
    fn shadow_mode_forgives_only_refusals_of_the_map_and_token() {
        use Mode::{Enforce, Shadow};
        let requirement = Requirement::all(["a"]).unwrap();
        let of_the_map = [
            Refusal::Unmapped,
            Refusal::MethodNotMapped,
            Refusal::Denied,
            requirement.check(&Abilities::default()).unwrap_err(),
            Refusal::WrongNetwork(NetworkRule::Route),
            Refusal::QueryDenied { rule: 0, missing: requirement.fields().clone() },
        ];
        let of_the_token = [
            Refusal::MissingToken,
            Refusal::MalformedToken,
            Refusal::InactiveToken,
            Refusal::ExpiredToken,
            Refusal::NotYetValid,
            Refusal::UnexpectedClaim(Claim::Audience),
            Refusal::WrongNetwork(NetworkRule::Token),
        ];
        let others = [
            Refusal::BadRequest("two Host fields"),
            Refusal::Blocked,
            Refusal::NoVerdict,
            Refusal::Overloaded,
            Refusal::RequestTimeout,
            Refusal::PayloadTooLarge,
            Refusal::UriTooLong,
            Refusal::HeaderFieldsTooLarge,
            Refusal::VersionNotSupported,
            Refusal::WebSocketVersion,
            Refusal::TooManyAttempts(Exceeded {
                limit: Limit::InFlight,
                allowed: 1,
                retry_after: 1,
                resets_at: 1,
            }),
            Refusal::BackendUnreachable,
            Refusal::BackendBroken,
            Refusal::BackendTimeout,
            Refusal::InternalError,
        ];
        for (mode, authentication, map, token) in [
            (Enforce, Enforce, false, false),
            (Enforce, Shadow, false, false),
            (Shadow, Enforce, true, false),
            (Shadow, Shadow, true, true),
        ] {
            let leniency = ShadowSettings { mode, authentication };
            let mode = [(&of_the_map[..], map), (&of_the_token, token), (&others, false)];
            for (refusal, expected) in mode.iter().flat_map(|(all, is)| all.iter().map(move |it| (it, *is))) {
                assert_eq!(leniency.permits(refusal), expected, "{refusal:?} with {leniency:?}");
            }
            assert!(
                mode.iter().all(|(all, _)| all
                    .iter()
                    .all(|it| it.is_authorization_refusal() != others.contains(it)))
            );
        }
    }

    fn map(global: Mode) -> AbilityMap {
        let rule = |word| [(Method::GET, Requirement::from_word(word).unwrap(), None)];
        let mode = |mode| RouteOptions { mode: Some(mode), ..RouteOptions::default() };
        let mut builder = MapBuilder::new(Unmapped::Deny).in_mode(global);
        builder.route("/items", rule("items:read")).unwrap();
        builder.route_with("/enforced", mode(Mode::Enforce), rule("items:read")).unwrap();
        builder.route_with("/tried", mode(Mode::Shadow), rule("items:read")).unwrap();
        builder.build()
    }

    #[test]
    fn route_has_its_own_mode_or_the_default() {
        use Mode::{Enforce, Shadow};
        for (method, path, in_enforce, in_shadow) in [
            (Method::GET, "/items", Enforce, Shadow),
            (Method::PUT, "/items", Enforce, Shadow),
            (Method::GET, "/nowhere", Enforce, Shadow),
            (Method::GET, "/enforced", Enforce, Enforce),
            (Method::PUT, "/enforced", Enforce, Enforce),
            (Method::GET, "/tried", Shadow, Shadow),
            (Method::PUT, "/tried", Shadow, Shadow),
        ] {
            for (global, expected) in [(Enforce, in_enforce), (Shadow, in_shadow)] {
                let map = map(global);
                let found = map.find(&method, &CanonicalPath::new(path).unwrap());
                assert_eq!(map.mode(&found), expected, "{method} {path} in {global:?}");
            }
        }
        assert!(map(Enforce).is_shadowed() && map(Shadow).is_shadowed());
        assert!(!AbilityMap::default().is_shadowed());
        assert!(MapBuilder::default().in_mode(Shadow).build().is_shadowed());
    }

    #[test]
    fn change_is_a_different_decision() {
        for (forwarded, by_candidate, expected) in [
            (true, Ok(Reason::Allowed), None),
            (true, Err(Refusal::Denied), Some(Change::WouldDeny)),
            (true, Err(Refusal::MissingToken), Some(Change::WouldDeny)),
            (false, Ok(Reason::Public), Some(Change::WouldAllow)),
            (false, Err(Refusal::Unmapped), None),
        ] {
            assert_eq!(change(forwarded, &by_candidate), expected, "{forwarded} {by_candidate:?}");
        }
    }
}
