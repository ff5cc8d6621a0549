//! The decision listener: what a proxy describes, what it is answered, and that the decision is that of the proxy
//! listener.

mod answers; // answers to the byte, over HTTP and by gRPC
mod calls; // calls of the gRPC service: malformed ones, and other methods
mod descriptions; // descriptions that are incomplete, ambiguous or not canonical
mod guide; // the abilities of the guide, in every style
mod listener; // who may ask, TLS, Unix sockets, reloads and drains
mod records;
mod resets; // that no client of a proxy can end its connection // limits, metrics, log, ledger, shadow mode, revocation and outages
mod traces; // trace context of described requests

use std::net::SocketAddr;

use crate::support::TestEnv;
use crate::support::decision::{Asker, Style};

/// A decision listener that answers this machine.
const DECISION: &str = "decision:\n  address: 127.0.0.1:0\n  trusted_proxies: [127.0.0.0/8]\n";

/// The same, for requests below `/decision`.
const PATH_PREFIX: &str =
    "decision:\n  address: 127.0.0.1:0\n  trusted_proxies: [127.0.0.0/8]\n  style: path_prefix\n";

/// The settings of the two styles.
const SETTINGS: [(&str, bool); 2] = [(DECISION, false), (PATH_PREFIX, true)];

const READER: &str = "2|reader";
const ITEMS: &str = "/api/v2/items";

fn start(yaml: &str) -> TestEnv {
    TestEnv::builder().token(READER, &["items:read"]).yaml(yaml).start()
}

impl TestEnv {
    /// The address of the decision listener.
    fn decision(&self) -> SocketAddr {
        self.gateway.wait_for_listener("decision")
    }

    fn asker(&self, style: Style) -> Asker {
        Asker::connect(self.decision(), style)
    }
}

/// Runs a test in every style, with these further sections.
fn in_every_style(yaml: &str, test: impl Fn(&TestEnv, Style)) {
    for (settings, path_prefix) in SETTINGS {
        let env = start(&format!("{settings}{yaml}"));
        for style in Style::all(path_prefix) {
            println!("{style:?}");
            test(&env, *style);
        }
    }
}
