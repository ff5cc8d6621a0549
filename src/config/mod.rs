//! `gateway.yaml` and map files: from text to validated [`Settings`], or to a report of every error with its place.
//!
//! ```text
//! kind, section_only
//! gateway, ability_map
//! sections          a file for each section of gateway.yaml
//! settings   language
//! ```

mod ability_map;
mod cases;
mod gateway;
mod kind;
mod language;
mod listener_overlap;
mod openapi;
mod section_only;
mod sections;
pub mod settings;

pub use ability_map::{LoadedAbilities, load_abilities, load_abilities_with};
pub use cases::{Check, Expected, LoadedTests, PolicyTests, Sender, load_tests, tests_schema};
pub use gateway::{Loaded, load, load_text, load_with, schema};
pub use kind::{Checked, Expect, load_checked};
pub use language::decode::nearest;
pub use language::diagnostics::{Failure, Finding, Report, Severity};
pub use language::interpolate::Environment;
pub use language::source::LARGEST;
pub use openapi::{Description, LoadedDescription, Operation, Security, load_description};
pub use section_only::{load_admin, load_introspection, load_usage};
pub use settings::Settings;
