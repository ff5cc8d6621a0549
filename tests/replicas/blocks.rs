//! Blocks on several replicas: each reaches all, and none is lost by an outage of Redis.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{ADMIN, Fleet, connected, disconnected, under_load, url};
use crate::support::redis::{Redis, RedisProxy};
use crate::support::{Gateway, PATIENCE, RawClient};

const KEY: &str = "stockaj-gateway:blocks";
const CACHE: &str = "cache: {ttl: 1h, negative_ttl: 1h}\n";

impl Fleet {
    fn change_block(&self, gateway: usize, method: &str, body: &Value) {
        let mut client = RawClient::connect(self.gateways[gateway].admin());
        let began = Instant::now();
        let answer = client.request(method, "/tokens/block", &ADMIN, body.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(1), "the request waits for Redis");
    }

    fn block(&self, gateway: usize, body: &Value) {
        self.change_block(gateway, "POST", body);
    }

    fn unblock(&self, gateway: usize, body: &Value) {
        self.change_block(gateway, "DELETE", body);
    }

    fn blocks(&self, gateway: usize) -> Vec<Value> {
        let answer = self.gateways[gateway].admin_request("GET", "/tokens/block", &ADMIN, "");
        answer.json()["blocked"].as_array().unwrap().clone()
    }

    /// The time until `gateway` serves `token`.
    fn served(&self, gateway: usize, token: &str) -> Duration {
        let began = Instant::now();
        while self.status(gateway, token) != 200 {
            assert!(began.elapsed() < PATIENCE, "{token} stays blocked");
            std::thread::sleep(Duration::from_millis(2));
        }
        began.elapsed()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs redis-server: tests/run"]
fn block_reaches_every_replica_within_a_second() {
    let redis = Redis::start();
    let fleet = Fleet::new(&vec![url(&redis); 3], CACHE);
    let served = under_load(&fleet, || {
        for round in 0..9_usize {
            let token = format!("{}|blocked", round + 100);
            fleet.know(&token);
            fleet.use_token(&token);
            let subject = match round % 3 {
                0 => json!({ "id": (round + 100).to_string(), "reason": "leaked" }),
                1 => json!({ "token": token }),
                _ => json!({ "token": format!("0{token}"), "for": "1h" }),
            };
            fleet.block(round % 3, &subject);
            assert_eq!(fleet.status(round % 3, &token), 401, "at once where it was made");
            for gateway in 0..3 {
                let took = fleet.refused(gateway, &token);
                assert!(took < SECOND, "{took:?}");
            }
            let subject = json!({ "id": subject["id"], "token": subject["token"] });
            let subject: serde_json::Map<_, _> = subject
                .as_object()
                .unwrap()
                .clone()
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .collect();
            // Removed at another one.
            fleet.unblock((round + 1) % 3, &Value::Object(subject));
            for gateway in 0..3 {
                let took = fleet.served(gateway, &token);
                assert!(took < SECOND, "{took:?}");
            }
        }
    });
    assert!(served > 100, "{served}");
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn redis_has_neither_names_nor_tokens_of_blocks() {
    let redis = Redis::start();
    let fleet = Fleet::new(&vec![url(&redis); 2], CACHE);
    fleet.know("17|a-secret");
    fleet.use_token("17|a-secret");
    fleet.block(0, &json!({"name": "scanner", "reason": "leaked"}));
    fleet.block(0, &json!({"token": "18|b-secret"}));
    assert!(fleet.refused(1, "17|a-secret") < SECOND);
    let stored = redis.command(&["HGETALL", KEY]);
    assert!(stored.contains("leaked") && stored.contains("token_sha256"), "{stored}");
    assert!(!stored.contains("scanner") && !stored.contains("secret"), "{stored}");
    let listed = fleet.blocks(1);
    assert!(listed.iter().all(|block| block["source"] == "replica"), "{listed:?}");
    let digits = listed.iter().find_map(|block| block["name_sha256"].as_str()).unwrap();
    fleet.unblock(1, &json!({ "name_sha256": digits }));
    assert!(fleet.served(0, "17|a-secret") < SECOND);
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn replica_that_starts_knows_the_blocks_before_it_is_ready() {
    let redis = Redis::start();
    let mut fleet = Fleet::new(&vec![url(&redis); 2], CACHE);
    fleet.know("17|blocked");
    fleet.block(0, &json!({"id": "17"}));
    for number in 0..300 {
        fleet.block(0, &json!({ "id": format!("many-{number}"), "reason": "r".repeat(200) }));
    }
    let gateway = &mut fleet.gateways[1];
    gateway.signal(Signal::KILL);
    gateway.wait_exit(PATIENCE);
    std::fs::remove_file(gateway.directory().join("blocked.json")).unwrap();
    gateway.restart();
    assert_eq!(fleet.status(1, "17|blocked"), 401, "the first request");
    assert_eq!(fleet.blocks(1).len(), 301);
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn replica_that_starts_without_redis_serves_with_its_file() {
    let mut redis = Redis::start();
    let mut fleet = Fleet::new(&vec![url(&redis); 2], CACHE);
    fleet.know("17|blocked");
    fleet.know("18|blocked");
    fleet.block(0, &json!({"id": "17"}));
    assert!(fleet.refused(1, "17|blocked") < SECOND);
    // The file gets it within a second.
    let file = fleet.gateways[1].directory().join("blocked.json");
    let end = Instant::now() + 2 * SECOND;
    while !std::fs::read_to_string(&file).is_ok_and(|text| text.contains("\"17\"")) {
        assert!(Instant::now() < end, "the file has no block");
        std::thread::sleep(Duration::from_millis(10));
    }
    redis.kill();
    fleet.gateways[1].signal(Signal::KILL);
    fleet.gateways[1].restart();
    assert_eq!(fleet.status(1, "17|blocked"), 401);
    fleet.block(0, &json!({"id": "18"}));
    assert_eq!(fleet.status(1, "18|blocked"), 200);
    redis.restart();
    fleet.gateways.iter().for_each(connected);
    assert!(fleet.refused(1, "18|blocked") < SECOND);
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn block_survives_a_redis_that_is_killed() {
    let mut redis = Redis::start();
    let fleet = Fleet::new(&vec![url(&redis); 3], CACHE);
    for token in ["17|blocked", "18|blocked", "19|unblocked"] {
        fleet.know(token);
        fleet.use_token(token);
    }
    fleet.block(0, &json!({"id": "19"}));
    fleet.block(0, &json!({"id": "17"}));
    for gateway in 0..3 {
        assert!(fleet.refused(gateway, "17|blocked") < SECOND);
    }
    redis.kill();
    fleet.gateways.iter().for_each(disconnected);
    fleet.block(1, &json!({"id": "18"}));
    fleet.unblock(2, &json!({"id": "19"}));
    assert_eq!(fleet.status(0, "17|blocked"), 401, "an outage ends no block");
    // It comes back empty.
    redis.restart();
    fleet.gateways.iter().for_each(connected);
    for gateway in 0..3 {
        assert!(fleet.refused(gateway, "18|blocked") < SECOND);
        assert!(fleet.served(gateway, "19|unblocked") < SECOND);
        assert_eq!(fleet.status(gateway, "17|blocked"), 401);
    }
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn replicas_that_were_cut_off_merge_their_blocks() {
    let redis = Redis::start();
    let (road, other) = (RedisProxy::to(&redis), RedisProxy::to(&redis));
    let fleet = Fleet::new(&[road.url(), other.url()], CACHE);
    for token in ["17|blocked", "18|blocked", "19|unblocked", "20|again"] {
        fleet.know(token);
        fleet.use_token(token);
    }
    fleet.block(0, &json!({"id": "19"}));
    fleet.block(0, &json!({"id": "20"}));
    assert!(fleet.refused(1, "19|unblocked") < SECOND && fleet.refused(1, "20|again") < SECOND);
    road.cut();
    disconnected(&fleet.gateways[0]);
    // Both sides change different blocks, and the same one.
    fleet.block(0, &json!({"id": "17"}));
    fleet.block(1, &json!({"id": "18"}));
    fleet.unblock(1, &json!({"id": "19"}));
    fleet.unblock(1, &json!({"id": "20"}));
    std::thread::sleep(Duration::from_millis(20));
    fleet.block(0, &json!({"id": "20", "for": "1h"}));
    assert_eq!((fleet.status(1, "17|blocked"), fleet.status(0, "18|blocked")), (200, 200));
    road.restore();
    connected(&fleet.gateways[0]);
    for gateway in 0..2 {
        assert!(fleet.refused(gateway, "17|blocked") < SECOND);
        assert!(fleet.refused(gateway, "18|blocked") < SECOND);
        assert!(fleet.served(gateway, "19|unblocked") < SECOND, "the later change wins");
        assert!(fleet.refused(gateway, "20|again") < SECOND, "the later change wins");
    }
}

/// A client with write access to Redis can add blocks and remove those of the commands, and do nothing else.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn forged_blocks_can_only_refuse() {
    let redis = Redis::start();
    let fleet = Fleet::new(&vec![url(&redis); 2], &format!("{CACHE}blocked:\n  ids: [5]\n"));
    for token in ["5|configured", "9|stranger", "17|blocked", "1|good"] {
        fleet.know(token);
    }
    fleet.introspector.deactivate("9|stranger");
    fleet.block(0, &json!({"id": "17"}));
    assert!(fleet.refused(1, "17|blocked") < SECOND);
    let version = "ffffffffffffffff-ffffffffffffffff";
    let huge = "7".repeat(60_000);
    let deeds: Vec<(&str, Vec<String>)> = vec![
        ("no hash", words(&["DEL", KEY])),
        ("another type", words(&["SET", KEY, "x"])),
        ("nonsense", words(&["HSET", KEY, "id:5", "x", "id:17", "", "y", "z"])),
        ("a long value", words(&["HSET", KEY, "id:18", &huge])),
        ("a long field", words(&["HSET", KEY, &huge, "x"])),
        (
            "a version from the future",
            words(&["HSET", KEY, "id:17", &format!("{version} {{\"id\":\"17\",\"version\":\"{version}\"}}")]),
        ),
        (
            "many fields",
            words(&["EVAL", "for i = 1, 20000 do redis.call('HSET', KEYS[1], 'f' .. i, 'x') end", "1", KEY]),
        ),
        (
            "a removal of a configured block",
            vec![
                "PUBLISH".to_owned(),
                "stockaj-gateway".to_owned(),
                format!("1 {{\"from\":1,\"block\":{{\"id\":\"5\",\"version\":\"{}\"}}}}", version_of_now()),
            ],
        ),
        ("an end of connections", words(&["CLIENT", "KILL", "TYPE", "normal"])),
    ];
    let served = under_load(&fleet, || {
        for (number, (what, deed)) in deeds.iter().enumerate() {
            let arguments: Vec<&str> = deed.iter().map(String::as_str).collect();
            redis.command(&arguments);
            redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            std::thread::sleep(Duration::from_millis(100));
            fleet.gateways.iter().for_each(connected);
            for gateway in 0..2 {
                assert_eq!(fleet.status(gateway, "9|stranger"), 401, "{what}");
                assert_eq!(fleet.status(gateway, "5|configured"), 401, "{what}");
                assert_eq!(fleet.status(gateway, "17|blocked"), 401, "{what}");
            }
            let token = format!("{}|later", number + 1000);
            fleet.know(&token);
            fleet.use_token(&token);
            fleet.block(number % 2, &json!({ "id": (number + 1000).to_string() }));
            let took = fleet.refused(1 - number % 2, &token);
            assert!(took < 5 * SECOND, "{what}: {took:?}");
        }
    });
    assert!(served > 100, "{served}");
    // What a writer to Redis can do, as documented.
    let removal =
        format!("1 {{\"from\":1,\"block\":{{\"id\":\"17\",\"version\":\"{}\"}}}}", version_of_now());
    redis.command(&["PUBLISH", "stockaj-gateway", &removal]);
    assert!(fleet.served(0, "17|blocked") < SECOND);
    for gateway in &fleet.gateways {
        assert!(gateway.resident_memory() < 150 << 20, "{}", gateway.resident_memory());
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A version that is later than all before it.
fn version_of_now() -> String {
    format!("{:016x}-{:016x}", jiff::Timestamp::now().as_millisecond() + 1000, u64::MAX)
}

/// Adds the user `old` with the rights that an older version needs: without HGET and HSCAN.
fn add_old_user(redis: &Redis) {
    let rules = "on nopass ~stockaj-gateway:* resetchannels &stockaj-gateway -@all +@connection +info +subscribe +publish +eval \
                 +exists +incr +get +getrange +set +del";
    let words: Vec<&str> =
        ["ACL", "SETUSER", "old"].into_iter().chain(rules.split_ascii_whitespace()).collect();
    assert_eq!(redis.command(&words), "OK");
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn redis_user_without_new_rights_still_gets_messages() {
    let redis = Redis::start();
    add_old_user(&redis);
    let road = RedisProxy::to(&redis);
    let user = road.url().replace("redis://", "redis://old:any@");
    let fleet = Fleet::new(&[user.clone(), user], CACHE);
    fleet.know("17|blocked");
    fleet.use_token("17|blocked");
    fleet.block(0, &json!({"id": "17"}));
    assert!(fleet.refused(1, "17|blocked") < SECOND);
    let warned =
        |line: &Value| line["message"].as_str().is_some_and(|it| it.starts_with("blocks cannot be stored"));
    fleet.gateways[0].wait_for_log(warned);
    fleet.know("18|deleted");
    fleet.use_token("18|deleted");
    fleet.delete(1, "18|deleted");
    assert!(fleet.refused(0, "18|deleted") < SECOND);
}

/// Also if no replica may read the blocks in Redis.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn blocks_of_an_outage_are_published_without_the_right_to_read_them() {
    let redis = Redis::start();
    add_old_user(&redis);
    let (road, other) = (RedisProxy::to(&redis), RedisProxy::to(&redis));
    let urls = [&road, &other].map(|road| road.url().replace("redis://", "redis://old:any@"));
    let mut fleet = Fleet::new(&urls, CACHE);
    for token in ["17|blocked", "18|unblocked", "19|restarted"] {
        fleet.know(token);
        fleet.use_token(token);
    }
    fleet.block(0, &json!({"id": "18"}));
    assert!(fleet.refused(1, "18|unblocked") < SECOND);
    road.cut();
    disconnected(&fleet.gateways[0]);
    fleet.block(0, &json!({"id": "17"}));
    fleet.unblock(0, &json!({"id": "18"}));
    road.restore();
    connected(&fleet.gateways[0]);
    assert!(fleet.refused(1, "17|blocked") < SECOND);
    assert!(fleet.served(1, "18|unblocked") < SECOND);
    // The process that made the block may have ended before Redis can be reached again.
    road.cut();
    disconnected(&fleet.gateways[0]);
    fleet.block(0, &json!({"id": "19"}));
    fleet.gateways[0].signal(Signal::KILL);
    fleet.gateways[0].restart();
    assert_eq!(fleet.status(1, "19|restarted"), 200);
    road.restore();
    connected(&fleet.gateways[0]);
    assert!(fleet.refused(1, "19|restarted") < SECOND);
}

/// A start does not wait for a Redis that hangs.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn hanging_redis_delays_a_start_by_two_seconds_at_most() {
    let redis = Redis::start();
    let fleet = Fleet::new(&vec![url(&redis); 1], CACHE);
    fleet.know("17|blocked");
    let Fleet { mut gateways, introspector, _upstream } = fleet;
    let gateway: &mut Gateway = &mut gateways[0];
    gateway.admin_request("POST", "/tokens/block", &ADMIN, r#"{"id":"17"}"#);
    redis.signal(Signal::STOP);
    gateway.signal(Signal::KILL);
    let began = Instant::now();
    gateway.restart();
    assert_eq!(gateway.get(super::ITEMS, Some("17|blocked")).status, 401);
    assert!(began.elapsed() < 4 * SECOND, "{:?}", began.elapsed());
    redis.signal(Signal::CONT);
    drop(introspector);
}
