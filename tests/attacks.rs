//! Attacks on the real binary, byte by byte, with a backend that records every request.
//!
//! The tables are in `attacks/`. Each row is an attack with its name, its bytes and its expected outcome. [`judge`]
//! inspects every request that arrived, independently of the gateway's decision.

mod ambiguous; // heads that two parsers read differently
mod authentication; // malformed, repeated and missing credentials
mod backend; // malformed and hostile responses of a backend
mod blocked; // blocked tokens in every spelling
mod cache; // verdicts that must not be used: of another token, outdated, or for another route
mod claims; // tokens of the same introspector that are not for this service
mod decision; // the tables again, described to the decision listener
mod failures; // floods of guessed tokens from one address
mod fields; // header fields that have a meaning behind the gateway
mod framing; // where one message ends and the next begins
mod http2; // the tables again, over HTTP/2
mod introspector; // malformed and hostile responses of an introspector
mod judge;
mod limits; // requests at a limit and one beyond it
mod methods; // methods and method overrides
mod mutations; // the tables, spliced and damaged at random
mod networks; // requests that pretend to come from another network
mod paths; // targets that two parsers read differently
pub(crate) mod proxies; // the tables again, sent to other proxies that ask the decision listener
mod queries; // queries that carry more than the token may read, and those that two parsers read differently
mod route_options; // a backend against `deprecated` and `timeout` of a route
mod shadow; // the tables again in shadow mode

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::client::is_close;
use crate::support::gateway::Builder;
use crate::support::{Introspector, RawClient, Request, Response, TestEnv, Verdict};

/// A token that may read items.
const READER: &str = "1|Secret0Reader";
/// A token that may read, create and update items, but not delete them.
const WRITER: &str = "2|Secret0Writer";
/// A user's token with the ability `*`.
const USER: &str = "3|Secret0User";
/// A token without abilities.
const NOBODY: &str = "4|Secret0Nobody";
/// A token that expired in 2001.
const PAST: &str = "5|Secret0Past";
/// A token that the introspector does not know.
const UNKNOWN: &str = "6|Secret0Unknown";
/// A part of every token, by which a log that contains one is found.
const PART_OF_EVERY_TOKEN: &str = "Secret0";

/// The abilities of the introspector's tokens.
const ABILITIES: [(&str, &[&str]); 4] = [
    (READER, &["items:read"]),
    (WRITER, &["items:read", "items:create", "items:update"]),
    (USER, &["*"]),
    (NOBODY, &[]),
];

/// The expected outcome of an attack.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// No request arrives, and the client gets this status with the gateway's own body.
    Refused(u16),
    /// The same, and the connection is closed.
    RefusedAndClosed(u16),
    /// Exactly these requests arrive, each as `METHOD target`, and each gets 200.
    Arrives(&'static [&'static str]),
    /// The same, then a refusal of the next request, and a close.
    ArrivesThenRefused(&'static [&'static str], u16),
}
use Outcome::{Arrives, ArrivesThenRefused, Refused, RefusedAndClosed};

/// An attack.
struct Case {
    name: &'static str,
    sent: Vec<u8>,
    outcome: Outcome,
}

impl Case {
    fn is_head(&self) -> bool {
        self.sent.starts_with(b"HEAD ")
    }
}

fn case(name: &'static str, sent: impl Into<Vec<u8>>, outcome: Outcome) -> Case {
    Case { name, sent: sent.into(), outcome }
}

/// A request with `token` and these further lines, including line ends; a body may be appended.
fn by(token: &str, request: &str, lines: &str) -> String {
    format!("{request} HTTP/1.1\r\nHost: stockaj.example\r\nAuthorization: Bearer {token}\r\n{lines}\r\n")
}

/// A request without credentials.
fn bare(request: &str, lines: &str) -> String {
    format!("{request} HTTP/1.1\r\nHost: stockaj.example\r\n{lines}\r\n")
}

/// A gateway with these sections as the target of the attacks.
fn start(yaml: &str) -> TestEnv {
    target(|builder| builder.yaml(yaml))
}

