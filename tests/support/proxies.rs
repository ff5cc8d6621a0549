//! Other proxies with the shipped files of `deploy/proxies/`, which ask the decision listener of a gateway.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::browser::KillOnDrop;
use super::gateway::{Logs, spawn};
use super::http2::{Http2Client, Outcome};
use super::ports::free_address;
use super::{RawClient, Response, TestEnv};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// How long a proxy may take to start on a loaded machine.
const START: Duration = Duration::from_secs(60);

/// The address of clients. Proxies have another: a client with the address of a trusted proxy may set forwarding fields.
pub const CLIENT: &str = "127.0.0.2";

/// A part of a shipped file, and its replacement.
pub type Edit = (&'static str, &'static str);

const CADDY_BEHIND_ANOTHER: &str = "admin off
servers {
\ttrusted_proxies static 10.0.0.0/8
}";
const ENVOY_BEHIND_ANOTHER: &str = "use_remote_address: true
                xff_num_trusted_hops: 1";

/// A proxy, and how it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Traefik,
    Caddy,
    /// The oldest version that is safe with the shipped file.
    OldCaddy,
    EnvoyHttp,
    EnvoyGrpc,
}

impl Kind {
    /// Its files, the main one first.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &["nginx.conf"],
            Self::Traefik => &["traefik.yaml", "traefik-routes.yaml"],
            Self::Caddy | Self::OldCaddy => &["Caddyfile"],
            Self::EnvoyHttp => &["envoy-http.yaml"],
            Self::EnvoyGrpc => &["envoy-grpc.yaml"],
        }
    }

    /// The section `decision` of the shipped gateway.yaml, on a free port.
    pub fn decision(self) -> String {
        let name = match self {
            Self::EnvoyHttp | Self::EnvoyGrpc => "gateway.envoy.yaml",
            _ => "gateway.yaml",
        };
        let text = shipped(name);
        let start = text.find("decision:\n").unwrap();
        let end = text[start..].find("\nlisten:").unwrap();
        let section = &text[start..=start + end];
        assert!(section.contains("127.0.0.1:8081"), "{section}");
        section.replace("127.0.0.1:8081", "127.0.0.1:0")
    }

    /// Its page in `docs/guides/`.
    pub fn page(self) -> String {
        let name = match self {
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
            Self::Caddy | Self::OldCaddy => "caddy",
            Self::EnvoyHttp | Self::EnvoyGrpc => "envoy",
        };
        fs::read_to_string(format!("{ROOT}/docs/guides/decisions-for-{name}.md")).unwrap()
    }

    /// The edits of its files behind another proxy with an address in 10.0.0.0/8.
    pub fn behind_another(self) -> &'static [Edit] {
        match self {
            Self::Nginx => {
                &[("X-Forwarded-For $remote_addr;", "X-Forwarded-For $proxy_add_x_forwarded_for;")]
            }
            Self::Traefik => &[
                ("trustedIPs: []", "trustedIPs: [10.0.0.0/8]"),
                ("trustForwardHeader: false", "trustForwardHeader: true"),
            ],
            Self::Caddy | Self::OldCaddy => &[("admin off", CADDY_BEHIND_ANOTHER)],
            Self::EnvoyHttp | Self::EnvoyGrpc => {
                &[(", {remove: x-forwarded-for}", ""), ("use_remote_address: true", ENVOY_BEHIND_ANOTHER)]
            }
        }
    }

    /// The edits after which it accepts HTTP/2 without TLS.
    pub fn with_http2(self) -> &'static [Edit] {
        match self {
            Self::Nginx => &[("listen 127.0.0.1:8080;", "listen 127.0.0.1:8080 http2;")],
            Self::Caddy | Self::OldCaddy => {
                &[("admin off", "admin off\n\tservers {\n\t\tprotocols h1 h2c\n\t}")]
            }
            Self::Traefik | Self::EnvoyHttp | Self::EnvoyGrpc => &[],
        }
    }

    fn command(self, directory: &Path) -> Command {
        let file = directory.join(self.files()[0]);
        let mut command = match self {
            Self::Nginx => {
                let mut command = Command::new("nginx");
                // One process, which ends with the test.
                let directives = "daemon off; master_process off;";
                command.arg("-p").arg(directory).args(["-e", "stderr", "-g", directives, "-c"]).arg(file);
                command
            }
            Self::Traefik => {
                let mut command = Command::new(format!("{ROOT}/target/traefik/bin/traefik"));
                command.arg(format!("--configFile={}", file.display()));
                command
            }
            Self::Caddy | Self::OldCaddy => {
                let name = if self == Self::Caddy { "caddy" } else { "caddy-2.9" };
                let mut command = Command::new(format!("{ROOT}/target/{name}/bin/caddy"));
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
                command
            }
            Self::EnvoyHttp | Self::EnvoyGrpc => {
                let mut command = Command::new(envoy());
                command.args(["--concurrency", "2", "--disable-hot-restart", "--log-level", "warn", "-c"]);
                command.arg(file);
                command
            }
        };
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        command.current_dir(directory).env("HOME", directory).env("XDG_DATA_HOME", directory);
        command
    }
}

