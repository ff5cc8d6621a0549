//! Replicas that share rate limits.

use std::thread;
use std::time::{Duration, Instant};

use super::{Fleet, url};
use crate::support::Gateway;
use crate::support::redis::{Redis, RedisProxy};

const TOKEN: &str = "7|shared";
const RATE: f64 = 100.0;
const BURST: f64 = 12.0;
const LIMIT: &str = "cache: {ttl: 1h}\nrate_limit: {requests_per_second: 100, burst: 12, shared: true}\n";

impl Fleet {
    /// `count` replicas that share a limit of 100 requests a second.
    fn sharing(redis: &Redis, count: usize) -> Self {
        let fleet = Self::new(&vec![url(redis); count], LIMIT);
        fleet.know(TOKEN);
        fleet.seen(count);
        fleet
    }

    /// The number of failed exchanges of each replica.
    fn failures(&self) -> Vec<f64> {
        let failed =
            |gateway: &Gateway| gateway.metrics().metric("share_exchanges_total{outcome=\"failed\"}");
        self.gateways.iter().map(failed).collect()
    }

    /// Waits until every replica has seen `count` of them.
    fn seen(&self, count: usize) {
        for gateway in &self.gateways {
            gateway.wait_for_metric("replicas", count as f64);
        }
    }

