//! Tokens and secrets are in no log, metric, error or core dump.

mod quoted; // damaged keys and misplaced secrets

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Answer, Introspector, TestEnv, Upstream, Verdict};

/// The part of every token after the `|`. No other text contains eight of its characters in a row.
const SECRET: &str = "Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq";

fn token(id: u32) -> String {
    format!("{id}|{SECRET}")
}

/// Eight consecutive characters of the secret, or of a Basic field that contains it.
fn leak(text: &str) -> Option<&str> {
    let basic = BASE64_STANDARD.encode(format!("user:{}", token(9)));
    // The part of the field before the token is not secret.
    [SECRET, &basic[12..]].iter().find_map(|secret| {
        (0..secret.len() - 8).find_map(|start| text.find(&secret[start..start + 8])).map(|at| {
            let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            text[start..].lines().next().unwrap_or_default()
        })
    })
}

#[test]
fn leak_check_finds_eight_characters() {
    assert_eq!(leak(&format!("a\nb {} c\nd", token(1))), Some(&*format!("b {} c", token(1))));
    assert!(leak(&SECRET[20..28]).is_some() && leak(&SECRET[20..27]).is_none());
    assert!(leak(&BASE64_STANDARD.encode(format!("user:{}", token(9)))).is_some());
}

#[test]
fn gateway_leaves_no_core_dump() {
    let env = TestEnv::start("");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", env.gateway.process())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_ascii_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}

/// A gateway at the most verbose log level.
fn verbose(introspector: Introspector) -> TestEnv {
    let backend = Upstream::answering(|request| match request.target.split_once('?') {
        Some((_, "401")) => Answer::message(401, "Unauthenticated."),
        Some((_, "close")) => Answer::close(),
        Some((_, "hang")) => Answer::hang(),
        // Like a backend that quotes the request in its error.
        Some((_, "garbage")) => Answer::raw(format!("HTTP/9 {}\r\n{SECRET}\r\n\r\n", token(1))),
        Some((_, "short")) => {
            Answer::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{SECRET}")).then_close()
        }
        _ => Answer::message(200, SECRET),
    });
    TestEnv::builder()
        .backend(backend)
        .introspector(introspector)
        .token(&token(1), &["items:read", "items:create"])
        .token(&token(2), &[])
        .verdict(&token(3), Verdict::active(&["*"]).expiring(1))
        .yaml("backend:\n  timeout: 200ms\nintrospection:\n  timeout: 300ms\n")
        .yaml("limits: {body: 1KiB, header_bytes: 4KiB}\nlog: {level: trace}\n")
        .start()
}

impl TestEnv {
    /// Sends a request in pieces and expects this status; 0 means no complete response.
    fn expect_raw(&self, status: u16, request: &str) {
        let mut client = self.gateway.client();
        let _ = client.try_send(request.replace('\n', "\r\n"));
        let answer = client.try_response(false).map_or(0, |response| response.status);
        assert_eq!(answer, status, "{request}");
    }

    fn expect(&self, status: u16, target: &str, authorization: &str) {
        self.expect_raw(
            status,
            &format!("GET {target} HTTP/1.1\nHost: h\nAuthorization: {authorization}\n\n"),
        );
    }

    /// Every kind of outcome, each with a token somewhere.
    fn provoke_every_outcome(&self) {
        let (good, powerless, expired, unknown) = (token(1), token(2), token(3), token(4));
        let items = "/api/v2/items";
        let bearer = |token: &str| format!("Bearer {token}");
        // Served.
        self.expect(200, items, &bearer(&good));
        self.expect(200, items, &format!("bearer   {good}"));
        self.expect(200, &format!("{items}?token={good}"), &bearer(&good));
        self.expect(200, "/up", &bearer(&good));
        self.expect_raw(
            200,
            &format!(
                "POST {items} HTTP/1.1\nHost: h\nAuthorization: Bearer {good}\nContent-Length: 40\n\n{SECRET}"
            ),
        );
        // Not authenticated.
        self.expect(401, items, &bearer(&unknown));
        self.expect(401, items, &bearer(&expired));
        self.expect(401, items, &format!("Bearer {good},{good}"));
        self.expect(401, items, &format!("Bearer {good} {good}"));
        self.expect(401, items, &format!("Bearer{good}"));
        self.expect(401, items, &format!("Token {good}"));
        self.expect(401, items, &bearer(&SECRET.repeat(30)));
        self.expect(401, items, &format!("Bearer {good}\nAuthorization: Bearer {good}"));
        self.expect(401, items, &format!("Basic {}", BASE64_STANDARD.encode(format!("user:{}", token(9)))));
        self.expect(401, &format!("{items}?401"), &bearer(&good));
        // Not authorised.
        self.expect(403, items, &bearer(&powerless));
        self.expect(403, &format!("/{SECRET}/{SECRET}"), &bearer(&good));
        self.expect(403, "/api/v2/internal", &bearer(&good));
        self.expect_raw(403, &format!("DELETE {items} HTTP/1.1\nHost: h\nAuthorization: Bearer {good}\n\n"));
        // Malformed.
        self.expect(400, &format!("//{SECRET}"), &bearer(&good));
        self.expect(400, &format!("/%zz{SECRET}"), &bearer(&good));
        self.expect(400, &format!("http://{SECRET}/"), &bearer(&good));
        self.expect(400, "/up", &format!("Bearer {good}\nAuthorization: Bearer {good}"));
        self.expect(400, "/up", &format!("Bearer {good}\nHost: u@{SECRET}"));
        self.expect_raw(400, &format!("{SECRET} /up HTTP/1.1\nHost: h\nAuthorization: Bearer {good}\n\n"));
        self.expect_raw(400, &format!("GET /up HTTP/1.1\nHost: h\nAuthorization Bearer {good}\n\n"));
        self.expect_raw(400, &format!("GET /up HTTP/1.1\nHost: h\nAuthorization: Bearer {good}\x01\n\n"));
        self.expect_raw(400, &format!("GET /{SECRET}\x7f HTTP/1.1\nHost: h\n\n"));
        // Too large.
        self.expect_raw(431, &format!("GET /up HTTP/1.1\nHost: h\nX-Large: {}\n\n", SECRET.repeat(200)));
        self.expect_raw(413, &format!("POST {items} HTTP/1.1\nHost: h\nAuthorization: Bearer {good}\nContent-Length: 9999\n\n{SECRET}"));
        // In places where tokens do not belong.
        let elsewhere = format!(
            "Authorization: Bearer {good}\nCookie: laravel_session={SECRET}\nX-Request-Id: {SECRET}\n\
             X-Forwarded-For: {SECRET}\nForwarded: for={SECRET}\nUser-Agent: {SECRET}\nReferer: http://h/{SECRET}\n\
             Proxy-Authorization: Bearer {good}\nX-{SECRET}: {SECRET}\nConnection: {SECRET}"
        );
        self.expect_raw(200, &format!("GET {items} HTTP/1.1\nHost: h\n{elsewhere}\n\n"));
        // An incomplete body: refused or aborted.
        let chunked = format!(
            "POST {items} HTTP/1.1\nHost: h\nAuthorization: Bearer {good}\nTransfer-Encoding: chunked\n\n"
        );
        let mut client = self.gateway.client();
        let _ = client.try_send(format!("{chunked}5\n{SECRET}").replace('\n', "\r\n"));
        let _ = client.try_response(false);
        // Failures of the backend.
        self.expect(502, &format!("{items}?close"), &bearer(&good));
        self.expect(502, &format!("{items}?garbage"), &bearer(&good));
        self.expect(504, &format!("{items}?hang"), &bearer(&good));
        let mut client = self.gateway.client();
        client.send(format!("GET {items}?short HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {good}\r\n\r\n"));
        assert!(client.try_response(false).is_err(), "the response is incomplete");
        // Failures of the introspector, each with an uncached token.
        let redirect = [("Location", &*format!("http://h/{SECRET}"))];
        for (id, outage) in (10..).zip([
            Answer::message(500, &good),
            Answer::with(200, &[], format!("{{\"data\": {good}")),
            Answer::json(200, &json!({"data": {"id": 1, "abilities": [5, SECRET]}, "active": SECRET})),
            Answer::json(
                200,
                &json!({"data": {"id": 1, "abilities": [], "expires_at": SECRET}, "active": SECRET}),
            ),
            Answer::with(302, &redirect, ""),
            Answer::raw(format!("HTTP/1.1 {SECRET}\r\n\r\n")),
            Answer::close(),
            Answer::hang(),
        ]) {
            self.introspector.fail_with(outage);
            self.expect(503, items, &bearer(&token(id)));
        }
        self.introspector.recover();
    }

    /// Asserts that neither the log, the output nor a scrape contains a token.
    fn assert_silent(&mut self) {
        self.gateway.metrics();
        let metrics = self.gateway.metrics().0;
        assert_eq!(leak(&metrics), None);
        self.gateway.signal(Signal::TERM);
        assert!(self.gateway.wait_exit(Duration::from_secs(10)).success());
        let log = self.gateway.logs().join("\n");
        assert_eq!(leak(&log), None);
        // The test would be meaningless with core dumps disabled.
        for outcome in ["malformed_token", "missing_ability", "backend_broken", "no_verdict", "drained"] {
            assert!(log.contains(outcome), "{outcome} in {log}");
        }
    }
}

#[test]
fn tokens_reach_no_log_and_no_metric() {
    let mut env = verbose(Introspector::start());
    env.provoke_every_outcome();
    env.assert_silent();
}

#[test]
fn tokens_reach_no_log_and_no_metric_with_rfc_7662() {
    let introspector = Introspector::start_rfc7662("gateway", &format!("c{}", &SECRET[1..]));
    let mut env = verbose(introspector);
    env.provoke_every_outcome();
    env.assert_silent();
}
