//! Runs the real binary and talks to it over real sockets.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::certificate::Authority;
use super::client::{PATIENCE, RawClient, Response};
use super::env::Backend;
use super::introspector::Introspector;

/// The path of the binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_stockaj-gateway");

/// The default ability map.
const ABILITIES: &str = "\
abilities:
  routes:
    /up:                     {GET: public}
    /api/v2/items:           {GET: items:read, POST: items:create}
    /api/v2/items/{id}:      {GET: items:read, PUT: items:update, PATCH: items:update, DELETE: items:delete}
    /api/v2/kiosk/scan:      {POST: kiosk:scan}
    /api/v2/reports/{*rest}: {GET: {any: [items:read, rents:read]}}
    /api/v2/exports:         {POST: {all: [items:read, rents:read]}}
    /api/v2/me:              {GET: authenticated}
    /api/v2/internal:        {GET: deny}
";

/// Builds a [`Gateway`] from a gateway.yaml, section by section.
pub struct Builder {
    directory: tempfile::TempDir,
    sections: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
    authority: Option<Arc<Authority>>,
    inherited: Vec<OwnedFd>,
    file_size_limit: Option<u32>,
    name_server: Option<String>,
    command: Option<Command>,
}

impl Builder {
    /// Sets the backend.
    pub fn backend(self, backend: &impl Backend) -> Self {
        self.backend_at(backend, "")
    }

    /// Sets the backend and the path of its URL.
    pub fn backend_at(self, backend: &impl Backend, path: &str) -> Self {
        self.yaml(&format!("backend:\n  url: {}{path}\n{}", backend.url(), backend.settings()))
    }

    /// Sets the introspector.
    pub fn introspector(self, introspector: &Introspector) -> Self {
        self.yaml(&introspector.yaml())
    }

    /// Serves TLS with a certificate of `localhost`.
    pub fn tls(mut self, authority: &Arc<Authority>) -> Self {
        self.authority = Some(Arc::clone(authority));
        let (certificate, key) = (authority.certificate(), authority.private_key());
        self.yaml(&format!(
            "listen:\n  tls: {{certificate: {}, private_key: {}}}\n",
            certificate.display(),
            key.display()
        ))
    }

