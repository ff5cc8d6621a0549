//! Traces: whose request is part of which, as the backend, the introspector and a collector are told.

use crate::support::setting::{WRITER, setting};

const ITEM: &str = "/api/v2/items/5";
/// The example of W3C Trace Context.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn without_an_endpoint_the_context_passes_as_it_came_whatever_it_is() {
    let setting = setting("");
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
        setting.gateway.client().request("GET", ITEM, &request, b"");
        let arrived = setting.upstream.take_requests().remove(0);
        let is_ours = |name: &str| name.starts_with("trace") || name == "baggage";
        let arrived: Vec<_> = arrived.fields.0.iter().filter(|(name, _)| is_ours(name)).collect();
        let arrived: Vec<_> = arrived.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(arrived, fields);
    }
    let asked = setting.introspector.requests().remove(0);
    assert!(!asked.fields.names().iter().any(|name| name.starts_with("trace")), "{asked:?}");
    assert!(!setting.gateway.metrics().0.contains("stockaj_gateway_spans_total{"));
}
