//! Reloads, renewed certificates and restarts under load: no request fails.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::http2::{Http2Client, Outcome};
use crate::support::{Authority, Gateway, Introspector, RawClient, Response, Upstream, WRITER};

const ITEMS: &str = "/api/v2/items";
const BODY: &[u8] = b"{\"name\": \"Ladder\"}";
/// The number of each event that no client may notice.
const ROUNDS: usize = 20;
/// The minimum duration of the load.
const LOAD: Duration = Duration::from_secs(32);

/// The outcomes of all requests.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    served: AtomicU64,
    last_answers: AtomicU64,
    failed: Mutex<Vec<String>>,
}

impl Tally {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Records a response; returns whether its connection stays open.
    fn note(&self, client: &str, answer: Result<Response, String>) -> bool {
        let why = match answer {
            Ok(response)
                if response.status == 200
                    && response.json()["body"].as_str() == Some("{\"name\": \"Ladder\"}") =>
            {
                self.served.fetch_add(1, Ordering::Relaxed);
                let is_last = response.field("connection") == Some("close");
                self.last_answers.fetch_add(u64::from(is_last), Ordering::Relaxed);
                return !is_last;
            }
            Ok(response) => format!("{client}: {} {}", response.status, response.text()),
            Err(error) => format!("{client}: {error}"),
        };
        self.failed.lock().unwrap().push(why);
        false
    }
}

/// The target of the load.
#[derive(Clone, Copy)]
struct Target<'a> {
    address: SocketAddr,
    authority: Option<&'a Authority>,
}

impl Target<'_> {
    fn connect(&self) -> RawClient {
        match self.authority {
            Some(authority) => RawClient::connect_tls(self.address, authority),
            None => RawClient::connect(self.address),
        }
    }

    /// Sends requests over one connection for as long as the responses keep it open.
    fn request_repeatedly(&self, name: &str, tally: &Tally, pause: Duration) {
        let mut kept = None;
        while !tally.is_over() {
            let client = kept.get_or_insert_with(|| self.connect());
            let answer =
                client.try_request("POST", ITEMS, &[WRITER], BODY).map_err(|error| error.to_string());
            if !tally.note(name, answer) {
                kept = None;
            }
            thread::sleep(pause.mul_f64(2.0 * fastrand::f64()));
        }
    }

    /// Sends each request over a new connection.
    fn request_on_new_connections(&self, name: &str, tally: &Tally, pause: Duration) {
        while !tally.is_over() {
            let fields = [WRITER, ("Connection", "close")];
            let answer = self.connect().try_request("POST", ITEMS, &fields, BODY);
            tally.note(name, answer.map_err(|error| error.to_string()));
            thread::sleep(pause.mul_f64(2.0 * fastrand::f64()));
        }
    }

    /// Sends HTTP/2 requests over one connection until it receives GOAWAY.
    fn request_repeatedly_over_http2(&self, name: &str, tally: &Tally, pause: Duration) {
        let Some(authority) = self.authority else { return };
        let mut kept = None;
        while !tally.is_over() {
            let client = kept.get_or_insert_with(|| Http2Client::connect_tls(self.address, authority));
            let fields = [("authorization", WRITER.1)];
            let answer = match client.request("POST", ITEMS, &fields, BODY) {
                Outcome::Answer(response) => Ok(response),
                other => Err(format!("{other:?}")),
            };
            if !tally.note(name, answer) || client.away().is_some() {
                kept = None;
            }
            thread::sleep(pause.mul_f64(2.0 * fastrand::f64()));
        }
    }
}

/// A certificate volume as Kubernetes updates it: the symlink `..data` points to one of two directories.
struct Volume {
    directory: tempfile::TempDir,
    shown: usize,
}

const VERSIONS: [&str; 2] = ["..first", "..second"];

impl Volume {
    fn new(authority: &Authority) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for version in VERSIONS {
            let within = directory.path().join(version);
            std::fs::create_dir(&within).unwrap();
            let issued = authority.issue(&["localhost"], |_| {});
            std::fs::write(within.join("tls.crt"), issued.certificate).unwrap();
            std::fs::write(within.join("tls.key"), issued.private_key).unwrap();
        }
        symlink(VERSIONS[0], directory.path().join("..data")).unwrap();
        for name in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(name), directory.path().join(name)).unwrap();
        }
        Self { directory, shown: 0 }
    }

    fn swap(&mut self) {
        self.shown = 1 - self.shown;
        let at = |name| self.directory.path().join(name);
        symlink(VERSIONS[self.shown], at("..new")).unwrap();
        std::fs::rename(at("..new"), at("..data")).unwrap();
    }

    fn yaml(&self) -> String {
        let at = |name| self.directory.path().join(name).display().to_string();
        format!("listen:\n  tls: {{certificate: {}, private_key: {}}}\n", at("tls.crt"), at("tls.key"))
    }
}

fn count(gateway: &Gateway, message: &str) -> usize {
    gateway.logs().iter().filter(|line| line.contains(message)).count()
}

