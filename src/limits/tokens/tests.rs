use std::collections::HashMap;

use proptest::prelude::*;

use super::super::rate;
use super::*;
use crate::config::settings::{Allowance, Rate};

fn allowance(rate: Rate) -> Allowance {
    Allowance { rate, in_flight: None, quota: None, has_own_rate: false }
}

/// A token with its limit.
struct Held<'a> {
    tokens: &'a TokenLimits,
    limit: TokenLimit,
    id: &'a str,
    abilities: Abilities,
}

impl TokenLimits {
    fn of<'a>(&'a self, id: &'a str, name: Option<&str>, now: Instant) -> Held<'a> {
        self.of_workspace(id, name, None, now)
    }

    fn of_workspace<'a>(
        &'a self,
        id: &'a str,
        name: Option<&str>,
        workspace_id: Option<&str>,
        now: Instant,
    ) -> Held<'a> {
        let limit = self.limit(TokenIdentity { id, name, workspace_id }, now);
        Held { tokens: self, limit, id, abilities: Abilities::new(["a", "b"]) }
    }
}

impl Held<'_> {
    /// Takes a request of a rule without abilities.
    fn take(&self, now: Instant) -> Result<Option<CountGuard>, Exceeded> {
        let Self { tokens, limit, id, abilities } = self;
        limit.take(tokens, &TokenRequest { now, id, abilities, requirement: None, query: None })
    }

    /// Takes a request of a rule with this requirement.
    fn take_by(&self, requirement: &Requirement, now: Instant) -> Result<(), Limit> {
        let Self { tokens, limit, id, abilities } = self;
        let requirement = Some(requirement);
        let request = TokenRequest { now, id, abilities, requirement, query: None };
        limit.take(tokens, &request).map(drop).map_err(|exceeded| exceeded.limit)
    }
}

fn limits_of(settings: RateLimit) -> TokenLimits {
    TokenLimits::new(settings, Arc::default(), SharedBuckets::next_from(None))
}

fn tokens() -> TokenLimits {
    let all = RateLimit {
        by_name: [
            ("slow", rate(2, 5)),
            ("greedy", rate(1000, 1000)),
            ("calm", rate(2, 1000)),
            ("bursting", rate(99, 3)),
        ]
        .map(|(name, rate)| (name.into(), allowance(rate)))
        .into(),
        by_id: [("7", rate(100, 200)), ("8", rate(1, 1))]
            .map(|(id, rate)| (id.into(), allowance(rate)))
            .into(),
        ..RateLimit::of_each(allowance(rate(10, 20)))
    };
    limits_of(all)
}

fn take_all(limit: &Held<'_>, now: Instant) -> usize {
    (0..).take_while(|_| limit.take(now).is_ok()).count()
}

#[test]
fn by_name_lowers_a_limit_and_by_id_replaces_it() {
    for (id, name, at_once, in_a_second) in [
        ("1", None, 20, 10),
        ("1", Some("unknown"), 20, 10),
        ("1", Some("slow"), 5, 2),
        ("1", Some("greedy"), 20, 10),
        ("1", Some("calm"), 20, 2),
        ("1", Some("bursting"), 3, 3),
        ("7", None, 200, 100),
        ("7", Some("slow"), 5, 2),
        ("7", Some("greedy"), 200, 100),
        ("8", None, 1, 1),
        ("8", Some("greedy"), 1, 1),
        ("8", Some("slow"), 1, 1),
    ] {
        let now = Instant::now();
        let tokens = tokens();
        let limit = tokens.of(id, name, now);
        assert_eq!(take_all(&limit, now), at_once, "{id} {name:?}");
        assert_eq!(take_all(&limit, now + Duration::from_secs(1)), in_a_second, "{id} {name:?}");
    }
}

