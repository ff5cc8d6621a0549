//! `gateway.yaml`: as written, then compiled; every mistake collected with its place.
//!
//! ```text
//! source → tree → decode (section, written, abilities, values, address, cors, files, trusted_fields) → load → Settings
//!                    └──────────────── report ────────────────┘
//! ```

mod abilities;
mod address;
mod alone;
mod cases;
mod cors;
mod decode;
mod denials;
mod effective;
mod files;
mod findings;
mod freshness;
mod interpolate;
mod kind;
mod listeners;
mod load;
mod openapi;
mod redact;
mod redis;
mod report;
mod schema;
mod secret;
mod section;
pub mod settings;
mod shadow;
mod source;
mod tls;
mod traces;
mod tree;
mod trusted_fields;
mod usage;
mod values;
mod webhook;
mod written;

pub use alone::{load_admin, load_introspection, load_usage};
pub use cases::{Check, Expected, LoadedTests, PolicyTests, Sender, load_tests, tests_schema};
pub use decode::nearest;
pub use interpolate::Environment;
pub use kind::{Checked, Expect, load_checked};
pub use load::{Loaded, LoadedAbilities, load, load_abilities, load_abilities_with, load_text, load_with};
pub use openapi::{Description, LoadedDescription, Operation, Security, load_description};
pub use report::{Failure, Finding, Report, Severity};
pub use schema::schema;
pub use settings::Settings;
pub use source::LARGEST;
