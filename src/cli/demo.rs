//! `demo`: the main job with nothing installed.

use super::{Exit, report};

/// Show the main job with nothing installed: a stand-in for Stockaj behind a real gateway
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the gateway listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    address: std::net::SocketAddr,
    /// Where its admin listener listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin_address: std::net::SocketAddr,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        report(format_args!("error: `demo` is not built yet ({}, {})", self.address, self.admin_address));
        Exit::Wrong
    }
}
