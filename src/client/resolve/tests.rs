use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record, RecordType};

use super::*;

const ANSWER: Ipv4Addr = Ipv4Addr::new(127, 9, 8, 7);
const ANSWER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);

/// The name server's behaviour for a query.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    /// Answers with one address.
    Address,
    /// The same, after 20 ms.
    Slow,
    /// The same, after 300 ms.
    LateAnswer,
    /// The same, after 1.3 s.
    VeryLate,
    /// The name exists without such an address.
    Empty,
    NoSuchName,
    Fails,
    Refuses,
    Silent,
    /// A truncated response over UDP, the complete one over TCP.
    Truncated,
    /// A truncated response over UDP, none over TCP.
    TruncatedForGood,
}

/// A name server over UDP and TCP. In `A.AAAA.test`, the first label is its behaviour for A, the second for AAAA. It
/// has some other names; all others do not exist.
struct NameServer {
    port: u16,
    questions: Arc<AtomicUsize>,
}

impl NameServer {
    fn start() -> Self {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()) {
                break (Arc::new(socket), listener);
            }
        };
        let port = socket.local_addr().unwrap().port();
        let questions = Arc::new(AtomicUsize::new(0));
        let counter = questions.clone();
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                if question.queries[0].query_type() == RecordType::A {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                let count = counter.load(Ordering::Relaxed) as u8;
                let socket = Arc::clone(&socket);
                thread::spawn(move || {
                    if let Some(answer) = answer(&question, true, count) {
                        socket.send_to(&answer, peer).unwrap();
                    }
                });
            }
        });
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                        stream.read_exact(&mut question).unwrap();
                        let question = Message::from_vec(&question).unwrap();
                        if let Some(answer) = answer(&question, false, 0) {
                            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                            let _ = stream.write_all(&[&length[..], &answer].concat());
                        }
                    }
                });
            }
        });
        Self { port, questions }
    }

    fn system(&self, hosts: &str) -> System {
        self.searching(hosts, &[])
    }

    fn searching(&self, hosts: &str, search: &[&str]) -> System {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        connections.iter_mut().for_each(|connection| connection.port = self.port);
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, connections);
        let search = search.iter().map(|domain| Name::from_str_relaxed(domain).unwrap()).collect();
        let config = ResolverConfig::from_parts(None, search, vec![server]);
        System {
            files: files(),
            hosts: Arc::new(read_hosts(hosts.as_bytes())),
            name_servers: NameServers::new(config, ResolverOpts::default()),
        }
    }
}

fn behaviour(name: &str, record: RecordType) -> Behaviour {
    let is_a = record == RecordType::A;
    match name {
        "here.test." | "my_app." | "moving.test." if is_a => return Behaviour::Address,
        "here.test." | "my_app." | "empty.test." | "moving.test." => return Behaviour::Empty,
        "refused.test." => return Behaviour::Refuses,
        // One host has an address of each family in another search domain.
        "db.one.test." if is_a => return Behaviour::Address,
        "db.two.test." if !is_a => return Behaviour::Address,
        "db.one.test." | "db.two.test." => return Behaviour::Empty,
        _ => {}
    }
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let label = match labels[..] {
        [a, _, "test"] if is_a => a,
        [_, aaaa, "test"] => aaaa,
        [only, "test"] => only,
        _ => "",
    };
    match label {
        "address" => Behaviour::Address,
        "slow" => Behaviour::Slow,
        "late" => Behaviour::LateAnswer,
        "very-late" => Behaviour::VeryLate,
        "empty" => Behaviour::Empty,
        "fails" => Behaviour::Fails,
        "silent" => Behaviour::Silent,
        "truncated" => Behaviour::Truncated,
        "truncated-for-good" => Behaviour::TruncatedForGood,
        _ => Behaviour::NoSuchName,
    }
}

