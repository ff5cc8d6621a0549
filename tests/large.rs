//! Large bodies with a slow peer: bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::manual_backend::{BackendConnection, ManualBackend};
use crate::support::{Authority, RawClient, TestEnv};

const MIB: u64 = 1 << 20;
const PIECE: usize = 64 * 1024;
/// Pieces start at different offsets of one pattern, so that each is identified by its index.
const SHIFTS: usize = 251;

/// Large requests and responses through a gateway.
struct Transfers {
    env: TestEnv<ManualBackend>,
    pattern: Vec<u8>,
}

impl Transfers {
    fn start(tls: bool) -> Self {
        let mut builder = TestEnv::builder()
            .backend(ManualBackend::start())
            .yaml("limits: {body: 1024GiB}\nlog: {access: false}\n");
        if tls {
            builder = builder.tls(&Arc::new(Authority::new()));
        }
        let pattern = (0..PIECE + SHIFTS).map(|_| fastrand::u8(..)).collect();
        Self { env: builder.start(), pattern }
    }

    fn piece(&self, number: u64) -> &[u8] {
        let shift = (number % SHIFTS as u64) as usize;
        &self.pattern[shift..shift + PIECE]
    }

    /// Sends `pieces` from one side to the other, with a slow receiver for the time `slow`. Returns the peak of the
    /// gateway's memory in bytes.
    fn pass(
        &self,
        pieces: u64,
        slow: Duration,
        mut send: impl FnMut(&[u8]) + Send,
        mut receive: impl FnMut(&mut [u8]),
    ) -> u64 {
        let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| (0..pieces).for_each(|number| send(self.piece(number))));
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    most.fetch_max(self.env.gateway.resident_memory(), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let began = Instant::now();
            let mut came = vec![0; PIECE];
            for number in 0..pieces {
                if began.elapsed() < slow {
                    thread::sleep(Duration::from_millis(10));
                }
                receive(&mut came);
                // Not `assert_eq`, which would print them.
                assert!(came == self.piece(number), "piece {number}");
            }
            done.store(true, Ordering::Relaxed);
        });
        most.into_inner()
    }

    fn upload(&mut self, pieces: u64, slow: Duration) -> u64 {
        let mut client = self.env.gateway.client();
        client.send(format!(
            "POST /api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\nContent-Length: {}\r\n\r\n",
            pieces * PIECE as u64
        ));
        let (mut backend, _) = self.env.backend.request();
        let most = self.pass(
            pieces,
            slow,
            |piece| {
                client.send(piece);
            },
            |came| backend.read_exact(came),
        );
        end(client, backend, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        most
    }

    fn download(&mut self, pieces: u64, slow: Duration) -> u64 {
        let mut client = self.env.gateway.client();
        client.send("GET /api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n");
        let (mut backend, _) = self.env.backend.request();
        backend.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", pieces * PIECE as u64));
        client.read_head();
        self.pass(
            pieces,
            slow,
            |piece| {
                backend.send(piece);
            },
            |came| client.read_exact(came),
        )
    }
}

fn end(mut client: RawClient, mut backend: BackendConnection, answer: &str) {
    backend.send(answer);
    assert_eq!(client.response().text(), "done");
}

#[test]
fn large_body_does_not_grow_memory() {
    for tls in [false, true] {
        let mut transfers = Transfers::start(tls);
        let pieces = if tls { 16 } else { 64 } * MIB / PIECE as u64;
        let slow = Duration::from_millis(500);
        // The minimum that TLS and the allocator need.
        transfers.upload(16, Duration::ZERO);
        transfers.download(16, Duration::ZERO);
        let before = transfers.env.gateway.resident_memory();
        let (up, down) = (transfers.upload(pieces, slow), transfers.download(pieces, slow));
        for most in [up, down] {
            let grown = most.saturating_sub(before);
            assert!(grown < 4 * MIB, "{} KiB more, TLS {tls}", grown / 1024);
        }
    }
}

#[test]
#[ignore = "soak: 5 GiB each way"]
fn five_gibibytes_each_way_stay_under_64_mib() {
    let mut transfers = Transfers::start(false);
    let pieces = 5 * 1024 * MIB / PIECE as u64;
    let slow = Duration::from_secs(10);
    let mut timed = |what: &str, pass: fn(&mut Transfers, u64, Duration) -> u64| {
        let began = Instant::now();
        let most = pass(&mut transfers, pieces, slow);
        println!("{what} of 5 GiB: {:.1} MiB at most, {:?}", most as f64 / MIB as f64, began.elapsed());
        assert!(most < 64 * MIB, "{most} bytes");
    };
    timed("upload", Transfers::upload);
    timed("download", Transfers::download);
}