    /// Enforces the shipped map of Stockaj.
    pub fn shipped_map(self) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/stockaj.yaml");
        self.yaml(&format!("abilities: {{file: {}}}\n", file.display()))
    }

    /// Listens on a Unix socket; [`Gateway::address`] is meaningless then.
    pub fn listening_at(mut self, path: &Path) -> Self {
        self.sections
            .insert("listen".to_owned(), format!("listen:\n  address: \"unix:{}\"\n", path.display()));
        self
    }

    /// Sets an environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Passes up to two sockets by socket activation, as systemd does.
    pub fn inheriting(mut self, socket: impl Into<OwnedFd>) -> Self {
        self.inherited.push(socket.into());
        self
    }

    /// The directory of gateway.yaml.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file next to gateway.yaml.
    pub fn file(self, name: &str, content: &str) -> Self {
        std::fs::write(self.directory().join(name), content).unwrap();
        self
    }

    /// Adds sections to gateway.yaml. Lines of a section that already exists are appended to it; `abilities` replaces
    /// the map.
    pub fn yaml(mut self, text: &str) -> Self {
        let mut section = String::new();
        for line in text.lines() {
            if !line.starts_with([' ', '#']) && !line.is_empty() {
                let (name, inline) = line.split_once(':').expect("`section:` at the start of the line");
                section = name.to_owned();
                if inline.trim().is_empty() && self.sections.contains_key(name) && name != "abilities" {
                    continue;
                }
                let known = self.sections.insert(section.clone(), String::new());
                assert!(
                    known.is_none() || name == "abilities",
                    "`{name}` has lines already: write further ones below it, not inline"
                );
            }
            if let Some(lines) = self.sections.get_mut(&section) {
                *lines += line;
                *lines += "\n";
            }
        }
        self
    }

    /// The text of gateway.yaml.
    pub fn text(&self) -> String {
        self.sections.values().map(String::as_str).collect()
    }

    /// Uses one worker, so that all connections to the backend are in one pool.
    pub fn one_core(mut self) -> Self {
        self.sections.insert("runtime".to_owned(), "runtime: {threads: 1}\n".to_owned());
        self
    }

    /// Limits the size of written files to this number of KiB, to simulate a full disk.
    pub fn file_size_limit(mut self, kibibytes: u32) -> Self {
        self.file_size_limit = Some(kibibytes);
        self
    }

    /// Resolves names only by this name server.
    pub fn name_server(mut self, address: &str) -> Self {
        self.name_server = Some(address.to_owned());
        self
    }

    /// Runs `command` with the gateway's arguments appended instead of the binary under test, and multiplies the start
    /// timeout by six.
    pub fn command(mut self, command: Command) -> Self {
        self.command = Some(command);
        self
    }

    /// Keeps the blocks in the directory of gateway.yaml, unless it names another file.
    fn with_block_file(mut self) -> Self {
        let section = self.sections.entry("blocked".to_owned()).or_insert_with(|| "blocked:\n".to_owned());
        if !section.contains("  path:") {
            *section += "  path: blocked.json\n";
        }
        self
    }

    /// Starts the gateway and waits until it listens.
    pub fn start(self) -> Gateway {
        let this = self.with_block_file();
        this.launch()
    }

    fn launch(self) -> Gateway {
        let file = self.directory.path().join("gateway.yaml");
        std::fs::write(&file, self.text()).unwrap();
        let patience = if self.command.is_some() { 6 * PATIENCE } else { PATIENCE };
        let mut command = match (self.command, self.file_size_limit, self.name_server) {
            (Some(command), ..) => command,
            (None, Some(kibibytes), _) => limited(kibibytes),
            (None, None, Some(address)) => resolving_by(&address, self.directory.path()),
            (None, None, None) => passing(self.inherited.len()),
        };
        command.arg("run").arg("--config").arg(&file).envs(self.environment);
        let (child, logs) = spawn_with(&mut command, self.inherited);
        logs.wait_for(patience, |line| line.contains("listening").then_some(()));
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        let (authority, directory) = (self.authority, self.directory);
        let mut gateway = Gateway { child, logs, proxy: none, admin: none, authority, directory };
        gateway.find_listeners();
        gateway
    }
}

/// A running gateway; killed when dropped.
pub struct Gateway {
    child: Child,
    logs: Arc<Logs>,
    proxy: SocketAddr,
    admin: SocketAddr,
    authority: Option<Arc<Authority>>,
    directory: tempfile::TempDir,
}

impl Gateway {
    /// Starts a gateway with a small map and ephemeral ports.
    pub fn builder() -> Builder {
        let empty = Builder {
            directory: tempfile::tempdir().unwrap(),
            sections: BTreeMap::new(),
            environment: Vec::new(),
            authority: None,
            inherited: Vec::new(),
            file_size_limit: None,
            name_server: None,
            command: None,
        };
        empty
            .yaml("listen:\n  address: 127.0.0.1:0\nadmin:\n  address: 127.0.0.1:0\n")
            .yaml("runtime: {threads: 2}\n")
            .yaml(ABILITIES)
    }

    /// The certificate authority of the gateway's certificate.
    ///
    /// # Panics
    /// If the gateway does not serve TLS.
    pub fn authority(&self) -> &Authority {
        self.authority.as_deref().expect("TLS")
    }

    /// The address of the proxy's listener.
    pub fn address(&self) -> SocketAddr {
        self.proxy
    }

    /// The address of the admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The directory of gateway.yaml.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The resident memory in bytes.
    pub fn resident_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Opens a connection to the proxy.
    pub fn client(&self) -> RawClient {
        match &self.authority {
            Some(authority) => RawClient::connect_tls(self.proxy, authority),
            None => RawClient::connect(self.proxy),
        }
    }

    /// Sends `GET target` on a new connection.
    pub fn get(&self, target: &str, token: Option<&str>) -> Response {
        self.client().get(target, token)
    }

