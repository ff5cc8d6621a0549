//! The pure core: what decides, without anything that waits.
//!
//! Imports `std`, the `http` crate's types and nothing of ours; no runtime, clock, environment or log, so
//! that every function here can be tested exhaustively.

pub mod ability;
pub mod bearer;
mod claims;
pub mod classes;
pub mod client;
pub mod cors;
pub mod decision;
pub mod denials;
pub mod difference;
pub mod expectation;
mod fate;
pub mod framing;
pub mod guide;
pub mod headers;
pub mod hpack;
pub mod http2;
pub mod identity;
pub mod map;
pub mod mask;
pub mod method;
pub mod path;
pub mod refusal;
pub mod route;
pub mod shadow;
pub mod singleton;
pub mod target;
pub mod trace_context;
pub mod trusted_fields;
pub mod upgrade;
