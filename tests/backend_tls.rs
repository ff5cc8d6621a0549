//! TLS with the backend and the introspector: which servers are accepted, and what is logged for others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, ServerConfig};

use crate::support::certificate::Issued;
use crate::support::{Authority, BINARY, Gateway, TestEnv, Upstream};

const NAMES: &[&str] = &["localhost", "127.0.0.1"];
const ITEMS: &str = "/api/v2/items";

/// Log lines about the backend and the introspector.
const BACKEND: [&str; 2] = ["no connection to the backend", "no TLS with the backend"];
const INTROSPECTOR: &str = "introspection gave no verdict";

/// A server, and the gateway's `tls` settings for it.
struct Case {
    name: &'static str,
    server: ServerConfig,
    tls: String,
    /// The logged error if the handshake fails.
    why: Option<&'static str>,
}

impl Case {
    /// A gateway with such a server as its backend and as its introspector.
    fn start(&self) -> (Gateway, Upstream, Upstream) {
        let backend = Upstream::start_with_tls(self.server.clone());
        let introspector = Upstream::start_with_tls(self.server.clone());
        let (url, tls) = (introspector.url(), &self.tls);
        let gateway = Gateway::builder()
            .yaml(&format!("backend:\n  url: {}\n  tls: {tls}\n", backend.url()))
            .yaml(&format!("introspection:\n  url: {url}/api/v2/token\n  tls: {tls}\n"))
            .start();
        (gateway, backend, introspector)
    }
}

fn trusting(authority: &Authority) -> String {
    format!("{{ca_file: {}}}", authority.ca_file().display())
}

/// A configuration section with an additional line.
fn with(section: &str, line: &str) -> String {
    format!("{}, {line}}}", section.trim_end_matches('}'))
}

fn as_client(section: &str, [certificate, key]: &[PathBuf; 2]) -> String {
    with(section, &format!("certificate: {}, private_key: {}", certificate.display(), key.display()))
}

#[test]
fn servers_that_fail_verification_are_refused_and_the_cause_is_logged() {
    let (ours, strangers) = (Authority::new(), Authority::new());
    let good = || ours.issue(NAMES, |_| {});
    let of = |issued: Issued| issued.server(ALL_VERSIONS, None);
    let expired = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    };
    let to_come = |params: &mut CertificateParams| params.not_before = date_time_ymd(2090, 1, 1);
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let known = ours.issue(&["gateway"], |_| {}).write(here.path());
    let unknown = strangers.issue(&["gateway"], |_| {}).write(there.path());
    let demanding = || good().server(ALL_VERSIONS, Some(&ours));
    let ca = trusting(&ours);
    let cases = [
        Case { name: "as it should be", server: of(good()), tls: ca.clone(), why: None },
        Case {
            name: "another name",
            server: of(ours.issue(&["stockaj.example"], |_| {})),
            tls: ca.clone(),
            why: Some("not valid for name"),
        },
        Case {
            name: "another name that is expected",
            server: of(ours.issue(&["stockaj.example"], |_| {})),
            tls: with(&ca, "server_name: stockaj.example"),
            why: None,
        },
        Case {
            name: "an authority that nobody knows",
            server: of(strangers.issue(NAMES, |_| {})),
            tls: ca.clone(),
            why: Some("invalid peer certificate"),
        },
        Case {
            name: "an authority of one's own, and the roots of all",
            server: of(good()),
            tls: "{roots: bundled}".to_owned(),
            why: Some("UnknownIssuer"),
        },
        Case {
            name: "expired",
            server: of(ours.issue(NAMES, expired)),
            tls: ca.clone(),
            why: Some("expired"),
        },
        Case {
            name: "not yet valid",
            server: of(ours.issue(NAMES, to_come)),
            tls: ca.clone(),
            why: Some("not valid yet"),
        },
        Case {
            name: "signed by itself",
            server: of(Issued::by_itself(NAMES)),
            tls: ca.clone(),
            why: Some("invalid peer certificate"),
        },
        Case {
            name: "a client's certificate is wanted, TLS 1.3",
            server: good().server(&[&TLS13], Some(&ours)),
            tls: ca.clone(),
            why: Some("CertificateRequired"),
        },
        Case {
            name: "a client's certificate is wanted, TLS 1.2",
            server: good().server(&[&TLS12], Some(&ours)),
            tls: ca.clone(),
            why: Some("received fatal alert"),
        },
        Case {
            name: "another client's certificate is wanted",
            server: demanding(),
            tls: as_client(&ca, &unknown),
            why: Some("received fatal alert"),
        },
        Case { name: "it is shown", server: demanding(), tls: as_client(&ca, &known), why: None },
        Case {
            name: "too old",
            server: good().server(&[&TLS12], None),
            tls: with(&ca, "minimum_version: '1.3'"),
            why: Some("ProtocolVersion"),
        },
        Case { name: "old enough", server: good().server(&[&TLS12], None), tls: ca.clone(), why: None },
        Case {
            name: "new",
            server: good().server(&[&TLS13], None),
            tls: with(&ca, "minimum_version: '1.3'"),
            why: None,
        },
        Case {
            name: "whoever it is",
            server: of(Issued::by_itself(NAMES)),
            tls: "{danger_accept_any_certificate: true}".to_owned(),
            why: None,
        },
    ];
    for case in cases {
        let (gateway, backend, introspector) = case.start();
        let (public, private) = (gateway.get("/up", None), gateway.get(ITEMS, Some("1|reader")));
        let Some(why) = case.why else {
            // The introspector echoes, which is a response but not a verdict.
            assert_eq!((public.status, private.status), (200, 503), "{}", case.name);
            assert_eq!((backend.requests().len(), introspector.requests().len()), (1, 1), "{}", case.name);
            continue;
        };
        assert_eq!((public.status, private.status), (502, 503), "{}", case.name);
        assert_eq!((backend.requests().len(), introspector.requests().len()), (0, 0), "{}", case.name);
        let told = |messages: &[&str]| {
            let line = gateway.wait_for_log(|line| messages.iter().any(|it| line["message"] == *it));
            let error = line["error"].as_str().unwrap_or_default();
            assert!(line["level"] == "WARN" && error.contains(why), "{}: {line}", case.name);
        };
        told(&BACKEND);
        told(&[INTROSPECTOR]);
    }
}

