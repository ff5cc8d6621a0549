//! Responses to clients, and the record of each request.
//!
//! [`own`] builds the gateway's own responses, [`body`] is the body of every response, and [`record`] ends with it.

pub mod body;
pub mod own;
pub mod record;
