//! What a token may do, what a route requires, and the proof that the one satisfies the other.

use http::HeaderValue;

/// Proof that a request may be forwarded.
///
/// Only [`Requirement::permit`] and [`Permit::public`] make one, and forwarding takes one by value.
#[derive(Debug)]
#[must_use = "a permit is made to be forwarded with"]
pub struct Permit(());

impl Permit {
    /// The permit of a `public` route; none for any other requirement.
    pub fn public(requirement: &Requirement) -> Option<Self> {
        matches!(requirement.kind, RequirementKind::Public).then_some(Self(()))
    }
}

/// The abilities that introspection reported for a token: exact strings, of which only a lone `*` is
/// special (Sanctum's `tokenCan`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    every: bool,
    names: Box<[Box<str>]>,
}

impl Abilities {
    /// From the names as introspection gave them.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: Vec<Box<str>> = names.into_iter().map(Into::into).collect();
        names.sort_unstable();
        names.dedup();
        Self { every: names.iter().any(|name| &**name == "*"), names: names.into() }
    }

    /// Whether the token can do `ability`.
    pub fn can(&self, ability: &str) -> bool {
        self.every || self.names.iter().any(|name| &**name == ability)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }
}

/// What a route's method asks of a token, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    kind: RequirementKind,
    challenge: HeaderValue,
}

/// The forms of a requirement in the ability map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequirementKind {
    /// No token is asked for.
    Public,
    /// Any active token.
    Authenticated,
    /// Nobody.
    Deny,
    /// Every one of these (Sanctum's `abilities` middleware); a single ability is a list of one.
    All(Box<[Box<str>]>),
    /// At least one of these (Sanctum's `ability` middleware).
    Any(Box<[Box<str>]>),
}
