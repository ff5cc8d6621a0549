//! `rate_limit`: the request rate of each token, and its requests in flight.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::{Component, Path, PathBuf};

use super::abilities::warn_of_unrequired;
use super::usage::flush_interval;
use crate::config::language::{
    ANY, Decoder, Diagnostic, Named, OnOff, PrivatePath, Spanned, Timeout, Whole, join, section, words,
};
use crate::config::settings::{self, Allowance, QuotaPeriod, QuotaStore, Rate, ResponsePointers};
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
        /// Largest number of requests of each token in a window of time. Without this section there is none.
        quota: Option<Spanned<Quota>>,
        /// Whether replicas share the rates through `redis`: together they allow what one of them would. If off, each
        /// replica counts for itself, as `in_flight` and `quota` always do.
        shared: Spanned<OnOff> = false,
        /// `ietf`: forwarded responses and 429 responses to requests with a token have the fields RateLimit and
        /// RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-10. `none`: they do not.
        fields: Fields = "none",
    }
}

/// `rate_limit.fields`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fields {
    None,
    Ietf,
}

words!(Fields { "none" => Self::None, "ietf" => Self::Ietf });

section! {
    /// Largest number of requests of each token in an hour, a day or a month. The counts survive restarts.
    Quota {
        /// Largest number of requests.
        requests: Whole<1, ANY>,
        /// The window, in UTC: `hour`, `day` or `month`.
        per: QuotaPeriod,
        /// File of the counts. Only one gateway can use it. The gateway creates a missing directory. Default:
        /// `quota.redb` beside `usage.path`; required without `usage`.
        path: Option<Spanned<PrivatePath>>,
        /// How often counts are written to disk. A crash loses at most this much.
        flush_interval: Spanned<Timeout> = "10s",
    }
}

words!(QuotaPeriod { "hour" => Self::Hour, "day" => Self::Day, "month" => Self::Month });

section! {
    /// The limits of some tokens. Absent keys keep the common value.
    TokenOverride {
        /// Sustained rate, in requests per second.
        requests_per_second: Option<Whole<1, MAX_REQUESTS>>,
        /// Largest burst after a pause, in requests.
        burst: Option<Whole<1, MAX_REQUESTS>>,
        /// Largest number of requests in flight; 0: unlimited.
        in_flight: Option<Whole<0, ANY>>,
        /// Largest number of requests in each window of `rate_limit.quota`; 0: unlimited.
        quota: Option<Spanned<Whole<0, ANY>>>,
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
    usage: Option<&settings::Usage>,
    decoder: &mut Decoder<'_>,
) -> (settings::RateLimit, Option<QuotaStore>) {
    let common =
        Rate { requests_per_second: at_least_one(raw.requests_per_second), burst: at_least_one(raw.burst) };
    let rate = |requests_per_second: Option<Requests>, burst: Option<Requests>| Rate {
        requests_per_second: requests_per_second.map_or(common.requests_per_second, at_least_one),
        burst: burst.map_or(common.burst, at_least_one),
    };
    let default = Allowance {
        rate: common,
        in_flight: NonZeroU32::new(raw.in_flight.0),
        quota: raw.quota.as_ref().and_then(|quota| NonZeroU32::new(quota.value.requests.0)),
        has_own_rate: false,
    };
    let allowance = |raw: &TokenOverride| Allowance {
        rate: rate(raw.requests_per_second, raw.burst),
        in_flight: raw.in_flight.map_or(default.in_flight, |max| NonZeroU32::new(max.0)),
        quota: raw.quota.as_ref().map_or(default.quota, |quota| NonZeroU32::new(quota.value.0)),
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
    let overrides = [("by_name", &raw.by_name), ("by_id", &raw.by_id)];
    if raw.quota.is_none() {
        for (section, named) in overrides {
            for (key, raw) in &named.0 {
                let Some(quota) = &raw.quota else { continue };
                let mut path = format!("rate_limit.{section}");
                join(&mut path, &key.text);
                decoder.record(
                    Diagnostic::error("quota without a window")
                        .key(path + ".quota")
                        .at(quota.span, "`rate_limit.quota` is missing")
                        .hint("add `quota: {requests: 100000, per: day}` to `rate_limit`"),
                );
            }
        }
    }
    let quota_period = raw.quota.as_ref().map(|quota| quota.value.per);
    let quota = raw.quota.and_then(|quota| compile_quota(quota, usage, decoder));
    let by_ability = raw.by_ability.0.into_iter();
    let rate_limit = settings::RateLimit {
        default,
        by_name: allowances(&raw.by_name),
        by_id,
        by_ability: by_ability
            .map(|(ability, raw)| (ability.text, rate(raw.requests_per_second, raw.burst)))
            .collect(),
        by_workspace: raw.by_workspace.value.0,
        shared: raw.shared.value.0,
        quota_period,
        has_fields: raw.fields == Fields::Ietf,
    };
    (rate_limit, quota)
}

/// Returns `None` after an error.
fn compile_quota(
    Spanned { value: raw, span }: Spanned<Quota>,
    usage: Option<&settings::Usage>,
    decoder: &mut Decoder<'_>,
) -> Option<QuotaStore> {
    let flush_interval = flush_interval(raw.flush_interval, "rate_limit.quota.flush_interval", decoder);
    let ledger = usage.map(|usage| &*usage.path);
    let path = match (raw.path, ledger) {
        (Some(path), ledger) => {
            let plain = |path: &Path| -> PathBuf {
                path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
            };
            if ledger.map(plain) == Some(plain(&path.value.0)) {
                return decoder.reject(
                    Diagnostic::error("two files have one path")
                        .key("rate_limit.quota.path")
                        .at(path.span, "`usage.path` names this file"),
                );
            }
            path.value.0
        }
        (None, Some(ledger)) => ledger.with_file_name("quota.redb"),
        (None, None) => {
            return decoder.reject(
                Diagnostic::error("no place for the counts")
                    .key("rate_limit.quota.path")
                    .at(span, "`path` is required without `usage`")
                    .hint("set `path: /var/lib/stockaj-gateway/quota.redb`"),
            );
        }
    };
    Some(QuotaStore { path, period: raw.per, flush_interval })
}

/// Records an error if replicas are to share the rates without Redis.
pub(crate) fn require_redis(raw: &RateLimit, has_redis: bool, decoder: &mut Decoder<'_>) {
    if raw.shared.value.0 && !has_redis {
        decoder.record(
            Diagnostic::error("missing section `redis`")
                .key("rate_limit.shared")
                .at(raw.shared.span, "replicas share rates through Redis")
                .hint("add `redis` with its `url`, or remove `shared`"),
        );
    }
}

fn at_least_one<const MOST: u32>(number: Whole<1, MOST>) -> NonZeroU32 {
    NonZeroU32::new(number.0).unwrap_or(NonZeroU32::MIN)
}
