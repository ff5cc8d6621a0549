//! Trace context: that of a described client decides nothing, and that of a proxy's call continues.

use super::{DECISION, ITEMS, PATH_PREFIX};
use crate::support::decision::{Asker, CHECK, Checked, Style, check_request, frame};
use crate::support::http2::{Http2Client, request};
use crate::support::{Collector, TestEnv, Verdict};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn context(sampled: bool) -> String {
    format!("00-{TRACE}-00f067aa0ba902b7-0{}", u8::from(sampled))
}

fn tracing(decision: &str, ratio: u8) -> (TestEnv, Collector) {
    let collector = Collector::start();
    let yaml = collector.yaml();
    let env = TestEnv::builder().yaml(&yaml).yaml(decision);
    (env.yaml(&format!("traces:\n  sample_ratio: {ratio}\n")).start(), collector)
}

/// The trace and whether it is sampled, as the introspector was told.
fn introspected(env: &TestEnv) -> (String, bool) {
    let asked = env.introspector.requests().pop().unwrap();
    let context = asked.field("traceparent").unwrap();
    let [_, trace, _, flags] = context.split('-').collect::<Vec<_>>()[..] else { panic!("{context}") };
    (trace.to_owned(), flags == "01")
}

/// All shipped files but that of Envoy by gRPC pass on the fields of clients.
#[test]
fn trace_context_of_a_described_client_decides_nothing() {
    for (decision, path_prefix) in [(DECISION, false), (PATH_PREFIX, true)] {
        for (ratio, sent) in [(0, true), (1, false)] {
            let (env, collector) = tracing(decision, ratio);
            for (number, style) in Style::all(path_prefix).iter().enumerate() {
                let token = format!("{number}|client");
                env.introspector.set_verdict(&token, Verdict::active(&["items:read"]));
                let authorization = format!("Bearer {token}");
                let sent = context(sent);
                let fields =
                    [("traceparent", &*sent), ("tracestate", "a=b"), ("authorization", &authorization)];
                assert!(Asker::connect(env.decision(), *style).ask("GET", ITEMS, &fields).is_allowed());
                let (trace, is_sampled) = introspected(&env);
                assert!(trace != TRACE && is_sampled == (ratio == 1), "{style:?} {trace} {is_sampled}");
                let asked = env.introspector.requests().pop().unwrap();
                assert_eq!(asked.field("tracestate"), None, "{style:?}");
            }
            if ratio == 1 {
                let spans = collector.wait(2 * Style::all(path_prefix).len());
                for server in spans.iter().filter(|span| span.is_server()) {
                    assert!(server.parent().is_empty());
                    assert_eq!(server.attribute("server.address"), "stockaj.example");
                }
            }
        }
    }
}

/// Clients of a proxy do not write the fields of its calls.
#[test]
fn trace_of_a_call_continues() {
    let (env, collector) = tracing(DECISION, 0);
    let fields: [(&[u8], &[u8]); 2] =
        [(b"authorization", b"Bearer 1|writer"), (b"traceparent", b"00-1-2-01")];
    let checked =
        Checked { method: "GET", target: ITEMS, host: "a.example", fields: &fields, source: None, raw: true };
    let sampled = context(true);
    let fields = [("content-type", "application/grpc"), ("traceparent", &*sampled)];
    let mut client = Http2Client::connect(env.decision());
    let stream = client.open(&request("POST", CHECK, &fields), false);
    client.data(stream, &frame(&check_request(&checked)), true);
    assert_eq!(client.outcome(stream).answer().status, 200);
    assert_eq!(introspected(&env), (TRACE.to_owned(), true));
    let spans = collector.wait(2);
    let server = spans.iter().find(|span| span.is_server()).unwrap();
    assert_eq!((&*server.trace(), &*server.parent()), (TRACE, "00f067aa0ba902b7"));
    assert_eq!(server.attribute("server.address"), "a.example");
}
