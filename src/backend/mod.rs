//! The way to the backend, for requests that hold a permit.

pub mod body;
pub mod forward;
pub mod idle;
pub mod request;
pub mod response;
pub mod tunnel;
