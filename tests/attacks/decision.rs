//! The tables again, described to the decision listener by a proxy that forwards what it is told to.
//!
//! A proxy forwards the target as its client sent it, so a path that is not canonical is refused here. After an allowing
//! answer by gRPC, the request that Envoy would forward is judged.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use super::http2::{Converted, convert};
use super::judge::judge;
use super::{
    Arrives, Case, PART_OF_EVERY_TOKEN, READER, Refused, RefusedAndClosed, authentication, blocked, claims,
    fields, methods, networks, paths, queries, start,
};
use crate::support::decision::{Asker, Decision, Style};
use crate::support::wire::Head;
use crate::support::{Introspector, Request, TestEnv, Verdict};

const SETTINGS: [(&str, bool); 2] = [
    ("decision:\n  address: 127.0.0.1:0\n  trusted_proxies: [127.0.0.1]\n", false),
    ("decision:\n  address: 127.0.0.1:0\n  trusted_proxies: [127.0.0.1]\n  style: path_prefix\n", true),
];

/// Fields of a message's framing and routing, which a proxy writes itself.
const OF_THE_PROXY: [&[u8]; 6] =
    [b"host", b"content-length", b"x-forwarded-for", b"x-forwarded-proto", b"expect", b"x-forwarded-host"];

/// Fields of a description over HTTP, which a proxy replaces or removes.
const OF_A_DESCRIPTION: [&[u8]; 4] =
    [b"x-forwarded-method", b"x-forwarded-uri", b"x-original-method", b"x-original-uri"];

/// The parts of a case that a proxy describes.
struct Described {
    method: String,
    target: String,
    host: String,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    has_body: bool,
}

impl Described {
    /// Whether a field's name is an odd spelling that this proxy would forward.
    fn is_misread(&self, style: Style) -> bool {
        let is_odd = |name: &[u8]| !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
        matches!(style, Style::Forwarded | Style::Original)
            && self.fields.iter().any(|(name, _)| is_odd(name))
    }
}

/// `None` if a proxy could not describe the case, or would not forward it.
fn described(case: &Case) -> Option<Described> {
    let Converted { fields, body } = convert(&case.sent)?;
    let pseudo = |name: &[u8]| {
        let (_, value) = fields.iter().find(|(its, _)| its == name)?;
        String::from_utf8(value.clone()).ok()
    };
    // The proxy names the scheme of its own connection.
    let authority = pseudo(b":authority").filter(|_| pseudo(b":scheme").as_deref() == Some("http"))?;
    Some(Described {
        method: pseudo(b":method")?,
        target: pseudo(b":path").filter(|path| path.is_ascii() && !path.contains(' '))?,
        host: authority,
        fields: fields.into_iter().filter(|(name, _)| name[0] != b':').collect(),
        has_body: !body.is_empty(),
    })
}

/// The request that Envoy forwards.
fn forwarded(described: &Described, decision: &Decision) -> Request {
    let lower = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    let is_replaced = |name: &[u8]| {
        let name = lower(name);
        decision.removed.contains(&name) || decision.fields.iter().any(|(set, _)| *set == name)
    };
    let mut head = format!("{} {} HTTP/1.1\r\n", described.method, described.target).into_bytes();
    let host = &described.host;
    head.extend(format!("Host: {host}\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n").bytes());
    // The judge expects one, as from the gateway. A client's own must be removed.
    head.extend(format!("X-Forwarded-Host: {host}\r\n").bytes());
    for (name, value) in &described.fields {
        let is_forwarding = OF_THE_PROXY[..5].contains(&&**name) || name == b"x-request-id";
        if !is_replaced(name) && !is_forwarding {
            head.extend([name, &b": "[..], value, b"\r\n"].concat());
        }
    }
    for (name, value) in &decision.fields {
        head.extend(format!("{name}: {value}\r\n").bytes());
    }
    head.extend(b"\r\n");
    let head = Head::read(&mut &*head).unwrap().unwrap();
    Request::new(head, 0)
}

/// The client, as the proxy sees it.
#[derive(Clone, Copy)]
struct Client {
    address: IpAddr,
    /// Whether the proxy appends the address to X-Forwarded-For of the client, instead of replacing the field.
    is_appended: bool,
}

const CLIENT: Client = Client { address: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), is_appended: false };
const BEHIND_TRUSTED: Client = Client { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), is_appended: true };

