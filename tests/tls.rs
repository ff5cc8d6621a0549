//! TLS in both directions: certificates served from `listen.tls`, and servers that a connector trusts.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};
use rustls::{HandshakeKind, ProtocolVersion};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use stockaj_gateway::internals::client::{
    ClientStream, ConnectError, ConnectStep, Connector, ConnectorError, OfferedProtocols,
};
use stockaj_gateway::internals::config::settings::{ClientTls, Destination, ListenTls, Roots};
use stockaj_gateway::internals::server::tls::{CertificateError, load};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::support::certificate::Authority;

const TIMEOUT: Duration = Duration::from_secs(5);

fn listen_tls(authority: &Authority) -> ListenTls {
    ListenTls { certificate: authority.certificate(), private_key: authority.private_key(), client_ca: None }
}

fn believing(authority: &Authority) -> ClientTls {
    ClientTls { ca_file: Some(authority.ca_file()), ..ClientTls::default() }
}

fn destination(host: &str, address: SocketAddr, tls: bool) -> Destination {
    Destination::Tcp { host: host.into(), port: address.port(), tls }
}

/// An echo server with a certificate of `authority`, configured by `listen.tls`.
async fn serve(authority: &Authority) -> SocketAddr {
    let acceptor = TlsAcceptor::from(load(&listen_tls(authority), None).unwrap().config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let (mut reader, mut writer) = split(acceptor.accept(stream).await?);
                copy(&mut reader, &mut writer).await?;
                writer.shutdown().await
            });
        }
    });
    address
}

/// An address without a listener.
async fn vacant() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn echo(stream: &mut ClientStream) {
    let pieces = [io::IoSlice::new(b"ping "), io::IoSlice::new(b"pong")];
    assert_eq!(stream.write_vectored(&pieces).await.unwrap(), 9);
    stream.flush().await.unwrap();
    let mut back = [0; 9];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ping pong");
}

#[tokio::test]
async fn trusted_server_is_connected_and_its_session_resumed() {
    let authority = Authority::new();
    let address = serve(&authority).await;
    for host in ["localhost", "127.0.0.1"] {
        let connector =
            Connector::new(&destination(host, address, true), &believing(&authority), TIMEOUT).unwrap();
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = connector.connect(OfferedProtocols::Http1).await.unwrap();
            echo(&mut stream).await;
            let ClientStream::Tls(stream) = stream else { panic!("{host}: {stream:?}") };
            let session = stream.get_ref().1;
            assert_eq!(session.handshake_kind(), Some(expected), "{host}");
            assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
            assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        }
    }
}

#[tokio::test]
async fn listener_accepts_tls_1_2() {
    let authority = Authority::new();
    let address = serve(&authority).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.ca_file()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
}

#[tokio::test]
async fn untrusted_certificate_is_refused_and_the_cause_logged() {
    let authority = Authority::new();
    let address = serve(&authority).await;
    let named = |name: &str| ClientTls { server_name: Some(name.into()), ..believing(&authority) };
    for (case, tls, why) in [
        ("another authority", believing(&Authority::new()), "invalid peer certificate"),
        ("no authority that anyone knows", ClientTls::default(), "UnknownIssuer"),
        ("another name", named("stockaj.example"), "not valid for name \"stockaj.example\""),
    ] {
        let connector = Connector::new(&destination("127.0.0.1", address, true), &tls, TIMEOUT).unwrap();
        let error = connector.connect(OfferedProtocols::Http1).await.unwrap_err();
        let ConnectError::Tls { address: at, .. } = &error else { panic!("{case}: {error}") };
        assert_eq!(*at, address);
        assert!(error.to_string().contains(why), "{case}: {error}");
    }
    let connector = Connector::new(&destination("127.0.0.1", address, true), &named("localhost"), TIMEOUT);
    echo(&mut connector.unwrap().connect(OfferedProtocols::Http1).await.unwrap()).await;
}

#[tokio::test]
async fn connector_reaches_plain_tcp_and_unix_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backend.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = unix.accept().await?;
        let (mut reader, mut writer) = stream.split();
        copy(&mut reader, &mut writer).await
    });
    tokio::spawn(async move {
        let (mut stream, _) = tcp.accept().await?;
        let (mut reader, mut writer) = stream.split();
        copy(&mut reader, &mut writer).await
    });
    for destination in [Destination::Unix(path), destination("localhost", address, false)] {
        let connector = Connector::new(&destination, &ClientTls::default(), TIMEOUT).unwrap();
        let mut stream = connector.connect(OfferedProtocols::Http1).await.unwrap();
        if let ClientStream::Tcp(stream) = &stream {
            assert!(stream.nodelay().unwrap());
            assert!(socket2::SockRef::from(stream).keepalive().unwrap());
        }
        echo(&mut stream).await;
    }
}

#[tokio::test]
async fn connect_errors_name_the_failed_step() {
    let refused = vacant().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (silent_address, plain_address) = (silent.local_addr().unwrap(), plain.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await
    });
    let connect = async |destination: Destination, timeout| {
        let connector = Connector::new(&destination, &ClientTls::default(), timeout).unwrap();
        connector.connect(OfferedProtocols::Http1).await.unwrap_err()
    };

    let error = connect(destination("localhost", refused, false), TIMEOUT).await;
    let ConnectError::Tcp { attempts, .. } = &error else { panic!("{error}") };
    assert_eq!(attempts.len(), 2, "both families: {error}");
    assert_eq!(attempts[0].error.kind(), io::ErrorKind::ConnectionRefused);
    let expected = format!("cannot connect to localhost: {refused}: Connection refused");
    assert!(error.to_string().starts_with(&expected), "{error}");

    let missing = PathBuf::from("/nonexistent/backend.sock");
    let error = connect(Destination::Unix(missing), TIMEOUT).await;
    assert!(matches!(error, ConnectError::Unix { .. }), "{error}");
    assert!(error.to_string().starts_with("cannot connect to /nonexistent/backend.sock: No such"), "{error}");

    let limit = Duration::from_millis(100);
    let error = connect(destination("127.0.0.1", silent_address, true), limit).await;
    assert!(matches!(error, ConnectError::TimedOut { step: ConnectStep::Tls, .. }), "{error}");
    let expected = format!("the TLS handshake with 127.0.0.1 at {silent_address} took longer than 100ms");
    assert_eq!(error.to_string(), expected);

    let error = connect(destination("127.0.0.1", plain_address, true), TIMEOUT).await;
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
}

