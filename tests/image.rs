//! The container image: its content, and that it runs.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::gateway::{Logs, spawn};
use crate::support::ports::free_address;
use crate::support::{Authority, Introspector, PATIENCE, RawClient, Upstream};

const MOST_BYTES: u64 = 25_000_000;
const IDLE_BYTES: u64 = 15 << 20;

/// The image in a temporary store, and its root directory.
struct Image {
    _store: tempfile::TempDir,
    config: Value,
    root: PathBuf,
}

impl Image {
    fn build() -> Self {
        let store = tempfile::tempdir().unwrap();
        let path = |name: &str| store.path().join(name).display().to_string();
        let buildah = |words: &[&str]| {
            let mut command = Command::new("buildah");
            command.args(["--storage-driver", "vfs", "--root", &path("root"), "--runroot", &path("run")]);
            finished(command.args(words))
        };
        buildah(&[
            "bud",
            "--isolation",
            "chroot",
            "--format",
            "docker",
            "--target",
            "prebuilt",
            "--build-arg",
            "REVISION=0123abc",
            "--build-arg",
            "SOURCE=https://example.com/stockaj-gateway",
            "--file",
            "deploy/Dockerfile",
            "--tag",
            "stockaj-gateway",
            ".",
        ]);
        let inspected = buildah(&["inspect", "--type", "image", "stockaj-gateway"]);
        let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
        let text = |output: Output| String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let container = text(buildah(&["from", "--pull-never", "stockaj-gateway"]));
        let root = text(buildah(&["mount", &container])).into();
        Self { config: inspected["Docker"]["config"].clone(), root, _store: store }
    }

    fn variables(&self) -> Vec<(String, String)> {
        let all = self.config["Env"].as_array().unwrap().iter().map(|it| it.as_str().unwrap());
        all.filter_map(|it| it.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Runs the image's command with these arguments in its root, as its user and read-only.
    fn command(&self, words: &[&str]) -> Command {
        self.command_with(words, "true")
    }

    /// The same after a command that modifies the root, `$root`, before it becomes read-only.
    fn command_with(&self, words: &[&str], mount: &str) -> Command {
        let user = self.config["User"].as_str().unwrap();
        let inside = format!(
            "root='{0}' && mount --bind \"$root\" \"$root\" && mount --bind /dev \"$root/dev\" && {mount} && \
             mount -o remount,bind,ro \"$root\" && exec chroot --userspec={user} \"$root\" \"$@\"",
            self.root.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &inside, "sh"]);
        command.args(self.config["Entrypoint"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()));
        command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(self.variables());
        command
    }
}

fn finished(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Every file below `directory` by its relative path, with its size.
fn files(directory: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(directory).unwrap().display().to_string();
                found.push((name, entry.metadata().unwrap().len()));
            }
        }
    }
    found.sort();
    found
}

/// A DNS server on port 53 of this address that resolves every name to 127.0.0.1.
fn name_server(address: &str) {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut question) {
            let end = question[12..length].iter().position(|byte| *byte == 0).unwrap() + 12 + 5;
            let is_a = question[end - 4..end - 2] == [0, 1];
            let mut answer = question[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&answer, asker).unwrap();
        }
    });
}

