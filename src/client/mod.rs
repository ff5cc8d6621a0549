//! Outgoing connections, below `tokens` and `backend`: resolve, connect, TLS, HTTP/1.1 and HTTP/2, pool.

pub mod call;
pub mod connect;
mod error;
pub mod http1;
mod http2;
mod key;
pub mod pool;
mod race;
mod recycled_fields;
mod resolve;
mod response_stream;
mod tls;

pub use connect::{ClientStream, Connector};
pub use error::{CollectError, ConnectError, ConnectStep, ExchangeError, LeaseError, tls_fault};
pub use key::ClientKey;
pub use recycled_fields::recycle;
pub use tls::{ConnectorError, OfferedProtocols};
