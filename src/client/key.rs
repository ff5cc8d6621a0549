//! Decides whether a reload keeps a client and its connections.

use crate::config::settings::ClientTls;
use crate::watch::content_hash;

/// The inputs of a client: its settings, and the contents of the files in its `tls` section. A reload keeps a client with
/// an equal key.
#[derive(Debug, PartialEq)]
pub struct ClientKey<S> {
    settings: S,
    /// The hash of each file; `None` for a file that cannot be read.
    file_hashes: Vec<Option<[u8; 32]>>,
}

impl<S> ClientKey<S> {
    /// Reads the files of the section that `tls` returns.
    pub fn new(settings: S, tls: impl FnOnce(&S) -> &ClientTls) -> Self {
        let file_hashes = tls(&settings).files().map(content_hash).collect();
        Self { settings, file_hashes }
    }

    /// The settings.
    pub const fn settings(&self) -> &S {
        &self.settings
    }
}