    /// Sends this many requests a second to each replica for `time`. Returns when each replica allowed one.
    fn offer(&self, rates: &[f64], time: Duration) -> Vec<Vec<Duration>> {
        let began = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> = (self.gateways.iter().zip(rates))
                .map(|(gateway, rate)| {
                    scope.spawn(move || {
                        let mut allowed = Vec::new();
                        if *rate == 0.0 {
                            return allowed;
                        }
                        let mut client = gateway.client();
                        for number in 0..(rate * time.as_secs_f64()) as u32 {
                            let due = Duration::from_secs_f64((f64::from(number) + 0.5) / rate);
                            thread::sleep(due.saturating_sub(began.elapsed()));
                            let sent = began.elapsed();
                            match client.get(super::ITEMS, Some(TOKEN)).status {
                                200 => allowed.push(sent),
                                status => assert_eq!(status, 429),
                            }
                        }
                        allowed
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        })
    }
}

/// The highest number of requests that were allowed in a window of this length.
fn most_within(allowed: &[Vec<Duration>], window: Duration) -> usize {
    let mut times: Vec<Duration> = allowed.concat();
    times.sort_unstable();
    (0..times.len())
        .map(|first| times[first..].iter().take_while(|time| **time < times[first] + window).count())
        .max()
        .unwrap_or_default()
}

fn counts(allowed: &[Vec<Duration>]) -> Vec<usize> {
    allowed.iter().map(Vec::len).collect()
}

/// No second has more requests than the limit allows, and 10 s have 1000 of them, within a tenth.
fn assert_holds(what: &str, allowed: &[Vec<Duration>], seconds: f64) {
    let total = allowed.concat().len() as f64;
    let peak = most_within(allowed, Duration::from_secs(1));
    println!("{what}: {:?}, {total} in {seconds} s, {peak} in the busiest second", counts(allowed));
    let expected = RATE * seconds;
    assert!((0.9 * expected..=1.1 * expected).contains(&total), "{what}: {total}");
    assert!(peak as f64 <= RATE + BURST + 3.0, "{what}: {peak} in a second");
}

/// Requests that were allowed from `from` to `to`, per replica.
fn between(allowed: &[Vec<Duration>], from: f64, to: f64) -> Vec<usize> {
    let range = Duration::from_secs_f64(from)..Duration::from_secs_f64(to);
    allowed.iter().map(|times| times.iter().filter(|time| range.contains(*time)).count()).collect()
}

#[test]
#[ignore = "load: 10 s for each of four kinds of skew, with exchanges every 150 ms"]
fn three_replicas_hold_a_shared_limit_under_skew() {
    let redis = Redis::start();
    let fleet = Fleet::sharing(&redis, 3);
    for (what, rates) in [
        ("even", [100.0, 100.0, 100.0]),
        ("80/15/5 of 300", [240.0, 45.0, 15.0]),
        ("80/15/5 of 120", [96.0, 18.0, 6.0]),
        ("all on one", [0.0, 200.0, 0.0]),
    ] {
        let allowed = fleet.offer(&rates, Duration::from_secs(10));
        println!("{:?} failed exchanges", fleet.failures());
        assert_holds(what, &allowed, 10.0);
    }
}

#[test]
#[ignore = "load: 10 s, with exchanges every 150 ms"]
fn shared_limit_holds_while_the_load_moves() {
    let redis = Redis::start();
    let fleet = Fleet::sharing(&redis, 3);
    let mut all = vec![Vec::new(); 3];
    for phase in 0..2 {
        let mut rates = [0.0; 3];
        rates[phase] = 200.0;
        let start = Duration::from_secs(5) * phase as u32;
        let allowed = fleet.offer(&rates, Duration::from_secs(5));
        let moved = &allowed[phase];
        let within = |from: f64, to: f64| between(&allowed, from, to)[phase];
        // The first quarter of a second at 90 % of the rate.
        let converged =
            (0..46).map(|step| f64::from(step) * 0.05).find(|from| within(*from, from + 0.25) >= 22);
        println!("moved: {} allowed, converged after {converged:?} s", moved.len());
        for (times, new) in all.iter_mut().zip(allowed) {
            times.extend(new.into_iter().map(|time| start + time));
        }
    }
    assert_holds("moving", &all, 10.0);
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn each_replica_has_its_part_of_the_limit_without_redis() {
    let mut redis = Redis::start();
    let fleet = Fleet::sharing(&redis, 3);
    let began = Instant::now();
    let (allowed, killed, restarted) = thread::scope(|scope| {
        let load = scope.spawn(|| fleet.offer(&[200.0, 60.0, 10.0], Duration::from_secs(9)));
        thread::sleep(Duration::from_secs(2));
        redis.kill();
        let killed = began.elapsed().as_secs_f64();
        thread::sleep(Duration::from_secs(3));
        redis.restart();
        let restarted = began.elapsed().as_secs_f64();
        (load.join().unwrap(), killed, restarted)
    });
    let alone = between(&allowed, killed + 1.0, restarted);
    let most = |from: f64, to: f64| (to - from) * RATE + BURST + 5.0;
    println!("{alone:?} from {:.1} s to {restarted:.1} s", killed + 1.0);
    for (allowed, offered) in alone.iter().zip([200.0, 60.0, 10.0]) {
        let expected = f64::min(RATE / 3.0, offered) * (restarted - killed - 1.0);
        assert!((*allowed as f64 - expected).abs() < expected * 0.1 + 5.0, "{allowed} instead of {expected}");
    }
    let back = between(&allowed, restarted + 2.0, 9.0);
    println!("{back:?} from {:.1} s to 9 s", restarted + 2.0);
    let total: usize = back.iter().sum();
    let expected = (7.0 - restarted) * RATE;
    assert!((total as f64 - expected).abs() < expected * 0.15 + BURST, "{total} instead of {expected}");
    for (from, to) in [(0.0, killed), (killed, restarted), (restarted, 9.0)] {
        let total: usize = between(&allowed, from, to).iter().sum();
        assert!(total as f64 <= most(from, to), "{total} from {from} to {to}");
    }
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn replicas_join_and_leave_a_shared_limit() {
    let redis = Redis::start();
    let mut fleet = Fleet::sharing(&redis, 2);
    let mut other = Fleet::new(&[url(&redis)], LIMIT);
    other.know(TOKEN);
    fleet.gateways.append(&mut other.gateways);
    fleet.seen(3);
    let allowed = fleet.offer(&[100.0; 3], Duration::from_secs(2));
    println!("three: {:?}", counts(&allowed));
    assert!(allowed.concat().len() as f64 <= 2.0 * RATE + BURST + 5.0);
    assert!(counts(&allowed).iter().all(|count| *count >= 50));
    // It tells the others that it ends.
    let mut third = fleet.gateways.pop().unwrap();
    let began = Instant::now();
    third.signal(rustix::process::Signal::TERM);
    third.wait_exit(Duration::from_secs(5));
    fleet.seen(2);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // A killed replica keeps its part for 5 s.
    let second = fleet.gateways.pop().unwrap();
    second.signal(rustix::process::Signal::KILL);
    let began = Instant::now();
    fleet.seen(1);
    println!("a killed replica is gone after {:?}", began.elapsed());
    assert!((3..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let allowed = fleet.offer(&[150.0], Duration::from_secs(2));
    assert!(
        allowed[0].len() as f64 >= 2.0 * RATE * 0.9,
        "a lone replica has everything: {}",
        allowed[0].len()
    );
}

/// Whatever a client with write access to Redis does, no replica allows more than the configured rate.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn forged_shares_only_throttle() {
    let redis = Redis::start();
    let fleet = Fleet::sharing(&redis, 2);
    const LIMITS: &str = "for _, key in ipairs(redis.call('KEYS', 'stockaj-gateway:limit:*')) do DEED end";
    let at_limits = |deed: &str| ["EVAL".to_owned(), LIMITS.replace("DEED", deed), "0".to_owned()].to_vec();
    let members = |deed: &str| {
        let deed = deed.replace("KEY", "'stockaj-gateway:replicas'");
        ["EVAL".to_owned(), deed, "0".to_owned()].to_vec()
    };
    let now = "redis.call('TIME')[1] * 1000";
    for (what, deed) in [
        ("everything forgotten", vec!["FLUSHALL".to_owned()]),
        ("other types", at_limits("redis.call('SET', key, 'x')")),
        ("nonsense", at_limits("redis.call('HSET', key, 'x', 'y', 'z', '-1 -1 -1', 'w', '9e99 9 9')")),
        (
            "huge shares",
            at_limits(&format!(
                "redis.call('HSET', key, 'x', ({now} + redis.call('TIME')[2] / 1000) .. ' 99999999999999999999 99999999999999999999')"
            )),
        ),
        ("very many fields", at_limits("for i = 1, 3000 do redis.call('HSET', key, i, i) end")),
        ("no hash", members("redis.call('DEL', KEY) redis.call('SET', KEY, 'x')")),
        ("nonsense replicas", members("redis.call('HSET', KEY, 'x', 'y', 'since', 'nan', 'z', 'inf')")),
        (
            "1000 replicas",
            members(&format!("for i = 1, 990 do redis.call('HSET', KEY, 'f' .. i, {now}) end")),
        ),
        (
            "very many replicas",
            members(&format!("for i = 1, 9000 do redis.call('HSET', KEY, 'f' .. i, {now}) end")),
        ),
    ] {
        let words: Vec<&str> = deed.iter().map(String::as_str).collect();
        let allowed = thread::scope(|scope| {
            let load = scope.spawn(|| fleet.offer(&[150.0, 150.0], Duration::from_millis(1500)));
            while !load.is_finished() {
                redis.command(&words);
                thread::sleep(Duration::from_millis(20));
            }
            load.join().unwrap()
        });
        println!("{what}: {:?}", counts(&allowed));
        for times in &allowed {
            assert!(times.len() as f64 <= 1.5 * RATE + BURST + 5.0, "{what}: {}", times.len());
        }
        redis.command(&["FLUSHALL"]);
    }
    // Once it ends, the limit is shared as before.
    fleet.seen(2);
    thread::sleep(Duration::from_secs(1));
    let allowed = fleet.offer(&[150.0, 150.0], Duration::from_secs(2)).concat().len() as f64;
    assert!((1.8 * RATE..=2.2 * RATE + BURST).contains(&allowed), "{allowed}");
}

/// A Redis user with the commands of earlier versions: revocations work, and each replica counts alone.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn redis_user_without_the_commands_of_shares_is_logged() {
    let redis = Redis::start();
    let rules = "on >word ~stockaj-gateway:* resetchannels &stockaj-gateway +@connection +info +subscribe +publish +eval \
                 +exists +incr +get +getrange +set +del";
    let words = ["ACL", "SETUSER", "earlier"].into_iter().chain(rules.split_ascii_whitespace());
    assert_eq!(redis.command(&words.collect::<Vec<_>>()), "OK");
    let road = RedisProxy::to(&redis);
    let fleet = Fleet::new(&[road.url().replace("redis://", "redis://earlier:word@")], LIMIT);
    fleet.know(TOKEN);
    let gateway = &fleet.gateways[0];
    thread::sleep(Duration::from_millis(1500));
    assert!(fleet.failures()[0] > 1.0);
    let allowed = fleet.offer(&[150.0], Duration::from_secs(1))[0].len() as f64;
    assert!(allowed >= RATE * 0.9, "{allowed}");
    assert_eq!(gateway.logs().iter().filter(|line| line.contains("cannot share rate limits")).count(), 1);
    fleet.delete(0, TOKEN);
    assert_eq!(fleet.status(0, TOKEN), 401);
}
