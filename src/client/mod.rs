//! Connections out, below `tokens` and `backend`: resolve, connect, TLS.

pub mod connect;
mod fault;
mod http2;
pub mod pool;
mod received;
mod resolve;
mod tls;

pub use connect::{Attempt, ClientStream, ConnectError, Connector, Step};
pub use fault::{Chain, ExchangeError, SendError, tls_fault};
pub use http2::OnContinue;
pub use received::Received;
pub use resolve::ResolveError;
pub use tls::{ConnectorError, Protocol};
