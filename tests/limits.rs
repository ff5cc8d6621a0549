//! Rate limits, connection limits and body limits, by token, address and route.

mod failures; // `limits.failures_per_address`: which requests count, for whom, and who is never refused
mod fields; // `rate_limit.fields`: RateLimit and RateLimit-Policy
mod in_flight; // `rate_limit.in_flight`: how long a request counts
mod quota; // `rate_limit.quota`: requests in a window, and across restarts
mod scopes; // `rate_limit.by_ability` and `by_workspace`: which requests share a limit

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::{Answer, Authority, RawClient, Response, TestEnv, Verdict, WRITER, echo};

const ITEMS: &str = "/api/v2/items";

/// The response to a client over its rate limit.
fn assert_too_often(response: &Response, limit: &str) {
    assert_eq!((response.status, response.text()), (429, r#"{"message":"Too Many Attempts."}"#));
    for (name, value) in [
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
        ("retry-after", "1"),
        ("x-ratelimit-limit", limit),
        ("x-ratelimit-remaining", "0"),
    ] {
        assert_eq!(response.field(name), Some(value), "{name}");
    }
    assert!(response.field("x-request-id").is_some_and(|id| id.len() == 32));
    let reset: u64 = response.field("x-ratelimit-reset").unwrap().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 5..=now + 1).contains(&reset), "{reset} at {now}");
}

/// The number of `requests` that a limit of `burst` and `per_second` allows: at least the burst, at most the burst plus
/// the tokens refilled in the elapsed time.
fn assert_allowed(requests: usize, burst: usize, per_second: usize, mut allowed: impl FnMut(usize) -> bool) {
    let started = Instant::now();
    let count = (0..requests).filter(|number| allowed(*number)).count();
    let most = burst + (started.elapsed().as_millis() as usize * per_second) / 1000;
    assert!((burst..=most.max(burst)).contains(&count), "{count} of {requests}, not {burst} to {most}");
    assert!(most < requests, "too slow for a meaningful result");
}

fn is_allowed(response: &Response) -> bool {
    assert!(matches!(response.status, 200 | 429), "{} {}", response.status, response.text());
    response.status == 200
}

#[test]
fn token_over_its_rate_limit_is_429() {
    let env = TestEnv::start("rate_limit: {requests_per_second: 1, burst: 3}");
    env.introspector.set_verdict("2|reader", Verdict::active(&["items:read"]));
    let mut client = env.gateway.client();
    assert_allowed(20, 3, 1, |_| is_allowed(&client.get(ITEMS, Some("1|writer"))));
    let refused = std::iter::repeat_with(|| client.get(ITEMS, Some("1|writer")))
        .find(|response| response.status == 429)
        .unwrap();
    assert_too_often(&refused, "3");
    let mut other = env.gateway.client();
    assert_eq!(other.get(ITEMS, Some("2|reader")).status, 200, "another token");
    assert_eq!(other.get("/up", Some("1|writer")).status, 200, "a public route");
    let line = env.gateway.wait_for_log(|line| line["status"] == 429);
    assert_eq!(
        [&line["reason"], &line["limit"], &line["token_id"], &line["route"]],
        ["limited", "requests_per_second", "1", ITEMS]
    );
    let metric = r#"requests_total{route="/api/v2/items",method="GET",status="429",reason="limited"}"#;
    assert!(env.gateway.metrics().metric(metric) > 15.0);
    assert_eq!(env.introspector.calls_for("1|writer"), 1);
}

