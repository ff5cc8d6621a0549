//! The tables again, sent to other proxies that ask the decision listener. Each proxy refuses malformed requests in its
//! own way, so only the requests that arrive at the backend are judged.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::http2::{Converted, convert};
use super::judge::{judge, judge_damaged};
use super::{Arrives, Case, PART_OF_EVERY_TOKEN, READER, Refused, blocked, networks, queries, start, tables};
use crate::support::proxies::{Kind, Protocol, Proxied};
use crate::support::{PATIENCE, Request};

/// Waits no longer for a response to bytes that may be no request.
const RESPONSE: Duration = Duration::from_secs(2);
/// The same after a response.
const FURTHER: Duration = Duration::from_millis(100);

impl Proxied {
    /// Sends the bytes of a case, and waits for the responses.
    fn send(&self, case: &Case, patience: Duration) {
        if self.protocol == Protocol::Http2 {
            return self.send_over_http2(case, patience);
        }
        let mut client = self.client().patience(patience);
        // The proxy may close before the rest of a message is sent.
        let _ = client.try_send(&case.sent);
        let mut response = client.try_response(case.is_head());
        client = client.patience(FURTHER);
        while response.is_ok() {
            response = client.try_response(case.is_head());
        }
    }

    /// Sends a case if HTTP/2 can express it, and waits for the outcome.
    fn send_over_http2(&self, case: &Case, patience: Duration) {
        let Some(Converted { fields, body }) = convert(&case.sent) else { return };
        let mut client = self.http2_client().patience(patience);
        let stream = client.open(&fields, body.is_empty());
        if !body.is_empty() {
            client.data(stream, &body, true);
        }
        client.outcome(stream);
    }
}

/// Fields that Caddy and Envoy forward, and that have no meaning in Laravel: Connection names the first two, and the last
/// is a folded line.
fn is_harmless(request: &Request) -> bool {
    ["x-hop", "x-a", "x-own"].iter().any(|name| request.fields.all(name).any(|it| it.contains("evil")))
}

fn fault(kind: Kind, request: &Request) -> Option<String> {
    let judged = match kind {
        Kind::Caddy | Kind::OldCaddy | Kind::EnvoyHttp | Kind::EnvoyGrpc if is_harmless(request) => {
            judge_damaged(request)
        }
        _ => judge(request),
    };
    judged.err().map(|fault| format!("{fault}: {}", request.raw_head.escape_ascii()))
}

/// Sends all attacks. Nothing may arrive that the token of the request does not permit.
pub(crate) fn assert_attacks_fail(kind: Kind, protocol: Protocol) {
    let proxied = Proxied::start_for(kind, protocol, start(&kind.decision()));
    let cases: Vec<Case> = tables().into_iter().flatten().collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    proxied.send(case, RESPONSE);
                }
            });
        }
    });
    let arrived = proxied.env.backend.take_requests();
    let faults: Vec<String> =
        arrived.iter().filter(|it| it.complete).filter_map(|it| fault(kind, it)).collect();
    println!("{kind:?}: {} requests of {} attacks arrived", arrived.len(), cases.len());
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(arrived.len() > 40, "{} requests arrived", arrived.len());
    let authorization = format!("Bearer {READER}");
    let next = proxied.try_ask("GET", "/api/v2/items?next", &[("Authorization", &authorization)], b"");
    assert_eq!(next.map(|response| response.status), Some(200));
    for line in proxied.env.gateway.logs() {
        assert!(!line.contains(PART_OF_EVERY_TOKEN), "a token in the log: {line}");
    }
}

/// Sends all attacks by queries. None that is refused may arrive.
pub(crate) fn assert_attacks_by_queries_fail(kind: Kind, protocol: Protocol) {
    let proxied =
        Proxied::start_for(kind, protocol, start(&format!("{}{}", kind.decision(), queries::RULES)));
    let mut allowed = 0;
    for case in queries::cases() {
        proxied.send(&case, PATIENCE);
        let arrived = proxied.env.backend.take_requests();
        let context = format!("`{}`: {}", case.name, case.sent.escape_ascii());
        for request in arrived.iter().filter(|it| it.complete) {
            let context = format!("{context} arrived: {}", request.raw_head.escape_ascii());
            if kind == Kind::Traefik {
                // Describes and forwards `;` as `%3B`, so another request may be decided on.
                let same = proxied.env.gateway.get(&request.target, request.bearer());
                assert_eq!(same.status, 200, "{context}");
                proxied.env.backend.take_requests();
            } else {
                assert!(!matches!(case.outcome, Refused(_)), "{context}");
            }
            assert_eq!(fault(kind, request), None, "{context}");
            allowed += 1;
        }
    }
    assert!(allowed > 5, "{allowed} allowed");
}

/// Sends these cases, of which only those arrive that the gateway itself would forward. Returns their number.
fn assert_refused_cases_do_not_arrive(proxied: &Proxied, cases: &[Case]) -> usize {
    let mut allowed = 0;
    let mut faults = Vec::new();
    for case in cases {
        proxied.send(case, PATIENCE);
        let arrived = proxied.env.backend.take_requests();
        let arrived: Vec<_> = arrived.iter().filter(|it| it.complete).collect();
        allowed += arrived.len();
        let is_expected = match case.outcome {
            Arrives(requests) => {
                arrived.iter().all(|it| requests == [&*format!("{} {}", it.method, it.target)])
            }
            _ => arrived.is_empty(),
        };
        if !is_expected {
            let heads: Vec<_> = arrived.iter().map(|it| it.raw_head.escape_ascii().to_string()).collect();
            faults.push(format!("`{}`: {} arrived: {heads:?}", case.name, case.sent.escape_ascii()));
        }
    }
    assert!(faults.is_empty(), "{:?}: {}", proxied.kind, faults.join("\n"));
    allowed
}

/// Sends all attacks on networks: from a client, and through a load balancer inside and outside of the networks.
pub(crate) fn assert_attacks_on_networks_fail(kind: Kind) {
    let decision = kind.decision();
    let proxied = Proxied::start(kind, networks::target(&decision));
    assert_refused_cases_do_not_arrive(&proxied, &networks::untrusted());
    let env = networks::target(&format!("{}{decision}", networks::TRUSTED));
    let proxied = Proxied::behind_another(kind, env);
    let allowed = assert_refused_cases_do_not_arrive(&proxied, &networks::trusted());
    assert!(allowed >= 10, "{kind:?}: {allowed} allowed");
    let proxied = Proxied::behind_another(kind, networks::target_with_member("enforce", &decision));
    assert_refused_cases_do_not_arrive(&proxied, &networks::behind_member());
}

/// Sends blocked tokens in every spelling.
pub(crate) fn assert_blocked_tokens_are_refused(kind: Kind) {
    let proxied = Proxied::start(kind, blocked::start(&kind.decision()));
    let allowed = assert_refused_cases_do_not_arrive(&proxied, &blocked::cases());
    assert_eq!(allowed, 2, "{kind:?}");
}
