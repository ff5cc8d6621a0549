//! Invented usage of the past month, so that the demo's usage page has content before the first request.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use http::Method;

use crate::demo::tokens::{READER, SCANNER, SampleToken, USER, WRITER};
use crate::policy::ability::Abilities;
use crate::policy::map::AbilityMap;
use crate::usage::batch::{CountedOutcome, TokenDescription, key};
use crate::usage::ledger::{Bounds, Ledger, LedgerError};
use crate::usage::pending::{Counts, Day, Pending, PendingToken, day, milliseconds};
use crate::usage::rules::{RuleNumbers, Rules};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The requests of a token on each day of a period.
struct Pattern {
    token: DemoToken,
    /// The first and the last day, counted back from today.
    days: (Day, Day),
    /// Method, route, and requests per working day; at weekends a third of them.
    calls: &'static [(Method, &'static str, u64)],
    /// Requests per day by plain HTTP.
    plain_http: u64,
    /// Distinct client addresses per day.
    addresses: u32,
}

enum DemoToken {
    Sample(SampleToken),
    /// A token that the demo's Stockaj does not have.
    Deleted {
        id: u32,
        name: &'static str,
        abilities: &'static [&'static str],
    },
}

const ITEMS: &str = "/api/v2/items";
const ITEM: &str = "/api/v2/items/{id}";
const RENTAL: &str = "/api/v2/rentals/{id}";

const PATTERNS: [Pattern; 8] = [
    Pattern {
        token: DemoToken::Sample(USER),
        days: (29, 1),
        calls: &[
            (Method::GET, ITEMS, 34),
            (Method::GET, "/api/v2/rentals", 18),
            (Method::POST, "/api/v2/rentals", 4),
            (Method::GET, "/api/v2/renters", 7),
        ],
        plain_http: 0,
        addresses: 4,
    },
    Pattern {
        token: DemoToken::Sample(READER),
        days: (29, 1),
        calls: &[
            (Method::GET, ITEMS, 96),
            (Method::GET, "/api/v2/rentals", 72),
            (Method::GET, "/api/v2/renters", 12),
        ],
        plain_http: 0,
        addresses: 1,
    },
    Pattern {
        token: DemoToken::Sample(SCANNER),
        days: (29, 1),
        calls: &[
            (Method::POST, "/api/v2/kiosk/scan", 140),
            (Method::PATCH, RENTAL, 64),
            (Method::GET, ITEM, 31),
            (Method::GET, RENTAL, 5),
        ],
        plain_http: 0,
        addresses: 14,
    },
    // For a week, the scanners have sent requests for which their token lacks the ability.
    Pattern {
        token: DemoToken::Sample(SCANNER),
        days: (7, 1),
        calls: &[(Method::DELETE, ITEM, 9)],
        plain_http: 0,
        addresses: 3,
    },
    Pattern {
        token: DemoToken::Sample(WRITER),
        days: (29, 1),
        calls: &[(Method::GET, ITEMS, 24), (Method::PATCH, ITEM, 11), (Method::POST, ITEMS, 3)],
        plain_http: 0,
        addresses: 1,
    },
    Pattern {
        token: DemoToken::Deleted { id: 8, name: "website", abilities: &["items:read", "rents:create"] },
        days: (29, 1),
        calls: &[(Method::GET, ITEM, 210), (Method::POST, "/api/v2/rentals", 13)],
        plain_http: 0,
        addresses: 2,
    },
    // Plain HTTP, until it was fixed.
    Pattern {
        token: DemoToken::Deleted { id: 8, name: "website", abilities: &["items:read", "rents:create"] },
        days: (26, 24),
        calls: &[(Method::GET, ITEM, 70)],
        plain_http: 70,
        addresses: 1,
    },
    Pattern {
        token: DemoToken::Deleted {
            id: 9,
            name: "stocktaking-test",
            abilities: &["items:read", "items:update"],
        },
        days: (29, 22),
        calls: &[(Method::GET, ITEM, 15), (Method::GET, "/api/v2/webhooks", 2)],
        plain_http: 0,
        addresses: 1,
    },
];

/// Writes the usage of the month before `now` to a ledger, with the decisions of `map`.
pub(super) fn write(path: &Path, map: &AbilityMap, now: SystemTime) -> Result<(), LedgerError> {
    let rules = Rules::default();
    let numbers = rules.register(map);
    // A fixed seed: each run has the same numbers.
    let mut random = fastrand::Rng::with_seed(7);
    let mut pending = Pending::default();
    for pattern in &PATTERNS {
        pending.insert(pending_token(pattern, map, &numbers, now, &mut random));
    }
    Ledger::open(path)?.write(&pending, &rules, Bounds { since: 0, max_size: u64::MAX })?;
    Ok(())
}

