//! Attacks on a real nginx and php-fpm with eight workers: other callers notice nothing of them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::bearer;
use crate::support::http2::{Http2Client, INITIAL_WINDOW_SIZE};
use crate::support::ports::free_address;
use crate::support::{KillOnDrop, PATIENCE, TestEnv, stalled};

const MAP: &str = "\
listen:
  h2c: true
backend:
  max_connections: 8
abilities:
  routes:
    /file:         {GET: public}
    /large:        {GET: public}
    /events:       {GET: items:read}
    /api/v2/items: {GET: items:read, POST: items:read}
";

const ATTACKER: &str = "1|attacker";

/// Time of each measurement.
const MEASURED: Duration = Duration::from_secs(8);

/// Smallest percentile that is compared: below it the scheduler of a loaded machine decides.
const FLOOR: Duration = Duration::from_millis(50);

/// Serialises the tests: each measures times.
static ALONE: Mutex<()> = Mutex::new(());

/// nginx, php-fpm, and a server of WebSockets.
struct Site {
    _processes: Vec<KillOnDrop>,
    _directory: tempfile::TempDir,
    address: SocketAddr,
}

impl Site {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (address, sockets) = (free_address(), serve_websockets());
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fair_sharing");
        for name in ["nginx.conf", "php-fpm.conf", "index.php"] {
            let text = fs::read_to_string(source.join(name)).unwrap();
            let text = text.replace("@DIRECTORY@", directory.path().to_str().unwrap());
            let text = text.replace("@PORT@", &address.port().to_string());
            fs::write(directory.path().join(name), text.replace("@SOCKETS@", &sockets.port().to_string()))
                .unwrap();
        }
        let run = |program: PathBuf, arguments: &[&str]| {
            // The kernel kills the servers if the test is killed.
            let mut command = Command::new("setpriv");
            command
                .args(["--pdeathsig", "TERM", "--"])
                .arg(program)
                .args(arguments)
                .current_dir(directory.path());
            KillOnDrop(
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(),
            )
        };
        let path = |name: &str| directory.path().join(name).display().to_string();
        let processes = vec![
            run(php_fpm(), &["-R", "-F", "-y", &path("php-fpm.conf")]),
            run("nginx".into(), &["-e", "stderr", "-c", &path("nginx.conf")]),
        ];
        let end = Instant::now() + PATIENCE;
        while !is_up(address) {
            assert!(Instant::now() < end, "nginx and php-fpm did not start");
            thread::sleep(Duration::from_millis(20));
        }
        Self { _processes: processes, _directory: directory, address }
    }
}

fn php_fpm() -> PathBuf {
    let programs = fs::read_dir("/usr/sbin").unwrap().map(|entry| entry.unwrap().path());
    let is_fpm =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"));
    programs.into_iter().find(is_fpm).expect("php-fpm")
}

fn is_up(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut head = [0; 12];
    stream.write_all(b"GET /api/v2/items HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_exact(&mut head).is_ok()
        && &head == b"HTTP/1.1 200"
}

/// Accepts every handshake, and keeps the connection.
fn serve_websockets() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve_websocket(stream));
        }
    });
    address
}

