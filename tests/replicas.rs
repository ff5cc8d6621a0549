//! Several replicas and a real Redis: what one revokes no other serves.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::redis::{Redis, Road};
use crate::support::{Authority, Gateway, Introspector, PATIENCE, RawClient, Upstream, Verdict};

const ITEMS: &str = "/api/v2/items";
const ADMIN: [(&str, &str); 1] = [("Authorization", "Bearer operator")];

/// Gateways before the same backend and introspector, each with its own URL of Redis.
struct Fleet {
    gateways: Vec<Gateway>,
    introspector: Introspector,
    _upstream: Upstream,
}

impl Fleet {
    fn new(urls: &[String], yaml: &str) -> Self {
        let upstream = Upstream::start();
        let introspector = Introspector::start();
        let gateways = urls.iter().map(|url| {
            let builder = Gateway::builder().backend(&upstream).introspector(&introspector);
            builder.yaml(&format!("admin:\n  token: operator\nredis:\n  url: {url}\n{yaml}")).start()
        });
        let fleet = Self { gateways: gateways.collect(), introspector, _upstream: upstream };
        fleet.gateways.iter().for_each(connected);
        fleet
    }

    /// `count` gateways at one Redis, with verdicts that live for an hour.
    fn at(redis: &Redis, count: usize) -> Self {
        Self::new(&vec![url(redis); count], "cache: {ttl: 1h, negative_ttl: 100ms}\n")
    }

    fn know(&self, token: &str) {
        self.introspector.know(token, Verdict::active(&["*"]).named(token.split('|').next(), "scanner"));
    }

    fn status(&self, gateway: usize, token: &str) -> u16 {
        self.gateways[gateway].get(ITEMS, Some(token)).status
    }

    /// Every gateway believes `token`.
    fn believe(&self, token: &str) {
        for gateway in 0..self.gateways.len() {
            assert_eq!(self.status(gateway, token), 200, "{token}");
        }
    }

    fn revoke(&self, gateway: usize, order: &Value) {
        let mut client = RawClient::connect(self.gateways[gateway].admin());
        let began = Instant::now();
        let answer = client.request("POST", "/tokens/revoke", &ADMIN, order.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(1), "Redis is waited for");
    }

    /// As it is in life: deleted, then revoked.
    fn delete(&self, gateway: usize, token: &str) {
        self.introspector.forget(token);
        self.revoke(gateway, &json!({ "token": token }));
    }

    /// How long it takes until `gateway` refuses `token`.
    fn refused(&self, gateway: usize, token: &str) -> Duration {
        let began = Instant::now();
        let mut client = self.gateways[gateway].client();
        while client.get(ITEMS, Some(token)).status != 401 {
            assert!(began.elapsed() < PATIENCE, "{token} is believed for ever");
            thread::sleep(Duration::from_millis(2));
        }
        began.elapsed()
    }
}

fn url(redis: &Redis) -> String {
    format!("redis+unix://{}", redis.socket().display())
}

fn connected(gateway: &Gateway) {
    gateway.wait_for_metric("redis_connected", 1.0);
}

fn disconnected(gateway: &Gateway) {
    gateway.wait_for_metric("redis_connected", 0.0);
}

/// Clients that ask every gateway with a good token, one after the other, until told to stop.
struct Load<'a> {
    stop: &'a AtomicBool,
    served: &'a AtomicUsize,
}

