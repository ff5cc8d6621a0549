//! Forwards permitted requests to the backend.

pub mod body;
pub mod forward;
pub mod idle;
pub mod request;
pub mod response;
pub mod tunnel;
mod upload_rate;
