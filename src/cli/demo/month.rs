//! A month that the demo makes up, so that there is something to see of usage before the first call.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use http::Method;

use crate::demo::tokens::{READER, SCANNER, SampleToken, USER, WRITER};
use crate::policy::ability::Abilities;
use crate::policy::map::AbilityMap;
use crate::usage::batch::{Description, Outcome, key};
use crate::usage::ledger::{Bounds, Ledger, LedgerError};
use crate::usage::pending::{Counts, Day, Pending, PendingToken, day, milliseconds};
use crate::usage::rules::{RuleNumbers, Rules};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a token does on each day of a stretch.
struct Habit {
    token: Token,
    /// The first and the last day, so many before today.
    days: (Day, Day),
    /// Method, route, and how often on a working day; a third of it at weekends.
    calls: &'static [(Method, &'static str, u64)],
    /// How many of them come by plain HTTP.
    plain_http: u64,
    /// From how many addresses they come.
    addresses: u32,
}

/// A sample token, or one that nobody can use any more.
enum Token {
    Sample(SampleToken),
    Gone { id: u32, name: &'static str, abilities: &'static [&'static str] },
}

const ITEMS: &str = "/api/v2/items";
const ITEM: &str = "/api/v2/items/{id}";
const RENTAL: &str = "/api/v2/rentals/{id}";

const HABITS: [Habit; 8] = [
    Habit {
        token: Token::Sample(USER),
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
    Habit {
        token: Token::Sample(READER),
        days: (29, 1),
        calls: &[
            (Method::GET, ITEMS, 96),
            (Method::GET, "/api/v2/rentals", 72),
            (Method::GET, "/api/v2/renters", 12),
        ],
        plain_http: 0,
        addresses: 1,
    },
    Habit {
        token: Token::Sample(SCANNER),
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
    // Since a week its scanners have a button that nobody has given them the ability for.
    Habit {
        token: Token::Sample(SCANNER),
        days: (7, 1),
        calls: &[(Method::DELETE, ITEM, 9)],
        plain_http: 0,
        addresses: 3,
    },
    Habit {
        token: Token::Sample(WRITER),
        days: (29, 1),
        calls: &[(Method::GET, ITEMS, 24), (Method::PATCH, ITEM, 11), (Method::POST, ITEMS, 3)],
        plain_http: 0,
        addresses: 1,
    },
    Habit {
        token: Token::Gone { id: 8, name: "website", abilities: &["items:read", "rents:create"] },
        days: (29, 1),
        calls: &[(Method::GET, ITEM, 210), (Method::POST, "/api/v2/rentals", 13)],
        plain_http: 0,
        addresses: 2,
    },
    // Before somebody noticed.
    Habit {
        token: Token::Gone { id: 8, name: "website", abilities: &["items:read", "rents:create"] },
        days: (26, 24),
        calls: &[(Method::GET, ITEM, 70)],
        plain_http: 70,
        addresses: 1,
    },
    Habit {
        token: Token::Gone { id: 9, name: "stocktaking-test", abilities: &["items:read", "items:update"] },
        days: (29, 22),
        calls: &[(Method::GET, ITEM, 15), (Method::GET, "/api/v2/webhooks", 2)],
        plain_http: 0,
        addresses: 1,
    },
];

/// Writes the month before `now` to a ledger, as requests under `map` would have.
pub(super) fn write(path: &Path, map: &AbilityMap, now: SystemTime) -> Result<(), LedgerError> {
    let rules = Rules::default();
    let numbers = rules.of(map);
    // The same month each time.
    let mut random = fastrand::Rng::with_seed(7);
    let mut pending = Pending::default();
    for habit in &HABITS {
        pending.insert(lived(habit, map, &numbers, now, &mut random));
    }
    Ledger::open(path)?.write(&pending, &rules, Bounds { since: 0, max_size: u64::MAX })?;
    Ok(())
}

fn lived(
    habit: &Habit,
    map: &AbilityMap,
    numbers: &RuleNumbers,
    now: SystemTime,
    random: &mut fastrand::Rng,
) -> PendingToken {
    let token = habit.token.describe(now);
    let (first, last) = habit.days;
    // At ten in the morning and at five in the afternoon.
    let at = |before: Day, hour: u32| {
        let midnight = SystemTime::UNIX_EPOCH + DAY * (day(now) - before);
        milliseconds(midnight + Duration::from_secs(60 * 60) * hour)
    };
    let days = (last..=first).rev().map(|before| {
        let today = day(now) - before;
        let mut counts = Counts::default();
        for (method, template, often) in habit.calls {
            let Some((rule, outcome)) = decided(map, numbers, method, template, &token.abilities) else {
                continue;
            };
            let count = varied(*often, today, random);
            *counts.by_key.entry(key(rule, outcome)).or_default() += count;
        }
        counts.plain_http = habit.plain_http;
        for address in 0..habit.addresses {
            counts.addresses.note(Ipv4Addr::from(0xc000_0201 + address).into());
        }
        (today, counts)
    });
    let days = days.collect();
    PendingToken { token, first_seen: at(first, 10), last_seen: at(last, 17), days }
}

/// The rule's number, and what the map says.
fn decided(
    map: &AbilityMap,
    numbers: &RuleNumbers,
    method: &Method,
    template: &str,
    abilities: &Abilities,
) -> Option<(u32, Outcome)> {
    let route = map.templates().position(|it| it == template)?;
    let rule = map.route(route)?.rule(method)?;
    let allowed = rule.requirement.check(abilities).is_ok();
    let outcome = if allowed { Outcome::Allowed } else { Outcome::Denied };
    Some((numbers.number(Some(route), method)?, outcome))
}

/// Days are not alike, least of all those of a weekend.
fn varied(often: u64, today: Day, random: &mut fastrand::Rng) -> u64 {
    // The first day of 1970 was a Thursday.
    let is_weekend = (today + 3) % 7 >= 5;
    let often = if is_weekend { often.div_ceil(3) } else { often };
    often * random.u64(80..=120) / 100
}

impl Token {
    fn describe(&self, now: SystemTime) -> Description {
        let (id, name, abilities, expires_at) = match self {
            Self::Sample(token) => (token.id, token.name, token.abilities, token.expires_at(now)),
            Self::Gone { id, name, abilities } => (*id, *name, *abilities, Some(now + DAY * 60)),
        };
        Description {
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
    fn every_call_of_the_month_has_its_rule() {
        let text = super::super::gateway_yaml(
            "127.0.0.1:0".parse().unwrap(),
            "127.0.0.1:0".parse().unwrap(),
            "127.0.0.1:1".parse().unwrap(),
            None,
        );
        let map = config::load_text("demo", text).unwrap().settings.abilities;
        let rules = Rules::default();
        let numbers = rules.of(&map);
        let denied: Vec<&str> = HABITS
            .iter()
            .flat_map(|habit| habit.calls.iter().map(|call| (habit.token.describe(SystemTime::now()), call)))
            .filter_map(|(token, (method, template, _))| {
                let (_, outcome) =
                    decided(&map, &numbers, method, template, &token.abilities).expect(template);
                (outcome == Outcome::Denied).then_some(*template)
            })
            .collect();
        assert_eq!(denied, [ITEM, "/api/v2/webhooks"]);
    }

    #[test]
    fn weekends_are_quiet() {
        let mut random = fastrand::Rng::with_seed(1);
        // 2026-11-27 and the day after.
        assert!((80..=120).contains(&varied(100, 20_784, &mut random)));
        assert!((26..=41).contains(&varied(100, 20_785, &mut random)));
    }
}
