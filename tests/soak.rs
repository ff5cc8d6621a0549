//! Floods of random tokens and many connections: memory use, and the effect on other clients.
//!
//! The tests take about a minute and need the machine to themselves: `tests/run --soak`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConnection, StreamOwned};

use crate::support::{Answer, Authority, Gateway, TestEnv, Upstream};

const ITEMS: &str = "/api/v2/items";
const KNOWN: &str = "1|reader";
const MIB: u64 = 1 << 20;

fn start(yaml: &str) -> TestEnv {
    TestEnv::builder().token(KNOWN, &["items:read"]).yaml("log: {access: false}\n").yaml(yaml).start()
}

fn random_token() -> String {
    let secret: String = (0..40).map(|_| fastrand::alphanumeric()).collect();
    format!("{}|{secret}", fastrand::u32(..))
}

/// Sends `count` random tokens over a few connections.
fn flood(gateway: &Gateway, count: usize) {
    const CLIENTS: usize = 8;
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = gateway.client();
                for _ in 0..count / CLIENTS {
                    assert_eq!(client.get(ITEMS, Some(&random_token())).status, 401);
                }
            });
        }
    });
}

/// The sorted latencies of sequential requests with the known token until `end` returns true.
fn known_token_until(gateway: &Gateway, end: impl Fn() -> bool) -> Vec<Duration> {
    let mut client = gateway.client();
    let mut took = Vec::new();
    while !end() {
        let began = Instant::now();
        assert_eq!(client.get(ITEMS, Some(KNOWN)).status, 200);
        took.push(began.elapsed());
        thread::sleep(Duration::from_millis(1));
    }
    took.sort();
    took
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
#[ignore = "soak: 200,000 introspections"]
fn random_tokens_leave_memory_bounded_and_a_cached_token_undisturbed() {
    // Longer lifetimes than the defaults, so that only the bound on entries can limit memory.
    let TestEnv { gateway, backend: upstream, introspector } =
        start("cache: {ttl: 1h, negative_ttl: 1h, max_tokens: 50000}");
    assert_eq!(gateway.get(ITEMS, Some(KNOWN)).status, 200);
    let done = AtomicBool::new(false);
    let [before, half, full, twice] = thread::scope(|scope| {
        scope.spawn(|| known_token_until(&gateway, || done.load(Ordering::Relaxed)));
        let measure = |count| {
            flood(&gateway, count);
            gateway.resident_memory()
        };
        let measured = [gateway.resident_memory(), measure(50_000), measure(50_000), measure(100_000)];
        done.store(true, Ordering::Relaxed);
        measured
    });
    println!(
        "resident memory in MiB: {} before, {} after 50,000 random tokens (the bound), {} after 100,000, {} after 200,000",
        before / MIB,
        half / MIB,
        full / MIB,
        twice / MIB
    );
    assert_eq!(introspector.calls_for(KNOWN), 1, "a cached token stays cached");
    assert!(upstream.requests().iter().all(|request| request.bearer() == Some(KNOWN)));
    let entries = gateway.metrics().metric("token_cache_entries{kind=\"inactive\"}");
    assert!((1.0..=50_000.0).contains(&entries), "{entries}");
    assert!(half - before < 64 * MIB, "{} MiB", (half - before) / MIB);
    assert!(twice.saturating_sub(half) < 16 * MIB, "{} MiB more", (twice - half) / MIB);
}

#[test]
#[ignore = "soak: a flood of 60 s"]
fn token_flood_with_a_slow_introspector_does_not_delay_a_cached_token() {
    const BOUND: usize = 32;
    const CLIENTS: usize = 400;
    // More than the introspector can serve within the time that a request waits for it, but few enough per second that
    // the test does not measure how the machine is shared.
    const PAUSE: Duration = Duration::from_millis(400);
    let slow = Duration::from_millis(200);
    let TestEnv { gateway, backend: _backend, introspector } =
        start(&format!("cache: {{ttl: 5s}}\nintrospection:\n  max_concurrent: {BOUND}\n"));
    introspector.delay(slow);
    assert_eq!(gateway.get(ITEMS, Some(KNOWN)).status, 200);
    let until = |end: Instant| move || Instant::now() >= end;
    let calm = known_token_until(&gateway, until(Instant::now() + Duration::from_secs(20)));
    let before = gateway.resident_memory();
    let end = Instant::now() + Duration::from_secs(60);
    let (inactive, overloaded) = (AtomicU64::new(0), AtomicU64::new(0));
    let flooded = thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = gateway.client();
                while Instant::now() < end {
                    match client.get(ITEMS, Some(&random_token())).status {
                        401 => inactive.fetch_add(1, Ordering::Relaxed),
                        503 => overloaded.fetch_add(1, Ordering::Relaxed),
                        status => panic!("{status} for a random token"),
                    };
                    thread::sleep(PAUSE.mul_f64(2.0 * fastrand::f64()));
                }
            });
        }
        known_token_until(&gateway, until(end))
    });
    let grown = gateway.resident_memory().saturating_sub(before);
    let most = introspector.most_concurrent();
    println!(
        "flood of 60 s: {inactive:?} inactive, {overloaded:?} overloaded, {most} introspections at most, {} KiB more memory\n\
         known token, p50 and p99: calm {:?} {:?}, flooded {:?} {:?} (slowest {:?}, of {})",
        grown / 1024,
        percentile(&calm, 50),
        percentile(&calm, 99),
        percentile(&flooded, 50),
        percentile(&flooded, 99),
        flooded[flooded.len() - 1],
        flooded.len()
    );
    // Unknown tokens fill three quarters of the introspections; the refresh of the known token is one more.
    let strangers = BOUND - BOUND / 4;
    assert!((strangers..=strangers + 1).contains(&most), "{most}");
    assert!(grown < 16 * MIB, "{grown} bytes more");
    let calm = percentile(&calm, 99);
    assert!(percentile(&flooded, 99) < 2 * calm, "{:?}, calm {calm:?}", percentile(&flooded, 99));
}

/// The client's end of an idle connection, with one file descriptor where [`crate::support::RawClient`] has two.
fn tls_connection(gateway: &Gateway, authority: &Authority) -> StreamOwned<ClientConnection, TcpStream> {
    let connection = ClientConnection::new(authority.client(), "localhost".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(gateway.address()).unwrap());
    stream.write_all(b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = [0; 13];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 ");
    stream
}

#[test]
#[ignore = "soak: 10,000 TLS connections"]
fn idle_tls_connections_hold_little_memory() {
    const CONNECTIONS: usize = 10_000;
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let authority = Arc::new(Authority::new());
    let env = TestEnv::builder()
        .backend(Upstream::answering(|_| Answer::with(200, &[], "")))
        .tls(&authority)
        .yaml("limits: {connections: 20000, idle_timeout: 10m}\nlog: {access: false}\n")
        .start();
    drop(tls_connection(&env.gateway, &authority));
    let before = env.gateway.resident_memory();
    let connections: Vec<_> = thread::scope(|scope| {
        let connect =
            || (0..CONNECTIONS / 4).map(|_| tls_connection(&env.gateway, &authority)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(connect)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    env.gateway.wait_for_metric("client_connections{state=\"idle\"}", CONNECTIONS as f64);
    let each = (env.gateway.resident_memory() - before) / CONNECTIONS as u64;
    println!("{CONNECTIONS} idle TLS connections: {} before, {each} bytes each", before / MIB);
    drop(connections);
    assert!(each < 64 * 1024, "{each} bytes each");
}