fn target(configure: impl FnOnce(Builder) -> Builder) -> TestEnv {
    let past = Verdict::active(&["*"]).expiring("2001-01-01T00:00:00Z");
    let builder = TestEnv::builder().introspector(Introspector::with_tokens(ABILITIES)).verdict(PAST, past);
    builder.configure(configure).start()
}

impl TestEnv {
    /// Runs every attack, in one piece and then in small ones, and checks each outcome.
    fn run_attacks(&self, cases: &[Case]) {
        let mut names = BTreeSet::new();
        let mut failed = Vec::new();
        for case in cases {
            assert!(names.insert(case.name), "two cases have the name `{}`", case.name);
            for size in [case.sent.len().max(1), 7, 1] {
                // Reports all failures, not only the first.
                if catch_unwind(AssertUnwindSafe(|| self.run_attack(case, size))).is_err() {
                    failed.push(case.name);
                    self.backend.forget_requests();
                    break;
                }
            }
        }
        assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), cases.len());
        self.end();
    }

    fn run_attack(&self, case: &Case, size: usize) {
        let context = format!("`{}`, in pieces of {size}: {}", case.name, case.sent.escape_ascii());
        let mut client = self.gateway.client();
        // The gateway may close before the rest of a message is sent.
        let cut_off = case.sent.chunks(size).any(|piece| client.try_send(piece).is_err());
        let expected = match case.outcome {
            Refused(status) => {
                assert_refused(&answer(&mut client, case, &context), status, &context);
                vec![]
            }
            RefusedAndClosed(status) => {
                match client.try_response(case.is_head()) {
                    // A TLS client with unsent data does not read.
                    Err(error) if cut_off && is_close(&error) => {}
                    response => assert_refused(&response.expect(&context), status, &context),
                }
                vec![]
            }
            Arrives(requests) | ArrivesThenRefused(requests, _) => {
                for request in requests {
                    let response = answer(&mut client, case, &context);
                    assert_eq!(response.status, 200, "{context}: {request}: {}", response.text());
                }
                if let ArrivesThenRefused(_, status) = case.outcome {
                    let refusal = answer(&mut client, case, &context);
                    assert_refused(&refusal, status, &context);
                }
                requests.to_vec()
            }
        };
        let arrived: Vec<String> = self.arrived_since(&context);
        assert_eq!(arrived, expected, "{context}");
        match case.outcome {
            RefusedAndClosed(_) | ArrivesThenRefused(..) => {
                let rest = client.read_until_close();
                assert!(rest.is_empty(), "{context}: excess response: {}", rest.escape_ascii());
            }
            Refused(_) | Arrives(_) => self.assert_connection_in_step(&mut client, &context),
        }
        let response = self.gateway.get("/api/v2/items?next", Some(READER));
        assert_eq!(response.status, 200, "after {context}: {}", response.text());
        assert_eq!(self.arrived_since(&context), ["GET /api/v2/items?next"], "after {context}");
    }

    /// The client sends a part of a request and disconnects.
    fn assert_truncated_request_is_not_served(&self, context: &str, sent: &[u8]) {
        let mut client = self.gateway.client();
        client.send(sent).finish();
        let rest = client.read_until_close();
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{context}: {}", rest.escape_ascii());
        assert_eq!(self.arrived_since(context), [""; 0], "{context}");
        assert_eq!(self.gateway.get("/api/v2/items?next", Some(READER)).status, 200, "after {context}");
        assert_eq!(self.arrived_since(context), ["GET /api/v2/items?next"], "after {context}");
    }

    /// Client and gateway agree on the position in the stream: the next request on the connection gets its own
    /// response, or the connection is closed without another byte.
    fn assert_connection_in_step(&self, client: &mut RawClient, context: &str) {
        let _ =
            client.try_send("GET /up?probe HTTP/1.1\r\nHost: stockaj.example\r\nConnection: close\r\n\r\n");
        let rest = client.read_until_close();
        let arrived = self.arrived_since(context);
        if rest.is_empty() {
            assert_eq!(arrived, [""; 0], "{context}");
            return;
        }
        assert_eq!(arrived, ["GET /up?probe"], "{context}: {}", rest.escape_ascii());
        let heads = rest.windows(9).filter(|it| it.starts_with(b"HTTP/1.1 ")).count();
        assert_eq!(heads, 1, "{context}: excess response: {}", rest.escape_ascii());
    }

    /// The requests since the last call, as `METHOD target`. Panics if the judge finds a fault in one.
    fn arrived_since(&self, context: &str) -> Vec<String> {
        self.arrived_before(judge::judge, context)
    }

    fn arrived_before(&self, judge: fn(&Request) -> Result<(), String>, context: &str) -> Vec<String> {
        let arrived = self.backend.take_requests().into_iter();
        let judged = arrived.inspect(|request| {
            if let Err(fault) = judge(request) {
                panic!("{fault}, {context}: {}", request.raw_head.escape_ascii());
            }
        });
        // An aborted request does not count.
        judged.filter(|it| it.complete).map(|it| format!("{} {}", it.method, it.target)).collect()
    }

    /// Asserts that no request arrived late, and that no token is in the log.
    fn end(&self) {
        assert_eq!(self.arrived_since("late"), [""; 0]);
        self.gateway.wait_for_log(|line| line["message"] == "request");
        for line in self.gateway.logs() {
            assert!(!line.contains(PART_OF_EVERY_TOKEN), "a token in the log: {line}");
        }
    }
}

