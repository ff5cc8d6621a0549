//! A real Redis server, and a TCP proxy to it that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::client::PATIENCE;

/// A Redis server on a Unix socket; killed when dropped.
pub struct Redis {
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    process: Child,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts Redis with additional command-line arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let process = launch(directory.path(), &arguments);
        let redis = Self { directory, arguments, process };
        redis.wait();
        redis
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command with redis-cli and returns its output.
    pub fn command(&self, words: &[&str]) -> String {
        let output = self.client(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The same, with this as the last argument.
    pub fn command_with(&self, words: &[&str], last: &[u8]) -> String {
        let mut command = self.client(&["-x"]);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(last).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn client(&self, words: &[&str]) -> Command {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(self.socket()).args(words).stdin(Stdio::null());
        command
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Restarts the server after [`Redis::kill`] with its saved data.
    pub fn restart(&mut self) {
        self.process = launch(self.directory.path(), &self.arguments);
        self.wait();
    }

    fn wait(&self) {
        let end = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err()
            || !self.command(&["INFO", "server"]).contains("redis_version")
        {
            if self.command(&["PING"]).starts_with("NOAUTH") {
                return;
            }
            assert!(Instant::now() < end, "redis-server does not start");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn launch(directory: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
    command.arg(directory.join("redis.sock")).arg("--dir").arg(directory).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// A TCP proxy to a Redis server that can be cut.
pub struct RedisProxy {
    address: SocketAddr,
    open: Arc<AtomicBool>,
    cars: Arc<Mutex<Vec<Car>>>,
}

/// A proxied connection.
struct Car {
    near: TcpStream,
    /// Whether data from Redis is discarded.
    mute: Arc<AtomicBool>,
}

impl RedisProxy {
    pub fn to(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (open, cars) = (Arc::new(AtomicBool::new(true)), Arc::<Mutex<Vec<Car>>>::default());
        let (socket, is_open, under_way) = (redis.socket(), Arc::clone(&open), Arc::clone(&cars));
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                if !is_open.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = UnixStream::connect(&socket) else { continue };
                let mute = Arc::new(AtomicBool::new(false));
                let car = Car { near: near.try_clone().unwrap(), mute: Arc::clone(&mute) };
                under_way.lock().unwrap().push(car);
                let (mut near_again, mut far_again) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || {
                    copy(near, &mut far_again, &AtomicBool::new(false));
                    let _ = far_again.shutdown(Shutdown::Both);
                });
                thread::spawn(move || {
                    copy(far, &mut near_again, &mute);
                    let _ = near_again.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, open, cars }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Closes every connection and accepts none until [`RedisProxy::restore`].
    pub fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        for car in self.cars.lock().unwrap().drain(..) {
            let _ = car.near.shutdown(Shutdown::Both);
        }
    }

    /// Discards all further data of the newest connection, the subscription, which stays open.
    pub fn block_last(&self) {
        self.cars.lock().unwrap().last().unwrap().mute.store(true, Ordering::SeqCst);
    }

    pub fn restore(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

fn copy(mut from: impl Read, to: &mut impl Write, mute: &AtomicBool) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if !mute.load(Ordering::SeqCst) && to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
}
