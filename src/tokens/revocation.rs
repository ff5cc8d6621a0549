//! Revocations and their generations.
//!
//! Revoking invalidates verdicts and does not block tokens. Each revocation increments a global generation. A verdict
//! is usable only if its generation is current, or if no later revocation concerns it. The result of an introspection
//! that started before a revocation of its token is discarded.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::hash::TokenHash;
use super::introspection::{MAX_NAME, MAX_TEXT};

/// Number of revocations that are stored individually. Verdicts older than the oldest of them are introspected again,
/// which is always safe.
const MAX_KEPT_REVOCATIONS: usize = 1024;

/// The verdicts that a revocation invalidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// Those of the token with this introspected id, in every spelling.
    Id(Box<str>),
    /// Those of every token with this name.
    Name(Box<str>),
    /// Those of every token whose name has this SHA-256. Other replicas get it instead of the name.
    HashedName([u8; 32]),
    /// Those of the token with this hash only.
    Token(TokenHash),
    /// Those of the token whose [secret](TokenHash::of_secret) has this hash, in every spelling.
    Secret(TokenHash),
    /// All.
    All,
    /// All, because an unknown revocation was missed: each token is introspected again.
    Missed,
}

/// A token that is checked against revocations.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The hash of the token as received.
    pub hash: &'a TokenHash,
    /// [That of its secret](TokenHash::of_secret); `None` if unknown.
    pub secret: Option<&'a TokenHash>,
    /// Its introspected id; `None` if unknown.
    pub id: Option<&'a str>,
    /// The [id in its text](written_id), which selects it as well; `None` if unknown.
    pub written_id: Option<&'a str>,
    /// Its introspected name.
    pub name: Option<&'a str>,
}

impl Revocation {
    /// The revocations that invalidate `token`: itself, and every other spelling with its id. If the id is unknown, it
    /// is the one that Sanctum would look up: the digits before the first `|`, without leading zeros.
    pub fn of_token(token: &str, known_id: Option<&str>) -> Vec<Self> {
        let id = known_id.or_else(|| written_id(token));
        let itself = Self::Token(TokenHash::of(token));
        std::iter::once(itself).chain(id.map(|id| Self::Id(id.into()))).collect()
    }

    /// Whether a verdict can exist that this concerns. Introspection rejects longer ids and names; they are not stored
    /// either, since the lists of revocations are only bounded by number.
    pub fn may_concern_a_token(&self) -> bool {
        match self {
            Self::Id(id) => id.len() <= MAX_TEXT,
            Self::Name(name) => name.chars().nth(MAX_NAME).is_none(),
            Self::HashedName(_) | Self::Token(_) | Self::Secret(_) | Self::All | Self::Missed => true,
        }
    }

    /// Whether this concerns `subject`.
    pub fn concerns(&self, subject: Subject<'_>) -> bool {
        match self {
            Self::Id(id) => [subject.id, subject.written_id].contains(&Some(id)),
            Self::Name(name) => subject.name == Some(name),
            Self::HashedName(hash) => subject.name.is_some_and(|name| TokenHash::of(name).as_bytes() == hash),
            Self::Token(hash) => subject.hash == hash,
            Self::Secret(hash) => subject.secret == Some(hash),
            Self::All | Self::Missed => true,
        }
    }
}

/// The id that Sanctum looks up for a token: the text before the first `|`, digits without leading zeros. `None` if there
/// is none.
pub fn written_id(token: &str) -> Option<&str> {
    let (written, _) = token.split_once('|')?;
    let digits = written.bytes().all(|byte| byte.is_ascii_digit());
    let id = if digits { written.trim_start_matches('0') } else { written };
    (!id.is_empty()).then_some(id)
}

/// The revocations so far, numbered by generation.
#[derive(Debug, Default)]
pub struct Revocations {
    generation: AtomicU64,
    latest: Mutex<VecDeque<(u64, Revocation)>>,
}

impl Revocations {
    /// The number of the latest revocation.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Records a revocation. From now on every older verdict is checked by [`Self::is_revoked_since`].
    pub fn add(&self, revocation: Revocation) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that a thread that sees the new generation also finds the revocation in the list.
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        if latest.len() == MAX_KEPT_REVOCATIONS {
            latest.pop_front();
        }
        latest.push_back((generation, revocation));
    }

    /// Whether `subject` was, or may have been, revoked after `generation`.
    pub fn is_revoked_since(&self, generation: u64, subject: Subject<'_>) -> bool {
        self.generation() != generation && {
            let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            let forgotten = latest.front().is_some_and(|(oldest, _)| *oldest > generation + 1);
            forgotten || after(&latest, generation).any(|revocation| revocation.concerns(subject))
        }
    }

    /// Whether a stored revocation concerns `subject` after `generation`.
    pub fn is_named_since(&self, generation: u64, subject: Subject<'_>) -> bool {
        self.any_since(generation, |it| *it != Revocation::Missed && it.concerns(subject))
    }

    /// Whether a stored revocation that does not concern all tokens concerns `subject` after `generation`.
    pub fn is_selected_since(&self, generation: u64, subject: Subject<'_>) -> bool {
        let is_of_all = |it: &Revocation| matches!(it, Revocation::All | Revocation::Missed);
        self.any_since(generation, |it| !is_of_all(it) && it.concerns(subject))
    }

    fn any_since(&self, generation: u64, is_wanted: impl Fn(&Revocation) -> bool) -> bool {
        self.generation() != generation && {
            let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            after(&latest, generation).any(is_wanted)
        }
    }
}

