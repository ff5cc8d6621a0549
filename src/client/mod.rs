//! Connections out, below `tokens` and `backend`: resolve, connect, TLS.

pub mod connect;
pub mod pool;
mod resolve;
mod tls;

pub use connect::{Attempt, ClientStream, ConnectError, Connector, Step};
pub use resolve::ResolveError;
pub use tls::ConnectorError;
