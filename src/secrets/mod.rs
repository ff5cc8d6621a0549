//! Reads keys, certificates and secrets from files, and explains failures without quoting them.
//!
//! The errors of parsers quote their input: a PEM parser prints the line that it rejects, and in a key that lost its
//! line breaks that line is the key. The errors of these modules contain nothing that was read: each names one of a
//! few known causes.

pub mod pem;
pub mod text;