/// `check`, each start and each reload warn of disabled verification.
#[test]
fn disabled_verification_is_warned_of_at_every_start_and_reload() {
    let backend = Upstream::start_with_tls(Arc::unwrap_or_clone(Authority::new().server()));
    let tls = "backend:\n  tls: {danger_accept_any_certificate: true}\n";
    let env = TestEnv::builder().backend(backend).yaml(tls).start();
    let told = || {
        let text = "`backend.tls.danger_accept_any_certificate`: the server's certificate is not verified";
        env.gateway.logs().iter().filter(|line| line.contains(text) && line.contains("WARN")).count()
    };
    assert_eq!((env.gateway.get("/up", None).status, told()), (200, 1));
    assert!(env.gateway.reload());
    assert_eq!(told(), 2);
    let config = env.gateway.directory().join("gateway.yaml");
    assert!(check(&config).contains("warning: `backend.tls.danger_accept_any_certificate`"));
}

fn check(config: &Path) -> String {
    let output =
        std::process::Command::new(BINARY).arg("check").arg("--config").arg(config).output().unwrap();
    String::from_utf8(output.stderr).unwrap()
}

/// Idle connections keep the client certificate that they were opened with; new connections present the new one.
#[test]
fn changed_client_certificate_files_are_used_for_new_connections() {
    let (ours, strangers) = (Authority::new(), Authority::new());
    let pair = ours.issue(NAMES, |_| {});
    let directory = tempfile::tempdir().unwrap();
    let shown = strangers.issue(&["gateway"], |_| {}).write(directory.path());
    let env = TestEnv::builder()
        .backend(Upstream::start_with_tls(pair.server(ALL_VERSIONS, Some(&ours))))
        .yaml(&format!("backend:\n  tls: {}\n", as_client(&trusting(&ours), &shown)))
        .start();
    assert_eq!(env.gateway.get("/up", None).status, 502);
    let before = env.gateway.reloads().len();
    ours.issue(&["gateway"], |_| {}).write(directory.path());
    // The files may be read between the two writes.
    assert!(env.gateway.wait_for_reload(before) || env.gateway.wait_for_reload(before + 1));
    assert_eq!(env.gateway.get("/up", None).status, 200);
}
