//! Spans at a collector, and the trace context that backend and introspector receive.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::collector::attribute;
use crate::support::env::Backend;
use crate::support::http2::Http2Client;
use crate::support::manual_backend::ManualBackend;
use crate::support::{
    Answer, Authority, Collector, ExportedSpan, PATIENCE, Response, TestEnv, Upstream, WRITER,
};

const ITEM: &str = "/api/v2/items/5";
/// The example of the W3C Trace Context specification.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn without_an_endpoint_trace_context_is_forwarded_unchanged() {
    let env = TestEnv::start("");
    for fields in [
        &[("traceparent", TRACEPARENT), ("tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")][..],
        &[("traceparent", "nonsense"), ("tracestate", ""), ("baggage", "a=b")],
        &[
            ("traceparent", TRACEPARENT),
            ("traceparent", "00-0-0-00"),
            ("tracestate", "a=b"),
            ("tracestate", "c=d"),
        ],
        &[],
    ] {
        let request = [&[WRITER][..], fields].concat();
        env.gateway.client().request("GET", ITEM, &request, b"");
        let arrived = env.backend.take_requests().remove(0);
        let is_ours = |name: &str| name.starts_with("trace") || name == "baggage";
        let arrived: Vec<_> = arrived.fields.0.iter().filter(|(name, _)| is_ours(name)).collect();
        let arrived: Vec<_> = arrived.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(arrived, fields);
    }
    let asked = env.introspector.requests().remove(0);
    assert!(!asked.fields.names().iter().any(|name| name.starts_with("trace")), "{asked:?}");
    assert!(!env.gateway.metrics().0.contains("stockaj_gateway_spans_total{"));
}

/// A gateway that exports its spans to a collector.
fn start(yaml: &str) -> (TestEnv, Collector) {
    start_before(Upstream::start(), yaml)
}

fn start_before<B: Backend>(backend: B, yaml: &str) -> (TestEnv<B>, Collector) {
    let collector = Collector::start();
    let builder = TestEnv::builder().backend(backend).token("2|nobody", &[]);
    (builder.yaml(&collector.yaml()).yaml(yaml).start(), collector)
}

impl TestEnv {
    /// Sends a request on a new connection.
    fn request(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
        self.gateway.client().request(method, target, fields, b"")
    }
}

/// The server span, and the client spans by method and template, after which they are named.
fn by_name(spans: Vec<ExportedSpan>) -> (ExportedSpan, BTreeMap<String, ExportedSpan>) {
    let (mut servers, clients): (Vec<_>, Vec<_>) = spans.into_iter().partition(ExportedSpan::is_server);
    assert_eq!(servers.len(), 1, "{servers:#?}");
    (servers.remove(0), clients.into_iter().map(|span| (span.0.name.clone(), span)).collect())
}