#[test]
fn tokens_with_one_id_share_a_bucket_whatever_their_names() {
    let (tokens, now) = (tokens(), Instant::now());
    let limit = |id, name| tokens.of(id, name, now);
    let (one, other) = (limit("1", None), limit("1", Some("renamed")));
    for _ in 0..10 {
        one.take(now).unwrap();
        other.take(now).unwrap();
    }
    let third = limit("1", Some("again"));
    assert_eq!((take_all(&one, now), take_all(&other, now), take_all(&third, now)), (0, 0, 0));
    assert_eq!(take_all(&limit("2", None), now), 20, "another token has its own bucket");
    // Renaming a token does not reset its limit.
    let (named, plain) = (limit("3", Some("slow")), limit("3", None));
    assert_eq!((take_all(&named, now), take_all(&plain, now)), (5, 15));
}

#[test]
fn bucket_outlives_its_verdict_until_it_is_full() {
    let (tokens, mut now) = (tokens(), Instant::now());
    let take_all_of = |id, now| take_all(&tokens.of(id, None, now), now);
    assert_eq!(take_all_of("1", now), 20);
    let held = tokens.of("2", None, now);
    let flood = |ids: std::ops::Range<u32>, now| {
        for id in ids {
            let identity = TokenIdentity { id: &format!("flood-{id}"), name: None, workspace_id: None };
            drop(tokens.limit(identity, now));
        }
        tokens.buckets.len()
    };
    assert!(flood(0..50_000, now) < 3000);
    assert_eq!(take_all_of("1", now), 0, "a bucket that is not full is kept");
    now += Duration::from_secs(1);
    assert_eq!(take_all_of("1", now), 10);
    now += Duration::from_secs(100);
    assert!(flood(50_000..100_000, now) < 3000);
    assert_eq!(take_all(&held, now), 20);
    assert_eq!(take_all_of("2", now), 0, "a bucket in use is never replaced");
}

