//! `rate_limit`: requests of one token.

use std::collections::HashMap;
use std::num::NonZeroU32;

use crate::config::language::{Decoder, Diagnostic, Named, Whole, join, section};
use crate::config::settings::{self, Rate};

/// The most requests per second that can be configured; a gateway serves fewer.
pub(super) const MOST_REQUESTS: u32 = 1_000_000;

section! {
    /// How often one token may come. Tokens are known by the id that introspection names.
    RateLimit {
        /// In the long run.
        requests_per_second: Whole<1, MOST_REQUESTS> = 50,
        /// At once, after a pause.
        burst: Whole<1, MOST_REQUESTS> = 100,
        /// By the token's name, which is its owner's choice: lower values hold, higher ones do not.
        by_name: Named<RateOverride>,
        /// By the token's id: values that hold instead of those above, lower or higher.
        by_id: Named<RateOverride>,
    }
}

section! {
    /// For some tokens; what is left out is as for all.
    RateOverride {
        /// In the long run.
        requests_per_second: Option<Whole<1, MOST_REQUESTS>>,
        /// At once, after a pause.
        burst: Option<Whole<1, MOST_REQUESTS>>,
    }
}

pub(crate) fn compile(raw: RateLimit, decoder: &mut Decoder<'_>) -> settings::RateLimit {
    let default =
        Rate { requests_per_second: at_least_one(raw.requests_per_second), burst: at_least_one(raw.burst) };
    let rate = |raw: &RateOverride| Rate {
        requests_per_second: raw.requests_per_second.map_or(default.requests_per_second, at_least_one),
        burst: raw.burst.map_or(default.burst, at_least_one),
    };
    let rates = |named: &Named<RateOverride>| {
        named.0.iter().map(|(key, raw)| (key.text.clone(), rate(raw))).collect()
    };
    let by_id: HashMap<Box<str>, Rate> = rates(&raw.by_id);
    for (name, raw) in &raw.by_name.0 {
        let lowered = rate(raw);
        if [&default].into_iter().chain(by_id.values()).all(|rate| rate.min(lowered) == *rate) {
            let mut path = "rate_limit.by_name".to_owned();
            join(&mut path, &name.text);
            decoder.record(
                Diagnostic::warning("has no effect")
                    .key(path)
                    .at(name.span, "names are their owners' choice: this can only lower a limit")
                    .hint("`by_id` can raise it"),
            );
        }
    }
    settings::RateLimit { default, by_name: rates(&raw.by_name), by_id }
}

fn at_least_one<const MOST: u32>(number: Whole<1, MOST>) -> NonZeroU32 {
    NonZeroU32::new(number.0).unwrap_or(NonZeroU32::MIN)
}
