//! The fuzz targets over their seeds.

use std::panic;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/ability_map.rs"]
mod ability_map;
#[path = "../fuzz/src/configuration.rs"]
mod configuration;
#[path = "../fuzz/src/introspection.rs"]
mod introspection;
#[path = "../fuzz/src/message.rs"]
mod message;
#[path = "../fuzz/src/query.rs"]
mod query;
#[path = "../fuzz/src/request.rs"]
mod request;
#[path = "../fuzz/src/response.rs"]
mod response;
#[path = "../fuzz/src/target.rs"]
mod target;
#[path = "../fuzz/src/usage.rs"]
mod usage;

/// Runs a target's function over every file of these directories, and names the file that fails.
fn over(directories: &[&str], check: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = directories.iter().flat_map(|directory| std::fs::read_dir(root.join(directory)).unwrap());
    let mut files: Vec<PathBuf> =
        files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    assert!(files.len() >= 10, "{directories:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        if panic::catch_unwind(|| check(&bytes)).is_err() {
            panic!("{} fails: see above", file.display());
        }
    }
}

#[test]
fn fuzz_seeds_of_target_pass() {
    over(&["fuzz/seeds/target"], target::check);
}

#[test]
fn fuzz_seeds_of_configuration_pass() {
    over(&["fuzz/seeds/configuration", "tests/config", "config"], configuration::check);
}

#[test]
fn fuzz_seeds_of_ability_map_pass() {
    over(&["fuzz/seeds/ability_map"], ability_map::check);
}

#[test]
fn fuzz_seeds_of_introspection_pass() {
    over(&["fuzz/seeds/introspection"], introspection::check);
}

#[test]
fn fuzz_seeds_of_query_pass() {
    over(&["fuzz/seeds/query"], query::check);
}

#[test]
fn fuzz_seeds_of_request_pass() {
    over(&["fuzz/seeds/request"], request::check);
}

#[test]
fn fuzz_seeds_of_response_pass() {
    over(&["fuzz/seeds/response"], response::check);
}

#[test]
fn fuzz_seeds_of_usage_pass() {
    over(&["fuzz/seeds/usage"], usage::check);
}

#[test]
fn every_fuzz_target_has_seeds_and_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |directory: &str| -> Vec<String> {
        let entries = std::fs::read_dir(root.join(directory)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let targets = names("fuzz/fuzz_targets");
    assert_eq!(targets, names("fuzz/seeds"));
    let tests = std::fs::read_to_string(root.join("tests/fuzz.rs")).unwrap();
    for target in targets {
        assert!(tests.contains(&format!("fn fuzz_seeds_of_{target}_pass() {{\n    over(")), "{target}");
    }
}
