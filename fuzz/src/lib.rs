//! What the fuzz targets check, one module a target: `check` takes any bytes and panics where a property fails.

pub mod ability_map;
pub mod configuration;
pub mod introspection;
mod message;
pub mod request;
pub mod response;
pub mod target;
pub mod usage;
