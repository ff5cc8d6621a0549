//! Reloading the configuration while requests are served.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Answer, Authority, Introspector, PATIENCE, TestEnv, Upstream, Verdict, WRITER, echo};

const ITEMS: &str = "/api/v2/items";
const ITEMS_READ: &str = "/api/v2/items:           {GET: items:read";
const ITEMS_DENIED: &str = "/api/v2/items:           {GET: deny";

#[test]
fn reload_applies_a_new_map_to_new_requests_only() {
    let env = TestEnv::start("");
    let gateway = &env.gateway;
    let mut kept = gateway.client();
    assert_eq!(kept.request("GET", ITEMS, &[WRITER], b"").status, 200);
    let mut in_flight = gateway.client();
    env.backend.answer(|request| echo(request).after(Duration::from_millis(500)));
    in_flight.send(format!("GET {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n"));
    env.backend.wait_for_requests(2);

    gateway.edit(ITEMS_READ, ITEMS_DENIED);
    assert!(gateway.reload());
    assert_eq!(
        kept.request("GET", ITEMS, &[WRITER], b"").status,
        403,
        "on a connection opened before the reload"
    );
    assert_eq!(gateway.get(ITEMS, Some("1|writer")).status, 403);
    assert_eq!(in_flight.response().status, 200);
    assert_eq!(in_flight.request("GET", ITEMS, &[WRITER], b"").status, 403);

    gateway.edit(ITEMS_DENIED, "/api/v2/items/all:       {GET: items:read");
    assert!(gateway.reload());
    assert_eq!(kept.request("GET", ITEMS, &[WRITER], b"").status, 403, "unmapped after the reload");
    assert_eq!(kept.request("GET", "/api/v2/items/all", &[WRITER], b"").status, 200);
    let metrics = gateway.metrics();
    for (metric, count) in [
        ("requests_total{route=\"/api/v2/items\",reason=\"allowed\"}", 2.0),
        ("requests_total{route=\"/api/v2/items\",reason=\"denied\"}", 3.0),
        ("requests_total{route=\"unmapped\"}", 1.0),
        ("requests_total{route=\"/api/v2/items/all\",reason=\"allowed\"}", 1.0),
    ] {
        assert_eq!(metrics.metric(metric), count, "{metric}");
    }
}

#[test]
fn invalid_configuration_is_rejected_with_all_errors_and_the_old_one_stays() {
    let env = TestEnv::start("");
    let gateway = &env.gateway;
    let loaded_at = gateway.metrics().metric("config_reload_timestamp_seconds");
    gateway.edit(ITEMS_READ, "/api/v2/items:           {GET: [items:read], FETCH: items:read");
    gateway.edit("runtime: {threads: 2}", "runtime: {threads: many}");
    assert!(!gateway.reload());
    assert_eq!(gateway.get(ITEMS, Some("1|writer")).status, 200);
    let metrics = gateway.metrics();
    assert_eq!(metrics.metric("config_reload_success"), 0.0);
    assert_eq!(metrics.metric("config_reload_timestamp_seconds"), loaded_at, "of the active configuration");
    for part in ["FETCH", "runtime.threads", "gateway.yaml:"] {
        gateway.wait_for_log(|line| {
            line["level"] == "ERROR" && line["message"].as_str().is_some_and(|it| it.contains(part))
        });
    }

    gateway.edit("{GET: [items:read], FETCH: items:read", "{GET: deny");
    assert!(!gateway.reload(), "one error is left");
    assert_eq!(gateway.get(ITEMS, Some("1|writer")).status, 200, "nothing of it was applied");
    gateway.edit("threads: many", "threads: 2");
    assert!(gateway.reload());
    assert_eq!(gateway.get(ITEMS, Some("1|writer")).status, 403);
    assert_eq!(gateway.metrics().metric("config_reload_success"), 1.0);
}

