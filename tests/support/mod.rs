//! Support for all integration tests: the real binary, and the servers and clients around it.
//!
//! ```ignore
//! let env = TestEnv::builder().token("2|reader", &["items:read"]).start();
//! assert_eq!(env.status("/api/v2/items", "2|reader"), 200);
//! ```

// Each test module uses only a part of this module.
#![allow(dead_code, unused_imports)]

pub mod browser;
pub mod certificate;
pub mod client;
pub mod collector;
pub mod decision;
pub mod env;
pub mod gateway;
pub mod http2;
pub mod http2_upstream;
pub mod introspector;
pub mod manual_backend;
pub mod name_server;
pub mod ports;
pub mod proxies;
pub mod redis;
pub mod stalled;
pub mod upstream;
pub mod wire;

pub use browser::{Browser, KillOnDrop, Process};
pub use certificate::Authority;
pub use client::{PATIENCE, RawClient, Response};
pub use collector::{Collector, ExportedSpan};
pub use env::{OPERATED, OPERATOR, TestEnv, WRITER};
pub use gateway::{BINARY, Builder, Gateway, Metrics};
pub use introspector::{Introspector, Verdict};
pub use upstream::{Answer, Request, Upstream, echo};
pub use wire::Fields;
