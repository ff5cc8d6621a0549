//! `rate_limit`: the request rate of each token.

use std::collections::HashMap;
use std::num::NonZeroU32;

use crate::config::language::{Decoder, Diagnostic, Named, Whole, join, section};
use crate::config::settings::{self, Rate};

/// The highest configurable rate, in requests per second; more than a gateway can serve.
pub(super) const MAX_REQUESTS: u32 = 1_000_000;

section! {
    /// The request rate of each token, identified by the id that introspection returns.
    RateLimit {
        /// Sustained rate, in requests per second.
        requests_per_second: Whole<1, MAX_REQUESTS> = 50,
        /// Largest burst after a pause, in requests.
        burst: Whole<1, MAX_REQUESTS> = 100,
        /// Overrides by token name. Token owners choose names, so values can only lower the limits above.
        by_name: Named<RateOverride>,
        /// Overrides by token id. Values can lower or raise the limits above.
        by_id: Named<RateOverride>,
    }
}

section! {
    /// The rate of some tokens. Absent keys keep the common value.
    RateOverride {
        /// Sustained rate, in requests per second.
        requests_per_second: Option<Whole<1, MAX_REQUESTS>>,
        /// Largest burst after a pause, in requests.
        burst: Option<Whole<1, MAX_REQUESTS>>,
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
                    .at(name.span, "`by_name` can only lower a limit, because token owners choose names")
                    .hint("use `by_id` to raise it"),
            );
        }
    }
    settings::RateLimit { default, by_name: rates(&raw.by_name), by_id }
}

fn at_least_one<const MOST: u32>(number: Whole<1, MOST>) -> NonZeroU32 {
    NonZeroU32::new(number.0).unwrap_or(NonZeroU32::MIN)
}
