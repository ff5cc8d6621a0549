//! `timeout` of a route.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::http2::Http2Client;
use crate::support::http2_upstream::{Http2Upstream, Reply};
use crate::support::{Answer, TestEnv, WRITER, echo};

/// `/slow` has longer than `backend.timeout`, `/fast` less, `/usual` as long.
const MAP: &str = "\
listen:
  h2c: true
backend:
  timeout: 300ms
abilities:
  routes:
    /slow: {GET: public, POST: items:create, timeout: 60s}
    /fast: {GET: public, POST: items:create, timeout: 80ms}
    /usual: {GET: public}
";

const LATE: Duration = Duration::from_millis(900);

fn access_line(env: &TestEnv, route: &str) -> Value {
    env.gateway.wait_for_log(|line| line["message"] == "request" && line["route"] == route)
}

#[test]
fn timeout_of_a_route_replaces_that_of_the_backend() {
    let env = TestEnv::start(MAP);
    env.backend.answer(|request| echo(request).after(LATE));
    let mut http2 = Http2Client::connect(env.gateway.address());
    for (target, status) in [("/slow", 200), ("/fast", 504), ("/usual", 504)] {
        let began = Instant::now();
        assert_eq!(env.gateway.get(target, None).status, status, "{target}");
        let waited = began.elapsed();
        assert_eq!(http2.get(target, None).status, status, "{target} over HTTP/2");
        let bounds = match target {
            "/slow" => LATE..Duration::from_secs(20),
            "/fast" => Duration::from_millis(75)..Duration::from_secs(20),
            _ => Duration::from_millis(290)..Duration::from_secs(20),
        };
        assert!(bounds.contains(&waited), "{target}: {waited:?}");
    }
    let timed_out = "requests_total{reason=\"backend_timeout\",status=\"504\"}";
    env.gateway.wait_for_metric(timed_out, 4.0);
    assert_eq!(access_line(&env, "/fast")["detail"], "the backend took longer than the route's timeout");
    assert_eq!(access_line(&env, "/usual")["detail"], "the backend took longer than backend.timeout");
    assert!(access_line(&env, "/slow")["detail"].is_null());
}

/// 80 ms pass long before 300 ms do: the pause of the sweep follows the shortest of all routes.
#[test]
fn short_timeout_of_a_route_ends_its_request_in_time() {
    let env = TestEnv::start(
        "backend:\n  timeout: 60s\nabilities: {routes: {/fast: {GET: public, timeout: 80ms}}}\n\
         limits: {header_timeout: 60s, idle_timeout: 60s, body_idle_timeout: 60s}\n",
    );
    env.backend.answer(|_| Answer::hang());
    let began = Instant::now();
    assert_eq!(env.gateway.get("/fast", None).status, 504);
    assert!(began.elapsed() < Duration::from_millis(800), "{:?}", began.elapsed());
}

#[test]
fn timeout_of_a_route_begins_at_the_end_of_the_request_body() {
    let env = TestEnv::start(MAP);
    let mut client = env.gateway.client();
    client.send(format!(
        "POST /fast HTTP/1.1\r\nHost: a\r\n{}: {}\r\nContent-Length: 4\r\n\r\n",
        WRITER.0, WRITER.1
    ));
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(60));
        client.send("x");
    }
    assert_eq!(client.response().status, 200);
}

#[test]
fn timeout_of_a_route_does_not_bound_a_response_that_has_begun() {
    let env = TestEnv::start(MAP);
    env.backend.answer(|_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha";
        Answer::raw(head).then_wait(Duration::from_millis(500)).then("lf")
    });
    let response = env.gateway.get("/fast", None);
    assert_eq!((response.status, response.text()), (200, "half"));
}

#[test]
fn timeout_of_a_route_applies_to_an_http2_backend() {
    let backend = Http2Upstream::start();
    backend.answer(|_| Reply { wait: LATE, ..Reply::new(200, "late") });
    let env = TestEnv::builder().backend(backend).yaml(MAP).start();
    for (target, status) in [("/slow", 200), ("/fast", 504), ("/usual", 504)] {
        assert_eq!(env.gateway.get(target, None).status, status, "{target}");
        let mut http2 = Http2Client::connect(env.gateway.address());
        assert_eq!(http2.get(target, None).status, status, "{target} over HTTP/2");
    }
}

#[test]
fn reload_changes_the_timeout_of_a_route() {
    let env = TestEnv::start(MAP);
    env.backend.answer(|request| echo(request).after(LATE));
    assert_eq!(env.gateway.get("/fast", None).status, 504);
    env.gateway.edit("timeout: 80ms", "timeout: 30s");
    assert!(env.gateway.reload());
    assert_eq!(env.gateway.get("/fast", None).status, 200);
}

#[test]
fn preflight_has_the_timeout_of_its_route() {
    let env = TestEnv::start(MAP);
    env.backend.answer(|request| echo(request).after(LATE));
    let fields = [("Origin", "https://shop.example"), ("Access-Control-Request-Method", "GET")];
    for (target, status) in [("/slow", 200), ("/fast", 504)] {
        assert_eq!(env.gateway.client().request("OPTIONS", target, &fields, b"").status, status, "{target}");
    }
}
