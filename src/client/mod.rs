//! Connections out, below `tokens` and `backend`: resolve, connect, TLS.

pub mod connect;
mod fault;
pub mod pool;
mod resolve;
mod tls;

pub use connect::{Attempt, ClientStream, ConnectError, Connector, Step};
pub use fault::{Chain, tls_fault};
pub use resolve::ResolveError;
pub use tls::ConnectorError;
