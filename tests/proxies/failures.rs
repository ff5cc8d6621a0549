//! Revocation, and outages of the introspector and of the gateway.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{READER, start};
use crate::support::proxies::{Kind, Protocol};
use crate::support::{Answer, OPERATED};

/// A revoked token is refused within a second.
pub(super) fn assert_revocation(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, &format!("{OPERATED}cache: {{ttl: 1h}}\n"));
    assert_eq!(proxied.status(READER), 200);
    proxied.env.introspector.deactivate(READER);
    assert_eq!(proxied.status(READER), 200, "the verdict is cached");
    let response = proxied.env.operator("POST", "/tokens/revoke", r#"{"token": "2|reader"}"#);
    assert_eq!(response.status, 200, "{}", response.text());
    let revoked = Instant::now();
    while proxied.status(READER) != 401 {
        assert!(revoked.elapsed() < Duration::from_secs(1), "{kind:?}: not revoked within a second");
        thread::sleep(Duration::from_millis(20));
    }
    proxied.env.backend.take_requests();
    assert_eq!(proxied.status(READER), 401);
    proxied.assert_nothing_arrived("after the revocation");
}

/// An outage of the introspector is a refusal with 503, and visible as such.
pub(super) fn assert_outage(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, "");
    let gateway = &proxied.env.gateway;
    proxied.env.introspector.fail_with(Answer::with(500, &[], ""));
    let response = proxied.get(super::ITEMS, READER);
    assert_eq!(response.status, 503, "{kind:?}: {}", response.text());
    // Envoy takes a 5xx of an authorizer over HTTP for an error, and answers itself.
    if kind != Kind::EnvoyHttp {
        assert_eq!(response.text(), r#"{"message":"Service Unavailable."}"#, "{kind:?}");
        assert!(response.field("retry-after").is_some(), "{kind:?}: {response:?}");
    }
    proxied.assert_nothing_arrived("during the outage");
    let line = gateway.wait_for_log(|line| line["message"] == "request" && line["status"] == 503);
    assert_eq!((&line["listener"], &line["reason"]), (&"decision".into(), &"no_verdict".into()));
    let labels = r#"requests_total{status="503",listener="decision"}"#;
    assert!(gateway.metrics().metric(labels) >= 1.0, "{kind:?}");
    proxied.env.introspector.recover();
    let end = Instant::now() + Duration::from_secs(10);
    while proxied.status(READER) != 200 {
        assert!(Instant::now() < end, "{kind:?}: no recovery");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Without the gateway, nothing is forwarded.
pub(super) fn assert_gone(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, "");
    assert_eq!(proxied.status(READER), 200);
    proxied.env.backend.take_requests();
    proxied.env.gateway.signal(Signal::KILL);
    for target in [super::ITEMS, "/up"] {
        let status = proxied.get(target, READER).status;
        assert!([500, 502, 503].contains(&status), "{kind:?} {target}: {status}");
    }
    proxied.assert_nothing_arrived("without the gateway");
}
