//! Shadow mode: what a map would refuse, or allow anew, is told and not enforced.

use std::fmt::{self, Display, Formatter};

use http::Method;

use super::map::Found;
use super::refusal::{Reason, Refusal};

/// Whether refusals are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They are.
    #[default]
    Enforce,
    /// They are told, and the request is forwarded.
    Shadow,
}

impl Mode {
    /// The word for it in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// What would become of a request, other than what does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is forwarded, and would be refused.
    WouldDeny,
    /// It is refused, and would be forwarded.
    WouldAllow,
}

impl Change {
    /// The word for it in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WouldDeny => "would_deny",
            Self::WouldAllow => "would_allow",
        }
    }
}

/// Whose decision it would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// That of `abilities`, where it is not enforced.
    Enforced,
    /// That of the candidate map beside it.
    Candidate,
}

impl Side {
    /// The word for it in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Candidate => "candidate",
        }
    }
}

/// Which refusals of a request are not enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leniency {
    /// The route's: what the map refuses.
    pub mode: Mode,
    /// `shadow_authentication`: whether, where the map is not enforced, tokens are not asked for either.
    pub authentication: Mode,
}

impl Leniency {
    /// Whether what was refused so is forwarded all the same. An ambiguous request, a limit and the want of a verdict
    /// are no decision of a map: they hold in every mode.
    pub const fn forgives(self, refusal: &Refusal) -> bool {
        let forgiven = match refusal {
            Refusal::Unmapped | Refusal::MethodNotMapped | Refusal::Denied | Refusal::MissingAbility(_) => {
                Mode::Shadow
            }
            Refusal::MissingToken
            | Refusal::MalformedToken
            | Refusal::InactiveToken
            | Refusal::ExpiredToken => self.authentication,
            Refusal::BadRequest(_)
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
        matches!((self.mode, forgiven), (Mode::Shadow, Mode::Shadow))
    }
}

/// What another decision would change of a request that was forwarded or not; none: nothing.
pub const fn change(forwarded: bool, otherwise: &Result<Reason, Refusal>) -> Option<Change> {
    match (forwarded, otherwise) {
        (true, Err(_)) => Some(Change::WouldDeny),
        (false, Ok(_)) => Some(Change::WouldAllow),
        (true, Ok(_)) | (false, Err(_)) => None,
    }
}

/// Which rule would decide, for a log: `candidate candidate.yaml:7:12 items:read (missing_ability)`.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Of which map.
    pub side: Side,
    /// What it says of the request.
    pub found: &'a Found<'a>,
    /// The method that it was asked about.
    pub method: &'a Method,
    /// What would come of it.
    pub reason: Reason,
}

impl Display for Told<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.side.as_str())?;
        match self.found {
            Found::Rule { rule, .. } => {
                if let Some(place) = &rule.place {
                    write!(formatter, " {place}")?;
                }
                write!(formatter, " {}", rule.requirement)?;
            }
            Found::NoMethod { .. } => write!(formatter, " without {}", self.method)?,
            Found::NoRoute => formatter.write_str(" without a route")?,
        }
        write!(formatter, " ({})", self.reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ability::{Abilities, Requirement};
    use super::super::map::{AbilityMap, MapBuilder, Place, RouteOptions, Unmapped};
    use super::super::path::CanonicalPath;
    use super::super::refusal::Exceeded;
    use super::*;

    #[test]
    fn what_each_mode_forgives() {
        use Mode::{Enforce, Shadow};
        let missing = Requirement::all(["a"]).unwrap().check(&Abilities::default());
        let of_the_map = [Refusal::Unmapped, Refusal::MethodNotMapped, Refusal::Denied, missing.unwrap_err()];
        let of_the_token =
            [Refusal::MissingToken, Refusal::MalformedToken, Refusal::InactiveToken, Refusal::ExpiredToken];
        let others = [
            Refusal::BadRequest("two Host fields"),
            Refusal::NoVerdict,
            Refusal::Overloaded,
            Refusal::RequestTimeout,
            Refusal::PayloadTooLarge,
            Refusal::UriTooLong,
            Refusal::HeaderFieldsTooLarge,
            Refusal::VersionNotSupported,
            Refusal::WebSocketVersion,
            Refusal::TooManyAttempts(Exceeded { limit: 1, retry_after: 1, resets_at: 1 }),
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
            let leniency = Leniency { mode, authentication };
            let forgiven = [(&of_the_map[..], map), (&of_the_token, token), (&others, false)];
            for (refusal, expected) in
                forgiven.iter().flat_map(|(all, is)| all.iter().map(move |it| (it, *is)))
            {
                assert_eq!(leniency.forgives(refusal), expected, "{refusal:?} with {leniency:?}");
            }
            assert!(
                forgiven.iter().all(|(all, _)| all.iter().all(|it| it.is_of_a_map() != others.contains(it)))
            );
        }
    }

    fn map(global: Mode) -> AbilityMap {
        let rule = |word| {
            let place = Place { file: "candidate.yaml".into(), line: 7, column: 12 };
            [(Method::GET, Requirement::from_word(word).unwrap(), Some(place))]
        };
        let mode = |mode| RouteOptions { mode: Some(mode), ..RouteOptions::default() };
        let mut builder = MapBuilder::new(Unmapped::Deny).in_mode(global);
        builder.route("/items", rule("items:read")).unwrap();
        builder.route_with("/enforced", mode(Mode::Enforce), rule("items:read")).unwrap();
        builder.route_with("/tried", mode(Mode::Shadow), rule("items:read")).unwrap();
        builder.build()
    }

    #[test]
    fn a_route_has_its_own_mode_or_that_of_all() {
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
    fn a_change_is_what_is_not_as_it_is() {
        for (forwarded, otherwise, expected) in [
            (true, Ok(Reason::Allowed), None),
            (true, Err(Refusal::Denied), Some(Change::WouldDeny)),
            (true, Err(Refusal::MissingToken), Some(Change::WouldDeny)),
            (false, Ok(Reason::Public), Some(Change::WouldAllow)),
            (false, Err(Refusal::Unmapped), None),
        ] {
            assert_eq!(change(forwarded, &otherwise), expected, "{forwarded} {otherwise:?}");
        }
    }

    #[test]
    fn a_rule_is_told_with_its_place() {
        let map = map(Mode::Enforce);
        for (side, method, path, reason, text) in [
            (
                Side::Candidate,
                Method::GET,
                "/items",
                Reason::MissingAbility,
                "candidate candidate.yaml:7:12 items:read (missing_ability)",
            ),
            (
                Side::Enforced,
                Method::PUT,
                "/items",
                Reason::MethodNotMapped,
                "enforced without PUT (method_not_mapped)",
            ),
            (
                Side::Candidate,
                Method::GET,
                "/nowhere",
                Reason::Unmapped,
                "candidate without a route (unmapped)",
            ),
        ] {
            let found = map.find(&method, &CanonicalPath::new(path).unwrap());
            assert_eq!(Told { side, found: &found, method: &method, reason }.to_string(), text);
        }
    }
}