fn answer(question: &Message, is_udp: bool, count: u8) -> Option<Vec<u8>> {
    let query = question.queries[0].clone();
    let name = query.name().to_ascii();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.add_query(query.clone());
    let behaviour = behaviour(&name, query.query_type());
    let code = match behaviour {
        Behaviour::Silent => return None,
        Behaviour::TruncatedForGood if !is_udp => return None,
        Behaviour::NoSuchName => ResponseCode::NXDomain,
        Behaviour::Fails => ResponseCode::ServFail,
        Behaviour::Refuses => ResponseCode::Refused,
        _ => ResponseCode::NoError,
    };
    answer.metadata.response_code = code;
    let delay = match behaviour {
        Behaviour::Slow => 20,
        Behaviour::LateAnswer => 300,
        Behaviour::VeryLate => 1300,
        _ => 0,
    };
    thread::sleep(Duration::from_millis(delay));
    if matches!(behaviour, Behaviour::Truncated | Behaviour::TruncatedForGood) && is_udp {
        answer.metadata.truncation = true;
    } else if code == ResponseCode::NoError && behaviour != Behaviour::Empty {
        let (ttl, data) = match query.query_type() {
            RecordType::A if name == "moving.test." => (1, RData::A(A(Ipv4Addr::new(127, 9, 9, count)))),
            RecordType::A => (60, RData::A(A(ANSWER))),
            _ => (60, RData::AAAA(AAAA(ANSWER6))),
        };
        answer.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
    }
    Some(answer.to_vec().unwrap())
}

impl System {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.lookup(host).await.map(|found| found.addresses)
    }
}