#[test]
fn reload_rejects_an_unusable_tls_file() {
    let env = TestEnv::start("introspection:\n  timeout: 2s\n");
    let gateway = &env.gateway;
    let url = env.backend.url();
    let ca = gateway.directory().join("ca.pem");
    std::fs::write(&ca, "no certificate").unwrap();
    let tls = format!("backend:\n  tls: {{ca_file: {}}}\n", ca.display());
    gateway.edit("backend:\n", &tls);
    gateway.edit(&url, &url.replace("http:", "https:"));
    assert!(!gateway.reload());
    gateway.wait_for_log(|line| line["message"].as_str().is_some_and(|it| it.contains("`backend.tls`")));
    assert_eq!(gateway.get(ITEMS, Some("1|writer")).status, 200);
}

#[test]
fn reload_keeps_verdicts_unless_the_introspector_changes() {
    let env = TestEnv::start("cache: {ttl: 1h}");
    let gateway = &env.gateway;
    let other = Introspector::start();
    other.set_verdict("1|writer", Verdict::active(&["items:read"]));
    // Enough connections that every worker has introspected.
    let ask = |expected: u16| {
        let mut clients: Vec<_> = (0..4).map(|_| gateway.client()).collect();
        for client in &mut clients {
            assert_eq!(client.request("POST", ITEMS, &[WRITER], b"").status, expected);
        }
    };
    ask(200);
    assert_eq!(env.introspector.calls(), 1);
    for (from, to) in [
        (ITEMS_READ, "/api/v2/items:           {GET: rents:read"),
        ("cache: {ttl: 1h}", "cache: {ttl: 30m, max_tokens: 5000, stale_if_error: 1m}"),
        ("max_tokens: 5000", "max_tokens: 6000"),
        ("runtime: {threads: 2}", "runtime: {threads: 2}\nrate_limit: {requests_per_second: 9, burst: 9}"),
        ("introspection:\n", "introspection:\n  max_concurrent: 7\n  timeout: 1s\n"),
    ] {
        gateway.edit(from, to);
        assert!(gateway.reload());
        ask(200);
        assert_eq!(env.introspector.calls(), 1, "{to}");
    }
    gateway.edit(&env.introspector.server().url(), &other.server().url());
    assert!(gateway.reload());
    ask(403);
    assert_eq!((env.introspector.calls(), other.calls()), (1, 1));
}

#[test]
fn shorter_ttl_applies_to_cached_verdicts() {
    let env = TestEnv::start("cache: {ttl: 1h}");
    assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 200);
    env.introspector.deactivate("1|writer");
    env.gateway.edit("ttl: 1h", "ttl: 200ms, negative_ttl: 100ms");
    assert!(env.gateway.reload());
    let end = Instant::now() + Duration::from_secs(5);
    while env.gateway.get(ITEMS, Some("1|writer")).status != 401 {
        assert!(Instant::now() < end, "still cached");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn reload_applies_changed_limits() {
    let env = TestEnv::start("rate_limit: {requests_per_second: 1, burst: 2}\nlimits: {body: 10B}");
    let gateway = &env.gateway;
    let mut client = gateway.client();
    let mut statuses = |count: usize| {
        (0..count).map(|_| client.request("GET", ITEMS, &[WRITER], b"").status).collect::<Vec<_>>()
    };
    assert_eq!(statuses(3), [200, 200, 429]);
    gateway.edit("burst: 2", "burst: 5");
    gateway.edit("body: 10B", "body: 20B");
    assert!(gateway.reload());
    assert_eq!(statuses(6), [200, 200, 200, 200, 200, 429], "buckets of the new size");
    let body = [b'a'; 20];
    gateway.edit("rate_limit: {requests_per_second: 1, burst: 5}\n", "");
    assert!(gateway.reload());
    assert_eq!(gateway.client().request("POST", ITEMS, &[WRITER], &body).status, 200);
}

#[test]
fn reload_keeps_backend_connections_unless_the_backend_changes() {
    let env = TestEnv::start("");
    let gateway = &env.gateway;
    let other = Upstream::answering(|_| Answer::with(203, &[], ""));
    let mut client = gateway.client();
    let mut status = || client.request("GET", ITEMS, &[WRITER], b"").status;
    assert_eq!(status(), 200);
    gateway.edit(ITEMS_READ, "/api/v2/items:           {GET: authenticated");
    assert!(gateway.reload());
    assert_eq!(status(), 200);
    let connections: Vec<_> = env.backend.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0]);
    gateway.edit(&env.backend.url(), &other.url());
    assert!(gateway.reload());
    assert_eq!(status(), 203);
    assert_eq!(env.backend.requests().len(), 2);
}

