//! The systemd units: systemd's own checks, and the gateway under a real systemd.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::ports::free_address;
use crate::support::{Authority, BINARY, Gateway, Introspector, PATIENCE, RawClient, Upstream, WRITER};

const PROGRAM: &str = "/usr/local/bin/stockaj-gateway";
const UNITS: [&str; 3] =
    ["stockaj-gateway.socket", "stockaj-gateway-admin.socket", "stockaj-gateway@a.service"];
const GUIDE: &str = include_str!("../../docs/operations/systemd.md");

/// Copies the units into another directory with `replacements` applied.
fn write_units(directory: &Path, replacements: &[(&str, &str)]) {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd")).unwrap() {
        let file = entry.unwrap();
        let mut text = fs::read_to_string(file.path()).unwrap();
        for (from, to) in replacements {
            text = text.replace(from, to);
        }
        fs::write(directory.join(file.file_name()), text).unwrap();
    }
}

#[test]
#[ignore = "needs systemd-analyze: tests/run"]
fn systemd_accepts_the_units() {
    let directory = tempfile::tempdir().unwrap();
    // `systemd-analyze verify` needs the path of the program.
    write_units(directory.path(), &[(PROGRAM, BINARY)]);
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).args(UNITS.map(|unit| directory.path().join(unit)));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// The exposure level of `systemd-analyze security`, from 0 (fully confined) to 10.
#[test]
#[ignore = "needs systemd-analyze: tests/run"]
fn systemd_exposure_is_the_documented_one() {
    let directory = tempfile::tempdir().unwrap();
    write_units(directory.path(), &[(PROGRAM, BINARY)]);
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--no-pager"]).arg(directory.path().join(UNITS[2]));
    let output = command.env("SYSTEMD_COLORS", "0").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (_, level) = said.rsplit_once("stockaj-gateway@a.service: ").unwrap_or_else(|| panic!("{said}"));
    let level = level.split(' ').next().unwrap();
    assert!(level.parse::<f32>().unwrap() <= 1.2, "{said}");
    assert!(GUIDE.contains(&format!("exposure level of {level} ")), "the guide does not state {level}");
}

/// Units that the gateway's units depend on, without those of a complete system boot.
const TARGETS: [&str; 6] = ["basic", "network-online", "shutdown", "sockets", "sysinit", "umount"];