#[test]
#[ignore = "needs image: tests/run"]
fn image_is_minimal_unprivileged_and_read_only() {
    let image = Image::build();
    let config = &image.config;
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/stockaj-gateway"]));
    assert_eq!(config["Cmd"], json!(["run"]));
    assert_eq!(config["ExposedPorts"], json!({"8080/tcp": {}, "9090/tcp": {}}));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/stockaj-gateway", "health"]));
    for (label, value) in [
        ("title", "stockaj-gateway"),
        ("licenses", "MIT OR Apache-2.0"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", "0123abc"),
        ("created", "1970-01-01T00:00:00Z"),
        ("source", "https://example.com/stockaj-gateway"),
        ("documentation", "https://example.com/stockaj-gateway/blob/0123abc/docs/operations/container.md"),
    ] {
        assert_eq!(config["Labels"][format!("org.opencontainers.image.{label}")], value, "{label}");
    }

    let files = files(&image.root);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "stockaj-gateway",
            "usr/share/doc/stockaj-gateway/LICENSE-APACHE",
            "usr/share/doc/stockaj-gateway/LICENSE-MIT",
            "usr/share/doc/stockaj-gateway/LICENSES-OF-CRATES",
            "usr/share/stockaj-gateway/sbom.cdx.json",
            "usr/share/stockaj-gateway/stockaj.yaml",
        ]
    );
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    println!("the image: {bytes} bytes, of which the binary {}", files[0].1);
    assert!(bytes < MOST_BYTES, "{bytes}");
    bill_of_materials(&image);
    licences(&image);
    runs(&image);
    tls_works_on_both_sides(&image);
    demo_works(&image);
    ledger_works_on_a_volume(&image);
}

/// The SBOM lists all components of the binary, and nothing else.
fn bill_of_materials(image: &Image) {
    let bill = fs::read(image.root.join("usr/share/stockaj-gateway/sbom.cdx.json")).unwrap();
    let bill: Value = serde_json::from_slice(&bill).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
    let component =
        |it: &Value| format!("{} {}", it["name"].as_str().unwrap(), it["version"].as_str().unwrap());
    let listed: BTreeSet<String> = bill["components"].as_array().unwrap().iter().map(component).collect();
    let host = String::from_utf8(finished(Command::new("rustc").arg("-vV")).stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    let tree = finished(Command::new(env!("CARGO")).args([
        "tree",
        "--edges",
        "normal",
        "--target",
        &host,
        "--prefix",
        "none",
        "--no-dedupe",
        "--locked",
        "--format",
        "{p}",
    ]));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let used: BTreeSet<String> = tree
        .lines()
        .filter(|line| !line.starts_with("stockaj-gateway "))
        .filter_map(|line| {
            line.split_once(" v").map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap()))
        })
        .collect();
    assert!(used.len() > 50, "{used:?}");
    assert_eq!(listed, used);
    // An optional dependency: in the lock file and the metadata, but not in the binary.
    assert!(!listed.iter().any(|it| it.starts_with("ring ")));
    let known: BTreeSet<&str> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .chain([&bill["metadata"]["component"]])
        .map(|it| it["bom-ref"].as_str().unwrap())
        .collect();
    let told = bill["dependencies"].as_array().unwrap();
    assert_eq!(told.iter().map(|it| it["ref"].as_str().unwrap()).collect::<BTreeSet<_>>(), known);
    let on = |it: &Value| it["dependsOn"].as_array().cloned().unwrap_or_default();
    assert!(told.iter().flat_map(on).all(|it| known.contains(it.as_str().unwrap())));
    assert!(bill["components"].as_array().unwrap().iter().all(|it| it["licenses"][0].is_object()));
    assert!(!bill.to_string().contains(env!("CARGO_MANIFEST_DIR")), "where it was built");
}

/// The licences of the linked crates.
fn licences(image: &Image) {
    let text =
        fs::read_to_string(image.root.join("usr/share/doc/stockaj-gateway/LICENSES-OF-CRATES")).unwrap();
    let crates = text.lines().filter_map(|line| line.strip_prefix("-------- ")).flat_map(|it| it.split(", "));
    let crates: BTreeSet<&str> = crates.filter_map(|it| it.split(' ').next()).collect();
    for name in
        ["aws-lc-sys", "h2", "hickory-resolver", "hyper", "mimalloc", "rustls", "tokio", "webpki-roots"]
    {
        assert!(crates.contains(name), "{name}");
    }
}