impl Load<'_> {
    fn run(&self, gateway: &Gateway, token: &str) {
        let mut client = gateway.client();
        while !self.stop.load(Ordering::SeqCst) {
            assert_eq!(client.get(ITEMS, Some(token)).status, 200, "a request under load");
            self.served.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Runs `test` while every gateway is under load.
fn under_load(fleet: &Fleet, test: impl FnOnce()) -> usize {
    fleet.know("1|good");
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for gateway in &fleet.gateways {
            let load = Load { stop: &stop, served: &served };
            scope.spawn(move || load.run(gateway, "1|good"));
        }
        // So that a failure of the test does not leave the clients running.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        stop.store(true, Ordering::SeqCst);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    served.load(Ordering::SeqCst)
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn what_one_revokes_all_forget_within_a_second() {
    let redis = Redis::start();
    let fleet = Fleet::at(&redis, 3);
    let served = under_load(&fleet, || {
        for round in 0..20 {
            let token = format!("{}|deleted", round + 100);
            fleet.know(&token);
            fleet.believe(&token);
            fleet.delete(round % 3, &token);
            assert_eq!(fleet.status(round % 3, &token), 401, "at once where it was ordered");
            for gateway in 0..3 {
                let took = fleet.refused(gateway, &token);
                assert!(took < Duration::from_secs(1), "{took:?}");
            }
        }
    });
    assert!(served > 100, "{served}");
    let told =
        fleet.gateways.iter().map(|it| it.metrics().metric("redis_messages_total{direction=\"sent\"}"));
    // A token and its id.
    assert_eq!(told.sum::<f64>(), 40.0);
    for gateway in &fleet.gateways {
        let received = gateway.metrics().metric("redis_messages_total{direction=\"received\"}");
        let own = gateway.metrics().metric("redis_messages_total{direction=\"sent\"}");
        assert_eq!(received + own, 40.0);
    }
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn every_kind_of_order_travels_and_no_token_does() {
    let redis = Redis::start();
    let log = redis.directory().join("monitor");
    let mut monitor = std::process::Command::new("redis-cli")
        .arg("-s")
        .arg(redis.socket())
        .arg("MONITOR")
        .stdout(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let fleet = Fleet::at(&redis, 2);
    for order in [
        json!({"id": "17"}),
        json!({"token": "17|a-secret"}),
        json!({"token": "017|a-secret"}),
        json!({"name": "scanner"}),
        json!({"all": true}),
    ] {
        fleet.know("17|a-secret");
        fleet.believe("17|a-secret");
        fleet.introspector.forget("17|a-secret");
        fleet.revoke(0, &order);
        assert!(fleet.refused(1, "17|a-secret") < Duration::from_secs(1), "{order}");
        thread::sleep(Duration::from_millis(150));
    }
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    let seen = std::fs::read_to_string(log).unwrap();
    assert!(seen.contains("PUBLISH") || seen.contains("publish"), "{seen}");
    assert!(!seen.contains("a-secret") && !seen.contains("scanner"), "{seen}");
}

/// Who was cut off believes what it knows for `ttl` at most, and nothing of it once it has returned.
fn cut_off(time: Duration, ttl: &str) {
    let redis = Redis::start();
    let (road, other) = (Road::to(&redis), Road::to(&redis));
    let fleet =
        Fleet::new(&[road.url(), other.url()], &format!("cache: {{ttl: {ttl}, negative_ttl: 100ms}}\n"));
    let served = under_load(&fleet, || {
        fleet.know("17|deleted");
        fleet.know("18|kept");
        fleet.believe("17|deleted");
        fleet.believe("18|kept");
        road.cut();
        disconnected(&fleet.gateways[0]);
        fleet.delete(1, "17|deleted");
        assert_eq!(fleet.status(1, "17|deleted"), 401);
        assert_eq!(fleet.status(0, "17|deleted"), 200, "it cannot know");
        thread::sleep(time);
        road.mend();
        connected(&fleet.gateways[0]);
        assert_eq!(fleet.status(0, "17|deleted"), 401, "it has returned");
        fleet.believe("18|kept");
        // And is heard, and hears, as before.
        for (ordered, heard) in [(0, 1), (1, 0)] {
            fleet.know("19|deleted");
            fleet.believe("19|deleted");
            fleet.delete(ordered, "19|deleted");
            assert!(fleet.refused(heard, "19|deleted") < Duration::from_secs(1));
            thread::sleep(Duration::from_millis(150));
        }
    });
    assert!(served > 100, "{served}");
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn who_was_cut_off_believes_nothing_old_after_its_return() {
    cut_off(Duration::from_secs(1), "1h");
}

#[test]
#[ignore = "soak: half a minute"]
fn who_was_cut_off_for_30_s_believes_nothing_old_after_its_return() {
    cut_off(Duration::from_secs(30), "1h");
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn who_is_cut_off_believes_nothing_beyond_its_ttl() {
    let redis = Redis::start();
    let (road, other) = (Road::to(&redis), Road::to(&redis));
    let fleet = Fleet::new(&[road.url(), other.url()], "cache: {ttl: 2s}\n");
    fleet.know("17|deleted");
    road.cut();
    disconnected(&fleet.gateways[0]);
    fleet.believe("17|deleted");
    fleet.delete(1, "17|deleted");
    let took = fleet.refused(0, "17|deleted");
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn redis_may_die_and_come_back_empty_and_no_request_notices() {
    let mut redis = Redis::start();
    let fleet = Fleet::at(&redis, 3);
    let served = under_load(&fleet, || {
        for round in 0..3 {
            let tokens = [0, 1].map(|number| format!("{}|deleted", round * 10 + number + 100));
            for token in &tokens {
                fleet.know(token);
                fleet.believe(token);
            }
            redis.kill();
            fleet.gateways.iter().for_each(disconnected);
            fleet.delete(0, &tokens[0]);
            assert_eq!(fleet.status(0, &tokens[0]), 401, "it goes on alone");
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
fn what_was_revoked_without_redis_is_told_later() {
    let redis = Redis::start();
    let (road, other) = (Road::to(&redis), Road::to(&redis));
    let fleet = Fleet::new(&[road.url(), other.url()], "cache: {ttl: 1h}\n");
    fleet.know("17|deleted");
    fleet.believe("17|deleted");
    road.cut();
    disconnected(&fleet.gateways[0]);
    fleet.delete(0, "17|deleted");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(fleet.status(1, "17|deleted"), 200);
    road.mend();
    assert!(fleet.refused(1, "17|deleted") < Duration::from_secs(2));
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn a_redis_that_hangs_holds_nobody_up() {
    let redis = Redis::start();
    let fleet = Fleet::at(&redis, 2);
    fleet.know("17|deleted");
    fleet.believe("17|deleted");
    redis.signal(Signal::STOP);
    disconnected(&fleet.gateways[0]);
    fleet.delete(0, "17|deleted");
    assert_eq!(fleet.status(0, "17|deleted"), 401);
    assert_eq!(fleet.status(1, "17|deleted"), 200);
    redis.signal(Signal::CONT);
    fleet.gateways.iter().for_each(connected);
    assert!(fleet.refused(1, "17|deleted") < Duration::from_secs(1));
    // Nor an end.
    redis.signal(Signal::STOP);
    let Fleet { mut gateways, .. } = fleet;
    gateways[0].signal(Signal::TERM);
    assert_eq!(gateways[0].wait_exit(Duration::from_secs(5)).code(), Some(0));
}

/// Whoever can write to Redis can make replicas forget, and nothing else.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn what_is_written_by_hand_grants_nothing_and_stops_nothing() {
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
            fleet.believe(&token);
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

/// Whoever is on the other side of a lost message notices.
#[test]
#[ignore = "needs redis-server: tests/run"]
fn a_message_that_is_lost_is_noticed() {
    let redis = Redis::start();
    let fleet = Fleet::at(&redis, 1);
    fleet.know("17|kept");
    fleet.believe("17|kept");
    let calls = fleet.introspector.calls();
    thread::sleep(Duration::from_secs(1));
    fleet.believe("17|kept");
    assert_eq!(fleet.introspector.calls(), calls, "nothing is forgotten for nothing");
    redis.command(&["INCR", "stockaj-gateway:epoch"]);
    let began = Instant::now();
    while fleet.introspector.calls() == calls {
        fleet.believe("17|kept");
        assert!(began.elapsed() < Duration::from_secs(2));
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn with_tls_user_and_password() {
    let authority = Authority::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (certificate, key, ca) = (authority.certificate(), authority.private_key(), authority.ca_file());
    let rules = "on >pass%word ~fleet:* &fleet resetchannels &fleet +@connection +subscribe +publish +eval +exists \
                 +incr +get +getrange +set +del";
    let path = |it: &std::path::Path| it.display().to_string();
    let redis = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &path(&certificate),
        "--tls-key-file",
        &path(&key),
        "--tls-ca-cert-file",
        &path(&ca),
        "--tls-auth-clients",
        "no",
    ]);
    let words: Vec<&str> =
        ["ACL", "SETUSER", "gate"].into_iter().chain(rules.split(' ').filter(|it| !it.is_empty())).collect();
    assert_eq!(redis.command(&words), "OK");
    let url = format!("rediss://gate:pass%25word@localhost:{port}/0");
    let yaml = format!("  tls: {{ca_file: {}}}\n  channel: fleet\ncache: {{ttl: 1h}}\n", path(&ca));
    let fleet = Fleet::new(&[url.clone(), url], &yaml);
    fleet.know("17|deleted");
    fleet.believe("17|deleted");
    fleet.delete(0, "17|deleted");
    assert!(fleet.refused(1, "17|deleted") < Duration::from_secs(1));
    for gateway in &fleet.gateways {
        assert!(!gateway.logs().join("\n").contains("pass"), "no secret is in the log");
    }
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn what_keeps_it_from_redis_is_said_once_and_without_the_password() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    let road = Road::to(&redis);
    let upstream = Upstream::start();
    let introspector = Introspector::knowing([("1|good", &["*"][..])]);
    let url = road.url().replace("redis://", "redis://:wrong-password@");
    let builder = Gateway::builder().backend(&upstream).introspector(&introspector);
    let gateway = builder.yaml(&format!("redis: {{url: '{url}'}}\n")).start();
    let line = gateway.wait_for_log(|line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("no connection to other replicas"))
    });
    assert!(line["error"].as_str().unwrap().contains("log in"), "{line}");
    assert_eq!(gateway.get(ITEMS, Some("1|good")).status, 200);
    thread::sleep(Duration::from_secs(2));
    let lines = gateway.logs();
    assert_eq!(lines.iter().filter(|line| line.contains("no connection to other replicas")).count(), 1);
    assert!(!lines.join("\n").contains("wrong-password"));
    assert_eq!(gateway.metrics().metric("redis_connected"), 0.0);
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn a_reload_leads_to_another_redis_and_away_from_it() {
    let (one, other) = (Redis::start(), Redis::start());
    let fleet = Fleet::at(&one, 2);
    fleet.know("17|deleted");
    fleet.believe("17|deleted");
    for gateway in &fleet.gateways {
        gateway.edit(&url(&one), &url(&other));
        assert!(gateway.reload());
        connected(gateway);
    }
    drop(one);
    fleet.believe("17|deleted");
    fleet.delete(0, "17|deleted");
    assert!(fleet.refused(1, "17|deleted") < Duration::from_secs(1));
    fleet.gateways[0].edit(&format!("redis:\n  url: {}\n", url(&other)), "");
    assert!(fleet.gateways[0].reload());
    let metrics = RawClient::connect(fleet.gateways[0].admin()).get("/metrics", None);
    assert!(!metrics.text().contains("redis_connected"), "no Redis, no metric");
    assert!(!std::fs::read_dir(format!("/proc/{}/task", fleet.gateways[0].process())).unwrap().any(|task| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).is_ok_and(|name| name.trim() == "replicas")
    }));
}
