//! `health`: the container's own probe.

use std::time::Duration;

use http::Request;
use http_body_util::Full;

use super::ask_admin::{AdminError, ask_admin};
use super::{ConfigArgument, Exit, report, show};
use crate::config;
use crate::config::settings::ListenAddress;

/// For all of it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Ask the admin listener's /readyz; exit 0 when it is ready, 1 otherwise
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        match config::load_admin(&self.config.path()) {
            Ok(admin) => ask(&admin.address),
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
fn status(address: &ListenAddress) -> Result<u16, AdminError> {
    let request = Request::get("/readyz").body(Full::default())?;
    Ok(ask_admin(address, request, TIMEOUT)?.status().as_u16())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
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
        let refused = status(&address).unwrap_err();
        assert!(matches!(&refused, AdminError::Io(error) if error.kind() == ErrorKind::ConnectionRefused));
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
}