#[test]
fn reload_reports_keys_that_need_a_restart_and_applies_the_rest() {
    let env = TestEnv::start("log: {format: json}");
    let gateway = &env.gateway;
    gateway.edit("listen:\n  address: 127.0.0.1:0", "listen:\n  address: 127.0.0.1:1");
    gateway.edit("threads: 2", "threads: 3");
    gateway.edit("format: json", "format: text");
    gateway.edit(ITEMS_READ, ITEMS_DENIED);
    assert!(gateway.reload());
    let line = gateway
        .wait_for_log(|line| line["message"].as_str().is_some_and(|it| it.contains("only after a restart")));
    assert_eq!(
        (&line["level"], &line["keys"]),
        (&"WARN".into(), &"listen.address, runtime.threads, log.format".into())
    );
    assert_eq!(gateway.get(ITEMS, Some("1|writer")).status, 403);
}

#[test]
fn reload_applies_changed_log_settings() {
    let env = TestEnv::start("log: {level: info}");
    let gateway = &env.gateway;
    let requests = || gateway.logs().iter().filter(|line| line.contains("\"message\":\"request\"")).count();
    assert_eq!(gateway.get("/up", None).status, 200);
    gateway.wait_for_log(|line| line["message"] == "request");
    gateway.edit("level: info", "level: info, access: false");
    assert!(gateway.reload());
    assert_eq!(gateway.get("/up", None).status, 200);
    gateway.edit("access: false", "access: true");
    assert!(gateway.reload());
    assert_eq!(gateway.get("/up?again", None).status, 200);
    let end = Instant::now() + Duration::from_secs(5);
    while requests() < 2 && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(requests(), 2);
    gateway.edit("level: info", "level: error");
    gateway.edit(ITEMS_READ, ITEMS_DENIED);
    gateway.signal(Signal::HUP);
    let end = Instant::now() + Duration::from_secs(5);
    while gateway.get(ITEMS, Some("1|writer")).status != 403 {
        assert!(Instant::now() < end, "the change was not applied");
    }
    gateway.edit("level: error", "level: info");
    assert!(gateway.reload());
    // Log lines keep their order, so this line follows all others.
    assert!(!gateway.logs().iter().any(|line| line.contains("\"denied\"")));
}

#[test]
fn reload_applies_a_changed_admin_token() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "first-admin-token").unwrap();
    let env = TestEnv::start(&format!("admin:\n  token_file: {}\n", file.display()));
    let status = |token: &str| {
        let mut client = crate::support::RawClient::connect(env.gateway.admin());
        client.get("/unknown", Some(token)).status
    };
    assert_eq!((status("first-admin-token"), status("second-admin-token")), (404, 401));
    std::fs::write(&file, "second-admin-token").unwrap();
    assert!(env.gateway.reload());
    assert_eq!((status("first-admin-token"), status("second-admin-token")), (401, 404));
}