#[test]
fn rate_limit_applies_after_the_requirement_and_before_the_body() {
    let env = TestEnv::start("rate_limit: {requests_per_second: 1, burst: 2}\nlimits: {body: 10}");
    env.introspector.set_verdict("2|reader", Verdict::active(&["items:read"]));
    let reader = ("Authorization", "Bearer 2|reader");
    let mut client = env.gateway.client();
    for _ in 0..5 {
        // Requests that are refused earlier do not count.
        assert_eq!(client.request("POST", ITEMS, &[reader], b"").status, 403);
        assert_eq!(client.request("GET", "/nowhere", &[reader], b"").status, 403);
        assert_eq!(client.request("GET", "/index.php", &[reader], b"").status, 400);
    }
    assert_allowed(20, 2, 1, |_| is_allowed(&client.get(ITEMS, Some("2|reader"))));
    assert_eq!(client.request("POST", ITEMS, &[reader], b"").status, 403, "still 403");

    let body = [b'x'; 11];
    assert_allowed(20, 2, 1, |_| {
        // An oversized body gets a response, and the connection is closed.
        let response = env.gateway.client().request("POST", ITEMS, &[WRITER], &body);
        assert!(matches!(response.status, 413 | 429), "{}", response.status);
        response.status == 413
    });
    let methods: Vec<String> = env.backend.requests().into_iter().map(|it| it.method).collect();
    assert!(methods.len() < 20 && methods.iter().all(|method| method == "GET"), "{methods:?}");
}

/// Four connections are spread over two workers.
#[test]
fn token_spellings_and_cores_share_one_rate_limit() {
    let env = TestEnv::start("rate_limit: {requests_per_second: 1, burst: 12}");
    let spellings = ["1|writer", "01|writer", "001|writer", "writer"];
    for (number, spelling) in spellings.into_iter().enumerate() {
        // The token's owner chooses its name, which may change between two introspections.
        let verdict = Verdict::active(&["*"]).named(1, &format!("name {number}"));
        env.introspector.set_verdict(spelling, verdict);
    }
    let mut clients: Vec<_> = (0..4).map(|_| env.gateway.client()).collect();
    // Each worker is the first to see some spellings, and sees all of them.
    assert_allowed(64, 12, 1, |number| {
        is_allowed(&clients[number % 4].get(ITEMS, Some(spellings[(number + number / 4) % 4])))
    });
    assert_eq!(env.backend.connections(), 2, "both workers served requests");
    for spelling in spellings {
        assert_eq!(env.introspector.calls_for(spelling), 1);
    }
}

#[test]
fn limit_by_name_only_lowers_and_by_id_replaces() {
    let env = TestEnv::start(
        "rate_limit:\n  requests_per_second: 1\n  burst: 4\n\
         \x20 by_name: {greedy: {requests_per_second: 1000, burst: 1000}, slow: {burst: 2}}\n\
         \x20 by_id: {\"7\": {burst: 8}, 8: {burst: 1}}\n",
    );
    for (id, name, burst) in
        [("1", "plain", 4), ("2", "greedy", 4), ("3", "slow", 2), ("7", "plain", 8), ("8", "greedy", 1)]
    {
        let token = format!("{id}|{name}");
        env.introspector.set_verdict(&token, Verdict::active(&["*"]).named(id, name));
        let mut client = env.gateway.client();
        let mut refused = None;
        assert_allowed(20, burst, 1, |_| {
            let response = client.get(ITEMS, Some(&token));
            let allowed = is_allowed(&response);
            refused = Some(response).filter(|_| !allowed).or(refused.take());
            allowed
        });
        assert_too_often(&refused.unwrap(), &burst.to_string());
    }
}

#[test]
fn limited_token_is_served_again_after_retry_after() {
    let env = TestEnv::start("rate_limit: {requests_per_second: 20, burst: 2}");
    let mut client = env.gateway.client();
    let mut get = || client.get(ITEMS, Some("1|writer"));
    assert_eq!([get().status, get().status], [200, 200]);
    let started = Instant::now();
    while get().status != 429 {
        assert!(started.elapsed() < Duration::from_secs(5), "never rate limited");
    }
    thread::sleep(Duration::from_millis(60));
    assert_eq!(get().status, 200);
}

/// Rate limit fields of the backend's own limits are forwarded.
#[test]
fn rate_limit_fields_of_the_backend_are_kept() {
    let env = TestEnv::start("rate_limit: {requests_per_second: 1, burst: 2}");
    env.backend.answer(|_| {
        let fields = [("X-RateLimit-Limit", "60"), ("X-RateLimit-Remaining", "59")];
        Answer::with(200, &fields, "ok")
    });
    let response = env.gateway.get(ITEMS, Some("1|writer"));
    assert_eq!(response.field("x-ratelimit-limit"), Some("60"));
    assert_eq!(response.field("x-ratelimit-remaining"), Some("59"));
    env.backend.answer(echo);
    let response = env.gateway.get(ITEMS, Some("1|writer"));
    assert_eq!((response.status, response.field("x-ratelimit-limit")), (200, None));
}

