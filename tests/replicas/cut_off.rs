//! Disconnected replicas, and a Redis that dies, hangs or loses data.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::{Fleet, connected, disconnected, under_load, url};
use crate::support::PATIENCE;
use crate::support::redis::{Redis, RedisProxy};

/// A disconnected replica uses its verdicts for `ttl` at most, and none of them after it has reconnected.
fn cut_off(time: Duration, ttl: &str) {
    let redis = Redis::start();
    let (road, other) = (RedisProxy::to(&redis), RedisProxy::to(&redis));
    let fleet =
        Fleet::new(&[road.url(), other.url()], &format!("cache: {{ttl: {ttl}, negative_ttl: 100ms}}\n"));
    let served = under_load(&fleet, || {
        fleet.know("17|deleted");
        fleet.know("18|kept");
        fleet.use_token("17|deleted");
        fleet.use_token("18|kept");
        road.cut();
        disconnected(&fleet.gateways[0]);
        fleet.delete(1, "17|deleted");
        assert_eq!(fleet.status(1, "17|deleted"), 401);
        assert_eq!(fleet.status(0, "17|deleted"), 200, "a disconnected replica uses its verdicts");
        thread::sleep(time);
        road.restore();
        connected(&fleet.gateways[0]);
        assert_eq!(fleet.status(0, "17|deleted"), 401, "the replica has reconnected");
        fleet.use_token("18|kept");
        // The reconnected replica sends and receives revocations as before.
        for (ordered, heard) in [(0, 1), (1, 0)] {
            fleet.know("19|deleted");
            fleet.use_token("19|deleted");
            fleet.delete(ordered, "19|deleted");
            assert!(fleet.refused(heard, "19|deleted") < Duration::from_secs(1));
            thread::sleep(Duration::from_millis(150));
        }
    });
    assert!(served > 100, "{served}");
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn reconnected_replica_uses_no_verdict_from_before() {
    cut_off(Duration::from_secs(1), "1h");
}

#[test]
#[ignore = "soak: half a minute"]
fn replica_reconnected_after_30_s_uses_no_verdict_from_before() {
    cut_off(Duration::from_secs(30), "1h");
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn disconnected_replica_uses_no_verdict_beyond_its_ttl() {
    let redis = Redis::start();
    let (road, other) = (RedisProxy::to(&redis), RedisProxy::to(&redis));
    let fleet = Fleet::new(&[road.url(), other.url()], "cache: {ttl: 2s}\n");
    fleet.know("17|deleted");
    road.cut();
    disconnected(&fleet.gateways[0]);
    fleet.use_token("17|deleted");
    fleet.delete(1, "17|deleted");
    let took = fleet.refused(0, "17|deleted");
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

/// Each token is introspected again then, and none of them is limited by the failures of others.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn tokens_are_known_after_another_redis_session() {
    let mut redis = Redis::start();
    let yaml = "limits: {failures_per_address: 1}\ncache: {ttl: 1h, negative_ttl: 1h}\n";
    let fleet = Fleet::new(&[url(&redis)], yaml);
    for token in ["17|known", "18|revoked"] {
        fleet.know(token);
        fleet.use_token(token);
    }
    redis.kill();
    disconnected(&fleet.gateways[0]);
    redis.restart();
    connected(&fleet.gateways[0]);
    fleet.revoke(0, &json!({ "id": "18" }));
    let is_limited = |number: u32| fleet.status(0, &format!("{number}|guessed")) == 429;
    assert!((0..200).any(is_limited), "never limited");
    assert_eq!(fleet.introspector.calls_for("17|known"), 1);
    assert_eq!(fleet.status(0, "17|known"), 200);
    assert_eq!(fleet.introspector.calls_for("17|known"), 2);
    assert!((0..200).any(is_limited), "never limited");
    assert_eq!(fleet.status(0, "18|revoked"), 429);
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn redis_restarted_empty_fails_no_request() {
    let mut redis = Redis::start();
    let fleet = Fleet::at(&redis, 3);
    let served = under_load(&fleet, || {
        for round in 0..3 {
            let tokens = [0, 1].map(|number| format!("{}|deleted", round * 10 + number + 100));
            for token in &tokens {
                fleet.know(token);
                fleet.use_token(token);
            }
            redis.kill();
            fleet.gateways.iter().for_each(disconnected);
            fleet.delete(0, &tokens[0]);
            assert_eq!(fleet.status(0, &tokens[0]), 401, "the replica works without Redis");
            assert_eq!(fleet.status(1, &tokens[0]), 200);
            redis.restart();
            fleet.gateways.iter().for_each(connected);
            for gateway in 0..3 {
                assert!(fleet.refused(gateway, &tokens[0]) < Duration::from_secs(1));
            }
            fleet.delete(1, &tokens[1]);
            for gateway in 0..3 {
                assert!(fleet.refused(gateway, &tokens[1]) < Duration::from_secs(1));
            }
        }
    });
    assert!(served > 100, "{served}");
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn revocations_during_an_outage_are_published_later() {
    let redis = Redis::start();
    let (road, other) = (RedisProxy::to(&redis), RedisProxy::to(&redis));
    let fleet = Fleet::new(&[road.url(), other.url()], "cache: {ttl: 1h}\n");
    fleet.know("17|deleted");
    fleet.use_token("17|deleted");
    road.cut();
    disconnected(&fleet.gateways[0]);
    fleet.delete(0, "17|deleted");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(fleet.status(1, "17|deleted"), 200);
    road.restore();
    assert!(fleet.refused(1, "17|deleted") < Duration::from_secs(2));
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn hanging_redis_delays_no_request() {
    let redis = Redis::start();
    let fleet = Fleet::at(&redis, 2);
    fleet.know("17|deleted");
    fleet.use_token("17|deleted");
    redis.signal(Signal::STOP);
    disconnected(&fleet.gateways[0]);
    fleet.delete(0, "17|deleted");
    assert_eq!(fleet.status(0, "17|deleted"), 401);
    assert_eq!(fleet.status(1, "17|deleted"), 200);
    redis.signal(Signal::CONT);
    fleet.gateways.iter().for_each(connected);
    assert!(fleet.refused(1, "17|deleted") < Duration::from_secs(1));
    // Shutdown is not blocked either.
    redis.signal(Signal::STOP);
    let Fleet { mut gateways, .. } = fleet;
    gateways[0].signal(Signal::TERM);
    assert_eq!(gateways[0].wait_exit(Duration::from_secs(5)).code(), Some(0));
}

/// A subscriber detects the loss of a message.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn lost_redis_message_is_detected() {
    let redis = Redis::start();
    let fleet = Fleet::at(&redis, 1);
    fleet.know("17|kept");
    fleet.use_token("17|kept");
    let calls = fleet.introspector.calls();
    thread::sleep(Duration::from_secs(1));
    fleet.use_token("17|kept");
    assert_eq!(fleet.introspector.calls(), calls, "no verdict is evicted needlessly");
    redis.command(&["INCR", "stockaj-gateway:epoch"]);
    let began = Instant::now();
    while fleet.introspector.calls() == calls {
        fleet.use_token("17|kept");
        assert!(began.elapsed() < Duration::from_secs(2));
        thread::sleep(Duration::from_millis(10));
    }
}

/// A restored snapshot may be older than the latest messages: the epoch repeats, in another process.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn redis_restored_from_an_old_snapshot_hides_no_revocation() {
    for later_orders in [0, 2] {
        let mut redis = Redis::start_with(&["--dbfilename", "saved.rdb"]);
        let (road, other) = (RedisProxy::to(&redis), RedisProxy::to(&redis));
        let fleet = Fleet::new(&[road.url(), other.url()], "cache: {ttl: 1h, negative_ttl: 100ms}\n");
        fleet.know("17|deleted");
        fleet.use_token("17|deleted");
        assert_eq!(redis.command(&["SAVE"]), "OK");
        road.cut();
        disconnected(&fleet.gateways[0]);
        // A token and its id are two messages.
        fleet.delete(1, "17|deleted");
        fleet.gateways[1].wait_for_metric("redis_messages_total{direction=\"sent\"}", 2.0);
        let told = redis.command(&["GET", "stockaj-gateway:epoch"]);
        redis.kill();
        disconnected(&fleet.gateways[1]);
        // Otherwise its outbox would publish the lost messages again.
        other.cut();
        redis.restart();
        assert_ne!(redis.command(&["GET", "stockaj-gateway:epoch"]), told, "Redis has lost the epoch");
        // As many other messages as were lost.
        for _ in 0..later_orders {
            redis.command(&["INCR", "stockaj-gateway:epoch"]);
        }
        road.restore();
        connected(&fleet.gateways[0]);
        assert_eq!(fleet.status(0, "17|deleted"), 401, "{later_orders} since");
    }
}

/// Revocations that Redis has lost are published again, since other replicas may have reconnected in between.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn revocations_lost_by_redis_are_published_again() {
    let mut redis = Redis::start();
    let (road, other) = (RedisProxy::to(&redis), RedisProxy::to(&redis));
    let fleet = Fleet::new(&[road.url(), other.url()], "cache: {ttl: 1h}\n");
    road.cut();
    disconnected(&fleet.gateways[0]);
    fleet.revoke(1, &json!({"id": "17"}));
    fleet.gateways[1].wait_for_metric("redis_messages_total{direction=\"sent\"}", 1.0);
    redis.kill();
    disconnected(&fleet.gateways[1]);
    other.cut();
    redis.restart();
    road.restore();
    connected(&fleet.gateways[0]);
    other.restore();
    fleet.gateways[0].wait_for_metric("redis_messages_total{direction=\"received\"}", 1.0);
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn redis_restarted_with_its_data_fails_no_request() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let fleet = Fleet::at(&redis, 3);
    let served = under_load(&fleet, || {
        for round in 0..2 {
            let token = format!("{}|deleted", round + 100);
            fleet.know(&token);
            fleet.use_token(&token);
            redis.kill();
            fleet.gateways.iter().for_each(disconnected);
            fleet.delete(round, &token);
            redis.restart();
            fleet.gateways.iter().for_each(connected);
            for gateway in 0..3 {
                assert!(fleet.refused(gateway, &token) < Duration::from_secs(1));
            }
        }
    });
    assert!(served > 100, "{served}");
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn queued_revocations_are_published_to_a_newly_configured_redis() {
    let (one, other) = (Redis::start(), Redis::start());
    let way = url(&one);
    let fleet = Fleet::at(&one, 2);
    fleet.know("17|deleted");
    // A replica that is connected when the revocation arrives receives it only by this message.
    fleet.gateways[1].edit(&url(&one), &url(&other));
    assert!(fleet.gateways[1].reload());
    connected(&fleet.gateways[1]);
    fleet.use_token("17|deleted");
    drop(one);
    disconnected(&fleet.gateways[0]);
    fleet.delete(0, "17|deleted");
    assert_eq!(fleet.status(1, "17|deleted"), 200);
    fleet.gateways[0].edit(&way, &url(&other));
    assert!(fleet.gateways[0].reload());
    assert!(fleet.refused(1, "17|deleted") < Duration::from_secs(2));
}

/// A revocation gets its response immediately, and is published before the process exits.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn shutdown_publishes_queued_revocations() {
    let redis = Redis::start();
    let fleet = Fleet::at(&redis, 2);
    fleet.know("17|deleted");
    fleet.use_token("17|deleted");
    redis.signal(Signal::STOP);
    // The first one is already in flight.
    for id in ["1", "2"] {
        fleet.revoke(0, &json!({ "id": id }));
    }
    fleet.delete(0, "17|deleted");
    fleet.gateways[0].signal(Signal::TERM);
    thread::sleep(Duration::from_millis(300));
    redis.signal(Signal::CONT);
    assert!(fleet.refused(1, "17|deleted") < Duration::from_secs(2));
}

/// A subscription that is open but delivers nothing is replaced.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn dead_redis_subscription_is_replaced() {
    let redis = Redis::start();
    let road = RedisProxy::to(&redis);
    let fleet = Fleet::new(&[road.url(), url(&redis)], "cache: {ttl: 1h}\n");
    fleet.know("17|deleted");
    fleet.use_token("17|deleted");
    road.block_last();
    fleet.delete(1, "17|deleted");
    assert!(fleet.refused(0, "17|deleted") < Duration::from_secs(2), "the epoch reveals the lost message");
    // Later messages are received, not only inferred.
    let received = || fleet.gateways[0].metrics().metric("redis_messages_total{direction=\"received\"}");
    let began = Instant::now();
    while received() == 0.0 {
        assert!(began.elapsed() < PATIENCE, "the subscription receives nothing");
        fleet.revoke(1, &json!({"id": "18"}));
        thread::sleep(Duration::from_millis(200));
    }
}

/// A lost connection causes no introspection if no message was published meanwhile and Redis is provably the same.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn reconnected_replica_that_missed_nothing_keeps_its_verdicts() {
    let redis = Redis::start();
    let rules = "on >word ~stockaj-gateway:* resetchannels &stockaj-gateway +@connection +subscribe +publish +eval \
                 +exists +incr +get +getrange +set +del";
    for (user, info, asked_again) in [("knows", "+info", 0), ("guesses", "-info", 1)] {
        let words = ["ACL", "SETUSER", user].into_iter().chain(rules.split_ascii_whitespace()).chain([info]);
        assert_eq!(redis.command(&words.collect::<Vec<_>>()), "OK");
        let road = RedisProxy::to(&redis);
        let url = road.url().replace("redis://", &format!("redis://{user}:word@"));
        let fleet = Fleet::new(&[url], "cache: {ttl: 1h}\n");
        fleet.know("17|kept");
        fleet.use_token("17|kept");
        for round in 1..=2 {
            road.cut();
            disconnected(&fleet.gateways[0]);
            road.restore();
            connected(&fleet.gateways[0]);
            fleet.use_token("17|kept");
            assert_eq!(fleet.introspector.calls(), 1 + round * asked_again, "{user}");
        }
    }
}