fn runs(image: &Image) {
    fs::create_dir(image.root.join("dev")).unwrap();
    let version = finished(image.command(&["--version"]).stdin(Stdio::null()));
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("stockaj-gateway "));

    // The container additionally has a configuration and a name server.
    name_server("127.53.0.1");
    let (upstream, introspector) =
        (Upstream::start(), Introspector::with_tokens([("1|reader", &["items:read"][..])]));
    let admin = free_address();
    let etc = image.root.join("etc/stockaj-gateway");
    fs::create_dir_all(&etc).unwrap();
    fs::write(image.root.join("etc/resolv.conf"), "nameserver 127.53.0.1\n").unwrap();
    fs::write(image.root.join("etc/hosts"), "127.0.0.1 introspector.stockaj.test\n").unwrap();
    let yaml = format!(
        "listen: {{address: '127.0.0.1:0'}}\nadmin: {{address: '{admin}'}}\nruntime: {{threads: 2}}\n\
         backend: {{url: 'http://backend.stockaj.test:{}'}}\n\
         introspection: {{url: 'http://introspector.stockaj.test:{}/api/v2/token'}}\n\
         abilities: {{file: '${{STOCKAJ_ABILITY_MAP}}'}}\n",
        upstream.address().port(),
        introspector.server().address().port(),
    );
    fs::write(etc.join("gateway.yaml"), yaml).unwrap();
    let checked = finished(image.command(&["check"]).stdin(Stdio::null()));
    assert!(checked.status.success());

    let (mut gateway, logs) = spawn(&mut image.command(&["run"]));
    let address = listening(&logs);
    thread::sleep(std::time::Duration::from_millis(500));
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory: u64 = memory.trim().trim_end_matches(" kB").parse().unwrap();
    println!("idle: {memory} KiB");
    assert!(memory * 1024 <= IDLE_BYTES, "{memory} KiB");
    assert!(status.contains("\nUid:\t65532\t65532\t65532\t65532\n"), "{status}");

    let mut client = RawClient::connect(address);
    assert_eq!(client.get("/api/v2/items", Some("1|reader")).status, 200, "{:?}", logs.all());
    assert_eq!(client.get("/api/v2/items", None).status, 401);
    assert_eq!(
        client.request("DELETE", "/api/v2/items/1", &[("Authorization", "Bearer 1|reader")], b"").status,
        403
    );
    assert_eq!(upstream.requests().len(), 1);
    finished(image.command(&["health"]).stdin(Stdio::null()));

    kill_process(Pid::from_child(&gateway), Signal::TERM).unwrap();
    let end = std::time::Instant::now() + PATIENCE;
    let code = loop {
        if let Some(status) = gateway.try_wait().unwrap() {
            break status.code();
        }
        assert!(std::time::Instant::now() < end, "it does not end");
        thread::sleep(std::time::Duration::from_millis(10));
    };
    assert_eq!(code, Some(0));
    assert!(!image.command(&["health"]).stdin(Stdio::null()).output().unwrap().status.success());
}

/// A running container; killed when dropped.
struct Running(Child, Arc<Logs>);

impl Running {
    fn start(image: &Image, words: &[&str]) -> Self {
        let (child, logs) = spawn(&mut image.command(words));
        Self(child, logs)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        if thread::panicking() {
            println!("the container's output:\n{}", self.1.all().join("\n"));
        }
    }
}

