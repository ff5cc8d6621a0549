//! Reads keys, certificates and secrets from files, and explains failures without quoting them.
//!
//! The errors of parsers quote their input: those of PEM print the line they stumbled over, and in a key that lost
//! its line breaks that line is the key. No error of these modules holds anything that was read: each names one of
//! a few known causes.

pub mod pem;
pub mod text;
