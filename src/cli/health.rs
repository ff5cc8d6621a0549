//! `health`: the container's own probe.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{ConfigArgument, Exit, report, show};
use crate::config;
use crate::config::settings::ListenAddress;

/// For connecting, and for each read of the answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Ask the admin listener's /readyz; exit 0 when it is ready, 1 otherwise
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        match config::load_admin_address(&self.config.path()) {
            Ok(address) => ask(&address),
            Err(mistakes) => {
                show(&mistakes);
                Exit::Wrong
            }
        }
    }
}

/// Asks the admin listener at `address` whether it is ready, and says on standard error why it is not.
fn ask(address: &ListenAddress) -> Exit {
    match status(address) {
        Ok(200) => Exit::Fine,
        Ok(503) => {
            report(format_args!("not ready: {address} answers 503"));
            Exit::Wrong
        }
        Ok(status) => {
            report(format_args!("not ready: {address} answers {status}; is it the admin listener?"));
            Exit::Wrong
        }
        Err(error) => {
            report(format_args!("not ready: {address}: {error}"));
            Exit::Wrong
        }
    }
}

/// The status of `/readyz`.
fn status(address: &ListenAddress) -> io::Result<u16> {
    match address {
        ListenAddress::Tcp(address) => {
            let stream = TcpStream::connect_timeout(&reachable(*address), TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream)
        }
        ListenAddress::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream)
        }
    }
}

/// Who listens on every address is asked on the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn exchange(mut stream: impl Read + Write) -> io::Result<u16> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(1024)).read_line(&mut line)?;
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::admin::{self, Admin, State};
    use crate::listener::Listener;

    #[test]
    fn asks_the_admin_listener() {
        let listener = Listener::bind(&ListenAddress::Tcp("0.0.0.0:0".parse().unwrap())).unwrap();
        let address = listener.address().clone();
        let readiness = Arc::<admin::Readiness>::default();
        let admin = Admin::alone(None, Arc::clone(&readiness));
        let handle = admin.serve(listener).unwrap();
        for (state, status_, exit) in [
            (State::Starting, 503, Exit::Wrong),
            (State::Ready, 200, Exit::Fine),
            (State::Draining, 503, Exit::Wrong),
        ] {
            readiness.set(state);
            assert_eq!(status(&address).unwrap(), status_, "{state:?}");
            assert_eq!(ask(&address), exit, "{state:?}");
        }
        handle.stop();
        assert_eq!(status(&address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(ask(&address), Exit::Wrong);
    }

    #[test]
    fn what_is_no_admin_listener() {
        for answer in ["", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 2", "HTTP/1.1 \u{20ac}\u{20ac} OK\r\n"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = ListenAddress::Tcp(listener.local_addr().unwrap());
            thread::scope(|scope| {
                scope.spawn(|| listener.accept().unwrap().0.write_all(answer.as_bytes()));
                assert!(status(&address).is_err(), "{answer:?}");
            });
        }
    }

    #[test]
    fn every_address_is_asked_on_loopback() {
        for (listening, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("192.0.2.1:9090", "192.0.2.1:9090"),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