fn after(latest: &VecDeque<(u64, Revocation)>, generation: u64) -> impl Iterator<Item = &Revocation> {
    latest.iter().rev().take_while(move |(at, _)| *at > generation).map(|(_, revocation)| revocation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: TokenHash = TokenHash::from_bytes([7; 32]);
    const SECRET: TokenHash = TokenHash::from_bytes([9; 32]);
    const SUBJECT: Subject<'_> = Subject {
        hash: &HASH,
        secret: Some(&SECRET),
        id: Some("17"),
        written_id: None,
        name: Some("scanner"),
    };

    #[test]
    fn revocation_applies_to_the_named_tokens() {
        let other = TokenHash::from_bytes([8; 32]);
        let table = [
            (Revocation::Id("17".into()), true),
            (Revocation::Id("1".into()), false),
            (Revocation::Name("scanner".into()), true),
            (Revocation::Name("scan".into()), false),
            (Revocation::HashedName(*TokenHash::of("scanner").as_bytes()), true),
            (Revocation::HashedName(*TokenHash::of("scan").as_bytes()), false),
            (Revocation::Token(HASH), true),
            (Revocation::Token(other), false),
            (Revocation::Secret(SECRET), true),
            (Revocation::Secret(HASH), false),
            (Revocation::All, true),
            (Revocation::Missed, true),
        ];
        for (revocation, concerns) in table {
            assert_eq!(revocation.concerns(SUBJECT), concerns, "{revocation:?}");
        }
        let nameless = Subject { secret: None, id: None, name: None, ..SUBJECT };
        assert!(!Revocation::Id("17".into()).concerns(nameless));
        assert!(!Revocation::Secret(SECRET).concerns(nameless));
        let written = Subject { id: Some("a"), written_id: Some("17"), ..SUBJECT };
        assert!(
            Revocation::Id("17".into()).concerns(written) && Revocation::Id("a".into()).concerns(written)
        );
    }

    #[test]
    fn revocation_longer_than_any_id_or_name_is_not_kept() {
        for (revocation, is_kept) in [
            (Revocation::Id("1".repeat(255).into()), true),
            (Revocation::Id("1".repeat(256).into()), false),
            (Revocation::Name("\u{e9}".repeat(255).into()), true),
            (Revocation::Name("n".repeat(256).into()), false),
            (Revocation::All, true),
        ] {
            assert_eq!(revocation.may_concern_a_token(), is_kept, "{revocation:?}");
        }
    }

    #[test]
    fn revocation_by_token_includes_its_id() {
        let table = [
            ("17|secret", None, Some("17")),
            ("0017|secret", None, Some("17")),
            ("17|secret|more", None, Some("17")),
            ("17|secret", Some("abc"), Some("abc")),
            ("secret", Some("17"), Some("17")),
            ("0b-1c|secret", None, Some("0b-1c")),
            ("secret", None, None),
            ("|secret", None, None),
            ("0|secret", None, None),
        ];
        for (token, known_id, id) in table {
            let mut revocations = Revocation::of_token(token, known_id).into_iter();
            assert_eq!(revocations.next(), Some(Revocation::Token(TokenHash::of(token))));
            assert_eq!(revocations.next(), id.map(|id| Revocation::Id(id.into())), "{token}");
            assert_eq!(revocations.next(), None);
        }
    }

    #[test]
    fn only_revocations_after_a_generation_count() {
        let revocations = Revocations::default();
        revocations.add(Revocation::Id("17".into()));
        let after = revocations.generation();
        assert!(revocations.is_revoked_since(after - 1, SUBJECT));
        assert!(!revocations.is_revoked_since(after, SUBJECT));
        revocations.add(Revocation::Id("18".into()));
        assert!(!revocations.is_revoked_since(after, SUBJECT));
    }

    #[test]
    fn missed_revocations_name_no_token() {
        let revocations = Revocations::default();
        let before = revocations.generation();
        revocations.add(Revocation::Missed);
        assert!(
            revocations.is_revoked_since(before, SUBJECT) && !revocations.is_named_since(before, SUBJECT)
        );
        revocations.add(Revocation::All);
        assert!(revocations.is_revoked_since(before, SUBJECT) && revocations.is_named_since(before, SUBJECT));
        assert!(!revocations.is_selected_since(before, SUBJECT));
        let after = revocations.generation();
        assert!(!revocations.is_named_since(after, SUBJECT));
        revocations.add(Revocation::Id("18".into()));
        assert!(!revocations.is_selected_since(before, SUBJECT));
        revocations.add(Revocation::Secret(SECRET));
        assert!(revocations.is_selected_since(after, SUBJECT) && revocations.is_named_since(after, SUBJECT));
    }

    #[test]
    fn verdict_older_than_the_kept_revocations_is_revoked() {
        let revocations = Revocations::default();
        let before = revocations.generation();
        for _ in 0..=MAX_KEPT_REVOCATIONS {
            revocations.add(Revocation::Id("18".into()));
        }
        assert!(revocations.is_revoked_since(before, SUBJECT));
        assert!(!revocations.is_revoked_since(before + 1, SUBJECT));
    }
}
