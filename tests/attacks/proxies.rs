//! The tables again, sent to other proxies that ask the decision listener. Each proxy refuses malformed requests in its
//! own way, so only the requests that arrive at the backend are judged.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::judge::{judge, judge_damaged};
use super::{Case, PART_OF_EVERY_TOKEN, READER, Refused, queries, start, tables};
use crate::support::proxies::{Kind, Proxied};
use crate::support::{PATIENCE, Request};

/// Waits no longer for a response to bytes that may be no request.
const RESPONSE: Duration = Duration::from_secs(2);
/// The same after a response.
const FURTHER: Duration = Duration::from_millis(100);

impl Proxied {
    /// Sends the bytes of a case, and waits for the responses.
    fn send(&self, case: &Case, patience: Duration) {
        let mut client = self.client().patience(patience);
        // The proxy may close before the rest of a message is sent.
        let _ = client.try_send(&case.sent);
        let mut response = client.try_response(case.is_head());
        client = client.patience(FURTHER);
        while response.is_ok() {
            response = client.try_response(case.is_head());
        }
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
pub(crate) fn assert_attacks_fail(kind: Kind) {
    let proxied = Proxied::start(kind, start(&kind.decision()));
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
    assert_eq!(proxied.client().get("/api/v2/items?next", Some(READER)).status, 200);
    for line in proxied.env.gateway.logs() {
        assert!(!line.contains(PART_OF_EVERY_TOKEN), "a token in the log: {line}");
    }
}

/// Sends all attacks by queries. None that is refused may arrive.
pub(crate) fn assert_attacks_by_queries_fail(kind: Kind) {
    let proxied = Proxied::start(kind, start(&format!("{}{}", kind.decision(), queries::RULES)));
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