#[test]
fn threads_share_a_bucket() {
    let tokens = limits_of(RateLimit::of_each(allowance(rate(1, 1000))));
    let now = Instant::now();
    let counts = std::thread::scope(|scope| {
        let worker = || {
            let limit = tokens.of("1", None, now);
            (0..1000).filter(|_| limit.take(now).is_ok()).count()
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>()
    });
    assert_eq!(counts, 1000);
}

/// `in_flight` of 3 by default.
fn in_flight() -> TokenLimits {
    let with = |max: u32| Allowance { in_flight: max.try_into().ok(), ..allowance(rate(1000, 1000)) };
    limits_of(RateLimit {
        by_name: [("slow", 2), ("greedy", 9), ("unlimited", 0)]
            .map(|(name, max)| (name.into(), with(max)))
            .into(),
        by_id: [("7", 5), ("8", 0)].map(|(id, max)| (id.into(), with(max))).into(),
        ..RateLimit::of_each(with(3))
    })
}

fn in_flight_of(limit: &Held<'_>, now: Instant) -> Vec<CountGuard> {
    (0..20).map_while(|_| limit.take(now).ok().flatten()).collect()
}

#[test]
fn requests_in_flight_are_limited_by_id_and_lowered_by_name() {
    for (id, name, expected) in [
        ("1", None, 3),
        ("1", Some("slow"), 2),
        ("1", Some("greedy"), 3),
        ("1", Some("unlimited"), 3),
        ("7", None, 5),
        ("7", Some("slow"), 2),
        ("8", None, 0),
        ("8", Some("slow"), 2),
    ] {
        let (tokens, now) = (in_flight(), Instant::now());
        let limit = tokens.of(id, name, now);
        let guards = in_flight_of(&limit, now);
        assert_eq!(guards.len(), expected, "{id} {name:?}");
        let refused = limit.take(now);
        if expected == 0 {
            assert!(refused.unwrap().is_none(), "unlimited");
            continue;
        }
        let refused = refused.unwrap_err();
        assert_eq!((refused.limit, refused.allowed), (Limit::InFlight, expected as u32));
        assert_eq!(refused.retry_after, 1);
        drop(guards);
        assert_eq!(in_flight_of(&limit, now).len(), expected);
    }
}

#[test]
fn spellings_share_the_count_of_requests_in_flight() {
    let (tokens, now) = (in_flight(), Instant::now());
    let (one, named) = (tokens.of("1", None, now), tokens.of("1", Some("slow"), now));
    let guards = in_flight_of(&one, now);
    assert_eq!((guards.len(), in_flight_of(&named, now).len()), (3, 0));
    drop(one);
    // The requests hold the counter when no verdict does.
    for id in 10..10_000 {
        drop(tokens.of(&id.to_string(), None, now));
    }
    assert_eq!(in_flight_of(&tokens.of("1", None, now), now).len(), 0);
    drop(guards);
    assert_eq!(in_flight_of(&named, now).len(), 2);
}

#[test]
fn changed_limit_knows_earlier_requests_in_flight() {
    let (before, now) = (in_flight(), Instant::now());
    let guards = in_flight_of(&before.of("1", None, now), now);
    let mut changed = before.settings().clone();
    changed.default.in_flight = 4.try_into().ok();
    let after = TokenLimits::new(changed, Arc::clone(&before.counts), SharedBuckets::next_from(None));
    let limit = after.of("1", None, now);
    assert_eq!((guards.len(), in_flight_of(&limit, now).len()), (3, 1));
    drop(guards);
    assert_eq!(in_flight_of(&limit, now).len(), 4);
}

#[test]
fn refused_request_reduces_no_other_limit() {
    let now = Instant::now();
    let tokens = limits_of(RateLimit {
        by_name: [("slow".into(), allowance(rate(1, 2)))].into(),
        ..RateLimit::of_each(Allowance { in_flight: 1.try_into().ok(), ..allowance(rate(1, 5)) })
    });
    let limit = tokens.of("1", Some("slow"), now);
    let guard = limit.take(now).unwrap();
    for _ in 0..10 {
        assert_eq!(limit.take(now).unwrap_err().limit, Limit::InFlight);
    }
    drop(guard);
    drop(limit.take(now).unwrap());
    for _ in 0..10 {
        assert_eq!(limit.take(now).unwrap_err().limit, Limit::ByName);
    }
    let renamed = tokens.of("1", None, now);
    assert_eq!(take_all(&renamed, now), 3, "of 5, two were served");
}

fn by_ability() -> TokenLimits {
    let by_ability = [("a".into(), rate(1, 2)), ("b".into(), rate(1, 4))].into();
    limits_of(RateLimit { by_ability, ..RateLimit::of_each(allowance(rate(1, 20))) })
}

fn all(names: &[&str]) -> Requirement {
    Requirement::all(names.iter().copied()).unwrap()
}

fn any(names: &[&str]) -> Requirement {
    Requirement::any(names.iter().copied()).unwrap()
}

#[test]
fn ability_limits_requests_of_rules_that_it_satisfies() {
    let has_a = Abilities::new(["a", "x"]);
    let everything = Abilities::new(["*"]);
    for (abilities, requirement, expected) in [
        (&has_a, all(&["a"]), 2),
        (&has_a, all(&["x"]), 20),
        (&has_a, all(&["x", "a"]), 2),
        (&has_a, any(&["a", "b"]), 2),
        (&has_a, any(&["x", "b"]), 20),
        (&everything, all(&["a"]), 2),
        (&everything, all(&["b", "a"]), 2),
        (&everything, any(&["b", "c"]), 4),
        (&everything, any(&["a", "b"]), 2),
        (&everything, Requirement::authenticated(), 20),
    ] {
        let (tokens, now) = (by_ability(), Instant::now());
        let held = Held { abilities: abilities.clone(), ..tokens.of("1", None, now) };
        let count = (0..).take_while(|_| held.take_by(&requirement, now).is_ok()).count();
        assert_eq!(count, expected, "{requirement} of {abilities:?}");
        let limit = if expected == 20 { Limit::RequestsPerSecond } else { Limit::ByAbility };
        assert_eq!(held.take_by(&requirement, now), Err(limit));
        assert_eq!(take_all(&held, now), 20 - expected, "what was refused reduced nothing");
    }
}

#[test]
fn each_token_has_its_own_buckets_of_abilities() {
    let (tokens, now) = (by_ability(), Instant::now());
    let (one, spelling, other) =
        (tokens.of("1", None, now), tokens.of("1", Some("x"), now), tokens.of("2", None, now));
    let requirement = all(&["a"]);
    let count = |held: &Held<'_>| (0..).take_while(|_| held.take_by(&requirement, now).is_ok()).count();
    assert_eq!((count(&one), count(&spelling), count(&other)), (2, 0, 2));
}

#[test]
fn tokens_of_a_workspace_share_its_rate() {
    let now = Instant::now();
    let with = |rate, has_own_rate| Allowance { has_own_rate, ..allowance(rate) };
    let tokens = limits_of(RateLimit {
        by_workspace: true,
        by_id: [("7", with(rate(1, 30), true)), ("8", with(rate(1, 10), false))]
            .map(|(id, allowance)| (id.into(), allowance))
            .into(),
        ..RateLimit::of_each(allowance(rate(1, 10)))
    });
    let of = |id, workspace| tokens.of_workspace(id, None, workspace, now);
    let (one, other) = (of("1", Some("w")), of("2", Some("w")));
    for _ in 0..4 {
        one.take(now).unwrap();
    }
    assert_eq!(take_all(&other, now), 6, "together 10");
    assert_eq!(one.take(now).unwrap_err().limit, Limit::ByWorkspace);
    assert_eq!(take_all(&of("8", Some("w")), now), 0, "`by_id` without a rate");
    assert_eq!(take_all(&of("7", Some("w")), now), 30, "a rate of its own");
    assert_eq!(take_all(&of("3", Some("v")), now), 10, "another workspace");
    assert_eq!((take_all(&of("4", None), now), take_all(&of("5", None), now)), (10, 10));
    assert_eq!(take_all(&of("1", None), now), 6, "the refused requests did not reduce its own bucket");
}

/// Requests left in each bucket, by name.
type Model = HashMap<String, u32>;

proptest! {
    /// Without refill: a request is allowed if all of its buckets have one, and reduces all or none.
    #[test]
    fn limits_equal_a_naive_model(
        bursts in prop::array::uniform4(1_u32..8),
        requests in prop::collection::vec((0_usize..3, 0_usize..2, 0_usize..4), 1..80),
    ) {
        let [own, named, by_a, by_b] = bursts;
        let now = Instant::now();
        let tokens = limits_of(RateLimit {
            by_workspace: true,
            by_name: [("slow".into(), allowance(rate(1, named)))].into(),
            by_ability: [("a".into(), rate(1, by_a)), ("b".into(), rate(1, by_b))].into(),
            ..RateLimit::of_each(allowance(rate(1, own)))
        });
        let rules = [all(&["a"]), all(&["a", "b"]), any(&["b", "c"]), Requirement::authenticated()];
        let used: [&[&str]; 4] = [&["a"], &["a", "b"], &["b"], &[]];
        let mut model = Model::new();
        for (token, name, rule) in requests {
            let id = ["1", "2", "3"][token];
            let (name, workspace) = ([None, Some("slow")][name], [Some("w"), Some("w"), None][token]);
            let mut buckets: Vec<(String, u32)> = vec![(id.to_owned(), own)];
            buckets.extend(workspace.map(|workspace| (format!("workspace {workspace}"), own)));
            buckets.extend(name.filter(|_| named < own).map(|name| (format!("{id} {name}"), named)));
            for ability in used[rule] {
                let burst = if *ability == "a" { by_a } else { by_b };
                buckets.push((format!("{id} by {ability}"), burst));
            }
            for (key, burst) in &buckets {
                model.entry(key.clone()).or_insert(*burst);
            }
            let expected = buckets.iter().all(|(key, _)| model[key] > 0);
            let found = tokens.of_workspace(id, name, workspace, now).take_by(&rules[rule], now);
            prop_assert_eq!(found.is_ok(), expected, "{:?}", found);
            for (key, _) in buckets.iter().filter(|_| expected) {
                *model.get_mut(key).unwrap() -= 1;
            }
        }
    }
}
