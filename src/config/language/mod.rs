//! The language of the files that people write: YAML documents, decoded into types, with every error and its place.
//! It knows none of our sections.
//!
//! ```text
//! section   scalars   files   secrets   effective
//! decode
//! document      interpolate
//! diagnostics
//! source    redact      write
//! ```

mod decode;
mod diagnostics;
mod document;
mod effective;
mod files;
mod interpolate;
mod redact;
pub(crate) mod scalars;
mod secrets;
pub(crate) mod section;
mod source;
mod write;

pub use self::decode::nearest;
pub(crate) use self::decode::{Decode, Decoder, Named, OneOrMore, Spanned, join, listed};
pub(crate) use self::diagnostics::Diagnostic;
pub use self::diagnostics::{Failure, Finding, Report, Severity};
pub(crate) use self::document::{Entry, Key, Node, Value, find_entry};
pub(crate) use self::effective::effective;
pub(crate) use self::files::{FilePath, PrivatePath, ReadableFile};
pub use self::interpolate::Environment;
pub(crate) use self::redact::SecretSections;
pub(crate) use self::scalars::{
    ANY, ByteRate, FROM_ENVIRONMENT, OnOff, Period, Ratio, Size, Text, Timeout, Whole, leaf_schema, words,
};
pub(crate) use self::secrets::{Credential, CredentialFile, Secret, SecretFile};
pub(crate) use self::section::{schema_of, section};
pub use self::source::LARGEST;
pub(crate) use self::source::{Source, Span};
pub(crate) use self::write::scalar;
