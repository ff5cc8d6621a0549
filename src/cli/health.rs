//! `health`: the health check of a container.

use std::time::Duration;

use http::Request;
use http_body_util::Full;

use super::admin_client::{AdminError, send};
use super::{ConfigArgument, Exit, report, show};
use crate::config;
use crate::config::settings::ListenAddress;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Request /readyz of the admin listener; exit 0 if the gateway is ready, 1 otherwise
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        match self.config.path().and_then(|path| config::load_admin(&path)) {
            Ok(admin) => probe(&admin.address),
            Err(mistakes) => {
                show(&mistakes);
                Exit::Failure
            }
        }
    }
}

/// Requests `/readyz` and reports on standard error why the gateway is not ready.
fn probe(address: &ListenAddress) -> Exit {
    match status(address) {
        Ok(200) => Exit::Success,
        Ok(503) => {
            report(format_args!("not ready: {address} responds with 503"));
            Exit::Failure
        }
        Ok(status) => {
            report(format_args!("not ready: {address} responds with {status}; is it the admin listener?"));
            Exit::Failure
        }
        Err(error) => {
            report(format_args!("not ready: {address}: {error}"));
            Exit::Failure
        }
    }
}

fn status(address: &ListenAddress) -> Result<u16, AdminError> {
    let request = Request::get("/readyz").body(Full::default())?;
    Ok(send(address, request, TIMEOUT)?.status().as_u16())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::admin::{self, Admin, ReadinessState};
    use crate::listener::Listener;

    #[test]
    fn exit_code_follows_readyz() {
        let listener = Listener::bind(&ListenAddress::Tcp("0.0.0.0:0".parse().unwrap())).unwrap();
        let address = listener.address().clone();
        let readiness = Arc::<admin::Readiness>::default();
        let admin = Admin::standalone(None, Arc::clone(&readiness));
        let handle = admin.serve(listener).unwrap();
        for (state, status_, exit) in [
            (ReadinessState::Starting, 503, Exit::Failure),
            (ReadinessState::Ready, 200, Exit::Success),
            (ReadinessState::Draining, 503, Exit::Failure),
        ] {
            readiness.set(state);
            assert_eq!(status(&address).unwrap(), status_, "{state:?}");
            assert_eq!(probe(&address), exit, "{state:?}");
        }
        handle.stop();
        let refused = status(&address).unwrap_err();
        assert!(matches!(&refused, AdminError::Io(error) if error.kind() == ErrorKind::ConnectionRefused));
        assert_eq!(probe(&address), Exit::Failure);
    }

    #[test]
    fn invalid_http_response_is_an_error() {
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
