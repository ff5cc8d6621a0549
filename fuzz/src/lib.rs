//! The checks of the fuzz targets, one module each: `check` accepts any bytes and panics if a property is violated.

pub mod ability_map;
pub mod configuration;
pub mod introspection;
mod message;
pub mod query;
pub mod request;
pub mod response;
pub mod target;
pub mod usage;
