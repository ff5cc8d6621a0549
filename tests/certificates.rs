//! TLS from clients: selection and renewal of certificates, and client certificates.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use crate::support::certificate::Issued;
use crate::support::{Answer, Authority, Gateway, PATIENCE, RawClient, TestEnv, Upstream};

const ITEMS: &str = "/api/v2/items";

fn write(directory: &Path, name: &str, issued: &Issued) -> (PathBuf, PathBuf) {
    let at = |suffix: &str| directory.join(format!("{name}.{suffix}"));
    std::fs::write(at("crt"), &issued.certificate).unwrap();
    std::fs::write(at("key"), &issued.private_key).unwrap();
    (at("crt"), at("key"))
}

fn entry((certificate, key): &(PathBuf, PathBuf), more: &str) -> String {
    format!("{{certificate: {}, private_key: {}{more}}}", certificate.display(), key.display())
}

fn named(name: &str) -> impl Fn(&mut CertificateParams) {
    move |params| params.distinguished_name.push(DnType::CommonName, name)
}

fn start(yaml: &str) -> TestEnv {
    let backend = Upstream::answering(|request| match request.target.split_once('?') {
        Some((_, "hsts")) => Answer::with(200, &[("Strict-Transport-Security", "max-age=7")], ""),
        Some((_, "slow")) => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
            .then_wait(Duration::from_millis(400))
            .then("b"),
        _ => Answer::with(200, &[], "fine"),
    });
    TestEnv::builder().backend(backend).token("1|reader", &["items:read"]).yaml(yaml).start()
}

/// The result of a handshake with the gateway.
fn perform_handshake(gateway: &Gateway, config: &Arc<ClientConfig>, name: &str) -> ClientConnection {
    let mut connection =
        ClientConnection::new(Arc::clone(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut socket = std::net::TcpStream::connect(gateway.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    // Session tickets arrive with the response.
    std::io::Write::write_all(&mut stream, b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap();
    connection
}

fn leaf(connection: &ClientConnection) -> Vec<u8> {
    connection.peer_certificates().unwrap()[0].to_vec()
}

/// The certificate that the gateway presents for the server name `name`.
fn shown(gateway: &Gateway, name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.enable_sni = !name.is_empty();
    let name = if name.is_empty() { "127.0.0.1" } else { name };
    leaf(&perform_handshake(gateway, &Arc::new(config), name))
}

/// Accepts any certificate: the test inspects which one is presented.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn der(issued: &Issued) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap().to_vec()
}

#[test]
fn certificate_is_selected_by_server_name() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let issued = [
        ("first", authority.issue(&["app.example"], |_| {})),
        ("second", authority.issue(&["*.shop.example", "other.example"], |_| {})),
        ("third", authority.issue(&["deep.shop.example", "third.example"], |_| {})),
    ];
    let entries: Vec<_> = issued
        .iter()
        .map(|(name, issued)| format!("    - {}\n", entry(&write(directory.path(), name, issued), "")))
        .collect();
    let env = start(&format!("listen:\n  tls:\n{}", entries.concat()));
    for (asked, expected) in [
        ("app.example", 0),
        ("APP.EXAMPLE", 0),
        ("other.example", 1),
        ("a.shop.example", 1),
        ("deep.shop.example", 1),
        ("shop.example", 0),
        ("a.b.shop.example", 0),
        ("third.example", 2),
        ("unknown.example", 0),
        ("", 0),
    ] {
        assert_eq!(shown(&env.gateway, asked), der(&issued[expected].1), "{asked}");
    }
}

#[test]
fn session_tickets_are_bound_to_their_certificate() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let both = ["one.example", "two.example"].map(|name| {
        let issued = authority.issue(&[name], |_| {});
        format!("    - {}\n", entry(&write(directory.path(), name, &issued), ""))
    });
    let env = start(&format!("listen:\n  tls:\n{}", both.concat()));
    let client = authority.client();
    for (name, expected) in [
        ("one.example", HandshakeKind::Full),
        ("two.example", HandshakeKind::Full),
        ("one.example", HandshakeKind::Resumed),
        ("two.example", HandshakeKind::Resumed),
    ] {
        assert_eq!(perform_handshake(&env.gateway, &client, name).handshake_kind(), Some(expected), "{name}");
    }
}

#[test]
fn client_ca_requires_a_client_certificate() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let entry = format!(
        "listen:\n  tls: {{certificate: {}, private_key: {}, client_ca: {}}}\n",
        authority.certificate().display(),
        authority.private_key().display(),
        clients.ca_file().display()
    );
    let env = start(&entry);
    let known = clients.issue(&[], named("scanner 7"));
    let expired = clients.issue(&[], |params| {
        named("old")(params);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let attempt = |config: Arc<ClientConfig>| {
        let mut client = RawClient::connect_tls_as(env.gateway.address(), config, "localhost");
        // In TLS 1.3 a client learns that its certificate is rejected at its first read.
        client.try_send("GET /up HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").is_ok()
            && client.try_response(false).is_ok_and(|response| response.status == 200)
    };
    for (case, config, expected) in [
        ("none", authority.client(), false),
        (
            "of an authority that is not asked for",
            authority.client_with(&strangers.issue(&[], named("x"))),
            false,
        ),
        ("expired", authority.client_with(&expired), false),
        ("a good one", authority.client_with(&known), true),
        ("none, after a good one", authority.client(), false),
    ] {
        assert_eq!(attempt(config), expected, "{case}");
    }
    let line = env.gateway.wait_for_log(|line| line["message"] == "request");
    assert_eq!(line["client_subject"], "CN=scanner 7");
    env.gateway.wait_for_metric("tls_handshake_failures_total{reason=\"certificate\"}", 4.0);
    let line = env.gateway.wait_for_log(|line| line["message"] == "client certificate rejected");
    assert_eq!(line["client"], "127.0.0.1");
}

#[test]
fn session_cannot_be_resumed_after_its_client_certificate_expired() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let entry = format!(
        "listen:\n  tls: {{certificate: {}, private_key: {}, client_ca: {}}}\n",
        authority.certificate().display(),
        authority.private_key().display(),
        clients.ca_file().display()
    );
    let env = start(&entry);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // X.509 times are whole seconds: valid for at least three.
    let ends = Duration::from_secs(now.as_secs() + 4);
    let brief = clients.issue(&[], |params| {
        named("brief")(params);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + ends;
    });
    let client = authority.client_with(&brief);
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        assert_eq!(perform_handshake(&env.gateway, &client, "localhost").handshake_kind(), Some(expected));
    }
    let ended = UNIX_EPOCH + ends + Duration::from_secs(1);
    thread::sleep(ended.duration_since(SystemTime::now()).unwrap_or_default());
    let mut late = RawClient::connect_tls_as(env.gateway.address(), client, "localhost");
    let served =
        late.try_send("GET /up HTTP/1.1\r\nHost: a\r\n\r\n").is_ok() && late.try_response(false).is_ok();
    assert!(!served, "a client with an expired certificate is served");
}

