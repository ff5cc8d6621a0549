//! Processes: started, timed, and ended with their owner.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// The unit of times in `/proc`: USER_HZ, which is 100 on every supported architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// A loopback port that is currently free. It is below the range of ports for outgoing connections (32768 and up), so
/// that no connection of a proxy takes it before the server binds it.
pub(crate) fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 100) as u16 * 100;
    for _ in 0..1000 {
        let address = (Ipv4Addr::LOCALHOST, first + NEXT.fetch_add(1, Ordering::Relaxed) % 2000);
        if TcpListener::bind(address).is_ok() {
            return Ok(address.into());
        }
    }
    Err(format!("no port is free from {first} on").into())
}

/// A server in the foreground, killed when dropped. If this process dies first, the kernel kills it.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Server {
    /// Starts `program` and waits until it accepts connections at `address`.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        arguments: &[&str],
        address: SocketAddr,
        directory: &Path,
    ) -> Result<Self> {
        let output = directory.join(format!("{name}.log"));
        let log = File::create(&output)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            // Caddy writes into it.
            .env("XDG_DATA_HOME", directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut server = Self { name: name.to_owned(), child, output };
        server.wait_for(address)?;
        Ok(server)
    }

    fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let output = fs::read_to_string(&self.output)?;
                return Err(format!("{} ended ({status}):\n{output}", self.name).into());
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not listen on {address}", self.name).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// User and system time so far, of the process with all its threads, and of its children.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let root = self.child.id();
        let mut ticks = 0;
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
            // A process may end after it was listed.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let stat = Stat::parse(&stat).ok_or_else(|| format!("/proc/{pid}/stat is odd: {stat}"))?;
            if pid == root || stat.parent == root {
                ticks += stat.ticks;
            }
        }
        Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        // If this fails, the process has already ended.
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The used fields of proc_pid_stat(5).
struct Stat {
    parent: u32,
    ticks: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The command name, in parentheses, may contain any characters.
        let fields: Vec<_> = line.rsplit_once(')')?.1.split_whitespace().collect();
        // Field 3, the state, is the first one here.
        let field = |number: usize| fields.get(number - 3);
        let ticks = field(14)?.parse::<u64>().ok()? + field(15)?.parse::<u64>().ok()?;
        Some(Self { parent: field(4)?.parse().ok()?, ticks })
    }
}