fn pending_token(
    pattern: &Pattern,
    map: &AbilityMap,
    numbers: &RuleNumbers,
    now: SystemTime,
    random: &mut fastrand::Rng,
) -> PendingToken {
    let token = pattern.token.describe(now);
    let (first, last) = pattern.days;
    let at = |before: Day, hour: u32| {
        let midnight = SystemTime::UNIX_EPOCH + DAY * (day(now) - before);
        milliseconds(midnight + Duration::from_secs(60 * 60) * hour)
    };
    let days = (last..=first).rev().map(|before| {
        let today = day(now) - before;
        let mut counts = Counts::default();
        for (method, template, per_day) in pattern.calls {
            let Some((rule, outcome)) = decide(map, numbers, method, template, &token.abilities) else {
                continue;
            };
            let count = vary(*per_day, today, random);
            *counts.by_key.entry(key(rule, outcome)).or_default() += count;
        }
        counts.plain_http = pattern.plain_http;
        for address in 0..pattern.addresses {
            counts.addresses.insert(Ipv4Addr::from(0xc000_0201 + address).into());
        }
        (today, counts)
    });
    let days = days.collect();
    PendingToken { token, first_seen: at(first, 10), last_seen: at(last, 17), days }
}

/// The rule's number in the ledger, and the decision.
fn decide(
    map: &AbilityMap,
    numbers: &RuleNumbers,
    method: &Method,
    template: &str,
    abilities: &Abilities,
) -> Option<(u32, CountedOutcome)> {
    let route = map.templates().position(|it| it == template)?;
    let rule = map.route(route)?.rule(method)?;
    let allowed = rule.requirement.check(abilities).is_ok();
    let outcome = if allowed { CountedOutcome::Allowed } else { CountedOutcome::Denied };
    Some((numbers.number(Some(route), method)?, outcome))
}

/// Varies the number of requests per working day by up to 20 %, and reduces it at weekends.
fn vary(per_day: u64, today: Day, random: &mut fastrand::Rng) -> u64 {
    // Day 0, 1970-01-01, was a Thursday.
    let is_weekend = (today + 3) % 7 >= 5;
    let per_day = if is_weekend { per_day.div_ceil(3) } else { per_day };
    per_day * random.u64(80..=120) / 100
}

impl DemoToken {
    fn describe(&self, now: SystemTime) -> TokenDescription {
        let (id, name, abilities, expires_at) = match self {
            Self::Sample(token) => (token.id, token.name, token.abilities, token.expires_at(now)),
            Self::Deleted { id, name, abilities } => (*id, *name, *abilities, Some(now + DAY * 60)),
        };
        TokenDescription {
            id: id.to_string().into(),
            name: Some(name.into()),
            context: None,
            workspace_id: None,
            abilities: Abilities::new(abilities.iter().copied()),
            created_at: None,
            expires_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn every_sample_request_has_a_rule() {
        let text = super::super::gateway_yaml(
            "127.0.0.1:0".parse().unwrap(),
            "127.0.0.1:0".parse().unwrap(),
            "127.0.0.1:1".parse().unwrap(),
            None,
        )
        .unwrap();
        let map = config::load_text("demo", text).unwrap().settings.abilities;
        let rules = Rules::default();
        let numbers = rules.register(&map);
        let denied: Vec<&str> = PATTERNS
            .iter()
            .flat_map(|it| it.calls.iter().map(|call| (it.token.describe(SystemTime::now()), call)))
            .filter_map(|(token, (method, template, _))| {
                let (_, outcome) =
                    decide(&map, &numbers, method, template, &token.abilities).expect(template);
                (outcome == CountedOutcome::Denied).then_some(*template)
            })
            .collect();
        assert_eq!(denied, [ITEM, "/api/v2/webhooks"]);
    }

    #[test]
    fn weekends_have_a_third_of_the_requests() {
        let mut random = fastrand::Rng::with_seed(1);
        // 2026-11-27, a Friday, and the day after.
        assert!((80..=120).contains(&vary(100, 20_784, &mut random)));
        assert!((26..=41).contains(&vary(100, 20_785, &mut random)));
    }
}
