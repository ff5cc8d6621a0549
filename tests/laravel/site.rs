//! A Laravel application behind nginx and php-fpm, in a temporary directory and in child processes.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::model::{Dispatched, Laravel};
use crate::support::wire::{Body, Head};
use crate::support::{Fields, PATIENCE};

/// The server in front of Laravel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// nginx with php-fpm; routes are registered for each request.
    Plain,
    /// nginx with php-fpm; routes are compiled by `artisan route:cache`, which uses another matcher.
    Cached,
    /// PHP's own server, as started by `artisan serve`: it drops no field, and folds `_` and `.` into `-`.
    Serve,
}

/// The application, served by each [`Front`].
pub struct Site {
    directory: tempfile::TempDir,
    processes: Vec<Child>,
    /// The address of [`Front::Serve`].
    address: String,
}

/// The record that the application writes when it calls its controller.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `X-Case` of the request.
    pub case: Option<usize>,
    /// Verb and route.
    pub dispatched: Dispatched,
    /// The bearer token that Laravel read.
    pub token: Option<String>,
    /// The number of cookies.
    pub cookies: u64,
}

impl Site {
    /// Starts the application with the routes of `laravel`, and waits until it responds.
    pub fn start(laravel: &Laravel) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/laravel");
        let app = directory.path().join("app");
        copy(&source.join("app"), &app);
        fs::create_dir_all(app.join("bootstrap/cache")).unwrap();
        fs::write(app.join("routes.json"), json!(laravel.routes()).to_string()).unwrap();
        for name in ["php-fpm.conf", "nginx.conf"] {
            let text = fs::read_to_string(source.join(name)).unwrap();
            let text = text.replace("@DIRECTORY@", directory.path().to_str().unwrap());
            fs::write(directory.path().join(name), text).unwrap();
        }
        let cached = Command::new("php")
            .arg(app.join("cache.php"))
            .env("APP_ROUTES_CACHE", directory.path().join("routes.php"))
            .output()
            .unwrap();
        assert!(cached.status.success() && directory.path().join("routes.php").exists(), "{cached:?}");

        let mut site = Self { directory, processes: Vec::new(), address: String::new() };
        let path = |name: &str| site.directory.path().join(name).display().to_string();
        let (pool, server, script) = (path("php-fpm.conf"), path("nginx.conf"), path("app/server.php"));
        site.run("php-fpm", &["-R", "-F", "-y", &pool]);
        site.run("nginx", &["-c", &server]);
        site.run("php", &["-S", "127.0.0.1:0", &script]);
        let end = Instant::now() + PATIENCE;
        for socket in ["php-fpm.sock", "plain.sock", "cached.sock"] {
            while let Err(error) = UnixStream::connect(site.directory.path().join(socket)) {
                assert!(Instant::now() < end, "{socket}: {error}\n{}", site.logs());
                thread::sleep(Duration::from_millis(10));
            }
        }
        site.address = loop {
            let output = fs::read_to_string(site.directory.path().join("php.output")).unwrap();
            if let Some((address, _)) =
                output.split_once("Server (").and_then(|(_, rest)| rest.split_once(')'))
            {
                break address.to_owned();
            }
            assert!(Instant::now() < end, "{}", site.logs());
            thread::sleep(Duration::from_millis(10));
        };
        site
    }

    fn run(&mut self, name: &str, arguments: &[&str]) {
        let log = fs::File::create(self.directory.path().join(format!("{name}.output"))).unwrap();
        // The kernel kills the servers if the test is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program(name))
            .args(arguments)
            .env("DISPATCHES", self.directory.path().join("dispatches"))
            .current_dir(self.directory.path().join("app/public"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.processes.push(child.unwrap());
    }

    /// The URL for `backend.url`.
    pub fn url(&self, front: Front) -> String {
        match front {
            Front::Serve => self.address.clone(),
            _ => format!("unix:{}", self.socket(front).display()),
        }
    }

    fn socket(&self, front: Front) -> PathBuf {
        self.directory.path().join(if front == Front::Cached { "cached.sock" } else { "plain.sock" })
    }

    /// Connects to nginx directly.
    pub fn connect(&self, front: Front) -> UnixStream {
        let stream = UnixStream::connect(self.socket(front)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The requests dispatched since the last call.
    pub fn take_dispatches(&self) -> Vec<Entry> {
        let file = self.directory.path().join("dispatches");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        text.lines().map(entry).collect()
    }

    fn logs(&self) -> String {
        let names = ["php-fpm.output", "php-fpm.log", "nginx.output", "nginx.log"];
        let read = |name| fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        let logs = names.map(read).concat();
        // nginx logs these for every path that ends in `.php`.
        logs.lines().filter(|line| !line.contains("Primary script unknown")).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in &mut self.processes {
            // A killed php-fpm would leave its workers running.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            let _ = child.wait();
        }
        if thread::panicking() {
            println!("logs of php-fpm and nginx:\n{}", self.logs());
        }
    }
}

fn entry(line: &str) -> Entry {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let text = |name: &str| line[name].as_str().map(str::to_owned);
    Entry {
        case: text("case").and_then(|case| case.parse().ok()),
        dispatched: Dispatched {
            verb: text("verb").unwrap(),
            // Laravel has no other syntax for a remainder parameter.
            route: text("route").unwrap().replace("{rest}", "{*rest}"),
        },
        token: text("token"),
        cookies: line["cookies"].as_u64().unwrap(),
    }
}

/// A program with that name, or with that name and a version. Debian keeps servers in `/usr/sbin`.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flatten()
        .map(|file| file.unwrap().path())
        .filter(|file| {
            let version = file.file_name().and_then(|it| it.to_str()?.strip_prefix(name));
            version.is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
        })
        .collect();
    found.sort();
    found.into_iter().next().unwrap_or_else(|| panic!("no {name} here: tests/run installs it"))
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (file.path(), to.join(file.file_name()));
        match source.is_dir() {
            true => copy(&source, &target),
            false => {
                fs::copy(source, target).unwrap();
            }
        }
    }
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
}

/// Sends bytes and reads the final response; `None` if the server closes without one.
pub fn exchange(mut stream: impl Read + Write, bytes: &[u8], to_head: bool) -> Option<Response> {
    // The server may have responded and closed before it has read everything.
    let _ = stream.write_all(bytes);
    let mut stream = BufReader::new(stream);
    loop {
        let head = match Head::read(&mut stream) {
            Ok(head) => head?,
            Err(error) if is_close(&error) => return None,
            Err(error) => panic!("{error} after {}", bytes.escape_ascii()),
        };
        let status: u16 = head.start_line.split(' ').nth(1)?.parse().ok()?;
        if (100..200).contains(&status) {
            continue;
        }
        let body = match to_head || matches!(status, 204 | 304) {
            true => Body::default(),
            false => Body::read(&mut stream, &head.fields, true).unwrap(),
        };
        return Some(Response { status, fields: head.fields, body: body.bytes });
    }
}

fn is_close(error: &io::Error) -> bool {
    crate::support::client::is_close(error)
}
