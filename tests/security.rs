//! Every threat of the threat model names tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The pages with threats: a section for each, with the items Done, Remains if something does, and Tests.
fn pages() -> Vec<PathBuf> {
    let files = fs::read_dir("docs/security").unwrap().map(|file| file.unwrap().path());
    let is_page = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("threats-");
    let pages: Vec<PathBuf> = files.filter(is_page).collect();
    assert_eq!(pages.len(), 5);
    pages
}

#[test]
fn every_threat_names_tests_that_exist() {
    let model = fs::read_to_string("docs/security/threat-model.md").unwrap();
    let known = tests();
    let mut count = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for section in text.split("\n## ").skip(1) {
            let (title, section) = section.split_once('\n').unwrap();
            let link = format!("- [{title}]({}#", page.file_name().unwrap().to_string_lossy());
            assert!(model.contains(&link), "{title} is not listed in threat-model.md");
            assert!(section.contains("\n- **Done:** "), "{title}");
            let (_, named) =
                section.split_once("\n- **Tests:** ").unwrap_or_else(|| panic!("no tests: {title}"));
            let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
            assert!(!named.is_empty(), "no test: {title}");
            for name in named {
                assert!(known.contains(name), "{name} is no test: {title}");
            }
            count += 1;
        }
    }
    let listed = model.lines().filter(|line| line.starts_with("- [")).count();
    assert_eq!(listed, count, "threats in threat-model.md");
    assert!(count > 85, "{count} threats");
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
