//! `rate_limit`: the request rate of each token, and its requests in flight.

use std::collections::HashMap;
use std::num::NonZeroU32;

use crate::config::language::{ANY, Decoder, Diagnostic, Named, Whole, join, section};
use crate::config::settings::{self, Allowance, Rate};

/// The highest configurable rate, in requests per second; more than a gateway can serve.
pub(super) const MAX_REQUESTS: u32 = 1_000_000;

section! {
    /// The limits of each token, identified by the id that introspection returns.
    RateLimit {
        /// Sustained rate, in requests per second.
        requests_per_second: Whole<1, MAX_REQUESTS> = 50,
        /// Largest burst after a pause, in requests.
        burst: Whole<1, MAX_REQUESTS> = 100,
        /// Largest number of requests in flight, from their authorisation to the end of their response; 0: unlimited.
        /// Tunnels do not count: see `limits.tunnels_per_token`.
        in_flight: Whole<0, ANY> = 0,
        /// Overrides by token name. Token owners choose names, so values can only lower the limits above.
        by_name: Named<TokenOverride>,
        /// Overrides by token id. Values can lower or raise the limits above.
        by_id: Named<TokenOverride>,
    }
}

section! {
    /// The limits of some tokens. Absent keys keep the common value.
    TokenOverride {
        /// Sustained rate, in requests per second.
        requests_per_second: Option<Whole<1, MAX_REQUESTS>>,
        /// Largest burst after a pause, in requests.
        burst: Option<Whole<1, MAX_REQUESTS>>,
        /// Largest number of requests in flight; 0: unlimited.
        in_flight: Option<Whole<0, ANY>>,
    }
}

pub(crate) fn compile(raw: RateLimit, decoder: &mut Decoder<'_>) -> settings::RateLimit {
    let default = Allowance {
        rate: Rate {
            requests_per_second: at_least_one(raw.requests_per_second),
            burst: at_least_one(raw.burst),
        },
        in_flight: NonZeroU32::new(raw.in_flight.0),
    };
    let allowance = |raw: &TokenOverride| Allowance {
        rate: Rate {
            requests_per_second: raw
                .requests_per_second
                .map_or(default.rate.requests_per_second, at_least_one),
            burst: raw.burst.map_or(default.rate.burst, at_least_one),
        },
        in_flight: raw.in_flight.map_or(default.in_flight, |max| NonZeroU32::new(max.0)),
    };
    let allowances = |named: &Named<TokenOverride>| {
        named.0.iter().map(|(key, raw)| (key.text.clone(), allowance(raw))).collect()
    };
    let by_id: HashMap<Box<str>, Allowance> = allowances(&raw.by_id);
    for (name, raw) in &raw.by_name.0 {
        let lowered = allowance(raw);
        if [&default].into_iter().chain(by_id.values()).all(|own| own.min(lowered) == *own) {
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
    settings::RateLimit { default, by_name: allowances(&raw.by_name), by_id }
}

fn at_least_one<const MOST: u32>(number: Whole<1, MOST>) -> NonZeroU32 {
    NonZeroU32::new(number.0).unwrap_or(NonZeroU32::MIN)
}