#[test]
fn repeated_reloads_fail_no_request() {
    let env = TestEnv::start("");
    let gateway = &env.gateway;
    let stop = Arc::new(AtomicBool::new(false));
    let served: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let stop = Arc::clone(&stop);
                scope.spawn(move || {
                    let (mut kept, mut served) = (gateway.client(), 0);
                    while !stop.load(Ordering::Relaxed) {
                        if number % 2 == 1 {
                            kept = gateway.client();
                        }
                        assert_eq!(kept.request("POST", ITEMS, &[WRITER], b"abc").status, 200);
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for round in 0..20 {
            let (from, to) =
                if round % 2 == 0 { (ITEMS_READ, ITEMS_DENIED) } else { (ITEMS_DENIED, ITEMS_READ) };
            gateway.edit(from, to);
            assert!(gateway.reload());
        }
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(served > 20, "{served}");
}

/// Waits until a request gets this status after an automatic reload.
fn wait_for_status(env: &TestEnv, expected: u16) {
    let end = Instant::now() + PATIENCE;
    while env.gateway.get(ITEMS, Some("1|writer")).status != expected {
        assert!(Instant::now() < end, "the change was not applied");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn changed_file_is_reloaded_automatically() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // The layout of a ConfigMap volume in Kubernetes.
    for (version, requirement) in [("..first", "items:read"), ("..second", "deny")] {
        std::fs::create_dir(at(version)).unwrap();
        let map = format!("routes: {{/api/v2/items: {{GET: {requirement}}}}}\n");
        std::fs::write(at(version).join("map.yaml"), map).unwrap();
    }
    symlink("..first", at("..data")).unwrap();
    symlink("..data/map.yaml", at("map.yaml")).unwrap();
    let env = TestEnv::start(&format!("abilities: {{file: {}}}", at("map.yaml").display()));
    assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 200);
    symlink("..second", at("..new")).unwrap();
    std::fs::rename(at("..new"), at("..data")).unwrap();
    wait_for_status(&env, 403);
    let line = env.gateway.wait_for_log(|line| line["message"] == "configuration reloaded");
    assert_eq!(line["cause"], at("map.yaml").display().to_string());

    // A missing file is retried until it exists.
    let file = format!("abilities: {{file: {}}}", at("map.yaml").display());
    env.gateway.edit(&file, &format!("abilities: {{file: {}}}", at("later.yaml").display()));
    assert!(!env.gateway.wait_for_reload(1));
    assert_eq!(env.gateway.metrics().metric("config_reload_success"), 0.0);
    std::fs::write(at("later.yaml"), "routes: {/api/v2/items: {GET: authenticated}}\n").unwrap();
    wait_for_status(&env, 200);
    assert!(env.gateway.wait_for_reload(2));
    assert_eq!(env.gateway.reloads(), [true, false, true], "once for each change");
}

#[test]
fn reload_with_a_changed_address_keeps_tls_of_the_old_one() {
    let authority = Arc::new(Authority::new());
    let env = TestEnv::builder().tls(&authority).start();
    let file = env.gateway.directory().join("gateway.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let tls = text.lines().find(|line| line.starts_with("  tls:")).unwrap().to_owned() + "\n";
    env.gateway.edit(&tls, "");
    env.gateway.edit("listen:\n  address: 127.0.0.1:0", "listen:\n  address: unix:/nonexistent/gateway.sock");
    // Each reload warns again.
    for count in 1..=2 {
        assert!(env.gateway.reload());
        assert_eq!(env.gateway.get("/up", None).status, 200, "over TLS");
        let told = |line: &&String| line.contains(r#""keys":"listen.address, listen.tls""#);
        assert_eq!(env.gateway.logs().iter().filter(told).count(), count);
    }
    // Restoring the active values ends the warning.
    env.gateway.edit("address: unix:/nonexistent/gateway.sock\n", &format!("address: 127.0.0.1:0\n{tls}"));
    assert!(env.gateway.reload());
    assert_eq!(env.gateway.get("/up", None).status, 200);
    assert_eq!(env.gateway.logs().iter().filter(|line| line.contains("only after a restart")).count(), 2);
}
