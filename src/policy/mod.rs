//! The pure core: all decisions on requests and responses, without I/O.
//!
//! It imports no other module, and no crate that does I/O. It has no runtime, clock, environment or
//! log, so that every function can be tested exhaustively.

pub mod ability;
pub mod authority;
pub mod bearer;
mod claims;
pub mod classes;
pub mod client;
pub mod cors;
pub mod decision;
pub mod denials;
pub mod deprecation;
pub mod described;
pub mod difference;
pub mod expectation;
pub mod expected_claims;
mod field_class;
mod field_values;
pub mod framing;
pub mod grant;
pub mod guide;
pub mod headers;
pub mod hpack;
pub mod http2;
pub mod identity;
mod joined_lines;
pub mod map;
pub mod mask;
pub mod method;
pub mod network;
pub mod path;
pub mod query;
pub mod refusal;
pub mod route;
pub mod shadow;
pub mod singleton;
pub mod source_location;
pub mod target;
#[cfg(test)]
mod test_fields;
pub mod trace_context;
pub mod trusted_fields;
pub mod upgrade;
