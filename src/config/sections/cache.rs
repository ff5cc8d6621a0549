//! `cache`: how long the gateway uses a verdict.

use std::collections::BTreeSet;

use crate::config::language::{
    ANY, Decoder, Diagnostic, Named, Period, Size, Spanned, Whole, join, nearest, section,
};
use crate::config::settings;
use crate::policy::map::AbilityMap;

/// The memory that any one verdict fits into.
const LEAST_BYTES: u64 = 64 * 1024;

section! {
    /// How long a verdict lives.
    Cache {
        /// Of an active token; never past the token's own expiry.
        ttl: Period = "60s",
        /// Of an inactive token.
        negative_ttl: Period = "5s",
        /// The most active tokens kept.
        max_tokens: Whole<1, ANY> = 100_000,
        /// The memory for active tokens, at least 64KiB. Inactive tokens and the bookkeeping take up to a quarter of it in
        /// addition. A token of Stockaj takes 0.7 KiB.
        max_bytes: Spanned<Size> = "64MiB",
        /// How long after `ttl` a verdict serves while the introspector is out; 0s: not at all.
        stale_if_error: Period = "0s",
        /// How old a verdict may be for a route that requires one of these abilities: `items:delete: 0s` asks anew for
        /// every request, or shares what was asked since it came. `stale_if_error` never exceeds it.
        max_age: Named<Period>,
    }
}

/// Warns of a `max_age` for an ability that no route requires: it has no effect, and is probably a typing error.
pub(crate) fn compile(raw: Cache, map: &AbilityMap, decoder: &mut Decoder<'_>) -> settings::Cache {
    let rules = map.routes().flat_map(|route| route.rules());
    let required: BTreeSet<&str> = rules.flat_map(|(_, rule)| rule.requirement.abilities()).collect();
    for (ability, _) in &raw.max_age.0 {
        if required.contains(&*ability.text) {
            continue;
        }
        let mut path = "cache.max_age".to_owned();
        join(&mut path, &ability.text);
        let warning =
            Diagnostic::warning("has no effect").key(path).at(ability.span, "no route requires this ability");
        decoder.record(warning.suggest(nearest(&ability.text, required.iter().copied())));
    }
    if raw.max_bytes.value.0 < LEAST_BYTES {
        decoder.record(
            Diagnostic::error("too small")
                .key("cache.max_bytes")
                .at(raw.max_bytes.span, "less than one token may take")
                .hint("at least `64KiB`"),
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
