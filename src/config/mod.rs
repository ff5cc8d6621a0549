//! `gateway.yaml`: as written, then compiled; every mistake collected with its place.

pub mod settings;

pub use settings::Settings;