/// Reads the next response. A refusal is readable whatever the client has sent after it.
fn answer(client: &mut RawClient, case: &Case, context: &str) -> Response {
    client.try_response(case.is_head()).unwrap_or_else(|error| match is_close(&error) {
        true => panic!("closed without a response, {context}"),
        false => panic!("{error}, {context}"),
    })
}

/// Asserts that a response is the gateway's own.
fn assert_refused(response: &Response, status: u16, context: &str) {
    let message = match status {
        400 => "Bad Request.",
        401 => "Unauthenticated.",
        403 => "This action is unauthorized.",
        408 => "Request Timeout.",
        413 => "Payload Too Large.",
        414 => "URI Too Long.",
        431 => "Request Header Fields Too Large.",
        502 => "Bad Gateway.",
        503 => "Service Unavailable.",
        504 => "Gateway Timeout.",
        505 => "HTTP Version Not Supported.",
        _ => panic!("{status} is not a refusal"),
    };
    let message = format!(r#"{{"message":"{message}"}}"#);
    let is_head =
        response.body.is_empty() && response.field("content-length") == Some(&*message.len().to_string());
    assert_eq!(response.status, status, "{context}: {}", response.text());
    assert!(is_head || response.text() == message, "{context}: {}", response.text());
    assert_eq!(response.field("content-type"), Some("application/json"), "{context}");
    assert!(response.field("x-request-id").is_some(), "{context}");
}

/// The tables of attacks by clients.
fn tables() -> [Vec<Case>; 8] {
    [
        paths::cases(),
        methods::cases(),
        fields::cases(),
        ambiguous::cases(),
        framing::cases(),
        authentication::cases(),
        limits::cases(),
        networks::cases(),
    ]
}

#[test]
fn attack_names_are_unique() {
    let mut names: Vec<String> = tables().iter().flatten().map(|case| case.name.to_owned()).collect();
    names.extend(queries::cases().iter().map(|case| case.name.to_owned()));
    names.extend(blocked::cases().iter().map(|case| case.name.to_owned()));
    names.extend(cache::SEQUENCES.map(|(name, _)| name.to_owned()));
    names.extend(backend::answers().map(|(name, ..)| format!("an answer: {name}")));
    println!("{} attacks", names.len());
    let all = names.len();
    names.sort_unstable();
    let doubled: Vec<_> = names.windows(2).filter(|two| two[0] == two[1]).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    assert!(all >= 150, "{all} attacks");
}
