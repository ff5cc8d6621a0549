//! The scripted servers and the raw client, against each other.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::{Answer, Authority, Introspector, Metrics, RawClient, Upstream, Verdict};

#[test]
fn scripted_upstream_records_every_byte_and_echoes() {
    let upstream = Upstream::start();
    let mut client = RawClient::connect(upstream.address());
    let head = "POST /a?b HTTP/1.1\r\nhost: x\r\nX-Odd:  v\r\nX-Odd: w\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(head).send("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n");
    let echo = client.response().json();
    let request = upstream.only_request();
    assert_eq!(request.raw_head, head.as_bytes());
    assert_eq!((&*request.method, &*request.target, request.text()), ("POST", "/a?b", "abcde"));
    assert_eq!(request.fields.all("x-odd").collect::<Vec<_>>(), ["v", "w"]);
    assert_eq!(request.trailers.get("x-trailer"), Some("t"));
    assert!(request.complete);
    assert_eq!((&echo["target"], &echo["body"]), (&json!("/a?b"), &json!("abcde")));
    assert_eq!(client.request("HEAD", "/", &[], b"").status, 200);
    assert_eq!(client.get("/again", None).status, 200, "the connection is kept, also after HEAD");
    assert_eq!((upstream.connections(), upstream.requests().len()), (1, 3));
}

#[test]
fn scripted_upstream_sends_malformed_responses() {
    let mut upstream = Upstream::start();
    let connect = || RawClient::connect(upstream.address());
    upstream.answer(|_| Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").then_close());
    assert!(connect().send("GET / HTTP/1.1\r\n\r\n").read_until_close().ends_with(b"\r\n\r\nabc"));
    upstream.answer(|_| Answer::close());
    assert_eq!(connect().send("GET / HTTP/1.1\r\n\r\n").read_until_close(), b"");
    upstream.answer(|_| Answer::hang());
    let mut hanging = connect().patience(Duration::from_millis(50));
    let error = hanging.send("GET / HTTP/1.1\r\n\r\n").try_response(false).unwrap_err();
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{error}");
    upstream.answer_early(|request| (request.target == "/early").then(|| Answer::message(413, "no")));
    let mut early = connect();
    early.send("POST /early HTTP/1.1\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(early.response().status, 413);
    early.read_until_close();
    let address = upstream.address();
    upstream.stop();
    assert!(std::net::TcpStream::connect(address).is_err());
    upstream.answer(|_| Answer::with(204, &[], ""));
    upstream.resume();
    assert_eq!(RawClient::connect(address).get("/", None).status, 204);
}

#[test]
fn scripted_client_and_upstream_speak_tls() {
    let authority = Authority::new();
    let upstream = Upstream::start_tls(&authority);
    assert_eq!(RawClient::connect_tls(upstream.address(), &authority).get("/", None).status, 200);
}

#[test]
fn scripted_introspector_returns_its_verdicts() {
    let introspector = Introspector::with_tokens([("7|secret", &["items:read"][..])]);
    let get = |token| {
        let fields = [("Accept", "application/json"), ("Authorization", token)];
        RawClient::connect(introspector.server().address()).request("GET", "/api/v2/token", &fields, b"")
    };
    let known = get("Bearer 7|secret");
    assert_eq!(
        known.json(),
        json!({"data": {"id": "7", "name": "test", "abilities": ["items:read"], "expires_at": null}})
    );
    assert_eq!(get("Bearer 8|secret").status, 401);
    introspector.set_verdict("8|secret", Verdict::active(&[]).named(8, "late").expiring(1));
    assert_eq!(get("Bearer 8|secret").json()["data"]["expires_at"], 1);
    introspector.fail_with(Answer::message(500, "Server Error"));
    assert_eq!(get("Bearer 7|secret").status, 500);
    introspector.recover();
    introspector.delay(Duration::from_millis(50));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(get("Bearer 7|secret").status, 200));
        }
    });
    assert_eq!((introspector.calls(), introspector.calls_for("7|secret")), (8, 6));
    assert!(introspector.most_concurrent() > 1);
}

#[test]
fn scripted_introspector_speaks_rfc_7662() {
    let introspector = Introspector::start_rfc7662("gateway", "s3cret");
    introspector.set_verdict("7|a b", Verdict::active(&["a", "b"]).expiring(99));
    let post = |credentials, form: &str| {
        let fields = [
            ("Accept", "application/json"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Authorization", credentials),
        ];
        RawClient::connect(introspector.server().address()).request("POST", "/", &fields, form.as_bytes())
    };
    let good = "Basic Z2F0ZXdheTpzM2NyZXQ=";
    let known = post(good, "token=7%7Ca+b&token_type_hint=access_token");
    assert_eq!(
        known.json(),
        json!({"active": true, "jti": "7", "client_id": "test", "scope": "a b", "exp": 99})
    );
    assert_eq!(post(good, "token=8").json(), json!({"active": false}));
    assert_eq!(post("Basic bad", "token=8").status, 400);
}

#[test]
fn metric_samples_are_selected_by_any_labels() {
    let metrics = Metrics(
        "# HELP stockaj_gateway_a_total x\n\
         stockaj_gateway_a_total{route=\"/x/{id}\",status=\"200\"} 2\n\
         stockaj_gateway_a_total{route=\"/x/{id}\",status=\"403\"} 3\n\
         stockaj_gateway_b 7\n"
            .to_owned(),
    );
    for (metric, value) in [
        ("a_total", 5.0),
        ("a_total{status=\"403\"}", 3.0),
        ("a_total{status=\"200\",route=\"/x/{id}\"}", 2.0),
        ("a_total{status=\"404\"}", 0.0),
        ("b", 7.0),
        ("none", 0.0),
    ] {
        assert_eq!(metrics.metric(metric), value, "{metric}");
    }
}
