//! WebSocket tunnels: handshakes, authorization and lifetime.

mod authorization; // how tokens, revocations and reloads close open tunnels
mod handshake; // which requests open a tunnel
mod lifetime; // how tunnels end, and what they hold
mod limits; // `limits.tunnels` and `limits.tunnels_per_token`

use crate::support::env::TestEnvBuilder;
use crate::support::manual_backend::{BackendConnection, ManualBackend};
use crate::support::{RawClient, Request, TestEnv};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const MAP: &str = "\
abilities:
  routes:
    /open:         {GET: public}
    /events:       {GET: items:read}
    /api/v2/items: {GET: items:read, POST: items:create}
";

const FRAME: &[u8] = b"\x81\x05hello\r\n\r\n\0";

fn start(yaml: &str) -> TestEnv<ManualBackend> {
    builder(yaml).start()
}

fn builder(yaml: &str) -> TestEnvBuilder<ManualBackend> {
    let builder = TestEnv::builder().backend(ManualBackend::start()).yaml(MAP).yaml(yaml);
    builder.token("1|reader", &["items:read"]).token("2|creator", &["items:create"])
}

impl TestEnv<ManualBackend> {
    /// A tunnel from a client to the backend.
    fn tunnel(&mut self, target: &str, token: Option<&str>) -> (RawClient, BackendConnection) {
        let (client, backend, _) = self.tunnel_after(handshake(target, token));
        (client, backend)
    }

    fn tunnel_after(&mut self, handshake: String) -> (RawClient, BackendConnection, Request) {
        let mut client = self.gateway.client();
        client.send(handshake);
        let (mut backend, request) = self.backend.request();
        backend.send(SWITCHED);
        assert_eq!(client.response().status, 101);
        (client, backend, request)
    }

    /// The access line of the only tunnel.
    fn tunnel_line(&self) -> serde_json::Value {
        self.gateway.wait_for_log(|line| line["message"] == "request" && line["status"] == 101)
    }
}

fn handshake(target: &str, token: Option<&str>) -> String {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!(
        "GET {target} HTTP/1.1\r\nHost: stockaj.example\r\n{authorization}Connection: keep-alive, Upgrade\r\n\
         Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

fn assert_tunnel_works(client: &mut RawClient, backend: &mut BackendConnection) {
    client.send(FRAME);
    assert_eq!(backend.read(FRAME.len()), FRAME);
    backend.send(FRAME);
    assert_eq!(read(client, FRAME.len()), FRAME);
}

fn read(client: &mut RawClient, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let some = client.read_some();
        assert!(!some.is_empty(), "closed after {bytes:?}");
        bytes.extend(some);
    }
    bytes
}