/// `ca_file` is trusted; the bundled roots do not contain the test's authority.
fn tls_works_on_both_sides(image: &Image) {
    let authority = Authority::new();
    let (backend, introspector) = (Upstream::start_tls(&authority), Upstream::start_tls(&authority));
    let etc = image.root.join("etc/stockaj-gateway");
    for (file, name) in [
        (authority.certificate(), "tls.crt"),
        (authority.private_key(), "tls.key"),
        (authority.ca_file(), "ca.crt"),
    ] {
        fs::copy(file, etc.join(name)).unwrap();
    }
    let yaml = format!(
        "listen: {{address: '127.0.0.1:0', tls: {{certificate: tls.crt, private_key: tls.key}}}}\n\
         admin: {{address: '127.0.0.1:0'}}\nruntime: {{threads: 1}}\n\
         backend: {{url: '{}', tls: {{ca_file: ca.crt}}}}\n\
         introspection: {{url: '{}/api/v2/token', tls: {{roots: bundled}}}}\n\
         abilities: {{routes: {{/up: {{GET: public}}, /me: {{GET: authenticated}}}}}}\n",
        backend.url(),
        introspector.url(),
    );
    fs::write(etc.join("gateway.yaml"), yaml).unwrap();
    let gateway = Running::start(image, &["run"]);
    let address = listening(&gateway.1);
    assert_eq!(RawClient::connect_tls(address, &authority).get("/up", None).status, 200);
    assert_eq!(backend.requests().len(), 1);
    let refused = RawClient::connect_tls(address, &authority).get("/me", Some("1|reader"));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(gateway.1.wait(|line| line.contains("UnknownIssuer").then_some(())).is_some());
    assert_eq!(introspector.requests().len(), 0);
}

fn demo_works(image: &Image) {
    let demo = Running::start(image, &["demo", "--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]);
    let line = demo.1.wait(|line| line.trim().strip_prefix("metrics  http://").map(str::to_owned)).unwrap();
    let mut client = RawClient::connect(line.strip_suffix("/metrics").unwrap().parse().unwrap());
    let scrape = client.get("/metrics", None);
    assert!(scrape.text().contains("stockaj_gateway_build_info"), "{}", scrape.text());
}

/// A volume mounted over the directory inherits its content and owner: empty, owned by the image's user.
fn ledger_works_on_a_volume(image: &Image) {
    const LEDGER: &str = "var/lib/stockaj-gateway";
    let directory = fs::metadata(image.root.join(LEDGER)).unwrap();
    assert_eq!((directory.uid(), directory.gid()), (65532, 65532));
    let yaml = format!(
        "listen: {{address: '127.0.0.1:0'}}\nadmin: {{address: '127.0.0.1:0'}}\nruntime: {{threads: 1}}\n\
         backend: {{url: 'http://127.0.0.1:9'}}\n\
         introspection: {{url: 'http://127.0.0.1:9/api/v2/token'}}\nusage: {{path: /{LEDGER}/usage.redb}}\n\
         abilities: {{file: '${{STOCKAJ_ABILITY_MAP}}'}}\n"
    );
    fs::write(image.root.join("etc/stockaj-gateway/gateway.yaml"), yaml).unwrap();
    let volume = format!("mount --bind \"$root/{LEDGER}\" \"$root/{LEDGER}\"");
    for (mount, is_written) in [("true", false), (&*volume, true)] {
        let (child, logs) = spawn(&mut image.command_with(&["run"], mount));
        let _gateway = Running(child, Arc::clone(&logs));
        // It serves in both cases.
        listening(&logs);
        let ledger = image.root.join(LEDGER).join("usage.redb");
        let end = std::time::Instant::now() + PATIENCE;
        let is_told = || logs.all().iter().any(|line| line.contains("the ledger cannot be written"));
        while !(ledger.exists() || is_told()) {
            assert!(std::time::Instant::now() < end, "{:?}", logs.all());
            thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!((ledger.exists(), is_told()), (is_written, !is_written), "{:?}", logs.all());
    }
}

fn listening(logs: &Logs) -> std::net::SocketAddr {
    logs.wait(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "listening" && line["listener"] == "proxy")
            .then(|| line["address"].as_str()?.parse().ok())?
    })
    .unwrap_or_else(|| panic!("{:?}", logs.all()))
}

#[test]
#[ignore = "needs hadolint: tests/run"]
fn dockerfile_passes_hadolint() {
    let output = Command::new("target/hadolint/bin/hadolint").arg("deploy/Dockerfile").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
