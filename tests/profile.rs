//! The shipped binary was optimised with the profile of its own training run.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_stockaj-gateway");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/check-profile");

/// The mangled names of the binary's own functions.
fn functions() -> Vec<String> {
    let output = Command::new("nm").arg(BINARY).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter(|line| line.contains(" T ") || line.contains(" t "));
    let names = names.filter_map(|line| line.split(' ').next_back());
    names.filter(|name| name.contains("stockaj_gateway")).map(str::to_owned).collect()
}

/// Runs the script with a stand-in for llvm-profdata, which lists `functions` in the form of `show --all-functions`.
fn check(functions: &[String]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut listing = "Counters:\n".to_owned();
    for name in functions {
        listing += &format!("  {name}:\n    Hash: 0x0a51\n    Counters: 4\n");
    }
    fs::write(path("listing"), listing + "Functions shown: 2\n").unwrap();
    let program = format!("#!/bin/sh\ncat '{}'\n", path("listing").display());
    fs::write(path("llvm-profdata"), program).unwrap();
    fs::set_permissions(path("llvm-profdata"), Permissions::from_mode(0o755)).unwrap();
    Command::new(SCRIPT).arg(path("llvm-profdata")).args(["any.profdata", BINARY]).output().unwrap()
}

#[test]
fn profile_of_the_same_functions_is_accepted() {
    let functions = functions();
    let accepted = check(&functions);
    assert!(accepted.status.success(), "{accepted:?}");
    // Local functions are prefixed with the name of their file.
    let local: Vec<_> = functions.iter().map(|name| format!("stockaj_gateway.1f-cgu.0:{name}")).collect();
    assert!(check(&local).status.success());
}

#[test]
fn profile_of_functions_with_another_hash_is_refused() {
    let others: Vec<_> = functions().iter().map(|name| format!("{name}0")).collect();
    for listed in [&others[..], &[]] {
        let refused = check(listed);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(message.contains("was not optimised with this profile"), "{message}");
    }
}
