//! What the gateway finds about a token, for commands that introspect one.

use std::error::Error;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::config::settings::{self, IntrospectionStyle};
use crate::policy::bearer::Token;
use crate::tokens::blocklist::BlockList;
use crate::tokens::hash::TokenHash;
use crate::tokens::introspection::{Inactive, IntrospectionResponse, NoVerdict};
use crate::tokens::introspector::Introspector;
use crate::tokens::verdict::Verdict;

/// What the gateway finds about a token. Blocks that were made while a gateway runs are not known here.
pub(super) enum TokenState {
    /// The token is active.
    Active(Verdict),
    /// Its own expiry has passed.
    Expired(Verdict),
    /// `blocked` names the token. `None` if its text shows that, so that it is not introspected.
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
        let secret = TokenHash::of_secret(token.secret());
        Ok(match Introspector::introspect_once(introspection, token.secret())? {
            IntrospectionResponse::Active(verdict) => {
                if blocks.blocks_verdict(&verdict, &secret, Timestamp::now()) {
                    Self::Blocked(Some(verdict))
                } else if verdict.has_expired(SystemTime::now()) {
                    Self::Expired(verdict)
                } else {
                    Self::Active(verdict)
                }
            }
            IntrospectionResponse::Inactive(why) => Self::Inactive(why),
            IntrospectionResponse::NoVerdict(why) => Self::NoVerdict(why),
        })
    }
}
