//! `cache`: how long a verdict is believed, and how old it may be for what.

use std::collections::{BTreeSet, HashMap};

use super::decode::{Decoder, join, nearest};
use super::report::Mistake;
use super::settings;
use super::written;
use crate::policy::map::AbilityMap;

/// The least memory that holds any one verdict: its lengths are bounded.
const LEAST_BYTES: u64 = 64 * 1024;

/// A bound for an ability that no route requires is a warning: it is a typing error, or bounds nothing.
pub(super) fn compile(cache: written::Cache, map: &AbilityMap, decoder: &mut Decoder<'_>) -> settings::Cache {
    let rules = map.routes().flat_map(|route| route.rules());
    let required: BTreeSet<&str> = rules.flat_map(|(_, rule)| rule.requirement.abilities()).collect();
    for (ability, _) in &cache.max_age.0 {
        if required.contains(&*ability.text) {
            continue;
        }
        let mut path = "cache.max_age".to_owned();
        join(&mut path, &ability.text);
        let mut mistake =
            Mistake::warning("has no effect").of(path).at(ability.span, "no route requires this ability");
        if let Some(near) = nearest(&ability.text, required.iter().copied()) {
            mistake = mistake.hint(format!("did you mean `{near}`?"));
        }
        decoder.mistakes.push(mistake);
    }
    let max_age: HashMap<_, _> =
        cache.max_age.0.into_iter().map(|(ability, period)| (ability.text, period.0)).collect();
    if cache.max_bytes.value.0 < LEAST_BYTES {
        let mistake = Mistake::error("too small").of("cache.max_bytes");
        decoder
            .mistakes
            .push(mistake.at(cache.max_bytes.span, "less than one token may take").hint("at least `64KiB`"));
    }
    settings::Cache {
        ttl: cache.ttl.0,
        negative_ttl: cache.negative_ttl.0,
        max_tokens: cache.max_tokens.0.into(),
        max_bytes: cache.max_bytes.value.0,
        stale_if_error: cache.stale_if_error.0,
        max_age,
    }
}