#[test]
fn request_has_a_span_tree_propagated_to_backend_and_introspector() {
    let (env, collector) = start("identity_headers: [id]\n");
    let response =
        env.request("GET", "/api/v2/items/5?token=1|writer", &[WRITER, ("Host", "shop.example:81")]);
    assert_eq!(response.status, 200);
    let (server, clients) = by_name(collector.wait(3));
    let (backend, introspection) = (&clients["GET /api/v2/items/{id}"], &clients["GET /api/v2/token"]);
    assert_eq!((&*server.0.name, &*server.parent()), ("GET /api/v2/items/{id}", ""));
    assert_eq!((server.trace().len(), server.id().len(), server.0.links.len()), (32, 16, 0));
    for client in [backend, introspection] {
        assert!(client.is_client());
        assert_eq!((client.trace(), client.parent()), (server.trace(), server.id()));
        assert!(client.0.start_time_unix_nano >= server.0.start_time_unix_nano);
        assert!(client.0.end_time_unix_nano <= server.0.end_time_unix_nano);
        assert!(!client.has_failed(), "{client:?}");
    }
    assert_eq!(env.backend.only_request().field("traceparent"), Some(&*backend.traceparent()));
    let asked = &env.introspector.requests()[0];
    assert_eq!(asked.field("traceparent"), Some(&*introspection.traceparent()));
    let arrived = env.backend.only_request();
    let id = arrived.field("x-request-id").unwrap();
    let port = |address: std::net::SocketAddr| address.port().to_string();
    let introspector = port(env.introspector.server().address());
    for (span, expected) in [
        (
            &server,
            &[
                ("client.address", "127.0.0.1"),
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("http.route", "/api/v2/items/{id}"),
                ("network.protocol.version", "1.1"),
                ("server.address", "shop.example"),
                ("server.port", "81"),
                (
                    "stockaj_gateway.introspection.duration",
                    &*server.attribute("stockaj_gateway.introspection.duration"),
                ),
                ("stockaj_gateway.reason", "allowed"),
                ("stockaj_gateway.request_id", id),
                ("stockaj_gateway.token.id", "1"),
                ("url.scheme", "http"),
            ][..],
        ),
        (
            backend,
            &[
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("server.address", "127.0.0.1"),
                ("server.port", &*port(env.backend.address())),
                ("url.template", "/api/v2/items/{id}"),
            ],
        ),
        (
            introspection,
            &[
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("server.address", "127.0.0.1"),
                ("server.port", &*introspector),
                ("stockaj_gateway.introspection.outcome", "active"),
                ("url.template", "/api/v2/token"),
            ],
        ),
    ] {
        let found: Vec<_> = span.names().into_iter().map(|name| (name, span.attribute(name))).collect();
        let found: Vec<_> = found.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(found, expected);
    }
    let resource = collector.exports()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), "stockaj-gateway");
    assert_eq!(attribute(&resource.attributes, "service.version"), env!("CARGO_PKG_VERSION"));
    let export = collector.0.requests().remove(0);
    assert_eq!((&*export.method, &*export.target), ("POST", "/v1/traces"));
    assert_eq!(export.field("content-type"), Some("application/x-protobuf"));
    // Cached: no introspection.
    env.request("GET", ITEM, &[WRITER]);
    let spans = collector.wait(5).split_off(3);
    assert!(spans.iter().all(|span| span.0.name == "GET /api/v2/items/{id}"), "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace() == spans[0].trace() && span.trace() != server.trace()));
}

#[test]
fn rejected_request_has_a_span_with_its_reason() {
    let (env, collector) = start("traces:\n  service_name: gate\n");
    let mut count = 0;
    for (method, target, token, status, reason, route, more) in [
        ("GET", ITEM, None, 401, "missing_token", "/api/v2/items/{id}", &[][..]),
        ("GET", ITEM, Some("9|unknown"), 401, "inactive_token", "/api/v2/items/{id}", &["inactive"]),
        ("GET", ITEM, Some("9|unknown"), 401, "inactive_token", "/api/v2/items/{id}", &[]),
        ("GET", ITEM, Some("2|nobody"), 403, "missing_ability", "/api/v2/items/{id}", &["active"]),
        ("GET", "/api/v2/internal", Some("2|nobody"), 403, "denied", "/api/v2/internal", &[]),
        ("GET", "/nowhere", Some("2|nobody"), 403, "unmapped", "", &[]),
        ("BREW", ITEM, Some("2|nobody"), 400, "bad_request", "", &[]),
    ] {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = authorization.iter().map(|value| ("Authorization", &**value)).collect();
        assert_eq!(env.request(method, target, &fields).status, status, "{method} {target}");
        let spans = collector.wait(count + 1 + more.len()).split_off(count);
        count += spans.len();
        let (server, clients) = by_name(spans);
        assert_eq!(server.attribute("stockaj_gateway.reason"), reason);
        assert_eq!(server.attribute("http.response.status_code"), status.to_string());
        assert_eq!(server.attribute("http.route"), route);
        assert!(
            !server.has_failed() && server.attribute("error.type").is_empty(),
            "a 4xx is not a failure of the server: {server:?}"
        );
        let outcomes: Vec<_> =
            clients.values().map(|it| it.attribute("stockaj_gateway.introspection.outcome")).collect();
        assert_eq!(outcomes, more);
        assert!(
            clients.values().all(|client| !client.has_failed()),
            "an inactive token is a valid introspection response"
        );
        if method == "BREW" {
            assert_eq!((&*server.0.name, &*server.attribute("http.request.method")), ("HTTP", "_OTHER"));
        }
    }
    assert!(env.backend.requests().is_empty());
    let resource = collector.exports()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), "gate");
}

