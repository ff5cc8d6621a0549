use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{RData, Record, RecordType};

use super::*;

const ANSWER: Ipv4Addr = Ipv4Addr::new(127, 9, 8, 7);

/// A name server that knows 'here.test.' and 'my_app.' by IPv4, ignores 'silent.test.' and denies all else. Counts the
/// questions for IPv4.
struct NameServer {
    port: u16,
    questions: Arc<AtomicUsize>,
}

impl NameServer {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let questions = Arc::new(AtomicUsize::new(0));
        let counter = questions.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let query = question.queries[0].clone();
                if query.query_type() == RecordType::A {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                let mut answer = Message::response(question.metadata.id, OpCode::Query);
                answer.add_query(query.clone());
                match (query.name().to_ascii().as_str(), query.query_type()) {
                    ("silent.test.", _) => continue,
                    ("here.test." | "my_app.", RecordType::A) => {
                        let record = Record::from_rdata(query.name().clone(), 60, RData::A(A(ANSWER)));
                        answer.add_answer(record);
                    }
                    ("moving.test.", RecordType::A) => {
                        let last = counter.load(Ordering::Relaxed) as u8;
                        let address = RData::A(A(Ipv4Addr::new(127, 9, 9, last)));
                        answer.add_answer(Record::from_rdata(query.name().clone(), 1, address));
                    }
                    ("here.test." | "my_app." | "empty.test." | "moving.test.", _) => {}
                    ("refused.test.", _) => answer.metadata.response_code = ResponseCode::Refused,
                    _ => answer.metadata.response_code = ResponseCode::NXDomain,
                }
                socket.send_to(&answer.to_vec().unwrap(), peer).unwrap();
            }
        });
        Self { port, questions }
    }

    fn system(&self, hosts: &str) -> System {
        let mut connection = ConnectionConfig::udp();
        connection.port = self.port;
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, vec![], vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        set_options(builder.options_mut());
        System {
            files: files(),
            hosts: Arc::new(read_hosts(hosts.as_bytes())),
            name_servers: builder.build(),
        }
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
        assert_eq!(resolve(host).await.unwrap(), expected, "{host}");
    }
    assert!(!is_localhost("localhost.example.com") && !is_localhost("notlocalhost"));
}

#[tokio::test]
async fn a_name_in_the_hosts_file_is_not_asked_for() {
    let server = NameServer::start();
    let system = server.system(
        "# 10.9.9.9 silent.test\n10.0.0.1\tsilent.test # 10.9.9.9 silent.test\nfd00::2 both.test\n\
         10.0.0.2 other Both.Test my_app\nfe80::1%lo0 both.test\nnonsense both.test\n10.0.0.3\n",
    );
    for (host, expected) in [
        ("silent.test", &["10.0.0.1"][..]),
        ("both.test", &["10.0.0.2", "fd00::2"]),
        ("BOTH.test.", &["10.0.0.2", "fd00::2"]),
        ("my_app", &["10.0.0.2"]),
    ] {
        let expected: Vec<IpAddr> = expected.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(system.lookup(host).await.unwrap(), expected, "{host}");
    }
    assert_eq!(server.questions.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn name_servers_are_asked_and_their_answer_is_kept() {
    let server = NameServer::start();
    let system = server.system("");
    for _ in 0..3 {
        assert_eq!(system.lookup("here.test").await.unwrap(), [IpAddr::from(ANSWER)]);
    }
    assert_eq!(server.questions.load(Ordering::Relaxed), 1);
    assert_eq!(system.lookup("my_app").await.unwrap(), [IpAddr::from(ANSWER)]);
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
    assert_eq!(system.lookup("app.test").await.unwrap(), [IpAddr::from([10, 0, 0, 1])]);
    let error = system.lookup("db.test").await.unwrap_err();
    assert!(error.to_string().contains("/etc/resolv.conf"), "{error}");
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[test]
fn a_silent_name_server_is_asked_again_within_the_default_time() {
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
    // The second runtime runs on the first one's thread, after it.
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
async fn an_answer_is_asked_for_anew_when_its_time_is_over() {
    let server = NameServer::start();
    let system = server.system("");
    let first = system.lookup("moving.test").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let second = system.lookup("moving.test").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(server.questions.load(Ordering::Relaxed), 2);
}

#[test]
fn a_file_that_is_written_or_replaced_looks_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let (file, beside) = (directory.path().join("hosts"), directory.path().join("hosts.new"));
    let mut looks = vec![signature(&file)];
    std::fs::write(&file, "10.0.0.1 app\n").unwrap();
    looks.push(signature(&file));
    assert!(signature(&file) == looks[1]);
    std::fs::write(&file, "10.0.0.22 app\n").unwrap();
    looks.push(signature(&file));
    std::fs::write(&beside, "10.0.0.33 app\n").unwrap();
    std::fs::rename(&beside, &file).unwrap();
    looks.push(signature(&file));
    assert!(looks.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(looks[0].is_none());
}
