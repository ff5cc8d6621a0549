//! `admin`: the admin listener.

use crate::config::language::{Credential, CredentialFile, section};
use crate::config::settings::{self, ListenAddress};

section! {
    /// The admin listener: `/metrics`, `/healthz` and `/readyz` are open, all else needs the token.
    Admin {
        /// An IP address with a port (0: any free one), or `unix:/path`.
        address: ListenAddress = "127.0.0.1:9090",
        /// The file with the admin token, at least 16 bytes; without a token only the three open paths are served.
        token_file: Option<CredentialFile>,
        /// The admin token itself, from the environment: `${ADMIN_TOKEN}`. At least 16 bytes.
        token: Option<Credential>,
    }
    exclusive { token, token_file }
}

pub(crate) fn compile(raw: Admin) -> settings::Admin {
    let token = raw.token.map(|token| token.0).or(raw.token_file.map(|file| file.0));
    settings::Admin { address: raw.address, token }
}