#[test]
fn span_of_the_failed_side_has_the_error() {
    let upstream = Upstream::answering(|request| match request.target.as_str() {
        "/api/v2/items/404" => Answer::message(404, "No."),
        "/api/v2/items/500" => Answer::message(500, "Oh."),
        "/api/v2/items/close" => {
            Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort").then_close()
        }
        "/api/v2/items/hang" => Answer::hang(),
        _ => Answer::close(),
    });
    let (env, collector) = start_before(upstream, "backend:\n  timeout: 100ms\n");
    let mut count = 0;
    for (what, server_error, client_status, client_error) in [
        ("404", "", "404", "404"),
        ("500", "500", "500", "500"),
        ("close", "backend_broken", "200", "backend_broken"),
        ("hang", "backend_timeout", "", "backend_timeout"),
        ("nothing", "backend_broken", "", "backend_broken"),
    ] {
        let mut client = env.gateway.client();
        client.send(format!(
            "GET /api/v2/items/{what} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n"
        ));
        let _ = client.try_response(false);
        let expected = if count == 0 { 3 } else { 2 };
        let spans = collector.wait(count + expected).split_off(count);
        count += spans.len();
        let (server, clients) = by_name(spans);
        let client = &clients["GET /api/v2/items/{id}"];
        assert_eq!(server.attribute("error.type"), server_error, "{what}");
        assert_eq!(client.attribute("error.type"), client_error, "{what}");
        assert_eq!(client.attribute("http.response.status_code"), client_status, "{what}");
        assert_eq!((server.has_failed(), client.has_failed()), (!server_error.is_empty(), true), "{what}");
    }
    env.introspector.fail_with(Answer::message(500, "Oh."));
    assert_eq!(env.request("GET", ITEM, &[("Authorization", "Bearer 3|other")]).status, 503);
    let (server, clients) = by_name(collector.wait(count + 2).split_off(count));
    let asked = &clients["GET /api/v2/token"];
    assert_eq!((&*server.attribute("error.type"), &*asked.attribute("error.type")), ("no_verdict", "500"));
    assert!(server.has_failed() && asked.has_failed());
}

#[test]
fn span_ends_with_the_response_body() {
    const PAUSE: Duration = Duration::from_millis(150);
    let upstream = Upstream::answering(|_| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        Answer::raw(head).then_wait(PAUSE).then("4\r\nlast\r\n0\r\n\r\n")
    });
    let (env, collector) = start_before(upstream, "");
    assert_eq!(env.request("GET", ITEM, &[WRITER]).text(), "firstlast");
    let (server, clients) = by_name(collector.wait(3));
    assert!(server.duration() >= PAUSE && clients["GET /api/v2/items/{id}"].duration() >= PAUSE);
    assert!(clients["GET /api/v2/token"].duration() < PAUSE);
}

#[test]
fn span_records_a_client_disconnect() {
    let (mut env, collector) = start_before(ManualBackend::start(), "");
    let mut client = env.gateway.client();
    client.send("GET /api/v2/items/5 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n");
    let (_held, request) = env.backend.request();
    drop(client);
    let (server, clients) = by_name(collector.wait(3));
    let asked = &clients["GET /api/v2/items/{id}"];
    assert_eq!(request.field("traceparent"), Some(&*asked.traceparent()));
    for span in [&server, asked] {
        assert_eq!(span.attribute("error.type"), "client_gone");
        assert_eq!((span.has_failed(), &*span.attribute("http.response.status_code")), (true, ""));
    }
}

