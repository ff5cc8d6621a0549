//! Every threat of the threat model names tests that exist and run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The reasons of ignored tests that `tests/run` always runs.
const RUN: [&str; 2] = ["needs ", "load: "];

#[test]
fn every_threat_names_tests_that_exist() {
    let known = tests();
    let threats = threats();
    for (title, names) in &threats {
        assert!(!names.is_empty(), "no test for threat {title}");
        for name in names {
            let reason = known.get(name).unwrap_or_else(|| panic!("`{name}` is not a test: {title}"));
            let is_run = reason.as_ref().is_none_or(|it| RUN.iter().any(|run| it.starts_with(run)));
            assert!(is_run, "`{name}` is ignored and not run by tests/run: {title}");
        }
    }
    assert!(threats.len() > 85, "{} threats", threats.len());
}

/// Reads the output of all test runs, which `tests/run` names in `TESTS_LOG`.
#[test]
#[ignore = "a part of tests/run"]
fn tests_of_every_threat_ran() {
    let log = std::env::var_os("TESTS_LOG").expect("tests/run sets TESTS_LOG");
    // Test output may contain arbitrary bytes.
    let log = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
    let passed: BTreeSet<&str> =
        log.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok")).collect();
    let named: BTreeSet<String> = threats().into_iter().flat_map(|(_, names)| names).collect();
    let missing: Vec<_> = named.iter().filter(|name| !passed.contains(name.as_str())).collect();
    assert!(
        missing.is_empty(),
        "{} of {} did not run or did not pass: {missing:#?}",
        missing.len(),
        named.len()
    );
}

/// The pages with threats: a section for each, with the items Done, Remains (optional) and Tests.
fn pages() -> Vec<PathBuf> {
    let files = fs::read_dir("docs/security").unwrap().map(|file| file.unwrap().path());
    let is_page = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("threats-");
    let pages: Vec<PathBuf> = files.filter(is_page).collect();
    assert_eq!(pages.len(), 5);
    pages
}

/// The titles of all threats, with the tests that each names.
fn threats() -> Vec<(String, Vec<String>)> {
    let model = fs::read_to_string("docs/security/threat-model.md").unwrap();
    let mut threats = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for section in text.split("\n## ").skip(1) {
            let (title, section) = section.split_once('\n').unwrap();
            let link = format!("- [{title}]({}#", page.file_name().unwrap().to_string_lossy());
            assert!(model.contains(&link), "{title} is not listed in threat-model.md");
            assert!(section.contains("\n- **Done:** "), "{title}");
            let (_, named) =
                section.split_once("\n- **Tests:** ").unwrap_or_else(|| panic!("no tests: {title}"));
            threats
                .push((title.to_owned(), named.split('`').skip(1).step_by(2).map(str::to_owned).collect()));
        }
    }
    let listed = model.lines().filter(|line| line.starts_with("- [")).count();
    assert_eq!(listed, threats.len(), "threats in threat-model.md");
    threats
}

/// Every test by its path, with the reason why it is ignored, read from the sources.
fn tests() -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    for root in ["src", "tests"] {
        for file in sources(Path::new(root)) {
            let module = file.strip_prefix(root).unwrap().with_extension("");
            let mut module: Vec<_> = module.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            module.retain(|part| part != "mod");
            let text = fs::read_to_string(&file).unwrap();
            if text.contains("\nmod tests {") {
                module.push("tests".to_owned());
            }
            let mut lines = text.lines().map(str::trim_start);
            while lines.any(|line| line == "#[test]" || line.starts_with("#[tokio::test")) {
                let mut reason = None;
                let name = lines.by_ref().find_map(|line| {
                    if let Some((_, rest)) = line.split_once(concat!("#[", "ignore = \"")) {
                        reason = rest.strip_suffix("\"]").map(str::to_owned);
                    }
                    line.trim_start_matches("async ").strip_prefix("fn ")?.split('(').next()
                });
                found.insert(format!("{}::{}", module.join("::"), name.unwrap()), reason);
            }
        }
    }
    found
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let mut found: Vec<_> =
        files.into_iter().filter(|it| it.extension().is_some_and(|it| it == "rs")).collect();
    found.extend(directories.iter().flat_map(|it| sources(it)));
    found
}
