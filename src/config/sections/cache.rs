//! `cache`: how long the gateway uses a verdict.

use super::abilities::warn_of_unrequired;
use crate::config::language::{ANY, Decoder, Diagnostic, Named, Period, Size, Spanned, Whole, section};
use crate::config::settings;
use crate::policy::map::AbilityMap;

/// Any single verdict fits into this.
const MIN_BYTES: u64 = 64 * 1024;

section! {
    /// The cache of introspected tokens.
    Cache {
        /// How long the verdict on an active token is used, never beyond the token's expiry.
        ttl: Period = "60s",
        /// How long the verdict on an inactive token is used.
        negative_ttl: Period = "5s",
        /// Largest number of cached active tokens.
        max_tokens: Whole<1, ANY> = 100_000,
        /// Memory for active tokens, in bytes, at least 64KiB. Inactive tokens and bookkeeping take up to a quarter of
        /// it in addition. A token of Stockaj takes 0.7 KiB.
        max_bytes: Spanned<Size> = "64MiB",
        /// How long after `ttl` a verdict is still used while the introspector is unavailable; 0s: not at all.
        stale_if_error: Period = "0s",
        /// Oldest acceptable verdict, by ability, for routes that require the ability. `items:delete: 0s` introspects
        /// for every request; concurrent requests of a token share one introspection that started after they arrived.
        /// `stale_if_error` does not extend it.
        max_age: Named<Period>,
    }
}

pub(crate) fn compile(raw: Cache, map: &AbilityMap, decoder: &mut Decoder<'_>) -> settings::Cache {
    warn_of_unrequired("cache.max_age", raw.max_age.0.iter().map(|(ability, _)| ability), map, decoder);
    if raw.max_bytes.value.0 < MIN_BYTES {
        decoder.record(
            Diagnostic::error("value too small")
                .key("cache.max_bytes")
                .at(raw.max_bytes.span, "one token can need more")
                .hint("use at least `64KiB`"),
        );
    }
    settings::Cache {
        ttl: raw.ttl.0,
        negative_ttl: raw.negative_ttl.0,
        max_tokens: raw.max_tokens.0.into(),
        max_bytes: raw.max_bytes.value.0,
        stale_if_error: raw.stale_if_error.0,
        max_age: raw.max_age.0.into_iter().map(|(ability, period)| (ability.text, period.0)).collect(),
    }
}