/// The program itself, since the installed `envoy` is a script that starts it.
fn envoy() -> PathBuf {
    let libraries = fs::read_dir(format!("{ROOT}/target/envoy/lib")).expect("tests/run installs Envoy");
    let programs = libraries.map(|python| python.unwrap().path().join("site-packages/envoy/_bin/envoy"));
    programs.into_iter().find(|program| program.is_file()).expect("a program")
}

/// A file of `deploy/proxies/`.
pub fn shipped(name: &str) -> String {
    fs::read_to_string(format!("{ROOT}/deploy/proxies/{name}")).unwrap()
}

/// The protocol of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// Without TLS.
    Http2,
}

/// A proxy between clients and the backend of an environment.
pub struct Proxied {
    pub kind: Kind,
    pub env: TestEnv,
    pub address: SocketAddr,
    pub protocol: Protocol,
    process: Option<KillOnDrop>,
    logs: Arc<Logs>,
    _directory: tempfile::TempDir,
}

impl Proxied {
    /// Starts a proxy with its shipped files, of which only the ports change. The environment has the section
    /// [`Kind::decision`] and a public route `/up`.
    pub fn start(kind: Kind, env: TestEnv) -> Self {
        Self::start_for(kind, Protocol::Http1, env)
    }

    /// The same for clients of this protocol.
    pub fn start_for(kind: Kind, protocol: Protocol, env: TestEnv) -> Self {
        let edits = if protocol == Protocol::Http2 { kind.with_http2() } else { &[] };
        Self::edited(kind, protocol, env, edits)
    }

    /// The same behind another proxy at [`CLIENT`].
    pub fn behind_another(kind: Kind, env: TestEnv) -> Self {
        let edits = kind.behind_another().iter();
        let edits: Vec<_> = edits.map(|(old, new)| (*old, new.replace("10.0.0.0/8", CLIENT))).collect();
        let edits: Vec<_> = edits.iter().map(|(old, new)| (*old, &**new)).collect();
        Self::edited(kind, Protocol::Http1, env, &edits)
    }

    fn edited(kind: Kind, protocol: Protocol, env: TestEnv, edits: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // nginx changes its user.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let address = free_address();
        let decision = env.gateway.wait_for_listener("decision");
        let ports = [("8080", address), ("8081", decision), ("8000", env.backend.address())];
        let texts = kind.files().iter().map(|name| shipped(name)).collect::<String>();
        for part in ports.iter().map(|(port, _)| port).chain(edits.iter().map(|(old, _)| old)) {
            assert!(texts.contains(part), "no {part}");
        }
        let edited = |name: &str| edits.iter().fold(shipped(name), |text, (old, new)| text.replace(old, new));
        for name in kind.files() {
            // In two steps: a new port may equal another's old one.
            let marked =
                ports.iter().fold(edited(name), |text, (port, _)| text.replace(port, &format!("<{port}>")));
            let text = ports.iter().fold(marked, |text, (port, address)| {
                text.replace(&format!("<{port}>"), &address.port().to_string())
            });
            fs::write(directory.path().join(name), text).unwrap();
        }
        let (child, logs) = spawn(&mut kind.command(directory.path()));
        let process = Some(KillOnDrop(child));
        let proxied = Self { kind, env, address, protocol, process, logs, _directory: directory };
        proxied.wait();
        proxied
    }

    /// Waits until the proxy forwards.
    fn wait(&self) {
        let end = Instant::now() + START;
        loop {
            if TcpStream::connect(self.address).is_ok() && self.is_ready() {
                self.env.backend.take_requests();
                return;
            }
            assert!(Instant::now() < end, "not ready:\n{}", self.logs.all().join("\n"));
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_ready(&self) -> bool {
        self.try_ask("GET", "/up", &[], b"").is_some_and(|response| response.status == 200)
    }

    /// Sends a request on a new connection. `None` if there is no response.
    pub fn try_ask(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Response> {
        if self.protocol == Protocol::Http1 {
            return self.client().try_request(method, target, fields, body).ok();
        }
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.to_lowercase(), *value)).collect();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, *value)).collect();
        match self.http2_client().request(method, target, &fields, body) {
            Outcome::Answer(response) => Some(response),
            _ => None,
        }
    }

    /// Connects to the proxy from [`CLIENT`], by HTTP/2.
    pub fn http2_client(&self) -> Http2Client {
        Http2Client::connect_from(CLIENT, self.address)
    }

    /// Connects to the proxy from [`CLIENT`].
    pub fn client(&self) -> RawClient {
        RawClient::connect_from(CLIENT, self.address)
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        self.process.take();
        if thread::panicking() {
            println!("output of {:?}:\n{}", self.kind, self.logs.all().join("\n"));
        }
    }
}
