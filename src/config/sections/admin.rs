//! `admin`: the admin listener.

use crate::config::language::{Credential, CredentialFile, section};
use crate::config::settings::{self, ListenAddress};

section! {
    /// The admin listener. `/metrics`, `/healthz` and `/readyz` are public, all other paths require the admin token.
    Admin {
        /// Address to listen on: an IP address with a port (0 picks a free one), or `unix:/path`.
        address: ListenAddress = "127.0.0.1:9090",
        /// File with the admin token, at least 16 bytes long. Without a token only the three public paths are served.
        token_file: Option<CredentialFile>,
        /// The admin token, at least 16 bytes long. Take it from the environment: `${ADMIN_TOKEN}`.
        token: Option<Credential>,
    }
    exclusive { token, token_file }
}

pub(crate) fn compile(raw: Admin) -> settings::Admin {
    let token = raw.token.map(|token| token.0).or(raw.token_file.map(|file| file.0));
    settings::Admin { address: raw.address, token }
}
