//! HTTP/2 from clients: translation, limits, memory and conformance.

mod conformance; // the cases of h2spec
mod dropped; // heads with fields that h2 drops, in every encoding and between other requests
mod life; // lifetime of connections and streams
mod limits; // sizes, counts and rates
mod memory; // memory that the gateway holds for clients
mod translation; // translation to the backend's HTTP/1.1 and back, byte by byte

use crate::support::http2::Http2Client;

use crate::support::TestEnv;

/// A gateway for clients with prior knowledge of HTTP/2.
fn h2c(yaml: &str) -> TestEnv {
    TestEnv::start(&format!("listen:\n  h2c: true\n{yaml}"))
}

fn client(env: &TestEnv) -> Http2Client {
    Http2Client::connect(env.gateway.address())
}