fn certificate_swaps(gateway: &Gateway) -> usize {
    count(gateway, "certificate reloaded")
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Acts as systemd with one socket for successive gateways. Returns the count of each event, and the last gateway.
fn play(
    mut start: impl FnMut() -> Gateway,
    mut volume: Option<Volume>,
    upstream: &Upstream,
) -> ([usize; 3], Gateway) {
    let began = Instant::now();
    let [mut reloads, mut swaps, mut restarts] = [0; 3];
    let mut gateway = start();
    for round in 0..ROUNDS {
        upstream.forget_requests();
        let (from, to) = if round % 2 == 0 { ("/up:", "/upp:") } else { ("/upp:", "/up:") };
        let text = std::fs::read_to_string(gateway.directory().join("gateway.yaml")).unwrap();
        let (from, to) = if text.contains(from) { (from, to) } else { (to, from) };
        let (reloads_before, swaps_before) = (gateway.reloads().len(), certificate_swaps(&gateway));
        gateway.edit(from, to);
        if let Some(volume) = &mut volume {
            volume.swap();
        }
        // Every other reload is triggered by SIGHUP, the rest by watching the files.
        if round % 2 == 0 {
            gateway.signal(Signal::HUP);
        }
        assert!(gateway.wait_for_reload(reloads_before));
        reloads += 1;
        if volume.is_some() {
            wait_until("the certificate is not taken over", || certificate_swaps(&gateway) > swaps_before);
            swaps += 1;
        }
        match round {
            // Starts the next gateway, then terminates this one.
            6 | 18 => {
                let mut before = std::mem::replace(&mut gateway, start());
                before.signal(Signal::TERM);
                assert_eq!(before.wait_exit(Duration::from_secs(20)).code(), Some(0));
                assert_eq!(count(&before, "drain timed out"), 0);
                restarts += 1;
            }
            // In reverse order: clients that connect in between wait in the socket.
            12 => {
                gateway.signal(Signal::TERM);
                assert_eq!(gateway.wait_exit(Duration::from_secs(20)).code(), Some(0));
                assert_eq!(count(&gateway, "drain timed out"), 0);
                gateway = start();
                restarts += 1;
            }
            _ => {}
        }
        let rest = LOAD.mul_f64((round + 1) as f64 / ROUNDS as f64).saturating_sub(began.elapsed());
        thread::sleep(rest);
    }
    ([reloads, swaps, restarts], gateway)
}

/// Runs the load and the events, and returns the outcomes of both.
fn count_under_load(authority: Option<&Authority>) {
    let upstream = Upstream::start();
    let introspector = Introspector::with_tokens([("1|writer", &["*"][..])]);
    let volume = authority.map(Volume::new);
    let tls = volume.as_ref().map(Volume::yaml).unwrap_or_default();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&socket).listen(4096).unwrap();
    let target = Target { address: socket.local_addr().unwrap(), authority };
    let start = || {
        Gateway::builder()
            .backend(&upstream)
            .introspector(&introspector)
            .yaml(&format!("log: {{access: false}}\n{tls}"))
            .inheriting(socket.try_clone().unwrap())
            .start()
    };
    let (tally, began) = (Tally::default(), Instant::now());
    let (tally, target) = (&tally, &target);
    let played = thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                target.request_repeatedly(&format!("kept {number}"), tally, Duration::from_millis(4))
            });
            scope.spawn(move || {
                target.request_on_new_connections(
                    &format!("fresh {number}"),
                    tally,
                    Duration::from_millis(20),
                )
            });
            // Idle when the drain begins; sends requests while it lasts.
            scope.spawn(move || {
                target.request_repeatedly(&format!("slow {number}"), tally, Duration::from_millis(200))
            });
            scope.spawn(move || {
                target.request_repeatedly_over_http2(
                    &format!("h2 {number}"),
                    tally,
                    Duration::from_millis(10),
                )
            });
        }
        let played =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(start, volume, &upstream)));
        tally.over.store(true, Ordering::Relaxed);
        played
    });
    let ([reloads, swaps, restarts], _gateway) = match played {
        Ok(played) => played,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let (served, last) = (tally.served.load(Ordering::Relaxed), tally.last_answers.load(Ordering::Relaxed));
    let failed = tally.failed.lock().unwrap();
    println!(
        "{} for {:.1} s: {reloads} reloads, {swaps} certificate swaps, {restarts} restarts; {served} requests served, {} failed, {last} last answers",
        if authority.is_some() { "TLS and HTTP/2" } else { "plain HTTP" },
        began.elapsed().as_secs_f64(),
        failed.len(),
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!((reloads, swaps, restarts), (ROUNDS, if authority.is_some() { ROUNDS } else { 0 }, 3));
    assert!(began.elapsed() >= LOAD && served > 5000, "{served}");
    // Connections were reused, and closed by `Connection: close`.
    assert!(last >= 3, "{last}");
}

#[test]
#[ignore = "load: 32 s of it: tests/run"]
fn reloads_certificates_and_restarts_drop_no_request() {
    let authority = Authority::new();
    thread::scope(|scope| {
        scope.spawn(|| count_under_load(None));
        scope.spawn(|| count_under_load(Some(&authority)));
    });
}
