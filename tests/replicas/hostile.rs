//! A hostile client with write access to Redis.

use std::time::{Duration, Instant};

use super::{Fleet, connected, under_load};
use crate::support::redis::Redis;

/// A client with write access to Redis can evict verdicts of replicas, and do nothing else.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn forged_redis_messages_grant_nothing_and_fail_no_request() {
    let redis = Redis::start();
    let fleet = Fleet::at(&redis, 2);
    const EPOCH: &str = "stockaj-gateway:epoch";
    let huge = vec![b'7'; 5 * 1024 * 1024];
    type Deed = Box<dyn Fn(&Redis)>;
    let publish = |text: &'static str| -> Deed {
        Box::new(move |redis| drop(redis.command(&["PUBLISH", "stockaj-gateway", text])))
    };
    let command =
        |words: &'static [&'static str]| -> Deed { Box::new(move |redis| drop(redis.command(words))) };
    let deeds: Vec<(&str, Deed)> = vec![
        ("nonsense", publish("hello")),
        ("nothing", publish("")),
        ("a grant", publish(r#"1 {"from":1,"forget":{"id":"9"},"abilities":["*"],"active":true}"#)),
        ("another", publish(r#"1 {"from":1,"grant":{"token":"9|stranger"}}"#)),
        ("a verdict", publish(r#"{"data":{"id":"9","abilities":["*"]}}"#)),
        ("the highest epoch", publish(r#"18446744073709551615 {"from":1,"forget":{"id":"9"}}"#)),
        ("an old epoch", publish(r#"0 {"from":1,"forget":{"id":"9"}}"#)),
        ("all", publish(r#"0 {"from":1,"forget":"all"}"#)),
        ("no number", command(&["SET", "stockaj-gateway:epoch", "hello"])),
        ("a negative number", command(&["SET", "stockaj-gateway:epoch", "-5"])),
        ("the last number", command(&["SET", "stockaj-gateway:epoch", "9223372036854775807"])),
        ("a number back", command(&["SET", "stockaj-gateway:epoch", "1"])),
        (
            "no string",
            command(&["EVAL", "redis.call('DEL',KEYS[1]) redis.call('LPUSH',KEYS[1],'a')", "1", EPOCH]),
        ),
        ("no key", command(&["DEL", "stockaj-gateway:epoch"])),
        ("nothing left", command(&["FLUSHALL"])),
        ("other keys", command(&["SET", "stockaj-gateway", "x", "GET"])),
        (
            "a huge key",
            Box::new({
                let huge = huge.clone();
                move |redis| drop(redis.command_with(&["SET", "stockaj-gateway:epoch"], &huge))
            }),
        ),
        (
            "a huge message",
            Box::new({
                let huge = huge.clone();
                move |redis| drop(redis.command_with(&["PUBLISH", "stockaj-gateway"], &huge))
            }),
        ),
        (
            "a flood",
            command(&[
                "EVAL",
                "for i = 1, 20000 do redis.call('PUBLISH', 'stockaj-gateway', i .. ' x') end",
                "0",
            ]),
        ),
        (
            "a flood of orders",
            command(&[
                "EVAL",
                "for i = 1, 5000 do redis.call('PUBLISH', 'stockaj-gateway', \
             i .. ' {\"from\":1,\"forget\":{\"id\":\"' .. i .. '\"}}') end",
                "0",
            ]),
        ),
        ("an end of connections", command(&["CLIENT", "KILL", "TYPE", "pubsub"])),
        ("an end of all connections", command(&["CLIENT", "KILL", "TYPE", "normal"])),
    ];
    let served = under_load(&fleet, || {
        for (number, (what, deed)) in deeds.iter().enumerate() {
            deed(&redis);
            assert_eq!(fleet.status(0, "9|stranger"), 401, "{what}");
            let token = format!("{}|deleted", number + 1000);
            fleet.know(&token);
            fleet.use_token(&token);
            fleet.delete(number % 2, &token);
            let took = fleet.refused(1 - number % 2, &token);
            assert!(took < Duration::from_secs(2), "{what}: {took:?}");
            fleet.gateways.iter().for_each(connected);
        }
    });
    assert!(served > 100, "{served}");
    for gateway in &fleet.gateways {
        assert!(gateway.metrics().metric("redis_messages_total{direction=\"refused\"}") > 20_000.0);
        assert!(gateway.resident_memory() < 150 << 20, "{}", gateway.resident_memory());
        let said = gateway.logs().iter().filter(|line| line.contains("no replica sends")).count();
        assert_eq!(said, 1, "once a minute");
    }
}

/// A flood evicts all verdicts at most twice a second, and does not delay a real revocation.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn flood_of_revocations_costs_two_introspections_a_second() {
    let redis = Redis::start();
    let fleet = Fleet::at(&redis, 1);
    fleet.know("17|kept");
    fleet.use_token("17|kept");
    let calls = fleet.introspector.calls();
    let flood = "for i = 1, 100 do redis.call('PUBLISH', 'stockaj-gateway', \
                 i .. ' {\"from\":1,\"forget\":\"all\"}') end redis.call('INCR', 'stockaj-gateway:epoch')";
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        redis.command(&["EVAL", flood, "0"]);
        fleet.use_token("17|kept");
    }
    let calls = fleet.introspector.calls() - calls;
    let received = fleet.gateways[0].metrics().metric("redis_messages_total{direction=\"received\"}");
    assert!(received > 2_000.0, "{received}");
    assert!((2..=12).contains(&calls), "{calls} for {received} messages");
}
