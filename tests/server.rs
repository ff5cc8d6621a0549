//! Connections, signals, logs and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Authority, BINARY, Gateway, Introspector, Metrics, PATIENCE, RawClient, TestEnv, Upstream, Verdict,
    WRITER, echo,
};

const ITEMS: &str = "/api/v2/items";

/// The time in milliseconds until the peer closes the connection, and the bytes it sends meanwhile.
fn until_close(client: &mut RawClient) -> (u128, String) {
    let started = Instant::now();
    let said = client.read_until_close();
    (started.elapsed().as_millis(), String::from_utf8(said).unwrap())
}

#[test]
fn idle_connection_is_closed() {
    let env = TestEnv::start("limits: {header_timeout: 300ms, idle_timeout: 800ms}");
    let address = env.gateway.address();
    let close_after = |client: &mut RawClient, expected: u128, answer: &str| {
        let (waited, said) = until_close(client);
        assert!((expected - 50..expected + 2000).contains(&waited), "{waited} ms instead of {expected}");
        assert!(said.starts_with(answer) && answer.is_empty() == said.is_empty(), "{said}");
    };
    let timeout = "HTTP/1.1 408 ";
    close_after(RawClient::connect(address).send("GET /up HTTP/1.1\r\nHo"), 300, timeout);
    close_after(RawClient::connect(address).send("G"), 300, timeout);
    close_after(&mut RawClient::connect(address), 800, "");
    let mut kept = env.gateway.client();
    assert_eq!(kept.get("/up", None).status, 200);
    close_after(&mut kept, 800, "");
    let mut again = env.gateway.client();
    assert_eq!(again.get("/up", None).status, 200);
    close_after(again.send("GET /up HTTP/1.1\r\n"), 300, timeout);
    // A byte now and then does not extend the timeout.
    let mut slow = env.gateway.client();
    let started = Instant::now();
    while slow.try_send("G").is_ok() {
        assert!(started.elapsed() < Duration::from_secs(3), "still open");
        thread::sleep(Duration::from_millis(50));
    }
    // A connection with a request in progress is not idle.
    env.backend.answer(|request| echo(request).after(Duration::from_millis(1500)));
    assert_eq!(env.gateway.get("/up", None).status, 200);
}

