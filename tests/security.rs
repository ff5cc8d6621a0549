//! What SECURITY.md promises has tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_threat_names_tests_that_exist() {
    let text = fs::read_to_string("SECURITY.md").unwrap();
    let known = tests();
    let (_, table) = text.split_once("| threat |").unwrap();
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 20, "{} threats", rows.len());
    for row in rows {
        let columns: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [_, _, shown] = columns[..] else { panic!("not three columns: {row}") };
        let named: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for name in named {
            assert!(known.contains(name), "{name} is no test: {row}");
        }
    }
}

/// Every test by its path, read from the sources.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
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
                let name = lines.by_ref().find_map(|line| {
                    line.trim_start_matches("async ").strip_prefix("fn ")?.split('(').next()
                });
                found.insert(format!("{}::{}", module.join("::"), name.unwrap()));
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