/// Runs the commands that arrive through a pipe, one a line; the system shuts down when the pipe is closed.
const CONTROL: &str = "\
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sh /units/control.sh
";
const CONTROL_SCRIPT: &str = "\
while read -r line; do
    { sh -c \"$line\"; echo \"exit $?\"; } > /shared/answer.new 2>&1 < /dev/null
    mv /shared/answer.new /shared/answer
done < /shared/commands
";
/// The file that contains the gateway's log, since there is no journal.
const OUTPUT: &str = "[Service]\nStandardOutput=append:/shared/log\nStandardError=append:/shared/log\n";

/// A systemd with only these units, over this machine's programs and network.
struct System {
    process: Child,
    commands: Option<File>,
    directory: tempfile::TempDir,
}

impl System {
    /// Boots it with modified units and with `etc` as `/etc/stockaj-gateway`.
    fn boot(replacements: &[(&str, &str)], etc: impl FnOnce(&Path)) -> Self {
        let program = Path::new(BINARY).parent().unwrap().display();
        let options = |directory: &Path| {
            // `/usr` is this machine's own, so the program is installed elsewhere.
            let mut replacements = replacements.to_vec();
            replacements.push((PROGRAM, "/gateway/stockaj-gateway"));
            write_units(&directory.join("units"), &replacements);
            fs::create_dir(directory.join("etc")).unwrap();
            etc(&directory.join("etc"));
            fs::set_permissions(directory.join("etc"), fs::Permissions::from_mode(0o755)).unwrap();
            vec![
                "--volatile=yes".to_owned(),
                format!("--bind-ro={program}:/gateway"),
                format!("--bind-ro={}:/etc/stockaj-gateway", directory.join("etc").display()),
                "--setenv=SYSTEMD_UNIT_PATH=/units".to_owned(),
            ]
        };
        Self::boot_with(options)
    }

    /// Boots it without the units, with an empty package database and a temporary overlay over `/usr`. `shared` fills
    /// the system's `/shared`.
    fn boot_writable(shared: impl FnOnce(&Path)) -> Self {
        let system = Self::boot_with(|directory| {
            shared(&directory.join("shared"));
            let path = "--setenv=SYSTEMD_UNIT_PATH=/units:/etc/systemd/system:/usr/lib/systemd/system";
            ["--volatile=yes", "--overlay=/usr::/usr", path].map(str::to_owned).to_vec()
        });
        system.run("mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates && touch /var/lib/dpkg/status");
        system
    }

    /// `prepare` fills a directory, whose `units` and `shared` are mounted in the system, and returns options.
    fn boot_with(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        static SYSTEMS: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["units", "shared"] {
            fs::create_dir(at(name)).unwrap();
        }
        let options = prepare(directory.path());
        for name in TARGETS {
            fs::write(at("units").join(format!("{name}.target")), "[Unit]\n").unwrap();
        }
        fs::write(at("units/control.service"), CONTROL).unwrap();
        fs::write(at("units/control.sh"), CONTROL_SCRIPT).unwrap();
        fs::create_dir(at("units/stockaj-gateway@.service.d")).unwrap();
        fs::write(at("units/stockaj-gateway@.service.d/output.conf"), OUTPUT).unwrap();
        for name in ["units", "shared", ""] {
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let pipe = at("shared/commands");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());

        let bind = |option: &str, from: PathBuf, to: &str| format!("--{option}={}:{to}", from.display());
        let number = SYSTEMS.fetch_add(1, Ordering::Relaxed);
        let mut command = as_root("systemd-nspawn");
        command
            .args(["--quiet", "--directory=/", "--register=no", "--keep-unit"])
            .arg(format!("--machine=stockaj-gateway-test-{}-{number}", std::process::id()))
            .args(options)
            .arg(bind("bind-ro", at("units"), "/units"))
            .arg(bind("bind", at("shared"), "/shared"))
            .args(["--console=pipe", "--boot", "--"])
            .args(["--unit=control.service", "--log-target=console", "--log-level=warning"]);
        let output = File::create(at("shared/system")).unwrap();
        command.stdin(Stdio::null()).stderr(output.try_clone().unwrap()).stdout(output);
        let process = command.spawn().unwrap();
        let mut system = Self { process, commands: None, directory };
        // Opening the pipe blocks until the system has opened its end.
        let (opened, waiting) = std::sync::mpsc::channel();
        thread::spawn(move || opened.send(File::options().write(true).open(pipe).unwrap()));
        system.commands = waiting.recv_timeout(PATIENCE).ok();
        assert!(system.commands.is_some(), "the system does not boot:\n{}", system.said());
        system
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The output of systemd and the gateway.
    fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.at(name)).unwrap_or_default();
        format!("{}\n{}", read("shared/system"), read("shared/log"))
    }

    /// Runs a command inside and returns its output; panics if it fails.
    fn run(&self, command: &str) -> String {
        let answer = self.at("shared/answer");
        writeln!(self.commands.as_ref().unwrap(), "{command}").unwrap();
        let end = Instant::now() + PATIENCE;
        while !answer.exists() {
            assert!(Instant::now() < end, "`{command}` does not exit:\n{}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
        let said = fs::read_to_string(&answer).unwrap();
        fs::remove_file(&answer).unwrap();
        let output = said.strip_suffix("exit 0\n");
        output.unwrap_or_else(|| panic!("`{command}`: {said}{}", self.said())).to_owned()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.commands = None;
        let end = Instant::now() + PATIENCE;
        while self.process.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > end {
                let _ = self.process.kill();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--non-interactive").arg(program);
    command
}

/// The guide's statements about systemd: the sockets start the service, the service works within all its restrictions,
/// reloads its configuration, and is replaced under load without a failed request.
#[test]
#[ignore = "needs systemd-nspawn: tests/run"]
fn gateway_starts_reloads_and_stops_under_systemd() {
    const ITEMS: &str = "/api/v2/items";
    let authority = Arc::new(Authority::new());
    let upstream = Upstream::start_tls(&authority);
    let introspector = Introspector::with_tokens([("1|writer", &["*"][..])]);
    let (proxy, admin) = (free_address(), free_address());
    let pems = authority.certificate().parent().unwrap().to_owned();
    let yaml = Gateway::builder()
        .tls(&authority)
        .backend(&upstream)
        .introspector(&introspector)
        .yaml("admin:\n  token_file: ${CREDENTIALS_DIRECTORY}/admin-token\n")
        .yaml("usage: {path: /var/lib/stockaj-gateway/usage.redb}\n")
        .text()
        .replace(pems.to_str().unwrap(), "/etc/stockaj-gateway/tls");
    let addresses = [proxy.to_string(), admin.to_string()];
    let system =
        System::boot(&[("0.0.0.0:8080", addresses[0].as_str()), ("127.0.0.1:9090", &addresses[1])], |etc| {
            fs::write(etc.join("gateway.yaml"), &yaml).unwrap();
            fs::create_dir(etc.join("tls")).unwrap();
            for file in fs::read_dir(&pems).unwrap().map(|entry| entry.unwrap()) {
                let copy = etc.join("tls").join(file.file_name());
                fs::copy(file.path(), &copy).unwrap();
                fs::set_permissions(copy, fs::Permissions::from_mode(0o644)).unwrap();
            }
            // Readable by root only; the unit passes it as a credential.
            fs::create_dir(etc.join("credentials")).unwrap();
            fs::write(etc.join("credentials/admin-token"), "admin-secret-of-the-test\n").unwrap();
            fs::set_permissions(etc.join("credentials"), fs::Permissions::from_mode(0o700)).unwrap();
        });

    // The first connection starts the service and is queued in the socket meanwhile.
    system.run("systemctl start stockaj-gateway.socket stockaj-gateway-admin.socket");
    let ask = || RawClient::connect_tls(proxy, &authority).try_request("POST", ITEMS, &[WRITER], b"{}");
    assert_eq!(ask().unwrap().status, 200, "{}", system.said());
    assert_eq!(RawClient::connect(admin).get("/readyz", None).status, 200);
    system.run("systemctl is-active stockaj-gateway@a");

    // The service received the credential.
    let order = |token: &str| {
        let fields = [("Authorization", token), ("Content-Type", "application/json")];
        let mut client = RawClient::connect(admin);
        client.request("POST", "/tokens/revoke", &fields, b"{\"id\": \"17\"}").status
    };
    assert_eq!((order("Bearer admin-secret-of-the-test"), order("Bearer other")), (200, 401));

    // The service has a dynamic user, no new privileges, and sees few files.
    let status = system.run("cat /proc/$(systemctl show -P MainPID stockaj-gateway@a)/status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:\t")));
        line.unwrap_or_else(|| panic!("{status}")).split('\t').next().unwrap()
    };
    assert_eq!((field("NoNewPrivs"), field("Seccomp"), field("CapEff")), ("1", "2", "0000000000000000"));
    assert!(field("Uid").parse::<u32>().unwrap() > 60000, "a dynamic user");

    // Reload, then restart, while requests are served.
    let reload = |system: &System| {
        let file = system.at("etc/gateway.yaml");
        fs::write(&file, fs::read_to_string(&file).unwrap() + "cache: {ttl: 30s}\n").unwrap();
        system.run("systemctl reload stockaj-gateway@a");
        let end = Instant::now() + PATIENCE;
        while !system.said().contains("configuration reloaded") {
            assert!(Instant::now() < end, "{}", system.said());
            thread::sleep(Duration::from_millis(20));
        }
    };
    let over = AtomicBool::new(false);
    let served = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut served = 0_u64;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(ask().unwrap_or_else(|error| panic!("after {served}: {error}")).status, 200);
                served += 1;
            }
            served
        });
        reload(&system);
        system.run("systemctl start stockaj-gateway@b");
        system.run("systemctl stop stockaj-gateway@a");
        system.run("systemctl is-active stockaj-gateway@b");
        system.run("systemctl restart stockaj-gateway@b");
        over.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    assert!(served > 10, "{served}");

    // The successive processes share one ledger, which has counted every request.
    let fields = [("Authorization", "Bearer admin-secret-of-the-test"), ("Accept", "application/json")];
    let usage = RawClient::connect(admin).request("GET", "/usage", &fields, b"");
    assert_eq!(usage.status, 200, "{}", usage.text());
    let rows = usage.json()["tokens"][0]["usage"].as_array().unwrap().clone();
    let counted: u64 = rows.iter().map(|row| row["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, served + 1, "{}", system.said());
    let ledger = system.run("stat --dereference --format %a /var/lib/stockaj-gateway/usage.redb");
    assert_eq!(ledger.trim(), "600");
    let failed = system.run("systemctl list-units --state=failed --no-legend --plain stockaj-*");
    assert_eq!(failed, "", "{}", system.said());
}

/// Installs, starts, upgrades, removes and purges the package, which has this build's binary.
#[test]
#[ignore = "needs systemd-nspawn: tests/run"]
fn debian_package_installs_starts_upgrades_and_purges() {
    let upstream = Upstream::start();
    let introspector = Introspector::with_tokens([("1|writer", &["*"][..])]);
    let (proxy, admin) = (free_address(), free_address());
    let yaml = Gateway::builder()
        .backend(&upstream)
        .introspector(&introspector)
        .yaml("admin:\n  token_file: ${CREDENTIALS_DIRECTORY}/admin-token\n")
        .text();
    let system = System::boot_writable(|shared| {
        let mut build = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/debian/build"));
        // Compressing a binary with its symbols takes long.
        build.arg(BINARY).arg(shared).env("DPKG_DEB_COMPRESSOR_TYPE", "none");
        let output = build.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(shared.join("gateway.yaml"), yaml).unwrap();
        // Ports of this test instead of the default ones, set by a drop-in as an operator would.
        for (unit, address) in [("stockaj-gateway.socket", proxy), ("stockaj-gateway-admin.socket", admin)] {
            let directory = shared.join("drop-ins").join(format!("{unit}.d"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(
                directory.join("port.conf"),
                format!("[Socket]\nListenStream=\nListenStream={address}\n"),
            )
            .unwrap();
        }
    });
    let connects = || std::net::TcpStream::connect(proxy).is_ok();
    let ask = || RawClient::connect(proxy).request("POST", "/api/v2/items", &[WRITER], b"{}").status;
    let pid = || system.run("systemctl show -P MainPID stockaj-gateway@a").trim().parse::<u32>().unwrap();

    system.run("dpkg --install /shared/*.deb");
    assert!(!connects(), "the service does not start before it is configured");
    assert_eq!(system.run("systemctl is-enabled stockaj-gateway.socket || true").trim(), "disabled");
    let token = "/etc/stockaj-gateway/credentials/admin-token";
    assert_eq!(system.run(&format!("stat --format '%a %s' {token}")).trim(), "600 64");
    // The packaged files are a valid configuration.
    system.run("stockaj-gateway check --config /etc/stockaj-gateway/gateway.yaml");
    for file in [
        "/usr/share/man/man1/stockaj-gateway.1.gz",
        "/usr/share/bash-completion/completions/stockaj-gateway",
        "/usr/share/zsh/vendor-completions/_stockaj-gateway",
        "/usr/share/fish/vendor_completions.d/stockaj-gateway.fish",
        "/usr/share/stockaj-gateway/gateway.schema.json",
    ] {
        system.run(&format!("test -s {file}"));
    }

    system
        .run("cp /shared/gateway.yaml /etc/stockaj-gateway && cp -R /shared/drop-ins/. /etc/systemd/system");
    system.run("systemctl daemon-reload");
    system.run("systemctl enable --now stockaj-gateway.socket stockaj-gateway-admin.socket");
    assert_eq!(ask(), 200, "{}", system.said());
    let secret = format!("Bearer {}", system.run(&format!("cat {token}")).trim());
    let fields = [("Authorization", secret.as_str())];
    assert_eq!(RawClient::connect(admin).request("GET", "/tokens", &fields, b"").status, 200);

    // An upgrade replaces the program of the running instance and keeps configuration and secret.
    let first = pid();
    system.run("dpkg --install /shared/*.deb");
    assert_eq!(ask(), 200, "{}", system.said());
    assert!(pid() != first && first != 0, "{}", system.said());
    assert_eq!(format!("Bearer {}", system.run(&format!("cat {token}")).trim()), secret);
    system.run("cmp /shared/gateway.yaml /etc/stockaj-gateway/gateway.yaml");

    system.run("dpkg --remove stockaj-gateway");
    assert!(!connects());
    system.run("test -e /etc/stockaj-gateway/gateway.yaml && ! test -e /usr/bin/stockaj-gateway");
    system.run("dpkg --purge stockaj-gateway");
    system.run("! test -e /etc/stockaj-gateway && ! test -e /var/lib/private/stockaj-gateway");
    let failed = system.run("systemctl list-units --state=failed --no-legend --plain stockaj-*");
    assert_eq!(failed, "", "{}", system.said());
}