fn assert_decision(env: &TestEnv, style: Style, client: Client, case: &Case) -> Option<bool> {
    let described = described(case)?;
    let is_grpc = matches!(style, Style::Grpc | Style::GrpcRaw);
    if described.fields.iter().any(|(name, _)| name == b"expect") {
        // The proxy's own connection is not described.
        return None;
    }
    let names_host = described.fields.iter().any(|(name, _)| name == b"host");
    if !is_grpc && (names_host || described.has_body) {
        // Over HTTP a proxy describes no body, and one host: that of the target, if it is absolute.
        return None;
    }
    let mut asker = Asker::connect(env.gateway.wait_for_listener("decision"), style);
    asker.source = Some(client.address).filter(|_| is_grpc);
    let passes = |name: &[u8]| match name {
        _ if is_grpc => true,
        b"x-forwarded-for" => client.is_appended,
        name => ![&OF_THE_PROXY[..], &OF_A_DESCRIPTION].concat().contains(&name),
    };
    let address = client.address.to_string();
    let appended = [(&b"x-forwarded-for"[..], address.as_bytes())];
    let fields = described.fields.iter().filter(|(name, _)| passes(name));
    let fields = fields.map(|(name, value)| (&**name, &**value));
    let fields: Vec<(&[u8], &[u8])> = fields.chain(appended.into_iter().filter(|_| !is_grpc)).collect();
    let decision = asker.ask_of(&described.host, &described.method, &described.target, &fields)?;
    let context = format!("`{}` in {style:?}: {decision:?}", case.name);
    let request = format!("{} {}", described.method, described.target);
    // In `headers`, Envoy joins the lines of a field, which the gateway then cannot tell from one.
    let names = described.fields.iter().map(|(name, _)| name);
    let is_joined = style == Style::Grpc && described.fields.len() > names.collect::<BTreeSet<_>>().len();
    match case.outcome {
        // Limits of the body are the proxy's.
        Refused(413) | RefusedAndClosed(413) => return None,
        Refused(400) if is_joined => {}
        // A path that is not canonical, or a call that cannot be read.
        Refused(_) | RefusedAndClosed(_) if matches!(decision.status, 0 | 400) => {
            assert!(!decision.is_allowed(), "{context}");
        }
        Refused(status) | RefusedAndClosed(status) => assert_eq!(decision.status, status, "{context}"),
        // A proxy that cannot remove fields by the answer forwards other spellings of a name.
        Arrives([_]) if decision.status == 400 && described.is_misread(style) => {}
        Arrives([canonical]) if *canonical == request => assert!(decision.is_allowed(), "{context}"),
        Arrives([_]) => assert_eq!(decision.status, 400, "{context}"),
        _ => return None,
    }
    if decision.is_allowed() {
        let path = described.target.split('?').next();
        assert_eq!(decision.field("x-canonical-path"), path, "{context}");
        if is_grpc && !is_joined {
            let arrives = forwarded(&described, &decision);
            judge(&arrives).unwrap_or_else(|fault| panic!("{fault}: {context}"));
        }
    }
    Some(decision.is_allowed())
}

fn assert_decisions(env: &TestEnv, path_prefix: bool, cases: &[Case], least: [usize; 2]) {
    assert_decisions_on(CLIENT, env, path_prefix, cases, least);
}

fn assert_decisions_on(client: Client, env: &TestEnv, path_prefix: bool, cases: &[Case], least: [usize; 2]) {
    for style in Style::all(path_prefix) {
        let mut failed = Vec::new();
        let decided: Vec<bool> = cases
            .iter()
            .filter_map(|case| {
                let decide = AssertUnwindSafe(|| assert_decision(env, *style, client, case));
                catch_unwind(decide).unwrap_or_else(|_| {
                    failed.push(case.name);
                    None
                })
            })
            .collect();
        assert!(failed.is_empty(), "{style:?}: {failed:#?}");
        let allowed = decided.iter().filter(|allowed| **allowed).count();
        println!("{style:?}: {allowed} of {} allowed", decided.len());
        assert!(allowed >= least[0] && decided.len() - allowed >= least[1], "{allowed} of {}", decided.len());
    }
    assert!(env.backend.requests().is_empty());
    env.gateway.wait_for_log(|line| line["message"] == "request");
    for line in env.gateway.logs() {
        assert!(!line.contains(PART_OF_EVERY_TOKEN), "a token in the log: {line}");
    }
}

#[test]
fn attacks_that_are_described_fail() {
    for (settings, path_prefix) in SETTINGS {
        let env = start(settings);
        let tables = [paths::cases(), authentication::cases(), methods::cases(), fields::cases()];
        let cases: Vec<Case> = tables.into_iter().flatten().collect();
        assert_decisions(&env, path_prefix, &cases, [30, 150]);
    }
}

#[test]
fn attacks_by_described_queries_fail() {
    for (settings, path_prefix) in SETTINGS {
        let env = start(&format!("{settings}{}", queries::RULES));
        let without_body = |case: &Case| case.sent.ends_with(b"\r\n\r\n");
        let cases: Vec<Case> = queries::cases().into_iter().filter(without_body).collect();
        assert_decisions(&env, path_prefix, &cases, [2, 10]);
    }
}

#[test]
fn described_tokens_that_are_blocked_are_refused_in_every_spelling() {
    for (settings, path_prefix) in SETTINGS {
        let env = blocked::start(settings);
        assert_decisions(&env, path_prefix, &blocked::cases(), [2, 20]);
    }
}