fn serve_websocket(mut stream: TcpStream) {
    let mut head = [0; 4096];
    if stream.read(&mut head).is_ok() {
        let _ = stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
}

fn start(site: &Site) -> TestEnv<SocketAddr> {
    let mut builder = TestEnv::builder().backend(site.address).yaml(MAP).token(ATTACKER, &["items:read"]);
    for number in 0..4 {
        builder = builder.token(&other(number), &["items:read"]);
    }
    builder.start()
}

/// The tokens of the other callers.
fn other(number: usize) -> String {
    format!("{}|other", number + 10)
}

/// Four other callers, two over HTTP/1.1 and two over HTTP/2, one request after the other. Returns the 99th percentile.
fn serve_others(env: &TestEnv<SocketAddr>, failed: &AtomicUsize) -> Duration {
    let end = Instant::now() + MEASURED;
    let mut took: Vec<Duration> = thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn(move || {
                    let token = other(number);
                    let (mut http1, mut http2) =
                        (env.gateway.client(), Http2Client::connect(env.gateway.address()));
                    let mut took = Vec::new();
                    while Instant::now() < end {
                        let began = Instant::now();
                        let response = if number % 2 == 0 {
                            http1.get("/api/v2/items", Some(&token))
                        } else {
                            http2.get("/api/v2/items", Some(&token))
                        };
                        took.push(began.elapsed());
                        if response.status != 200 {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    took
                })
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    took.sort();
    let percentile = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!(
        "{} requests, p50 {:?}, p99 {:?}, slowest {:?}",
        took.len(),
        percentile(50),
        percentile(99),
        percentile(100)
    );
    percentile(99)
}

/// Measures other callers without an attack, and while `attack` runs until its flag is set.
fn assert_harmless(attack: impl Fn(&TestEnv<SocketAddr>, &AtomicBool) + Sync) {
    let _alone = ALONE.lock();
    let site = Site::start();
    let env = start(&site);
    let failed = AtomicUsize::new(0);
    let calm = serve_others(&env, &failed);
    let (done, attacked) = (AtomicBool::new(false), Mutex::new(Duration::ZERO));
    thread::scope(|scope| {
        scope.spawn(|| attack(&env, &done));
        thread::sleep(Duration::from_millis(300));
        *attacked.lock().unwrap() = serve_others(&env, &failed);
        done.store(true, Ordering::Relaxed);
    });
    let attacked = attacked.into_inner().unwrap();
    assert_eq!(failed.into_inner(), 0, "requests of other callers failed");
    assert!(attacked <= 3 * calm.max(FLOOR), "{attacked:?} under attack, {calm:?} without");
}

/// Keeps `count` connections that have sent `head`, and replaces those that get an answer or are closed.
fn hold(env: &TestEnv<SocketAddr>, done: &AtomicBool, count: usize, head: &str) {
    let mut held: Vec<TcpStream> = Vec::new();
    while !done.load(Ordering::Relaxed) {
        held.retain_mut(|stream| {
            stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        });
        while held.len() < count {
            let Ok(mut stream) = TcpStream::connect(env.gateway.address()) else { break };
            let _ = stream.write_all(head.as_bytes());
            stream.set_nonblocking(true).unwrap();
            held.push(stream);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// A connection with 100 streams that is replaced every 3 s; `open` opens one stream.
fn hold_streams(env: &TestEnv<SocketAddr>, done: &AtomicBool, open: impl Fn(&mut Http2Client)) {
    while !done.load(Ordering::Relaxed) {
        let mut client = Http2Client::silent(env.gateway.address());
        client.greet(&[(INITIAL_WINDOW_SIZE, 0)]);
        (0..100).for_each(|_| open(&mut client));
        for _ in 0..30 {
            if !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn assert_unread_streams_are_harmless(path: &str) {
    assert_harmless(|env, done| {
        hold_streams(env, done, |client| {
            client.ask("GET", path, &[]);
        });
    });
}

#[test]
#[ignore = "needs laravel: tests/run"]
fn unread_small_responses_over_http2_starve_nobody() {
    assert_unread_streams_are_harmless("/file");
}

#[test]
#[ignore = "needs laravel: tests/run"]
fn unread_large_responses_over_http2_starve_nobody() {
    assert_unread_streams_are_harmless("/large");
}

#[test]
#[ignore = "needs laravel: tests/run"]
fn unread_responses_over_http1_starve_nobody() {
    assert_harmless(|env, done| {
        // They get an answer, which they do not read.
        let mut held = Vec::new();
        while !done.load(Ordering::Relaxed) {
            held.retain(|stream: &TcpStream| stream.take_error().is_ok_and(|error| error.is_none()));
            if held.len() < 50 {
                let mut stream = stalled::connect(env.gateway.address());
                let _ = stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
                held.push(stream);
            } else {
                held.remove(0);
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
#[ignore = "needs laravel: tests/run"]
fn slow_uploads_over_http1_starve_nobody() {
    let head = format!(
        "POST /api/v2/items HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n{}\r\nx",
        bearer(ATTACKER)
    );
    assert_harmless(|env, done| hold(env, done, 50, &head));
}

#[test]
#[ignore = "needs laravel: tests/run"]
fn slow_uploads_over_http2_starve_nobody() {
    let authorization = format!("Bearer {ATTACKER}");
    assert_harmless(|env, done| {
        hold_streams(env, done, |client| {
            let fields = [("authorization", authorization.as_str())];
            let stream =
                client.open(&crate::support::http2::request("POST", "/api/v2/items", &fields), false);
            client.data(stream, b"x", false);
        });
    });
}

#[test]
#[ignore = "needs laravel: tests/run"]
fn websockets_starve_nobody() {
    let head = format!(
        "GET /events HTTP/1.1\r\nHost: a\r\n{}Connection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        bearer(ATTACKER)
    );
    assert_harmless(|env, done| {
        let mut held: Vec<TcpStream> = Vec::new();
        while !done.load(Ordering::Relaxed) {
            while held.len() < 16 {
                let mut stream = TcpStream::connect(env.gateway.address()).unwrap();
                stream.write_all(head.as_bytes()).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                held.push(stream);
            }
            held.retain_mut(|stream| {
                let mut start = [0; 12];
                let read = stream.peek(&mut start).unwrap_or(0);
                &start[..read] == b"HTTP/1.1 101"
            });
            thread::sleep(Duration::from_millis(100));
        }
        assert!(!held.is_empty() && held.len() <= 4, "{} tunnels", held.len());
    });
}
