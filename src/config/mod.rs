//! `gateway.yaml` and map files: from text to validated [`Settings`], or to a report of every error with its place.
//!
//! ```text
//! gateway   ability_map   section_only
//! sections          a file for each section of gateway.yaml
//! settings   language
//! ```

pub(crate) mod ability_map;
pub(crate) mod gateway;
pub(crate) mod language;
mod listener_overlap;
mod section_only;
pub(crate) mod sections;
pub mod settings;

pub use ability_map::{LoadedAbilities, load_abilities, map_schema};
pub use gateway::{Loaded, load, load_text, load_with, schema};
pub use language::scalars::duration as parse_duration;
pub use language::{Failure, Finding, LARGEST, Report, Severity, nearest};
pub use section_only::{has_decision_listener, load_admin, load_blocked, load_introspection, load_usage};
pub use sections::abilities::deprecated::parse as parse_deprecation;
pub use settings::Settings;