#[test]
fn http2_and_websocket_requests_have_spans() {
    let (env, collector) = start("listen:\n  h2c: true\n");
    assert_eq!(Http2Client::connect(env.gateway.address()).get(ITEM, Some("1|writer")).status, 200);
    let (server, clients) = by_name(collector.wait(3));
    assert_eq!(server.attribute("network.protocol.version"), "2");
    assert!(!server.attribute("server.address").is_empty());
    let arrived = env.backend.only_request();
    assert_eq!(arrived.field("traceparent"), Some(&*clients["GET /api/v2/items/{id}"].traceparent()));

    let (mut env, collector) = start_before(ManualBackend::start(), "");
    let mut client = env.gateway.client();
    client.send(
        "GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let (mut held, request) = env.backend.request();
    held.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    assert_eq!(client.response().status, 101);
    thread::sleep(Duration::from_millis(100));
    assert!(collector.spans().is_empty(), "the tunnel is still open");
    drop((client, held));
    let (server, clients) = by_name(collector.wait(2));
    assert_eq!(server.attribute("http.response.status_code"), "101");
    assert!(server.duration() >= Duration::from_millis(100) && !server.has_failed());
    assert_eq!(request.field("traceparent"), Some(&*clients["GET /up"].traceparent()));
}

#[test]
fn trace_of_a_trusted_peer_continues_and_of_another_is_linked() {
    let sampled = ("traceparent", TRACEPARENT);
    let unsampled = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
    let state = [("tracestate", "congo=t61rcWkgMzE"), ("tracestate", "rojo=00f067aa0ba902b7")];
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let (trusting, trusting_collector) =
        start("listen:\n  trusted_proxies: [127.0.0.1]\ntraces:\n  sample_ratio: 0\n");
    // The gateway starts no trace here.
    trusting.request("GET", ITEM, &[WRITER]);
    let arrived = trusting.backend.take_requests().remove(0);
    assert!(arrived.field("traceparent").unwrap().ends_with("-00"), "{arrived:?}");
    // An unsampled context is forwarded unchanged.
    trusting.request("GET", ITEM, &[&[WRITER, unsampled][..], &state].concat());
    let arrived = trusting.backend.take_requests().remove(0);
    assert_eq!(arrived.field("traceparent"), Some(unsampled.1));
    assert_eq!(arrived.fields.all("tracestate").collect::<Vec<_>>(), state.map(|(_, value)| value));
    let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe-more";
    trusting.request("GET", ITEM, &[WRITER, ("traceparent", later)]);
    assert_eq!(trusting.backend.take_requests()[0].field("traceparent"), Some(later));
    // A sampled trace is continued.
    let token = ("Authorization", "Bearer 2|nobody");
    trusting.request("GET", "/api/v2/me", &[&[token, sampled][..], &state].concat());
    let (server, clients) = by_name(trusting_collector.wait(3));
    assert_eq!((&*server.trace(), &*server.parent()), (trace, "00f067aa0ba902b7"));
    assert_eq!(server.0.trace_state, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
    assert_eq!((server.0.flags, server.0.links.len()), (0x301, 0), "the parent is remote");
    let arrived = trusting.backend.take_requests().remove(0);
    assert_eq!(arrived.field("traceparent"), Some(&*clients["GET /api/v2/me"].traceparent()));
    assert_eq!(arrived.fields.all("tracestate").collect::<Vec<_>>(), state.map(|(_, value)| value));
    let asked = trusting.introspector.requests().pop().unwrap();
    assert_eq!(asked.field("traceparent"), Some(&*clients["GET /api/v2/token"].traceparent()));
    assert_eq!(asked.field("tracestate"), Some("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"));

    // From an untrusted peer: a new trace whatever the context.
    let (strict, strict_collector) = start("");
    for told in [sampled, unsampled] {
        let before = strict_collector.spans().len();
        strict.request("GET", "/up", &[&[told][..], &state].concat());
        let (server, clients) = by_name(strict_collector.wait(before + 2).split_off(before));
        assert!(server.trace() != trace && server.parent().is_empty() && server.0.trace_state.is_empty());
        assert_eq!(server.0.links.len(), 1);
        assert_eq!(server.0.links[0].trace_id, u128::from_str_radix(trace, 16).unwrap().to_be_bytes());
        let arrived = strict.backend.take_requests().remove(0);
        assert_eq!(arrived.field("traceparent"), Some(&*clients["GET /up"].traceparent()));
        assert_eq!(arrived.field("tracestate"), None);
    }
}

#[test]
fn invalid_trace_context_starts_a_new_trace() {
    let (env, collector) = start("listen:\n  trusted_proxies: [127.0.0.1]\n");
    let upper = TRACEPARENT.to_uppercase();
    let long = format!("{TRACEPARENT}-more");
    for lines in [
        &["nonsense"][..],
        &[""],
        &[&upper],
        &[&long],
        &["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
        &[TRACEPARENT, TRACEPARENT],
    ] {
        let before = collector.spans().len();
        let mut fields: Vec<_> = lines.iter().map(|line| ("traceparent", *line)).collect();
        fields.push(("tracestate", "a=b"));
        env.request("GET", "/up", &fields);
        let (server, clients) = by_name(collector.wait(before + 2).split_off(before));
        assert!(server.parent().is_empty() && server.0.links.is_empty(), "{lines:?}");
        let arrived = env.backend.take_requests().remove(0);
        assert_eq!(arrived.field("traceparent"), Some(&*clients["GET /up"].traceparent()), "{lines:?}");
        assert_eq!(arrived.field("tracestate"), None, "{lines:?}");
    }
    // Naming it in `Connection` does not remove it.
    let before = collector.spans().len();
    env.request("GET", "/up", &[("traceparent", TRACEPARENT), ("Connection", "traceparent")]);
    let (_, clients) = by_name(collector.wait(before + 2).split_off(before));
    let arrived = env.backend.take_requests().remove(0);
    assert_eq!(arrived.field("traceparent"), Some(&*clients["GET /up"].traceparent()));
}

#[test]
fn traces_are_limited_by_max_per_second() {
    let (env, collector) = start("listen:\n  trusted_proxies: [127.0.0.1]\ntraces:\n  max_per_second: 2\n");
    let started = Instant::now();
    let mut client = env.gateway.client();
    for _ in 0..20 {
        client.request("GET", "/up", &[("traceparent", TRACEPARENT)], b"");
    }
    let seconds = started.elapsed().as_secs() as usize + 1;
    let told: Vec<_> =
        env.backend.requests().iter().map(|it| it.field("traceparent").unwrap().to_owned()).collect();
    let passed = told.iter().filter(|field| **field == TRACEPARENT).count();
    // Two workers, each limited to one trace per second; the context of unrecorded requests is forwarded unchanged.
    assert!((1..=2 * seconds).contains(&(20 - passed)), "{told:?} in {seconds} s");
    collector.wait(2 * (20 - passed));
    for (ratio, some, all) in [("0", false, false), ("1", true, true), ("0.5", true, false)] {
        let (env, collector) = start(&format!("traces:\n  sample_ratio: {ratio}\n  max_per_second: 1000\n"));
        let mut client = env.gateway.client();
        for _ in 0..100 {
            client.request("GET", "/up", &[], b"");
        }
        let requests = env.backend.requests();
        let sampled = requests.iter().filter(|it| it.field("traceparent").unwrap().ends_with("-01")).count();
        assert_eq!((sampled > 0, sampled == 100), (some, all), "{ratio}: {sampled}");
        collector.wait(2 * sampled);
    }
}

#[test]
fn failing_collector_delays_no_request() {
    let tried = |how: &str| {
        let (env, mut collector) = start("traces:\n  timeout: 100ms\n");
        match how {
            "away" => collector.0.stop(),
            "hangs" => collector.0.answer(|_| Answer::hang()),
            "503" => collector.0.answer(|_| Answer::message(503, "Later.")),
            "400" => collector.0.answer(|_| Answer::message(400, "No.")),
            _ => collector.0.answer(|_| Answer::raw("garbage\r\n\r\n")),
        }
        let started = Instant::now();
        for _ in 0..5 {
            assert_eq!(env.request("GET", "/up", &[]).status, 200, "{how}");
        }
        assert!(started.elapsed() < Duration::from_secs(1), "{how}: {:?}", started.elapsed());
        env.gateway.wait_for_metric("spans_total{outcome=\"dropped\"}", 10.0);
        assert_eq!(env.gateway.metrics().metric("spans_total{outcome=\"exported\"}"), 0.0);
        env.request("GET", "/up", &[]);
        env.gateway.wait_for_metric("spans_total{outcome=\"dropped\"}", 12.0);
        let dropped = |line: &&String| line.contains("spans were dropped");
        assert_eq!(env.gateway.logs().iter().filter(dropped).count(), 1, "{how}: {:?}", env.gateway.logs());
    };
    thread::scope(|scope| {
        for how in ["away", "hangs", "503", "400", "garbage"] {
            scope.spawn(move || tried(how));
        }
    });
}

#[test]
fn retried_and_partially_accepted_exports_are_counted() {
    let (env, collector) = start("");
    let first = AtomicBool::new(true);
    collector.0.answer(move |_| match first.swap(false, Ordering::SeqCst) {
        true => Answer::message(503, "Later."),
        // The encoded partial_success with rejected_spans 1.
        false => Answer::with(200, &[], b"\x0a\x02\x08\x01"),
    });
    env.request("GET", "/up", &[]);
    env.gateway.wait_for_metric("spans_total{outcome=\"exported\"}", 1.0);
    env.gateway.wait_for_metric("spans_total{outcome=\"dropped\"}", 1.0);
    let exports = collector.0.requests();
    assert_eq!(exports.len(), 2);
    assert_eq!(exports[0].body, exports[1].body);
}

#[test]
fn shutdown_exports_pending_spans_within_a_bound() {
    let (mut env, collector) = start("");
    env.gateway.edit("flush_interval: 20ms", "flush_interval: 1h");
    assert!(env.gateway.reload());
    env.request("GET", "/up", &[]);
    assert!(collector.spans().is_empty());
    env.gateway.signal(Signal::TERM);
    assert!(env.gateway.wait_exit(PATIENCE).success());
    assert_eq!(collector.spans().len(), 2);

    let (mut env, collector) = start("traces:\n  timeout: 1h\n");
    collector.0.answer(|_| Answer::hang());
    env.request("GET", "/up", &[]);
    collector.0.wait_for_requests(1);
    let told = Instant::now();
    env.gateway.signal(Signal::TERM);
    assert!(env.gateway.wait_exit(PATIENCE).success());
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
}

#[test]
fn reload_enables_disables_and_redirects_traces() {
    let (env, collector) = start("");
    let other = Collector::start();
    env.request("GET", "/up", &[]);
    collector.wait(2);
    let (here, there) = (collector.0.url(), other.0.url());
    env.gateway.edit(&here, &there);
    assert!(env.gateway.reload());
    env.request("GET", "/up", &[]);
    other.wait(2);
    env.gateway.edit(&there, "null");
    assert!(env.gateway.reload());
    env.backend.forget_requests();
    env.request("GET", "/up", &[("traceparent", "as it came")]);
    assert_eq!(env.backend.only_request().field("traceparent"), Some("as it came"));
    assert!(!env.gateway.metrics().0.contains("stockaj_gateway_spans_total{"));
    env.gateway.edit("otlp_endpoint: null", &format!("otlp_endpoint: {here}"));
    assert!(env.gateway.reload());
    env.request("GET", "/up", &[]);
    collector.wait(4);
    other.wait(2);
    assert!(!env.gateway.logs().iter().any(|line| line.contains("\"ERROR\"")), "{:?}", env.gateway.logs());
}

#[test]
fn spans_are_exported_over_https_with_fields_and_without_secrets() {
    const SECRET: &str = "Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq";
    let authority = Authority::new();
    let collector = Collector(Upstream::start_tls(&authority));
    collector.0.answer(|_| Collector::taken());
    let env = TestEnv::builder()
        .token(&format!("7|{SECRET}"), &["items:read"])
        .yaml(&collector.yaml())
        .yaml(
            "traces:\n  secret_headers: \"Authorization: Bearer ${COLLECTOR_TOKEN}\"\nlog: {level: trace}\n",
        )
        .configure(|gateway| gateway.environment("COLLECTOR_TOKEN", "hunter2-for-the-collector"))
        .start();
    let secret = &*format!("Bearer 7|{SECRET}");
    let sends = |method: &str, target: &str, field: &str| {
        let fields = [("Authorization", secret), (field, SECRET)];
        env.gateway.client().request(method, target, &fields, SECRET.as_bytes());
    };
    sends("GET", ITEM, "X-Own");
    sends("GET", &format!("{ITEM}?token=7|{SECRET}"), "User-Agent");
    sends("GET", &format!("/api/v2/items/{SECRET}"), "Cookie");
    sends("GET", &format!("/{SECRET}"), "Referer");
    sends(SECRET, ITEM, "X-Request-Id");
    // Five requests, three of them forwarded, and one introspection.
    collector.wait(9);
    for export in collector.0.requests() {
        assert_eq!(export.field("authorization"), Some("Bearer hunter2-for-the-collector"));
        let found =
            export.body.windows(8).find(|window| SECRET.as_bytes().windows(8).any(|it| it == *window));
        assert_eq!(found, None);
    }
    assert!(!env.gateway.logs().iter().any(|line| line.contains("hunter2") || line.contains(&SECRET[..8])));
}
