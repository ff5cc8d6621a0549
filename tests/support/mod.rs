//! What the topics share: a gateway that is the real binary, and the servers and clients around it.
//!
//! ```ignore
//! let upstream = Upstream::start();
//! let introspector = Introspector::knowing([("1|reader", &["items:read"][..])]);
//! let gateway = Gateway::builder().backend(&upstream).introspector(&introspector).start();
//! assert_eq!(gateway.get("/api/v2/items", Some("1|reader")).status, 200);
//! ```

// Not every topic needs everything.
#![allow(dead_code, unused_imports)]

pub mod browser;
pub mod by_hand;
pub mod certificate;
pub mod client;
pub mod collector;
pub mod gateway;
pub mod http2;
pub mod http2_upstream;
pub mod introspector;
pub mod name_server;
pub mod redis;
pub mod setting;
pub mod stalled;
pub mod upstream;
pub mod wire;

pub use browser::{Browser, Process};
pub use certificate::Authority;
pub use client::{PATIENCE, RawClient, Response};
pub use collector::{Collector, Told};
pub use gateway::{BINARY, Builder, Gateway, Metrics};
pub use introspector::{Introspector, Verdict};
pub use upstream::{Answer, Request, Upstream, echo};
pub use wire::Fields;
