//! The language of the files that people write: YAML documents, decoded into types, with every error and its place.
//! It knows none of our sections.
//!
//! ```text
//! section, scalars, files, secrets, effective
//! decode
//! document      interpolate
//! diagnostics
//! source, redact
//! ```

pub(crate) mod decode;
pub(crate) mod diagnostics;
pub(crate) mod document;
pub(crate) mod effective;
pub(crate) mod files;
pub(crate) mod interpolate;
pub(crate) mod redact;
pub(crate) mod scalars;
pub(crate) mod secrets;
pub(crate) mod section;
pub(crate) mod source;