/// Connects until the gateway presents this certificate.
fn wait_until_shown(gateway: &Gateway, expected: &Issued) {
    let end = Instant::now() + PATIENCE;
    while shown(gateway, "localhost") != der(expected) {
        assert!(Instant::now() < end, "the change was not applied");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn renewed_certificate_is_used_without_closing_connections() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // The layout of a Kubernetes volume.
    let issued = ["..first", "..second"].map(|version| {
        let issued = authority.issue(&["localhost"], |_| {});
        std::fs::create_dir(at(version)).unwrap();
        write(&at(version), "tls", &issued);
        issued
    });
    symlink("..first", at("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), at(name)).unwrap();
    }
    let env = start(&format!("listen:\n  tls: {}\n", entry(&(at("tls.crt"), at("tls.key")), "")));
    let gateway = &env.gateway;
    assert_eq!(shown(gateway, "localhost"), der(&issued[0]));
    let client = authority.client();
    perform_handshake(gateway, &client, "localhost");
    let connect = || RawClient::connect_tls_as(gateway.address(), Arc::clone(&client), "localhost");
    let (mut kept, mut busy) = (connect(), connect());
    assert_eq!(kept.get("/up", None).text(), "fine");
    busy.send("GET /up?slow HTTP/1.1\r\nHost: a\r\n\r\n");

    symlink("..second", at("..new")).unwrap();
    std::fs::rename(at("..new"), at("..data")).unwrap();
    wait_until_shown(gateway, &issued[1]);
    assert_eq!(busy.response().text(), "ab");
    for client in [&mut kept, &mut busy] {
        assert_eq!(client.get("/up", None).text(), "fine");
    }
    assert_eq!(
        perform_handshake(gateway, &client, "localhost").handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    assert_eq!(gateway.metrics().metric("certificate_reload_success"), 1.0);
}

#[test]
fn unusable_certificate_keeps_the_current_one_and_is_logged() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let first = authority.issue(&["localhost"], |_| {});
    let files = write(directory.path(), "tls", &first);
    let env = start(&format!("listen:\n  tls: {}\n", entry(&files, "")));
    let gateway = &env.gateway;
    let metric = format!("certificate_reload_success{{certificate=\"{}\"}}", files.0.display());
    assert_eq!(gateway.metrics().metric(&metric), 1.0);
    let second =
        authority.issue(&["localhost"], |params| params.not_after = rcgen::date_time_ymd(2040, 1, 1));
    for (certificate, key, why) in [
        (&*second.certificate, &*first.private_key, "does not belong"),
        ("hello", &*first.private_key, "has no certificate"),
        (&*second.certificate, "", "has no private key"),
    ] {
        std::fs::write(&files.0, certificate).unwrap();
        std::fs::write(&files.1, key).unwrap();
        gateway.wait_for_log(|line| {
            line["level"] == "ERROR"
                && line["certificate"] == files.0.display().to_string()
                && line["error"].as_str().is_some_and(|error| error.contains(why))
        });
        assert_eq!(gateway.metrics().metric(&metric), 0.0);
        assert_eq!(shown(gateway, "localhost"), der(&first));
    }
    write(directory.path(), "tls", &second);
    wait_until_shown(gateway, &second);
    let metrics = gateway.metrics();
    assert_eq!(metrics.metric(&metric), 1.0);
    let expiry = format!("certificate_expiry_timestamp_seconds{{certificate=\"{}\"}}", files.0.display());
    assert_eq!(metrics.metric(&expiry), 2_208_988_800.0);
}

#[test]
fn reload_applies_changed_listen_tls() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let issued = [(); 2].map(|()| authority.issue(&["localhost"], |_| {}));
    let files = [0, 1].map(|index| write(directory.path(), &index.to_string(), &issued[index]));
    let env = start(&format!("listen:\n  tls: {}\n", entry(&files[0], "")));
    let gateway = &env.gateway;
    gateway.edit(&entry(&files[0], ""), &entry(&files[1], ""));
    assert!(gateway.reload());
    assert_eq!(shown(gateway, "localhost"), der(&issued[1]));
    gateway.edit(&entry(&files[1], ""), &entry(&(files[0].0.clone(), files[1].1.clone()), ""));
    assert!(!gateway.reload());
    gateway.wait_for_log(|line| line["message"].as_str().is_some_and(|it| it.contains("`listen.tls`")));
    assert_eq!(shown(gateway, "localhost"), der(&issued[1]));
}

#[test]
fn plain_http_is_redirected_to_https() {
    let authority = Arc::new(Authority::new());
    let files = (authority.certificate(), authority.private_key());
    let env = start(&format!(
        "listen:\n  tls: {}\n  redirect_address: 127.0.0.1:0\n  hsts: 365d\n",
        entry(&files, "")
    ));
    let redirect = env.gateway.wait_for_listener("redirect");
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n", Some("https://app.example/")),
        (
            "POST /api/v2/items?a=b%20c HTTP/1.1\r\nHost: app.example:8080\r\nContent-Length: 1\r\n\r\na",
            Some("https://app.example/api/v2/items?a=b%20c"),
        ),
        ("HEAD /%7ea HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Some("https://[::1]/~a")),
        ("GET http://app.example/a HTTP/1.1\r\nHost: app.example\r\n\r\n", Some("https://app.example/a")),
        ("GET //evil.example/ HTTP/1.1\r\nHost: app.example\r\n\r\n", None),
        ("GET /a HTTP/1.1\r\nHost: app.example/@evil.example\r\n\r\n", None),
        ("GET /a HTTP/1.1\r\nHost: app.example\r\nHost: evil.example\r\n\r\n", None),
        ("GET http://evil.example/a HTTP/1.1\r\nHost: app.example\r\n\r\n", None),
        ("GET /a HTTP/1.1\r\n\r\n", None),
        ("BREW /a HTTP/1.1\r\nHost: app.example\r\n\r\n", None),
        ("GET /a HTTP/1.1\r\nHost: app.example:\r\n\r\n", Some("https://app.example/a")),
        // Without a host there is no URL to redirect to.
        ("GET /a HTTP/1.0\r\n\r\n", None),
        // The same errors as on the TLS listener.
        ("GET /a#b HTTP/1.1\r\nHost: app.example\r\n\r\n", None),
        ("GET /a HTTP/1.1\nHost: app.example\n\n", None),
        ("GET /a HTTP/1.1\r\nHost : app.example\r\n\r\n", None),
        ("GET /a HTTP/1.1\r\nHost: app.example\r\nContent-Type: a/b\r\nContent-Type: a/b\r\n\r\n", None),
        ("GET /sub/index.php/a HTTP/1.1\r\nHost: app.example\r\n\r\n", None),
    ] {
        let response =
            RawClient::connect(redirect).send(request).try_response(request.starts_with("HEAD")).unwrap();
        assert_eq!(response.field("location"), expected, "{request}");
        assert_eq!(response.status, if expected.is_some() { 308 } else { 400 }, "{request}");
        assert_eq!(response.field("strict-transport-security"), None, "{request}");
        assert!(response.field("x-request-id").is_some());
    }
    assert_eq!(env.gateway.metrics().metric("redirects_total"), 5.0);
}

#[test]
fn hsts_is_sent_as_configured() {
    let authority = Arc::new(Authority::new());
    let files = (authority.certificate(), authority.private_key());
    let with = start(&format!("listen:\n  tls: {}\n  hsts: 1h\n", entry(&files, "")));
    let without = start(&format!("listen:\n  tls: {}\n", entry(&files, "")));
    for (request, told) in [
        ("GET /up HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "max-age=3600"),
        (format!("GET {ITEMS} HTTP/1.1\r\nHost: a\r\n\r\n"), "max-age=3600"),
        ("GET /up HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), "max-age=3600"),
        ("GET /up?hsts HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "max-age=7"),
    ] {
        for (env, expected) in
            [(&with, Some(told)), (&without, Some(told).filter(|told| *told == "max-age=7"))]
        {
            let address = env.gateway.address();
            let response = RawClient::connect_tls(address, &authority).send(&request).response();
            assert_eq!(response.field("strict-transport-security"), expected, "{request}");
        }
    }
}
