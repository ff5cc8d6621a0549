//! The sections of `gateway.yaml`, one file each: the raw type with its defaults and schema, and `compile`, which
//! validates it and turns it into a type of `settings` or `policy`.

pub(crate) mod abilities;
pub(crate) mod address;
pub(super) mod admin;
pub(super) mod backend;
pub(super) mod blocked;
pub(super) mod cache;
pub(super) mod cors;
pub(super) mod decision;
pub(super) mod denials;
pub(super) mod identity_headers;
pub(super) mod introspection;
pub(super) mod limits;
pub(super) mod listen;
pub(super) mod log;
pub(super) mod rate_limit;
pub(super) mod redis;
pub(super) mod runtime;
pub(super) mod shadow;
pub(super) mod traces;
pub(super) mod usage;
pub(super) mod webhook;

mod client_tls;
mod trusted_fields;

use super::language::SecretSections;

/// The sections with secrets.
pub(crate) const SECRETS: SecretSections = SecretSections {
    mostly: &["admin", "redis", "webhook"],
    partly: &["introspection", "traces"],
    values: &[("redis", "url")],
};