fn blocking<T>(future: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[tokio::test]
async fn addresses_and_localhost_need_no_files() {
    let v4: IpAddr = [192, 0, 2, 1].into();
    for (host, expected) in [
        ("192.0.2.1", vec![v4]),
        ("2001:db8::1", vec!["2001:db8::1".parse().unwrap()]),
        ("localhost", vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        ("LocalHost.", vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        ("app.localhost", vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
    ] {
        assert_eq!(resolve(host).await.unwrap().addresses, expected, "{host}");
    }
    assert!(!is_localhost("localhost.example.com") && !is_localhost("notlocalhost"));
}

#[tokio::test]
async fn name_in_the_hosts_file_is_not_queried() {
    let server = NameServer::start();
    let system = server.system(
        "# 10.9.9.9 silent.test\n10.0.0.1\tsilent.test # 10.9.9.9 silent.test\nfd00::2 both.test\n\
         10.0.0.2 other Both.Test my_app\nfe80::1%lo0 both.test\nnonsense both.test\n10.0.0.3\n",
    );
    for (host, expected) in [
        ("silent.test", &["10.0.0.1"][..]),
        ("both.test", &["fd00::2", "10.0.0.2"]),
        ("BOTH.test.", &["fd00::2", "10.0.0.2"]),
        ("my_app", &["10.0.0.2"]),
    ] {
        let expected: Vec<IpAddr> = expected.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(system.addresses(host).await.unwrap(), expected, "{host}");
    }
    assert_eq!(server.questions.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn answers_of_name_servers_are_cached() {
    let server = NameServer::start();
    let system = server.system("");
    for _ in 0..3 {
        assert_eq!(system.addresses("here.test").await.unwrap(), [IpAddr::from(ANSWER)]);
    }
    assert_eq!(server.questions.load(Ordering::Relaxed), 1);
    assert_eq!(system.addresses("my_app").await.unwrap(), [IpAddr::from(ANSWER)]);
    let missing = system.lookup("missing.test").await.unwrap_err();
    assert!(matches!(missing, ResolveError::NoSuchName), "{missing}");
    let empty = system.lookup("empty.test").await.unwrap_err();
    assert!(matches!(empty, ResolveError::NoAddresses), "{empty}");
    let refused = system.lookup("refused.test").await.unwrap_err();
    assert!(matches!(refused, ResolveError::Lookup(_)), "{refused}");
    assert!(refused.to_string().contains("Refused"), "{refused}");
    let unspeakable = system.lookup(&"x".repeat(64)).await.unwrap_err();
    assert!(matches!(unspeakable, ResolveError::Name(_)), "{unspeakable}");
}

#[tokio::test]
async fn without_resolv_conf_only_the_hosts_file_is_left() {
    let none = Err(NetError::Message("No such file or directory"));
    let system =
        System { files: files(), hosts: Arc::new(read_hosts(b"10.0.0.1 app.test")), name_servers: none };
    assert_eq!(system.addresses("app.test").await.unwrap(), [IpAddr::from([10, 0, 0, 1])]);
    let error = system.lookup("db.test").await.unwrap_err();
    assert!(error.to_string().contains("/etc/resolv.conf"), "{error}");
    assert!(error.to_string().contains("No such file"), "{error}");
}

/// By default `connect_timeout` is 2 s.
#[test]
fn name_server_that_takes_over_a_second_is_waited_for() {
    let server = NameServer::start();
    for name in ["very-late.empty.test", "very-late.silent.test", "very-late.fails.test"] {
        let system = server.system("");
        let found = blocking(async {
            tokio::time::timeout(Duration::from_millis(1900), system.addresses(name)).await
        });
        assert_eq!(found.expect(name).unwrap(), [IpAddr::V4(ANSWER)], "{name}");
    }
}

/// A configuration can name three name servers, of which the first two may be down.
#[test]
fn unresponsive_name_servers_do_not_delay_the_third() {
    let silent = [2, 3].map(|host| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, host), 0)).unwrap());
    let server = NameServer::start();
    let unresponsive = silent.iter().map(|socket| socket.local_addr().unwrap());
    let addresses = unresponsive.chain([(Ipv4Addr::LOCALHOST, server.port).into()]);
    let servers = addresses.map(|address| {
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        NameServerConfig::new(address.ip(), true, vec![connection])
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    let servers = NameServers::new(config, ResolverOpts::default()).unwrap();
    let name = Name::from_str_relaxed("address.silent.test").unwrap();
    let found = blocking(async { tokio::time::timeout(PROMPT, servers.lookup(&name)).await });
    assert_eq!(found.expect("in time").unwrap().addresses, [IpAddr::V4(ANSWER)]);
}

#[test]
fn lost_query_is_retransmitted_within_the_default_timeout() {
    let server = NameServer::start();
    let system = server.system("");
    let asked = blocking(async {
        let lookup = tokio::time::timeout(Duration::from_millis(1500), system.lookup("silent.test"));
        assert!(lookup.await.is_err());
        server.questions.load(Ordering::Relaxed)
    });
    assert!(asked > 1, "{asked}");
}

#[test]
fn each_runtime_has_its_own_view() {
    // The second runtime runs on the same thread after the first one.
    let first = blocking(async {
        let hosts = current().hosts;
        assert!(Arc::ptr_eq(&hosts, &current().hosts));
        forget();
        assert!(!Arc::ptr_eq(&hosts, &current().hosts), "read again");
        current().hosts
    });
    let second = blocking(async { current().hosts });
    assert!(!Arc::ptr_eq(&first, &second));
}

#[tokio::test]
async fn answer_expires_with_its_ttl() {
    let server = NameServer::start();
    let system = server.system("");
    let first = system.addresses("moving.test").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let second = system.addresses("moving.test").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(server.questions.load(Ordering::Relaxed), 2);
}

#[test]
fn changed_or_replaced_file_has_another_signature() {
    let directory = tempfile::tempdir().unwrap();
    let (file, beside) = (directory.path().join("hosts"), directory.path().join("hosts.new"));
    let mut looks = vec![file_signature(&file)];
    std::fs::write(&file, "10.0.0.1 app\n").unwrap();
    looks.push(file_signature(&file));
    assert!(file_signature(&file) == looks[1]);
    std::fs::write(&file, "10.0.0.22 app\n").unwrap();
    looks.push(file_signature(&file));
    std::fs::write(&beside, "10.0.0.33 app\n").unwrap();
    std::fs::rename(&beside, &file).unwrap();
    looks.push(file_signature(&file));
    assert!(looks.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(looks[0].is_none());
}

const V4: IpAddr = IpAddr::V4(ANSWER);
const V6: IpAddr = IpAddr::V6(ANSWER6);

/// The bound is far below the timeout of a query.
const PROMPT: Duration = Duration::from_millis(700);

#[tokio::test]
async fn one_unanswered_family_does_not_delay_the_other() {
    let server = NameServer::start();
    let system = server.system("");
    for (host, expected, unanswered) in [
        ("address.silent.test", &[V4][..], Some(Family::V6)),
        ("silent.address.test", &[V6], Some(Family::V4)),
        ("slow.silent.test", &[V4], Some(Family::V6)),
        ("address.fails.test", &[V4], Some(Family::V6)),
        ("fails.address.test", &[V6], Some(Family::V4)),
        ("fails.slow.test", &[V6], Some(Family::V4)),
        ("address.truncated-for-good.test", &[V4], Some(Family::V6)),
        ("truncated-for-good.address.test", &[V6], Some(Family::V4)),
        ("address.nosuchname.test", &[V4], None),
        ("nosuchname.address.test", &[V6], None),
        ("empty.slow.test", &[V6], None),
    ] {
        let start = Instant::now();
        let found = system.lookup(host).await.unwrap();
        assert!(start.elapsed() < PROMPT, "{host}: {:?}", start.elapsed());
        assert_eq!((&found.addresses[..], found.unanswered), (expected, unanswered), "{host}");
    }
}

#[tokio::test]
async fn both_families_are_used_if_the_second_answers_within_the_delay() {
    let server = NameServer::start();
    let system = server.system("");
    for host in ["address.address.test", "address.slow.test", "slow.address.test", "truncated.truncated.test"]
    {
        let mut found = system.lookup(host).await.unwrap();
        found.addresses.sort();
        assert_eq!((&found.addresses[..], found.unanswered), (&[V4, V6][..], None), "{host}");
    }
}

#[tokio::test]
async fn late_answer_is_added_and_cached() {
    let server = NameServer::start();
    let system = server.system("");
    for (host, first, second) in [("address.late.test", V4, V6), ("late.address.test", V6, V4)] {
        let found = system.lookup(host).await.unwrap();
        assert_eq!(found.addresses, [first], "{host}");
        let mut late = found.late.unwrap();
        assert!(!late.is_repeated, "{host}");
        assert_eq!(late.addresses().await, Some(vec![second]), "{host}");
        let mut found = system.lookup(host).await.unwrap();
        found.addresses.sort();
        assert_eq!((&found.addresses[..], found.unanswered), (&[V4, V6][..], None), "{host}");
    }
}

#[tokio::test]
async fn late_family_is_not_waited_for_again() {
    let server = NameServer::start();
    let system = server.system("");
    let first = system.lookup("address.silent.test").await.unwrap();
    assert!(!first.late.unwrap().is_repeated);
    let start = Instant::now();
    for _ in 0..20 {
        let next = system.lookup("address.silent.test").await.unwrap();
        assert!(next.late.unwrap().is_repeated);
    }
    assert!(start.elapsed() < 20 * RESOLUTION_DELAY, "{:?}", start.elapsed());
}

#[tokio::test]
async fn error_names_the_failure_of_each_family() {
    let server = NameServer::start();
    let system = server.system("");
    for (host, expected) in [
        ("empty.silent.test", ["A: no address; AAAA: ", "timed out"]),
        ("silent.empty.test", ["A: ", "timed out; AAAA: no address"]),
        ("nosuchname.silent.test", ["A: no such name; AAAA: ", "timed out"]),
        ("fails.empty.test", ["A: ", "AAAA: no address"]),
    ] {
        let error = system.lookup(host).await.unwrap_err();
        assert!(matches!(error, ResolveError::Families { .. }), "{host}: {error}");
        let text = error.to_string();
        assert!(expected.iter().all(|part| text.contains(part)), "{host}: {text}");
    }
    let both = system.lookup("fails.fails.test").await.unwrap_err();
    assert!(matches!(both, ResolveError::Lookup(_)), "{both}");
    let mixed = system.lookup("empty.nosuchname.test").await.unwrap_err();
    assert!(matches!(mixed, ResolveError::NoAddresses), "{mixed}");
}

#[tokio::test]
async fn families_of_different_search_domains_are_not_mixed() {
    let server = NameServer::start();
    let system = server.searching("", &["one.test", "two.test"]);
    assert_eq!(system.addresses("db").await.unwrap(), [V4]);
    let system = server.searching("", &["two.test", "one.test"]);
    assert_eq!(system.addresses("db").await.unwrap(), [V6]);
    // A failing search domain hides neither the next one nor the name itself.
    let system = server.searching("", &["fails.test", "one.test"]);
    assert_eq!(system.addresses("db").await.unwrap(), [V4]);
    let system = server.searching("", &["silent.test", "one.test"]);
    let start = Instant::now();
    assert_eq!(
        system.addresses("address.silent.test").await.unwrap(),
        [V4],
        "the name itself is tried first"
    );
    assert!(start.elapsed() < PROMPT);
    // A failure is not reported as a nonexistent name.
    let system = server.searching("", &["fails.test", "nosuchname.test"]);
    let error = system.addresses("db").await.unwrap_err();
    assert!(matches!(error, ResolveError::Families { .. }), "{error}");
    // A name in a search domain, of which one family is unanswered.
    let system = server.searching("", &["silent.test"]);
    assert_eq!(system.addresses("address").await.unwrap(), [V4]);
}

#[test]
fn candidates_follow_ndots() {
    let server = NameServer::start();
    let system = blocking(async { server.searching("", &["one.test", "two.test"]) });
    let mut servers = system.name_servers.unwrap();
    let mut candidates = |name: &str, ndots| {
        servers.ndots = ndots;
        let names = servers.candidates(&Name::from_str_relaxed(name).unwrap());
        names.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(candidates("db", 1), ["db.one.test.", "db.two.test.", "db."]);
    assert_eq!(candidates("db.prod", 1), ["db.prod.", "db.prod.one.test.", "db.prod.two.test."]);
    assert_eq!(candidates("db.prod", 5), ["db.prod.one.test.", "db.prod.two.test.", "db.prod."]);
    assert_eq!(candidates("db.", 5), ["db."]);
}

/// Connects by a name whose AAAA or A queries are never answered, well within `connect_timeout`.
#[tokio::test]
async fn connector_connects_with_one_family_unanswered() {
    use crate::client::{Connector, OfferedProtocols};
    use crate::config::settings::{ClientTls, Destination};

    let server = NameServer::start();
    let listener = TcpListener::bind((ANSWER, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    SYSTEM.set(Some((runtime::Handle::current().id(), server.system(""))));
    for host in ["address.silent.test", "address.truncated-for-good.test", "address.fails.test"] {
        let destination = Destination::Tcp { host: host.into(), port, tls: false };
        let connector = Connector::new(&destination, &ClientTls::default(), Duration::from_secs(2)).unwrap();
        let start = Instant::now();
        connector.connect(OfferedProtocols::Http1).await.unwrap();
        assert!(start.elapsed() < PROMPT, "{host}: {:?}", start.elapsed());
    }
    let destination = Destination::Tcp { host: "silent.silent.test".into(), port, tls: false };
    let connector = Connector::new(&destination, &ClientTls::default(), Duration::from_millis(300)).unwrap();
    let error = connector.connect(OfferedProtocols::Http1).await.unwrap_err().to_string();
    assert_eq!(error, "resolving silent.silent.test took longer than 300ms");
}
