//! Single sections, for commands that need no other: they work without the secrets, and despite errors, of the rest.

use std::path::Path;

use super::language::{Decode, Decoder, Entry, Environment, Report, find_entry};
use super::sections::{SECRETS, abilities, admin, blocked, decision, introspection, limits, usage};
use super::settings;

/// Loads `admin`.
///
/// # Errors
/// A report of every error in `admin`, or why the file cannot be read.
pub fn load_admin(path: &Path) -> Result<settings::Admin, Report> {
    load(path, "admin", |raw, _| admin::compile(raw))
}

/// Loads `usage`, and the deprecated routes of the map, which are `None` if it has an error. Returns `None` if the section
/// is absent.
///
/// # Errors
/// A report of every error in `usage`, or why the file cannot be read.
pub fn load_usage(path: &Path) -> Result<Option<settings::Usage>, Report> {
    let usage =
        load(path, "usage", |raw: Option<usage::Usage>, decoder| Some(usage::compile(raw?, decoder)))?;
    Ok(usage.map(|mut usage| {
        let environment: &Environment<'_> = &|name| std::env::var(name).ok();
        let mut decoder = Decoder::new(environment, &SECRETS);
        let tree = decoder.read_file(path);
        if let Some((raw, mode)) = tree.and_then(|tree| abilities::decode_document(&tree, &mut decoder)) {
            let map = abilities::compile(&raw, mode, &mut decoder);
            usage.findings.deprecated = (decoder.error_count() == 0).then(|| usage::deprecated_routes(&map));
        }
        usage
    }))
}

/// Loads `introspection` and `limits.token_bytes`.
///
/// # Errors
/// A report of every error in `introspection` or `limits`, or why the file cannot be read.
pub fn load_introspection(path: &Path) -> Result<(settings::Introspection, usize), Report> {
    let limits = load(path, "limits", |raw, _| limits::compile(raw))?;
    Ok((load(path, "introspection", introspection::compile)?, limits.token_bytes))
}

/// Loads `blocked`.
///
/// # Errors
/// A report of every error in `blocked`, or why the file cannot be read.
pub fn load_blocked(path: &Path) -> Result<settings::Blocked, Report> {
    load(path, "blocked", blocked::compile)
}

/// Whether `decision.address` is set. An error in the section counts as an address.
pub fn has_decision_listener(path: &Path) -> bool {
    load(path, "decision", |raw: decision::Decision, _| raw.has_address()).unwrap_or(true)
}

fn load<R: Decode, S>(
    path: &Path,
    name: &str,
    compile: impl FnOnce(R, &mut Decoder<'_>) -> S,
) -> Result<S, Report> {
    let environment: &Environment<'_> = &|name| std::env::var(name).ok();
    let mut decoder = Decoder::new(environment, &SECRETS);
    let tree = decoder.read_file(path);
    let raw = tree.as_deref().and_then(|tree| {
        if let Some(Entry { key, value }) = find_entry(tree.entries(), name) {
            return decoder.within(key, |decoder| R::decode(value, decoder));
        }
        let absent = R::absent(&mut decoder);
        if absent.is_none() {
            decoder.missing(tree, name);
        }
        absent
    });
    let section = raw.map(|raw| compile(raw, &mut decoder));
    decoder.finish(path, section).map(|(section, _)| section)
}