    /// Sends a request to the admin listener on a new connection.
    pub fn admin_request(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Response {
        RawClient::connect(self.admin).request(method, target, fields, body.as_bytes())
    }

    /// Scrapes the admin listener.
    pub fn metrics(&self) -> Metrics {
        let response = RawClient::connect(self.admin).get("/metrics", None);
        assert_eq!(response.status, 200, "{}", response.text());
        Metrics(response.text().to_owned())
    }

    /// Scrapes until the metric has this value.
    pub fn wait_for_metric(&self, metric: &str, value: f64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics();
            if metrics.metric(metric) == value {
                return;
            }
            assert!(Instant::now() < end, "{metric} is not {value} in\n{}", metrics.0);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The lines written to standard output and standard error so far.
    pub fn logs(&self) -> Vec<String> {
        self.logs.all()
    }

    /// Waits for the first log line that satisfies `wanted`.
    pub fn wait_for_log(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = self.logs.wait(|line| serde_json::from_str(line).ok().filter(&wanted));
        found.unwrap_or_else(|| panic!("no such line among\n{}", self.logs().join("\n")))
    }

    /// Reads the address of a listener from the log, in either format.
    pub fn wait_for_listener(&self, listener: &str) -> SocketAddr {
        let listener = format!("\"{listener}\"");
        let found = self.logs.wait(|line| {
            let (_, address) = line.split_once("address\":\"").or_else(|| line.split_once("address="))?;
            let is_it = line.contains("listening") && line.contains(&listener);
            is_it.then(|| address.split(['"', ' ']).next().unwrap_or_default().to_owned())
        });
        let address =
            found.unwrap_or_else(|| panic!("no listener {listener} among\n{}", self.logs().join("\n")));
        match address.starts_with("unix:") {
            true => SocketAddr::from(([0, 0, 0, 0], 0)),
            false => address.parse().expect("an address with a port"),
        }
    }

    /// Replaces `from` by `to` in gateway.yaml: writes a new file and renames it, as editors do.
    pub fn edit(&self, from: &str, to: &str) {
        let file = self.directory().join("gateway.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "no `{from}` in\n{text}");
        let beside = self.directory().join("gateway.yaml.new");
        std::fs::write(&beside, text.replace(from, to)).unwrap();
        std::fs::rename(&beside, &file).unwrap();
    }

    /// Triggers a reload and returns whether it succeeded.
    pub fn reload(&self) -> bool {
        let before = self.reloads().len();
        self.signal(Signal::HUP);
        self.wait_for_reload(before)
    }

    /// Waits until one more reload than `before` is logged; returns whether it succeeded.
    pub fn wait_for_reload(&self, before: usize) -> bool {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(taken) = self.reloads().get(before) {
                return *taken;
            }
            assert!(Instant::now() < end, "no reload after {before}:\n{}", self.logs().join("\n"));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether each reload so far succeeded, in order.
    pub fn reloads(&self) -> Vec<bool> {
        let messages = |line: &String| {
            let line: Value = serde_json::from_str(line).ok()?;
            match line["message"].as_str()? {
                "configuration reloaded" => Some(true),
                "configuration rejected; the previous one stays in use" => Some(false),
                _ => None,
            }
        };
        self.logs().iter().filter_map(messages).collect()
    }

    /// Starts the gateway again with the current gateway.yaml; the previous process must have exited.
    pub fn restart(&mut self) {
        self.wait_exit(PATIENCE);
        let mut command = Command::new(BINARY);
        command.arg("run").arg("--config").arg(self.directory().join("gateway.yaml"));
        (self.child, self.logs) = spawn(&mut command);
        self.find_listeners();
    }

    fn find_listeners(&mut self) {
        self.proxy = self.wait_for_listener("proxy");
        self.admin = self.wait_for_listener("admin");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the process to exit.
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "still running after {deadline:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("gateway's output:\n{}", self.logs().join("\n"));
        }
    }
}

/// The output lines of a process.
#[derive(Default)]
pub struct Logs {
    lines: Mutex<Vec<String>>,
    ended: Mutex<usize>,
    changed: Condvar,
}

impl Logs {
    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The first line that `wanted` accepts; `None` if none arrives before the deadline or the process's exit.
    pub fn wait<T>(&self, wanted: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.wait_for(PATIENCE, wanted)
    }

    /// The same with a given deadline.
    pub fn wait_for<T>(&self, patience: Duration, wanted: impl Fn(&str) -> Option<T>) -> Option<T> {
        let end = Instant::now() + patience;
        let mut lines = self.lines.lock().unwrap();
        let mut seen = 0;
        loop {
            if let Some(found) = lines[seen..].iter().find_map(|line| wanted(line)) {
                return Some(found);
            }
            seen = lines.len();
            let left = end.checked_duration_since(Instant::now())?;
            if *self.ended.lock().unwrap() == 2 {
                return None;
            }
            (lines, _) = self.changed.wait_timeout(lines, left.min(Duration::from_millis(100))).unwrap();
        }
    }

    fn collect(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let logs = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                logs.lines.lock().unwrap().push(line);
                logs.changed.notify_all();
            }
            *logs.ended.lock().unwrap() += 1;
            logs.changed.notify_all();
        });
    }
}