#[test]
fn address_over_its_rate_limit_is_429_before_routing() {
    let env = TestEnv::start("limits: {requests_per_address: 5}");
    let address = env.gateway.address();
    // Uses two connections and therefore both workers; requests count whatever their response.
    let mut clients: Vec<_> = (0..2).map(|_| RawClient::connect_from("127.0.0.2", address)).collect();
    let requests = [("/up", 200), (ITEMS, 401), ("/nowhere", 401)];
    assert_allowed(60, 5, 5, |number| {
        let (target, expected) = requests[number % 3];
        let response = clients[number % 2].get(target, None);
        if response.status == 429 {
            assert_too_often(&response, "5");
        } else {
            assert_eq!(response.status, expected);
        }
        response.status != 429
    });
    // Malformed requests are refused as such.
    for _ in 0..10 {
        assert_eq!(clients[0].get("/index.php", None).status, 400);
    }
    // X-Forwarded-For of an untrusted peer is ignored.
    let spoofed = std::iter::repeat_with(|| {
        clients[0].request("GET", "/up", &[("X-Forwarded-For", "198.51.100.7")], b"").status
    });
    assert!(spoofed.take(20).any(|status| status == 429));
    assert_eq!(RawClient::connect_from("127.0.0.3", address).get("/up", None).status, 200);
    let metric = r#"requests_total{route="none",method="GET",status="429",reason="limited"}"#;
    assert!(env.gateway.metrics().metric(metric) > 40.0);
}

#[test]
fn limits_count_the_client_address_behind_a_trusted_proxy() {
    let env = TestEnv::start(
        "limits: {requests_per_address: 3}\nlisten:\n  trusted_proxies: [127.0.0.1, 10.0.0.0/8]\n",
    );
    let mut proxy = env.gateway.client();
    let mut from = |chain: &str| proxy.request("GET", "/up", &[("X-Forwarded-For", chain)], b"");
    for client in ["198.51.100.7", "198.51.100.8", "2001:db8:7::1", "10.0.0.1, 198.51.100.9, 10.0.0.2"] {
        assert_allowed(30, 3, 3, |_| is_allowed(&from(client)));
    }
    // Addresses that a client prepends and other hosts of its /64 count as the same client.
    for number in 0..30 {
        let chain = format!("203.0.113.{number}, 198.51.100.7");
        let host = format!("2001:db8:7::{number:x}:1");
        if from(&chain).status == 429 && from(&host).status == 429 {
            break;
        }
        assert!(number < 29, "never rate limited");
    }
    let line = |client: &str| env.gateway.wait_for_log(|line| line["client"] == *client);
    for client in ["198.51.100.7", "198.51.100.9", "2001:db8:7::1"] {
        assert_eq!(line(client)["message"], "request");
    }
    assert_eq!(from("198.51.100.10").status, 200);
    // An untrusted peer is the client itself.
    let mut other = RawClient::connect_from("127.0.0.2", env.gateway.address());
    assert_eq!(other.request("GET", "/up?other", &[("X-Forwarded-For", "198.51.100.7")], b"").status, 200);
    line("127.0.0.2");
}

