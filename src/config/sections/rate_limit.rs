//! `rate_limit`: the request rate of each token, and its requests in flight.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::abilities::warn_of_unrequired;
use crate::config::language::{ANY, Decoder, Diagnostic, Named, OnOff, Spanned, Whole, join, section};
use crate::config::settings::{self, Allowance, Rate, ResponsePointers};
use crate::policy::map::AbilityMap;

/// The highest configurable rate, in requests per second; more than a gateway can serve.
pub(super) const MAX_REQUESTS: u32 = 1_000_000;

type Requests = Whole<1, MAX_REQUESTS>;

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
        /// Rate of each token by ability, in addition to the limits above, for requests of rules that require the
        /// ability. With `any`, the abilities count that the token has. Absent keys keep the common value.
        by_ability: Named<AbilityRate>,
        /// Whether all tokens of a workspace together have the rate above, in addition to each token's own limits.
        /// Tokens without a workspace, and those whose rate `by_id` sets, count for themselves only. Requires
        /// `introspection.response.workspace_id`.
        by_workspace: Spanned<OnOff> = false,
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

section! {
    /// The rate of requests by an ability. Absent keys keep the common value.
    AbilityRate {
        /// Sustained rate, in requests per second.
        requests_per_second: Option<Whole<1, MAX_REQUESTS>>,
        /// Largest burst after a pause, in requests.
        burst: Option<Whole<1, MAX_REQUESTS>>,
    }
}

pub(crate) fn compile(
    raw: RateLimit,
    map: &AbilityMap,
    response: &ResponsePointers,
    decoder: &mut Decoder<'_>,
) -> settings::RateLimit {
    let common =
        Rate { requests_per_second: at_least_one(raw.requests_per_second), burst: at_least_one(raw.burst) };
    let rate = |requests_per_second: Option<Requests>, burst: Option<Requests>| Rate {
        requests_per_second: requests_per_second.map_or(common.requests_per_second, at_least_one),
        burst: burst.map_or(common.burst, at_least_one),
    };
    let default =
        Allowance { rate: common, in_flight: NonZeroU32::new(raw.in_flight.0), has_own_rate: false };
    let allowance = |raw: &TokenOverride| Allowance {
        rate: rate(raw.requests_per_second, raw.burst),
        in_flight: raw.in_flight.map_or(default.in_flight, |max| NonZeroU32::new(max.0)),
        has_own_rate: raw.requests_per_second.is_some() || raw.burst.is_some(),
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
    warn_of_unrequired(
        "rate_limit.by_ability",
        raw.by_ability.0.iter().map(|(ability, _)| ability),
        map,
        decoder,
    );
    if raw.by_workspace.value.0 && response.workspace_id.is_none() {
        decoder.record(
            Diagnostic::error("the workspace of a token is not known")
                .key("rate_limit.by_workspace")
                .at(
                    raw.by_workspace.span,
                    "`introspection.response` does not say where the introspector returns it",
                )
                .hint("set `introspection.response.workspace_id`"),
        );
    }
    let by_ability = raw.by_ability.0.into_iter();
    settings::RateLimit {
        default,
        by_name: allowances(&raw.by_name),
        by_id,
        by_ability: by_ability
            .map(|(ability, raw)| (ability.text, rate(raw.requests_per_second, raw.burst)))
            .collect(),
        by_workspace: raw.by_workspace.value.0,
    }
}

fn at_least_one<const MOST: u32>(number: Whole<1, MOST>) -> NonZeroU32 {
    NonZeroU32::new(number.0).unwrap_or(NonZeroU32::MIN)
}
