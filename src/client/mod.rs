//! Connections out, below `tokens` and `backend`: resolve, connect, TLS.

pub mod call;
pub mod connect;
mod fault;
pub mod http1;
mod http2;
mod key;
pub mod pool;
mod race;
mod received;
mod resolve;
mod spare;
mod tls;

pub use connect::{Attempt, ClientStream, ConnectError, Connector, Step};
pub use fault::{Chain, CollectError, ExchangeError, tls_fault};
pub use key::ClientKey;
pub use resolve::ResolveError;
pub use spare::recycle;
pub use tls::{ConnectorError, Protocol};