/// A command that runs the binary with a file size limit in KiB.
fn limited(kibibytes: u32) -> Command {
    let mut command = Command::new("sh");
    // `ulimit -f` counts blocks of 512 bytes.
    let script = format!("ulimit -f {}; exec \"$@\"", kibibytes * 2);
    command.args(["-c", &script, "sh", BINARY]);
    command
}

/// A command that runs the binary in a mount namespace whose `/etc/resolv.conf` names this name server.
fn resolving_by(address: &str, directory: &Path) -> Command {
    let file = directory.join("resolv.conf");
    std::fs::write(&file, format!("nameserver {address}\n")).unwrap();
    let mut command = Command::new("unshare");
    let script = format!("mount --bind '{}' /etc/resolv.conf && exec \"$@\"", file.display());
    command.args(["--mount", "sh", "-c", &script, "sh", BINARY]);
    command
}

/// A command that runs the binary with sockets from descriptor 3 on, as systemd passes them. The shell receives them as
/// standard input and standard error, which `Command` can set.
fn passing(sockets: usize) -> Command {
    let redirections = match sockets {
        0 => return Command::new(BINARY),
        1 => "3<&0",
        _ => "3<&0 4<&2 2>&1",
    };
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("LISTEN_PID=$$ exec \"$@\" {redirections} </dev/null"))
        .arg("sh")
        .arg(BINARY);
    command.env("LISTEN_FDS", sockets.to_string());
    command
}

/// Starts a process and collects its output lines.
pub fn spawn(command: &mut Command) -> (Child, Arc<Logs>) {
    spawn_with(command, Vec::new())
}

fn spawn_with(command: &mut Command, sockets: Vec<OwnedFd>) -> (Child, Arc<Logs>) {
    let mut sockets = sockets.into_iter().map(Stdio::from);
    command.stdin(sockets.next().unwrap_or_else(Stdio::null)).stdout(Stdio::piped());
    command.stderr(sockets.next().unwrap_or_else(Stdio::piped));
    let mut child = command.spawn().unwrap();
    // Only the child keeps its sockets open from here on.
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let logs = Arc::new(Logs::default());
    logs.collect(child.stdout.take().unwrap());
    match child.stderr.take() {
        Some(stderr) => logs.collect(stderr),
        None => *logs.ended.lock().unwrap() += 1,
    }
    (child, logs)
}

/// A parsed scrape of the metrics.
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of all samples of a metric, `name` or `name{label="value",…}`, whose labels include those given. The
    /// prefix `stockaj_gateway_` may be omitted. 0 if there is no sample.
    pub fn metric(&self, metric: &str) -> f64 {
        let (name, wanted) = parts(metric);
        let samples = self.0.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let (its_name, labels) = parts(sample);
            let fits = its_name.strip_prefix("stockaj_gateway_") == Some(name)
                && wanted.iter().all(|label| labels.contains(label));
            fits.then(|| value.parse::<f64>().unwrap())
        });
        samples.sum()
    }
}

/// Splits `name{a="b",c="d"}` into its name and its labels.
fn parts(metric: &str) -> (&str, Vec<&str>) {
    match metric.trim_end_matches('}').split_once('{') {
        Some((name, labels)) => (name, labels.split(',').collect()),
        None => (metric, Vec::new()),
    }
}
