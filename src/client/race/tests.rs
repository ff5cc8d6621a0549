use std::net::{Ipv4Addr, TcpListener};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

use super::*;

/// A loopback port that drops connection attempts: a listener whose accept queue is full, so the kernel ignores SYNs.
struct BlackHole {
    listener: Socket,
    _waiting: Vec<Socket>,
}

impl BlackHole {
    fn at(address: Ipv4Addr, port: u16) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::new(address.into(), port).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        // Connect until an attempt is left unanswered.
        loop {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            if client.connect_timeout(&address, Duration::from_millis(100)).is_err() {
                break;
            }
            waiting.push(client);
            assert!(waiting.len() < 1000);
        }
        Self { listener, _waiting: waiting }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().as_socket().unwrap().port()
    }
}

const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const THIRD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

fn all(addresses: &[Ipv4Addr]) -> Vec<IpAddr> {
    addresses.iter().copied().map(IpAddr::V4).collect()
}

async fn run(
    addresses: &[Ipv4Addr],
    port: u16,
    limit: Duration,
) -> Result<WonRace<TcpStream>, Vec<FailedAttempt>> {
    race(all(addresses), port, None, Instant::now() + limit, TcpStream::connect).await
}

/// An open listener at `address`, with the port of a black hole.
fn listener(address: Ipv4Addr, port: u16) -> TcpListener {
    TcpListener::bind((address, port)).unwrap()
}

#[tokio::test]
async fn unresponsive_address_costs_the_attempt_delay() {
    let hole = BlackHole::at(FIRST, 0);
    let open = listener(SECOND, hole.port());
    let start = Instant::now();
    let won = run(&[FIRST, SECOND], hole.port(), Duration::from_secs(10)).await.unwrap();
    assert_eq!(won.address, open.local_addr().unwrap());
    assert!(start.elapsed() >= ATTEMPT_DELAY);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(won.beaten.is_empty(), "the same family");
}

#[tokio::test]
async fn short_deadline_is_shared_by_all_addresses() {
    let hole = BlackHole::at(FIRST, 0);
    let open = listener(SECOND, hole.port());
    let won = run(&[FIRST, SECOND], hole.port(), Duration::from_millis(240)).await.unwrap();
    assert_eq!(won.address, open.local_addr().unwrap());
}

#[tokio::test]
async fn refused_connection_starts_the_next_attempt_at_once() {
    let open = listener(THIRD, 0);
    let port = open.local_addr().unwrap().port();
    let start = Instant::now();
    let won = run(&[FIRST, SECOND, THIRD], port, Duration::from_secs(10)).await.unwrap();
    assert_eq!(won.address, open.local_addr().unwrap());
    assert!(start.elapsed() < ATTEMPT_DELAY, "{:?}", start.elapsed());
}

#[tokio::test]
async fn failures_name_every_address() {
    let hole = BlackHole::at(FIRST, 0);
    let start = Instant::now();
    let failed = run(&[FIRST, SECOND, THIRD], hole.port(), Duration::from_millis(600)).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let mut kinds: Vec<_> = failed.iter().map(|it| (it.address.ip(), it.error.kind())).collect();
    kinds.sort_by_key(|(address, _)| *address);
    let expected = [
        (FIRST, io::ErrorKind::TimedOut),
        (SECOND, io::ErrorKind::ConnectionRefused),
        (THIRD, io::ErrorKind::ConnectionRefused),
    ];
    assert_eq!(kinds, expected.map(|(address, kind)| (IpAddr::V4(address), kind)));
}

/// A slow attempt continues after the next one starts, and may still win.
#[tokio::test]
async fn earlier_attempt_can_win_after_a_later_one_started() {
    let hole = BlackHole::at(SECOND, 0);
    let port = hole.port();
    let connect = async |address: SocketAddr| {
        if address.ip() == IpAddr::V4(FIRST) {
            tokio::time::sleep(2 * ATTEMPT_DELAY).await;
            return Ok("slow");
        }
        TcpStream::connect(address).await.map(|_| "blackholed")
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    let connect = |address| -> Pin<Box<dyn Future<Output = io::Result<&'static str>> + Send>> {
        Box::pin(connect(address))
    };
    let won = race(all(&[FIRST, SECOND]), port, None, deadline, connect).await.unwrap();
    assert_eq!((won.stream, won.address.ip()), ("slow", IpAddr::V4(FIRST)));
}

/// Connections that lost the race are closed.
#[tokio::test]
async fn losing_attempts_are_closed() {
    let hole = BlackHole::at(FIRST, 0);
    let _open = listener(SECOND, hole.port());
    let won = run(&[FIRST, SECOND], hole.port(), Duration::from_secs(10)).await.unwrap();
    let port = won.stream.peer_addr().unwrap().port();
    let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    // No socket of this process may be in SYN_SENT (02) to 127.0.0.2.
    let syn_sent = format!("0200007F:{port:04X} 02");
    assert!(!sockets.contains(&syn_sent), "{sockets}");
}

#[test]
fn addresses_of_both_families_alternate() {
    let [a, b, c] = [FIRST, SECOND, THIRD].map(IpAddr::V4);
    let [d, e] = ["fd00::1", "fd00::2"].map(|text| text.parse::<IpAddr>().unwrap());
    assert_eq!(interleave(vec![d, e], vec![a, b, c]), [d, a, e, b, c]);
    assert_eq!(interleave(vec![], vec![a, b]), [a, b]);
    assert_eq!(interleave(vec![d], vec![]), [d]);
}