/// Opens a connection and keeps it open, so that it counts for its address.
fn served(source: &str, env: &TestEnv) -> Option<RawClient> {
    let mut client = RawClient::connect_from(source, env.gateway.address());
    // The request is written before the gateway may have closed the connection.
    thread::sleep(Duration::from_millis(20));
    let _ = client.try_send("GET /up HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.try_response(false).ok()?;
    assert!(matches!(response.status, 200 | 503), "{}", response.status);
    (response.status == 200).then_some(client)
}

const TURNED_AWAY: &str = r#"requests_total{route="none",method="other",status="503",reason="overloaded"}"#;

#[test]
fn connections_per_address_are_limited() {
    let env =
        TestEnv::start("limits: {connections_per_address: 2}\nlisten:\n  trusted_proxies: [127.0.0.9]\n");
    let mut held: Vec<_> = (0..2).map(|_| served("127.0.0.2", &env).unwrap()).collect();
    for _ in 0..3 {
        let response = RawClient::connect_from("127.0.0.2", env.gateway.address()).response();
        assert_eq!((response.status, response.text()), (503, r#"{"message":"Service Unavailable."}"#));
        assert_eq!(response.field("retry-after"), Some("1"));
    }
    let _other = served("127.0.0.3", &env).unwrap();
    let _proxied: Vec<_> = (0..5).map(|_| served("127.0.0.9", &env).unwrap()).collect();
    for client in &mut held {
        assert_eq!(client.get("/up", None).status, 200, "existing connections stay open");
    }
    env.gateway.wait_for_metric(TURNED_AWAY, 3.0);
    held.pop();
    env.gateway.wait_for_metric("client_connections", 7.0);
    assert!(served("127.0.0.2", &env).is_some(), "one slot is free");
}

#[test]
fn rejected_connections_are_counted_and_logged_once_a_second() {
    let env = TestEnv::start("limits: {connections: 2}");
    let _held: Vec<_> = (0..2).map(|_| served("127.0.0.1", &env).unwrap()).collect();
    let started = Instant::now();
    let mut count = 0;
    let lines = || {
        let lines = env.gateway.logs();
        lines.into_iter().filter(|line| line.contains("connections rejected")).collect::<Vec<_>>()
    };
    // The second line counts the rejections since the first one.
    while lines().len() < 2 {
        assert_eq!(env.gateway.client().response().status, 503);
        count += 1;
        thread::sleep(Duration::from_millis(5));
        assert!(started.elapsed() < Duration::from_secs(10), "not logged again");
    }
    let lines = lines();
    let logged = |line: &str| -> u64 {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["level"], "WARN", "{line}");
        line["connections"].as_u64().unwrap()
    };
    assert_eq!(logged(&lines[0]), 1);
    assert!((count / 2..count).contains(&logged(&lines[1])), "{lines:?} of {count}");
    assert!(started.elapsed() >= Duration::from_millis(950), "{lines:?}");
    env.gateway.wait_for_metric(TURNED_AWAY, count as f64);
    assert_eq!(env.gateway.metrics().metric("client_connections"), 2.0);
}

/// A TLS client cannot read a plain-text response.
#[test]
fn tls_connection_over_the_limit_is_closed_silently() {
    let authority = Arc::new(Authority::new());
    let env = TestEnv::builder().tls(&authority).yaml("limits: {connections: 1}").start();
    let mut held = env.gateway.client();
    assert_eq!(held.get("/up", None).status, 200);
    assert_eq!(RawClient::connect(env.gateway.address()).read_until_close(), b"");
    env.gateway.wait_for_metric(TURNED_AWAY, 1.0);
    assert_eq!(held.get("/up", None).status, 200);
}

#[test]
fn body_limit_of_a_route_overrides_the_general_one() {
    let env = TestEnv::start(
        "limits: {body: 100}\nabilities:\n  routes:\n    /small: {POST: public, body: 10}\n    \
         /large: {POST: items:create, PUT: public, body: 1KiB}\n    /other: {POST: public}\n",
    );
    env.introspector.set_verdict("2|reader", Verdict::active(&["items:read"]));
    for (method, target, most) in
        [("POST", "/small", 10), ("POST", "/large", 1024), ("PUT", "/large", 1024), ("POST", "/other", 100)]
    {
        for (length, expected) in [(most, 200), (most + 1, 413)] {
            let body = vec![b'x'; length];
            let response = env.gateway.client().request(method, target, &[WRITER], &body);
            assert_eq!(response.status, expected, "{method} {target} {length}");
            let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n", WRITER.1);
            let chunk = format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n");
            let message = [head.as_bytes(), chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
            assert_eq!(env.gateway.client().send(message).response().status, expected, "{target} chunked");
        }
    }
    let large = vec![b'x'; 2000];
    let response =
        env.gateway.client().request("POST", "/large", &[("Authorization", "Bearer 2|reader")], &large);
    assert_eq!(response.status, 403, "authorization is checked before the body limit");
    let received = env.backend.requests().into_iter().filter(|it| it.complete).map(|it| it.body.len());
    assert_eq!(received.max(), Some(1024));
}