#[test]
fn connections_over_the_limit_are_503_until_others_close() {
    let env = TestEnv::start("limits: {connections: 4}");
    let mut clients: Vec<_> = (0..4).map(|_| env.gateway.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/up", None).status, 200);
    }
    for _ in 0..3 {
        let response = env.gateway.client().response();
        assert_eq!((response.status, response.text()), (503, r#"{"message":"Service Unavailable."}"#));
        assert_eq!(response.field("retry-after"), Some("1"));
        assert_eq!(response.field("x-request-id").map(str::len), Some(32));
    }
    for client in &mut clients {
        assert_eq!(client.get("/up", None).status, 200, "existing connections stay open");
    }
    clients.pop();
    env.gateway.wait_for_metric("client_connections", 3.0);
    assert_eq!(env.gateway.get("/up", None).status, 200);
}

/// Each worker has its own backend connection, which reveals the worker that serves a client.
#[test]
fn connections_are_distributed_evenly_over_cores() {
    for count in [2, 4, 10] {
        let env = TestEnv::start("");
        let mut clients: Vec<_> = (0..count).map(|_| env.gateway.client()).collect();
        for round in 0..2 {
            for (number, client) in clients.iter_mut().enumerate() {
                let target = format!("/up?{number}");
                assert_eq!(client.request("GET", &target, &[], b"").status, 200, "round {round}");
            }
        }
        let mut served = BTreeMap::<usize, BTreeSet<String>>::new();
        for request in env.backend.requests() {
            served.entry(request.connection).or_default().insert(request.target);
        }
        let served: Vec<_> = served.values().map(BTreeSet::len).collect();
        assert_eq!(served, [count / 2, count / 2]);
    }
}

#[test]
fn unread_log_delays_no_request() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.yaml");
    let yaml = Gateway::builder()
        .yaml("backend:\n  url: http://127.0.0.1:9\nintrospection:\n  url: http://127.0.0.1:9/token\n")
        .text();
    std::fs::write(&file, yaml).unwrap();
    let mut command = Command::new(BINARY);
    command.arg("run").arg("--config").arg(&file).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut address = || -> SocketAddr {
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("listening")));
        let line: serde_json::Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        line["address"].as_str().unwrap().parse().unwrap()
    };
    let (proxy, admin) = (address(), address());
    let dropped = || {
        let response = RawClient::connect(admin).get("/metrics", None);
        Metrics(response.text().to_owned()).metric("log_lines_dropped_total")
    };
    assert_eq!(dropped(), 0.0);
    const AT_ONCE: usize = 50;
    let requests = "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".repeat(AT_ONCE);
    let mut client = RawClient::connect(proxy);
    let started = Instant::now();
    let mut count = 0;
    // The pipe and the queue fill up eventually.
    while dropped() == 0.0 {
        for _ in 0..20 {
            client.send(&requests);
            for _ in 0..AT_ONCE {
                assert_eq!(client.response().status, 401);
            }
            count += AT_ONCE;
        }
        assert!(started.elapsed() < 4 * PATIENCE, "no line was dropped after {count} requests");
    }
    let slowest = (0..100)
        .map(|_| {
            let asked = Instant::now();
            assert_eq!(client.get("/nowhere", None).status, 401);
            asked.elapsed()
        })
        .max();
    assert!(slowest.unwrap() < Duration::from_secs(1), "{slowest:?}");
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn access_lines_name_the_subject_and_never_the_token() {
    let env = TestEnv::start("log: {level: debug}");
    let mut client = env.gateway.client();
    const SECRETS: [&str; 4] = ["S3cretReader", "S3cretUnknown", "S3cretQuery", "S3cretPath"];
    env.introspector
        .set_verdict("17|S3cretReader", Verdict::active(&["items:read"]).named(17, "warehouse-scanner"));
    for (request, token, route, status, reason, id) in [
        ("GET /api/v2/items?q=S3cretQuery", Some("17|S3cretReader"), ITEMS, 200, "allowed", Some("17")),
        (
            "GET /api/v2/items/S3cretPath",
            Some("17|S3cretReader"),
            "/api/v2/items/{id}",
            200,
            "allowed",
            Some("17"),
        ),
        ("POST /api/v2/items", Some("17|S3cretReader"), ITEMS, 403, "missing_ability", Some("17")),
        ("GET /api/v2/S3cretPath", Some("17|S3cretReader"), "unmapped", 403, "unmapped", Some("17")),
        ("GET /api/v2/items", Some("9|S3cretUnknown"), ITEMS, 401, "inactive_token", None),
        ("GET /api/v2/items", Some("9|S3cretUnknown more"), ITEMS, 401, "malformed_token", None),
        ("GET /api/v2/items", None, ITEMS, 401, "missing_token", None),
        ("GET /index.php/S3cretPath", Some("17|S3cretReader"), "none", 400, "bad_request", None),
        ("GET /up?S3cretQuery", None, "/up", 200, "public", None),
    ] {
        let (method, target) = request.split_once(' ').unwrap();
        let authorization = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        let response = client.request(method, target, &fields, b"");
        assert_eq!(response.status, status, "{request}");
        let own_id = response.field("x-request-id").map(str::to_owned);
        let echoed = || {
            let fields = response.json()["fields"].as_array().unwrap().clone();
            let id = fields.into_iter().find(|field| field[0] == "x-request-id").unwrap();
            id[1].as_str().unwrap().to_owned()
        };
        let request_id = own_id.unwrap_or_else(echoed);
        let line = env.gateway.wait_for_log(|line| line["request_id"] == *request_id);
        assert_eq!(
            (&line["message"], &line["method"], &line["route"], &line["status"], &line["reason"]),
            (&"request".into(), &method.into(), &route.into(), &status.into(), &reason.into()),
        );
        assert_eq!(line["client"], "127.0.0.1");
        assert_eq!(line["token_id"].as_str(), id, "{line}");
        assert_eq!(line["token_name"].as_str(), id.map(|_| "warehouse-scanner"), "{line}");
        assert!(line["duration_ms"].as_f64().is_some_and(|duration| duration > 0.0), "{line}");
    }
    for line in env.gateway.logs() {
        for secret in SECRETS {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[test]
fn metrics_count_requests_introspections_and_connections() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    env.introspector.set_verdict("2|reader", Verdict::active(&["items:read"]));
    for (method, target, token, times) in [
        ("GET", ITEMS, Some("1|writer"), 3),
        ("GET", "/api/v2/items/7", Some("1|writer"), 2),
        ("HEAD", "/api/v2/items/8", Some("1|writer"), 1),
        ("POST", ITEMS, Some("2|reader"), 2),
        ("GET", "/up", None, 4),
        ("GET", ITEMS, None, 2),
        ("GET", ITEMS, Some("3|unknown"), 2),
        ("GET", "/api/v2/nowhere", Some("2|reader"), 1),
        ("GET", "/api/v2/internal", Some("2|reader"), 1),
        ("GET", "/index.php", None, 1),
        ("BREW", "/up", None, 1),
    ] {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        for _ in 0..times {
            client.request(method, target, &fields, b"");
        }
    }
    env.gateway.wait_for_metric("requests_total", 20.0);
    let metrics = env.gateway.metrics();
    let mut lines: Vec<_> =
        metrics.0.lines().filter_map(|line| line.strip_prefix("stockaj_gateway_requests_total")).collect();
    lines.sort_unstable();
    let expected = [
        r#"{route="/api/v2/internal",method="GET",status="403",reason="denied"} 1"#,
        r#"{route="/api/v2/items",method="GET",status="200",reason="allowed"} 3"#,
        r#"{route="/api/v2/items",method="GET",status="401",reason="inactive_token"} 2"#,
        r#"{route="/api/v2/items",method="GET",status="401",reason="missing_token"} 2"#,
        r#"{route="/api/v2/items",method="POST",status="403",reason="missing_ability"} 2"#,
        r#"{route="/api/v2/items/{id}",method="GET",status="200",reason="allowed"} 2"#,
        r#"{route="/api/v2/items/{id}",method="HEAD",status="200",reason="allowed"} 1"#,
        r#"{route="/up",method="GET",status="200",reason="public"} 4"#,
        r#"{route="none",method="GET",status="400",reason="bad_request"} 1"#,
        r#"{route="none",method="other",status="400",reason="bad_request"} 1"#,
        r#"{route="unmapped",method="GET",status="403",reason="unmapped"} 1"#,
    ];
    assert_eq!(lines, expected);
    for (metric, value) in [
        ("request_duration_seconds_count{route=\"/up\"}", 4.0),
        ("request_duration_seconds_count", 20.0),
        ("phase_duration_seconds_count{phase=\"backend\"}", 10.0),
        ("introspections_total{outcome=\"active\"}", 2.0),
        ("introspections_total{outcome=\"inactive\"}", 1.0),
        ("introspections_in_flight", 0.0),
        ("token_cache_lookups_total{result=\"miss\"}", 3.0),
        ("token_cache_lookups_total{result=\"negative_hit\"}", 1.0),
        ("token_cache_lookups_total{result=\"hit\"}", 6.0),
        ("token_cache_entries{kind=\"active\"}", 2.0),
        ("token_cache_entries{kind=\"inactive\"}", 1.0),
        ("client_connections{state=\"idle\"}", 1.0),
        ("client_connections{state=\"active\"}", 0.0),
        ("config_reload_success", 1.0),
        ("build_info", 1.0),
        ("log_lines_dropped_total", 0.0),
    ] {
        assert_eq!(metrics.metric(metric), value, "{metric} in\n{}", metrics.0);
    }
    env.gateway.wait_for_metric("backend_connections{state=\"idle\"}", 1.0);
    drop(client);
    env.gateway.wait_for_metric("client_connections", 0.0);
}

#[test]
fn tls_works_with_client_backend_and_introspector() {
    let authority = Arc::new(Authority::new());
    let env = TestEnv::builder()
        .backend(Upstream::start_tls(&authority))
        .introspector(Introspector::start_tls(&authority))
        .token("1|writer", &["*"])
        .tls(&authority)
        .yaml("limits: {header_timeout: 1500ms}")
        .start();
    let mut client = env.gateway.client();
    let body = vec![b'x'; 3 * 1024 * 1024];
    for _ in 0..2 {
        assert_eq!(client.request("POST", ITEMS, &[WRITER], &body).status, 200);
    }
    let requests = env.backend.requests();
    assert!(requests.iter().all(|request| request.body == body));
    assert_eq!(requests[0].field("x-forwarded-proto"), Some("https"));
    assert_eq!((env.backend.connections(), env.introspector.calls()), (1, 1));
    assert!(env.gateway.metrics().metric("certificate_expiry_timestamp_seconds") > 1.7e9);
    // No handshake, or none in time.
    let (_, said) = until_close(RawClient::connect(env.gateway.address()).send("GET /up HTTP/1.1\r\n\r\n"));
    assert!(!said.starts_with("HTTP/"), "{said}");
    let (waited, _) = until_close(&mut RawClient::connect(env.gateway.address()));
    assert!((1450..6000).contains(&waited), "{waited} ms");
}

#[test]
fn backend_with_an_untrusted_certificate_is_502() {
    let (ours, strangers) = (Authority::new(), Authority::new());
    let backend = Upstream::start_with_tls(Arc::unwrap_or_clone(strangers.server()));
    let tls = format!("backend:\n  tls: {{ca_file: {}}}\n", ours.ca_file().display());
    let env = TestEnv::builder().backend(backend).yaml(&tls).start();
    assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 502);
    assert_eq!(env.backend.requests().len(), 0);
}
