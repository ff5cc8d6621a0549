use super::super::rate;
use super::*;
use crate::config::settings::{Allowance, Rate};

fn allowance(rate: Rate) -> Allowance {
    Allowance { rate, in_flight: None }
}

fn limits_of(settings: RateLimit) -> TokenLimits {
    TokenLimits::new(settings, Arc::default())
}

fn tokens() -> TokenLimits {
    let settings = RateLimit {
        default: allowance(rate(10, 20)),
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
    };
    limits_of(settings)
}

fn take_all(limit: &TokenLimit, now: Instant) -> usize {
    (0..).take_while(|_| limit.take(now, false).is_ok()).count()
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
        let limit = tokens().limit(id, name, now);
        assert_eq!(take_all(&limit, now), at_once, "{id} {name:?}");
        assert_eq!(take_all(&limit, now + Duration::from_secs(1)), in_a_second, "{id} {name:?}");
    }
}

#[test]
fn tokens_with_one_id_share_a_bucket_whatever_their_names() {
    let (tokens, now) = (tokens(), Instant::now());
    let limit = |id, name| tokens.limit(id, name, now);
    let (one, other) = (limit("1", None), limit("1", Some("renamed")));
    for _ in 0..10 {
        one.take(now, false).unwrap();
        other.take(now, false).unwrap();
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
    let take_all_of = |id, now| take_all(&tokens.limit(id, None, now), now);
    assert_eq!(take_all_of("1", now), 20);
    let held = tokens.limit("2", None, now);
    let flood = |ids: std::ops::Range<u32>, now| {
        for id in ids {
            drop(tokens.limit(&format!("flood-{id}"), None, now));
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
    let tokens = limits_of(RateLimit {
        default: allowance(rate(1, 1000)),
        by_name: Default::default(),
        by_id: Default::default(),
    });
    let now = Instant::now();
    let counts = std::thread::scope(|scope| {
        let worker = || {
            let limit = tokens.limit("1", None, now);
            (0..1000).filter(|_| limit.take(now, false).is_ok()).count()
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
        default: with(3),
        by_name: [("slow", 2), ("greedy", 9), ("unlimited", 0)]
            .map(|(name, max)| (name.into(), with(max)))
            .into(),
        by_id: [("7", 5), ("8", 0)].map(|(id, max)| (id.into(), with(max))).into(),
    })
}

fn in_flight_of(limit: &TokenLimit, now: Instant) -> Vec<CountGuard> {
    (0..20).map_while(|_| limit.take(now, false).ok().flatten()).collect()
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
        let limit = tokens.limit(id, name, now);
        let guards = in_flight_of(&limit, now);
        assert_eq!(guards.len(), expected, "{id} {name:?}");
        let refused = limit.take(now, false);
        if expected == 0 {
            assert!(refused.unwrap().is_none(), "unlimited");
            continue;
        }
        let refused = refused.unwrap_err();
        assert_eq!((refused.limit, refused.allowed), (Limit::InFlight, expected as u32));
        assert_eq!(refused.retry_after, 1);
        assert!(limit.take(now, true).unwrap().is_none(), "a tunnel does not count");
        drop(guards);
        assert_eq!(in_flight_of(&limit, now).len(), expected);
    }
}

#[test]
fn spellings_share_the_count_of_requests_in_flight() {
    let (tokens, now) = (in_flight(), Instant::now());
    let (one, named) = (tokens.limit("1", None, now), tokens.limit("1", Some("slow"), now));
    let guards = in_flight_of(&one, now);
    assert_eq!((guards.len(), in_flight_of(&named, now).len()), (3, 0));
    drop(one);
    // The requests hold the counter when no verdict does.
    for id in 10..10_000 {
        drop(tokens.limit(&id.to_string(), None, now));
    }
    assert_eq!(in_flight_of(&tokens.limit("1", None, now), now).len(), 0);
    drop(guards);
    assert_eq!(in_flight_of(&named, now).len(), 2);
}

#[test]
fn changed_limit_knows_earlier_requests_in_flight() {
    let (before, now) = (in_flight(), Instant::now());
    let guards = in_flight_of(&before.limit("1", None, now), now);
    let mut settings = before.settings().clone();
    settings.default.in_flight = 4.try_into().ok();
    let after = TokenLimits::new(settings, Arc::clone(&before.in_flight));
    let limit = after.limit("1", None, now);
    assert_eq!((guards.len(), in_flight_of(&limit, now).len()), (3, 1));
    drop(guards);
    assert_eq!(in_flight_of(&limit, now).len(), 4);
}

#[test]
fn refused_request_reduces_no_other_limit() {
    let now = Instant::now();
    let tokens = limits_of(RateLimit {
        default: Allowance { rate: rate(1, 5), in_flight: 1.try_into().ok() },
        by_name: [("slow".into(), allowance(rate(1, 2)))].into(),
        by_id: Default::default(),
    });
    let limit = tokens.limit("1", Some("slow"), now);
    let guard = limit.take(now, false).unwrap();
    for _ in 0..10 {
        assert_eq!(limit.take(now, false).unwrap_err().limit, Limit::InFlight);
    }
    drop(guard);
    drop(limit.take(now, false).unwrap());
    for _ in 0..10 {
        assert_eq!(limit.take(now, false).unwrap_err().limit, Limit::ByName);
    }
    let renamed = tokens.limit("1", None, now);
    assert_eq!(take_all(&renamed, now), 3, "of 5, two were served");
}
