//! One section, read alone: a command needs no other secret, and outlives a bad edit of what it does not need.

use std::path::Path;

use super::decode::{Decode, Decoder};
use super::interpolate::Environment;
use super::load::{compile_admin, compile_introspection, report};
use super::report::{Report, Severity};
use super::tree::Value;
use super::{settings, usage, written};

/// Reads `admin` and nothing else.
///
/// # Errors
/// Every mistake in `admin`, or why the file cannot be read.
pub fn load_admin(path: &Path) -> Result<settings::Admin, Report> {
    load(path, "admin", |admin, _| Some(compile_admin(admin)))
}

/// Reads `usage` and nothing else; none where there is none.
///
/// # Errors
/// Every mistake in `usage`, or why the file cannot be read.
pub fn load_usage(path: &Path) -> Result<Option<settings::Usage>, Report> {
    load(path, "usage", |usage: Option<written::Usage>, decoder| {
        Some(usage.map(|usage| usage::compile(usage, decoder)))
    })
}

/// Reads `introspection` and `limits.token_bytes`, and no other section but `limits`.
///
/// # Errors
/// Every mistake in these sections, or why the file cannot be read.
pub fn load_introspection(path: &Path) -> Result<(settings::Introspection, usize), Report> {
    let limits = load(path, "limits", |limits: written::Limits, _| Some(limits.token_bytes.length()))?;
    let introspection = load(path, "introspection", compile_introspection)?;
    Ok((introspection, limits))
}

/// Reads the section `name`.
fn load<W: Decode, S>(
    path: &Path,
    name: &str,
    compile: impl FnOnce(W, &mut Decoder<'_>) -> Option<S>,
) -> Result<S, Report> {
    let environment: &Environment<'_> = &|name| std::env::var(name).ok();
    let mut decoder = Decoder::new(environment);
    let tree = decoder.read_tree(path, None);
    let entry = tree.as_ref().and_then(|tree| match &tree.value {
        Value::Mapping(entries) => entries.iter().find(|entry| &*entry.key.text == name),
        _ => None,
    });
    let written = match entry {
        Some(entry) => decoder.within(&entry.key, |decoder| W::decode(&entry.value, decoder)),
        None => tree.as_ref().and_then(|tree| {
            let absent = W::absent(&mut decoder);
            if absent.is_none() {
                decoder.missing(tree, name);
            }
            absent
        }),
    };
    let section = written.and_then(|written| compile(written, &mut decoder));
    let report = report(path, decoder).0;
    match section {
        Some(section) if report.count(Severity::Error) == 0 => Ok(section),
        _ => Err(report),
    }
}
