//! Several replicas and a real Redis: a revocation reaches all of them.

mod blocks;
mod cut_off;
mod hostile;
mod shares;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::ports::free_address;
use crate::support::redis::{Redis, RedisProxy};
use crate::support::{Authority, Gateway, Introspector, PATIENCE, RawClient, TestEnv, Upstream, Verdict};

const ITEMS: &str = "/api/v2/items";
const ADMIN: [(&str, &str); 1] = [("Authorization", "Bearer an-operators-token")];

/// Gateways with a shared backend and introspector, each with its own Redis URL.
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
            builder
                .yaml(&format!("admin:\n  token: an-operators-token\nredis:\n  url: {url}\n{yaml}"))
                .start()
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
        self.introspector
            .set_verdict(token, Verdict::active(&["*"]).named(token.split('|').next(), "scanner"));
    }

    fn status(&self, gateway: usize, token: &str) -> u16 {
        self.gateways[gateway].get(ITEMS, Some(token)).status
    }

    /// Makes every gateway cache an active verdict of `token`.
    fn use_token(&self, token: &str) {
        for gateway in 0..self.gateways.len() {
            assert_eq!(self.status(gateway, token), 200, "{token}");
        }
    }

    fn revoke(&self, gateway: usize, order: &Value) {
        let mut client = RawClient::connect(self.gateways[gateway].admin());
        let began = Instant::now();
        let answer = client.request("POST", "/tokens/revoke", &ADMIN, order.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(1), "the request waits for Redis");
    }

    /// The order in production: the token is deleted, then revoked.
    fn delete(&self, gateway: usize, token: &str) {
        self.introspector.deactivate(token);
        self.revoke(gateway, &json!({ "token": token }));
    }

    /// The time until `gateway` refuses `token`.
    fn refused(&self, gateway: usize, token: &str) -> Duration {
        let began = Instant::now();
        let mut client = self.gateways[gateway].client();
        while client.get(ITEMS, Some(token)).status != 401 {
            assert!(began.elapsed() < PATIENCE, "{token} stays cached");
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

/// The names of the gateway's threads.
fn threads(gateway: &Gateway) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.process())).unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

/// Clients that send requests with a valid token to every gateway in turn until they are stopped.
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
        // Stops the clients even if the test fails.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        stop.store(true, Ordering::SeqCst);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    served.load(Ordering::SeqCst)
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn revocation_reaches_every_replica_within_a_second() {
    let redis = Redis::start();
    let fleet = Fleet::at(&redis, 3);
    let served = under_load(&fleet, || {
        for round in 0..20 {
            let token = format!("{}|deleted", round + 100);
            fleet.know(&token);
            fleet.use_token(&token);
            fleet.delete(round % 3, &token);
            assert_eq!(
                fleet.status(round % 3, &token),
                401,
                "immediate at the replica that received the revocation"
            );
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
fn every_revocation_reaches_other_replicas_without_its_token() {
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
        fleet.use_token("17|a-secret");
        fleet.introspector.deactivate("17|a-secret");
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

#[test]
#[ignore = "needs redis-server: tests/run"]
fn redis_is_reached_by_tls_user_and_password() {
    let authority = Authority::new();
    let port = free_address().port().to_string();
    let (certificate, key, ca) = (authority.certificate(), authority.private_key(), authority.ca_file());
    let rules = "on >pass%word ~fleet:* &fleet resetchannels &fleet +@connection +info +subscribe +publish +eval +exists \
                 +incr +get +getrange +set +del +hget +hset +hdel +hlen +hscan +time +hgetall +pexpire";
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
    let yaml = format!(
        "  tls: {{ca_file: {}}}\n  channel: fleet\ncache: {{ttl: 1h}}\nrate_limit: {{shared: true}}\n",
        path(&ca)
    );
    let fleet = Fleet::new(&[url.clone(), url], &yaml);
    fleet.know("17|deleted");
    fleet.use_token("17|deleted");
    fleet.delete(0, "17|deleted");
    assert!(fleet.refused(1, "17|deleted") < Duration::from_secs(1));
    for gateway in &fleet.gateways {
        gateway.wait_for_metric("replicas", 2.0);
        assert!(!gateway.logs().join("\n").contains("pass"), "no secret is in the log");
    }
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn failed_redis_connection_is_logged_once_without_the_password() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    let road = RedisProxy::to(&redis);
    let url = road.url().replace("redis://", "redis://:wrong-password@");
    let env = TestEnv::start(&format!("redis: {{url: '{url}'}}\n"));
    let line = env.gateway.wait_for_log(|line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("no connection to other replicas"))
    });
    assert!(line["error"].as_str().unwrap().contains("log in"), "{line}");
    assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 200);
    thread::sleep(Duration::from_secs(2));
    let lines = env.gateway.logs();
    assert_eq!(lines.iter().filter(|line| line.contains("no connection to other replicas")).count(), 1);
    assert!(!lines.join("\n").contains("wrong-password"));
    assert_eq!(env.gateway.metrics().metric("redis_connected"), 0.0);
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn reload_connects_to_another_redis_or_none() {
    let (one, other) = (Redis::start(), Redis::start());
    let fleet = Fleet::at(&one, 2);
    fleet.know("17|deleted");
    fleet.use_token("17|deleted");
    for gateway in &fleet.gateways {
        gateway.edit(&url(&one), &url(&other));
        assert!(gateway.reload());
        connected(gateway);
    }
    drop(one);
    fleet.use_token("17|deleted");
    fleet.delete(0, "17|deleted");
    assert!(fleet.refused(1, "17|deleted") < Duration::from_secs(1));
    fleet.gateways[0].edit(&format!("redis:\n  url: {}\n", url(&other)), "");
    assert!(fleet.gateways[0].reload());
    let metrics = RawClient::connect(fleet.gateways[0].admin()).get("/metrics", None);
    assert!(!metrics.text().contains("redis_connected"), "without Redis there is no metric");
    assert!(!threads(&fleet.gateways[0]).contains(&"replicas".to_owned()));
}

#[test]
#[ignore = "needs redis-server: tests/run"]
fn changed_redis_password_file_is_used() {
    let redis = Redis::start();
    let file = redis.directory().join("url");
    let address = RedisProxy::to(&redis);
    redis.command(&["CONFIG", "SET", "requirepass", "first"]);
    std::fs::write(&file, address.url().replace("redis://", "redis://:first@")).unwrap();
    let env = TestEnv::start(&format!("redis: {{url_file: {}}}\n", file.display()));
    connected(&env.gateway);
    redis.command(&["-a", "first", "CONFIG", "SET", "requirepass", "second"]);
    redis.command(&["-a", "second", "CLIENT", "KILL", "TYPE", "pubsub"]);
    disconnected(&env.gateway);
    std::fs::write(&file, address.url().replace("redis://", "redis://:second@")).unwrap();
    connected(&env.gateway);
    let said = env.gateway.logs().join("\n");
    assert!(!said.contains("first@") && !said.contains("second@"), "{said}");
}

#[test]
fn without_redis_no_thread_and_no_metric_exists() {
    let env = TestEnv::start("");
    // Once the admin listener responds, its sibling threads have started.
    let metrics = RawClient::connect(env.gateway.admin()).get("/metrics", None);
    assert!(!metrics.text().contains("_redis_"), "{}", metrics.text());
    let threads = threads(&env.gateway);
    assert!(
        threads.contains(&"admin".to_owned()) && !threads.contains(&"replicas".to_owned()),
        "{threads:?}"
    );
}
