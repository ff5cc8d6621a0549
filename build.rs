//! Embeds the origin of the build, which `--version` shows: commit, date, target and compiler.
//!
//! The commit is `STOCKAJ_GATEWAY_COMMIT` if set, otherwise that of the Git repository in this directory. The date, in UTC,
//! is `SOURCE_DATE_EPOCH` if set, otherwise that of the repository's commit. Without these it is `unknown`, as in a source
//! archive. The current time is not used: the same source gives the same binary. Debug builds do not read the repository,
//! because every commit would then compile the crate anew.

#![allow(clippy::print_stdout)] // cargo reads it

use std::env;
use std::path::Path;
use std::process::Command;

const COMMIT: &str = "STOCKAJ_GATEWAY_COMMIT";
const EPOCH: &str = "SOURCE_DATE_EPOCH";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in [COMMIT, EPOCH] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let given = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let (mut commit, mut seconds) = (given(COMMIT), given(EPOCH));
    if env::var("PROFILE").as_deref() == Ok("release") && (commit.is_none() || seconds.is_none()) {
        let head = head();
        // The date of another commit than the named one would be wrong.
        let is_same = commit.is_none() || head.as_ref().is_some_and(|(id, _)| Some(id) == commit.as_ref());
        if let Some((id, time)) = head.filter(|_| is_same) {
            commit.get_or_insert(id);
            seconds.get_or_insert(time);
        }
    }
    let date = seconds.and_then(|seconds| date(seconds.parse().ok()?));
    let rustc = given("RUSTC").and_then(|rustc| output(Command::new(rustc).arg("--version")));
    for (name, value) in [
        ("COMMIT", commit),
        ("DATE", date),
        ("TARGET", given("TARGET")),
        ("RUSTC", rustc.map(|text| text.trim_start_matches("rustc ").to_owned())),
    ] {
        // A line break would end the instruction to cargo.
        let value = value.filter(|value| !value.contains('\n')).unwrap_or_else(|| "unknown".to_owned());
        println!("cargo::rustc-env=STOCKAJ_GATEWAY_BUILD_{name}={value}");
    }
}

/// The commit that is checked out and its time in seconds since 1970. Git would also find a repository around an unpacked
/// archive, whose commits say nothing about it.
fn head() -> Option<(String, String)> {
    let root = env::var("CARGO_MANIFEST_DIR").ok()?;
    if !Path::new(&root).join(".git").exists() {
        return None;
    }
    let git = |arguments: &[&str]| output(Command::new("git").args(["-C", &root]).args(arguments));
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name]).map(|path| Path::new(&root).join(path));
        // cargo regards a missing file as changed.
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let commit = git(&["log", "-1", "--format=%H %ct"])?;
    let (id, time) = commit.split_once(' ')?;
    Some((id.to_owned(), time.to_owned()))
}

/// The standard output of a program that succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The date of a time in seconds since 1970, up to the year 9999.
fn date(seconds: u64) -> Option<String> {
    let mut days = seconds / (24 * 60 * 60);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    for year in 1970..=9999 {
        let february = if is_leap(year) { 29 } else { 28 };
        for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
            if days < length {
                return Some(format!("{year}-{month:02}-{:02}", days + 1));
            }
            days -= length;
        }
    }
    None
}