#[test]
fn described_tokens_for_other_services_are_refused() {
    for (settings, path_prefix) in SETTINGS {
        let introspector = Introspector::start_rfc7662("gateway", "s3cret").with_lines(claims::EXPECT);
        let token = |number: usize, style: Style| format!("{number}|{PART_OF_EVERY_TOKEN}{}", style as u8);
        for (number, (_, members, _)) in claims::rows().iter().enumerate() {
            for style in Style::all(path_prefix) {
                let answer = claims::answer(number, members);
                introspector.set_verdict(&token(number, *style), Verdict::Answer(answer));
            }
        }
        let env: TestEnv = TestEnv::builder().introspector(introspector).yaml(settings).start();
        for style in Style::all(path_prefix) {
            let mut asker = Asker::connect(env.gateway.wait_for_listener("decision"), *style);
            for (number, (name, _, reason)) in claims::rows().into_iter().enumerate() {
                let token = token(number, *style);
                let (status, calls) = match reason {
                    None => (200, 1),
                    Some("no_verdict") => (503, 2),
                    Some(_) => (401, 1),
                };
                for _ in 0..2 {
                    let decision = asker.ask_with("GET", "/api/v2/items", &token);
                    assert_eq!(decision.status, status, "`{name}` in {style:?}: {decision:?}");
                    assert_eq!(decision.is_allowed(), status == 200, "`{name}` in {style:?}: {decision:?}");
                }
                // The second decision is made by the cached verdict.
                assert_eq!(env.introspector.calls_for(&token), calls, "`{name}` in {style:?}");
            }
        }
    }
}

#[test]
fn described_clients_cannot_choose_their_network() {
    for (settings, path_prefix) in SETTINGS {
        let env = networks::target(settings);
        for is_appended in [false, true] {
            let client = Client { is_appended, ..CLIENT };
            assert_decisions_on(client, &env, path_prefix, &networks::untrusted(), [1, 25]);
        }
        // The client of the proxy is itself a trusted proxy.
        let env = networks::target(&format!("{}{settings}", networks::TRUSTED));
        assert_decisions_on(BEHIND_TRUSTED, &env, path_prefix, &networks::trusted(), [8, 18]);
        let env = networks::target_with_member("enforce", settings);
        assert_decisions_on(BEHIND_TRUSTED, &env, path_prefix, &networks::behind_member(), [20, 70]);
    }
}

/// The address is the described client's, whatever X-Forwarded-For it sends, and not that of the proxy.
#[test]
fn guessed_tokens_of_a_described_client_cause_few_introspections() {
    const LIMIT: usize = 5;
    const GUESSES: usize = 150;
    for (settings, path_prefix) in SETTINGS {
        for style in Style::all(path_prefix) {
            let limits = "limits: {failures_per_address: 5}\ncache: {ttl: 1h, negative_ttl: 1h}\n";
            let env = start(&format!("{settings}{limits}"));
            let listener = env.gateway.wait_for_listener("decision");
            let mut other = Asker::connect(listener, *style);
            assert!(other.ask_with("GET", "/api/v2/items", READER).is_allowed());
            env.introspector.delay(Duration::from_millis(40));
            let began = Instant::now();
            let is_grpc = matches!(style, Style::Grpc | Style::GrpcRaw);
            thread::scope(|scope| {
                for thread in 0..4 {
                    scope.spawn(move || {
                        let mut asker = Asker::connect(listener, *style);
                        for number in 0..GUESSES / 4 {
                            let guess = format!("Bearer {thread}{number}|{PART_OF_EVERY_TOKEN}Guess");
                            let spoofed = ("x-forwarded-for", &*format!("198.51.{thread}.{number}"));
                            let fields = [("authorization", &*guess), spoofed];
                            // Over HTTP the proxy replaces the field.
                            let fields = if is_grpc { &fields[..] } else { &fields[..1] };
                            let status = asker.ask("GET", "/api/v2/items", fields).status;
                            assert!(matches!(status, 401 | 429), "{style:?}: {status}");
                        }
                    });
                }
                for _ in 0..20 {
                    assert!(other.ask_with("GET", "/api/v2/items", READER).is_allowed(), "{style:?}");
                }
            });
            let calls = env.introspector.calls() - 1;
            let most = LIMIT + began.elapsed().as_millis() as usize * LIMIT / 1000 + 1;
            assert!((LIMIT..=most).contains(&calls), "{style:?}: {calls} of {most}");
            assert!(most < GUESSES / 2, "too slow for a meaningful result");
            other.source = Some("192.0.2.8".parse().unwrap());
            let token = format!("9|{PART_OF_EVERY_TOKEN}Other");
            assert_eq!(other.ask_with("GET", "/api/v2/items", &token).status, 401, "{style:?}");
        }
    }
}
