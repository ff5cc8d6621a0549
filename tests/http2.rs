//! HTTP/2 from clients: translation, limits, memory and conformance.

mod conformance; // the cases of h2spec
mod dropped; // what h2 drops of a head, in every encoding and among other requests
mod life; // how long connections and streams live, and how they end
mod limits; // how much, how many and how often
mod memory; // what clients make the gateway hold
mod translation; // what reaches the backend and what comes back, to the byte

use crate::support::http2::Http2Client;

use crate::support::TestEnv;

/// A gateway of clients that know beforehand that it speaks HTTP/2.
fn h2c(yaml: &str) -> TestEnv {
    TestEnv::start(&format!("listen:\n  h2c: true\n{yaml}"))
}

fn client(env: &TestEnv) -> Http2Client {
    Http2Client::connect(env.gateway.address())
}