/// A connector is created once and shared by the runtimes of all workers.
#[test]
fn one_connector_serves_several_runtimes() {
    let authority = Authority::new();
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address = servers.block_on(serve(&authority));
    let connector = Connector::new(&destination("localhost", address, true), &believing(&authority), TIMEOUT);
    let connector = Arc::new(connector.unwrap());
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let connector = connector.clone();
            std::thread::spawn(move || {
                for _ in 0..2 {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        echo(&mut connector.connect(OfferedProtocols::Http1).await.unwrap()).await
                    });
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn unusable_root_certificates_are_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 443));
    let ca = |path| ClientTls { ca_file: Some(path), ..ClientTls::default() };
    let not_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let unended = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    for (tls, why) in [
        (ca(directory.path().join("missing")), "missing: No such file"),
        (ca(file("empty", "")), "empty: it has no certificate in it"),
        (ca(file("garbage", not_x509)), "garbage has an unusable certificate, the 1st: "),
        (ca(file("unended", unended)), "unended: the PEM block has no END line"),
        (
            ClientTls { server_name: Some("a b".into()), ..ClientTls::default() },
            "`server_name` is not a name",
        ),
    ] {
        let error = Connector::new(&destination("localhost", address, true), &tls, TIMEOUT).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        Connector::new(&destination("localhost", address, false), &tls, TIMEOUT).unwrap();
    }
    let platform = ClientTls { roots: Roots::Platform, ..ClientTls::default() };
    match Connector::new(&destination("localhost", address, true), &platform, TIMEOUT) {
        Ok(_) | Err(ConnectorError::Tls(_)) => {} // The outcome depends on whether the machine has root certificates.
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn expiry_of_the_leaf_certificate_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, private_key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    for (year, expected) in [(2031, 1_924_992_000), (2051, 2_556_144_000)] {
        // X.509 encodes years from 2050 on in another form.
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        std::fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&private_key, key.serialize_pem()).unwrap();
        let settings =
            ListenTls { certificate: certificate.clone(), private_key: private_key.clone(), client_ca: None };
        assert_eq!(load(&settings, None).unwrap().expires_at, expected);
    }
}

#[test]
fn unusable_server_certificates_are_rejected() {
    let (authority, other) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate = authority.certificate();
    let key = authority.private_key();
    let other_kind = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
    let missing = directory.path().join("missing");
    let pem =
        |label: &str, base64: &str| format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
    type Expected = fn(&CertificateError) -> bool;
    let cases: [(PathBuf, PathBuf, Expected, &str); 11] = [
        (missing.clone(), key.clone(), |e| matches!(e, CertificateError::CertificateFile { .. }), "missing"),
        (certificate.clone(), missing, |e| matches!(e, CertificateError::KeyFile { .. }), "missing"),
        (
            file("a", "hello"),
            key.clone(),
            |e| matches!(e, CertificateError::CertificateFile { .. }),
            "a: it has no certificate in it, but no PEM block",
        ),
        (
            certificate.clone(),
            file("b", ""),
            |e| matches!(e, CertificateError::KeyFile { .. }),
            "b: it has no private key in it: it is empty",
        ),
        (
            key.clone(),
            key.clone(),
            |e| matches!(e, CertificateError::CertificateFile { .. }),
            "but a private key",
        ),
        (
            certificate.clone(),
            certificate.clone(),
            |e| matches!(e, CertificateError::KeyFile { .. }),
            "but a certificate",
        ),
        (
            certificate.clone(),
            file("c", &pem("ENCRYPTED PRIVATE KEY", "AAAA")),
            |e| matches!(e, CertificateError::KeyFile { .. }),
            "an encrypted private key",
        ),
        (
            file("d", &pem("CERTIFICATE", "AAAA")),
            key.clone(),
            |e| matches!(e, CertificateError::NotX509 { .. }),
            "not X.509",
        ),
        (
            file("e", &pem("CERTIFICATE", "!!!!")),
            key,
            |e| matches!(e, CertificateError::CertificateFile { .. }),
            "is damaged",
        ),
        (
            certificate.clone(),
            file("f", &pem("PRIVATE KEY", "AAAA")),
            |e| matches!(e, CertificateError::UnusableKey { .. }),
            "cannot be used",
        ),
        (
            certificate.clone(),
            other.private_key(),
            |e| matches!(e, CertificateError::Mismatch { .. }),
            "does not belong to",
        ),
    ];
    for (certificate, private_key, expected, why) in cases {
        let settings = ListenTls { certificate, private_key, client_ca: None };
        let error = load(&settings, None).unwrap_err();
        assert!(expected(&error), "{settings:?}: {error:?}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let private_key = file("g", &other_kind);
    let error = load(&ListenTls { certificate, private_key, client_ca: None }, None).unwrap_err();
    assert!(matches!(error, CertificateError::Mismatch { .. }), "{error}");
}
