//! The state of a token by the rules of the gateway, and its description, for commands that introspect a token.

use std::error::Error;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::config::settings::{self, IntrospectionStyle};
use crate::policy::bearer::Token;
use crate::policy::expected_claims::ExpectedClaims;
use crate::sanitize::sanitize;
use crate::tokens::blocklist::BlockList;
use crate::tokens::hash::TokenHashes;
use crate::tokens::introspection::{Inactive, IntrospectionResponse, Mismatch, NoVerdict};
use crate::tokens::introspector::Introspector;
use crate::tokens::revocation::Subject;
use crate::tokens::verdict::Verdict;

/// The state of a token by the rules of the gateway. It ignores blocks that were added to a running gateway.
pub(super) enum TokenState {
    /// The token is active.
    Active(Verdict),
    /// Its own expiry has passed.
    Expired(Verdict),
    /// `blocked` names the token. `None` if it is not active, or its text shows that, so that it is not
    /// introspected.
    Blocked(Option<Verdict>),
    /// The introspector reports that it is not active, or its answer counts as that.
    Inactive(Inactive),
    /// The introspection failed.
    NoVerdict(NoVerdict),
}

impl TokenState {
    /// Introspects a token once, unless its text shows that `blocked` names it. The order is the gateway's.
    ///
    /// # Errors
    /// If the TLS of `introspection` cannot be configured, or the system provides no event queue.
    pub(super) fn introspect(
        introspection: &settings::Introspection,
        blocked: &settings::Blocked,
        token: &Token<'_>,
    ) -> Result<Self, Box<dyn Error>> {
        let blocks = BlockList::default();
        blocks.configure(blocked);
        let shows_id = matches!(introspection.style, IntrospectionStyle::Bearer);
        if blocks.blocks_text(token.secret(), shows_id, Timestamp::now()) {
            return Ok(Self::Blocked(None));
        }
        let TokenHashes { token: hash, secret, .. } = TokenHashes::of(token.secret());
        let is_blocked = |id: &str, name: Option<&str>| {
            // The id in the text is not blocked.
            let (secret, id) = (Some(&secret), Some(id));
            let subject = Subject { hash: &hash, secret, id, written_id: None, name };
            blocks.blocks_token(subject, Timestamp::now())
        };
        Ok(match Introspector::introspect_once(introspection, token.secret())? {
            IntrospectionResponse::Active(verdict) => {
                if is_blocked(&verdict.id, verdict.name.as_deref()) {
                    Self::Blocked(Some(verdict))
                } else if verdict.has_expired(SystemTime::now()) {
                    Self::Expired(verdict)
                } else {
                    Self::Active(verdict)
                }
            }
            IntrospectionResponse::Inactive { id, name, .. } if is_blocked(&id, name.as_deref()) => {
                Self::Blocked(None)
            }
            IntrospectionResponse::Inactive { why, .. } => Self::Inactive(why),
            IntrospectionResponse::NoVerdict(why) => Self::NoVerdict(why),
        })
    }
}

/// When a token becomes valid.
pub(super) fn valid_from(from: SystemTime) -> String {
    match Timestamp::try_from(from) {
        Ok(from) => format!("valid from {from}"),
        Err(_) => "valid in the distant future".to_owned(),
    }
}

/// A claim's value and the expected one.
pub(super) fn difference(mismatch: &Mismatch, expect: &ExpectedClaims) -> String {
    let Mismatch { claim, found } = mismatch;
    let expected = expect.describe(*claim).to_string();
    format!("{} is {}, expected {}", claim.as_str(), sanitize(found), sanitize(&expected))
}

/// Name, id and expiry of a token. Never the token or its hash, which is the id if the introspector reports none.
pub(super) fn holder(verdict: &Verdict) -> String {
    let is_hash = verdict.id.len() == 64 && verdict.id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = if is_hash { String::new() } else { format!(" (id {})", sanitize(&verdict.id)) };
    let name = verdict.name.as_deref().map_or("no name".to_owned(), sanitize);
    let expiry = match verdict.expires_at.map(Timestamp::try_from) {
        Some(Ok(expiry)) => format!("expires {expiry}"),
        Some(Err(_)) => "expires in the distant future".to_owned(),
        None => "does not expire".to_owned(),
    };
    format!("{name}{id}, {expiry}")
}
