//! The configurations, maps and policy tests on the documentation's pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{ROOT, pages, read};
use crate::support::{Authority, BINARY};

/// A directory with the files that the pages' configurations refer to.
pub(super) fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::copy(Path::new(ROOT).join("config/stockaj.yaml"), at("stockaj.yaml")).unwrap();
    fs::copy(Path::new(ROOT).join("tests/maps/candidate.yaml"), at("candidate.yaml")).unwrap();
    let authority = Authority::new();
    fs::create_dir(at("tls")).unwrap();
    for name in ["tls", "app", "shop"] {
        let issued = authority.issue(&["localhost"], |_| {});
        fs::write(at(&format!("tls/{name}.crt")), issued.certificate).unwrap();
        fs::write(at(&format!("tls/{name}.key")), issued.private_key).unwrap();
    }
    fs::create_dir(at("secrets")).unwrap();
    for name in ["admin-token", "redis-url", "webhook-secret"] {
        fs::copy(Path::new(ROOT).join("tests/deploy/secrets").join(name), at("secrets").join(name)).unwrap();
    }
    fs::write(at("secrets/client-secret"), "secret\n").unwrap();
    fs::write(at("secrets/otlp-headers"), "Authorization: Bearer secret\n").unwrap();
    directory
}

/// Fails unless `check` accepts the text as a gateway.yaml of this directory.
pub(super) fn assert_valid(directory: &TempDir, text: &str, place: &str) {
    let file = directory.path().join("gateway.yaml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(BINARY);
    for variable in ["CREDENTIALS_DIRECTORY", "STOCKAJ_SECRETS"] {
        command.env(variable, Path::new(ROOT).join("tests/deploy/secrets"));
    }
    let output = command.arg("check").arg("--config").arg(&file).output().unwrap();
    assert!(output.status.success(), "{place}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A `yaml` block contains sections of a gateway.yaml, or belongs to Kubernetes. It is validated with the other sections of
/// the shipped one. Only the README prints a whole file: copied over the reader's own, the small map of an example would
/// deny the application's routes.
#[test]
fn configurations_pass_check() {
    let shipped = read("config/gateway.yaml");
    let directory = directory();
    let mut count = 0;
    for page in pages() {
        let is_ours = |block: &&String| {
            !block.contains("kustomize.config.k8s.io") && !block.starts_with("# values.yaml")
        };
        for block in page.blocks("yaml").iter().filter(is_ours) {
            let has = |section: &str| block.lines().any(|line| line.starts_with(section));
            let is_whole = ["backend:", "introspection:", "abilities:"].iter().all(|section| has(section));
            assert_eq!(is_whole, page.path == "README.md", "{}:\n{block}", page.path);
            assert_valid(&directory, &completed(block, &shipped), &page.path);
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

/// `block` with the top-level sections of `shipped` that it lacks.
pub(super) fn completed(block: &str, shipped: &str) -> String {
    let name = |line: &str| {
        let (name, _) = line.split_once(':')?;
        (!line.starts_with([' ', '#'])).then(|| name.to_owned())
    };
    let own: BTreeSet<String> = block.lines().filter_map(name).collect();
    let mut text = block.to_owned();
    let mut is_missing = false;
    for line in shipped.lines() {
        if let Some(name) = name(line) {
            is_missing = !own.contains(&name);
        }
        if is_missing {
            text += &format!("{line}\n");
        }
    }
    text
}

fn indented(block: &str) -> String {
    block.lines().map(|line| format!("  {line}\n")).collect()
}

/// The rules of a map as `routes` prints them: path, method and requirement.
fn rules(file: &Path) -> BTreeMap<(String, String), Value> {
    let mut command = Command::new(BINARY);
    command.args(["routes", "--format", "json", "--config"]).arg(file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rules: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |rule: &Value, name: &str| rule[name].as_str().unwrap().to_owned();
    rules
        .into_iter()
        .map(|rule| ((text(&rule, "path"), text(&rule, "method")), rule["requirement"].clone()))
        .collect()
}

/// Keywords and lists may differ, since a page documents them.
#[test]
fn maps_use_paths_and_abilities_of_the_shipped_map() {
    let shipped = rules(&Path::new(ROOT).join("config/stockaj.yaml"));
    let is_shipped = |path: &str| match path.strip_suffix("{*rest}") {
        Some(prefix) => shipped.keys().any(|(it, _)| it.starts_with(prefix)),
        None => shipped.keys().any(|(it, _)| it == path),
    };
    let directory = directory();
    let file = directory.path().join("gateway.yaml");
    let gateway = read("config/gateway.yaml");
    let mut count = 0;
    for page in pages() {
        let name = &page.path;
        let mut blocks = page.blocks("yaml");
        blocks.retain(|block| block.contains("routes: ") || block.contains("routes:\n"));
        // Maps for another application than Stockaj.
        if name != "docs/getting-started.md" {
            let maps = page.blocks("yml").into_iter().filter(|block| block.starts_with("routes:"));
            blocks.extend(maps.map(|block| format!("abilities:\n{}", indented(&block))));
        }
        for block in &blocks {
            fs::write(&file, completed(block, &gateway)).unwrap();
            for ((path, method), requirement) in rules(&file) {
                assert!(is_shipped(&path), "{name}: {path} is not in config/stockaj.yaml:\n{block}");
                let expected = shipped.get(&(path.clone(), method.clone()));
                if let (Some(expected), Some(ability)) = (expected, requirement.as_str())
                    && ability.contains(':')
                {
                    assert_eq!(&requirement, expected, "{name}: {method} {path}");
                }
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count}");
}

/// A `yml` block that begins with `map:` is a policy test file, one that begins with `routes:` a map file.
#[test]
fn policy_tests_and_map_files_pass() {
    let directory = directory();
    fs::copy(Path::new(ROOT).join("config/gateway.yaml"), directory.path().join("gateway.yaml")).unwrap();
    let file = directory.path().join("gateway.test.yaml");
    let mut count = 0;
    for page in pages() {
        for block in page.blocks("yml").iter().filter(|block| block.starts_with("map:")) {
            fs::write(&file, block).unwrap();
            let output = Command::new(BINARY).arg("test").arg(&file).output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{}\n{}", page.path, String::from_utf8_lossy(&text));
            count += 1;
        }
    }
    assert!(count > 0);

    let (file, mut count) = (directory.path().join("map.yaml"), 0);
    for page in pages() {
        for block in page.blocks("yml").iter().filter(|block| block.starts_with("routes:")) {
            fs::write(&file, block).unwrap();
            let output = Command::new(BINARY).args(["check", "--strict"]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{}\n{}", page.path, String::from_utf8_lossy(&output.stderr));
            count += 1;
        }
    }
    assert!(count > 0);
}

/// The error that the page about policy tests shows for its faulty line.
#[test]
fn shown_error_is_that_of_check() {
    let page = pages().into_iter().find(|page| page.path == "docs/guides/policy-tests.md").unwrap();
    let blocks = page.blocks("text");
    let shown = blocks.iter().find(|block| block.starts_with("error: `introspection.timeout`")).unwrap();
    let line = shown.lines().find_map(|line| line.strip_prefix("2 | ")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let rest = "backend: {url: http://127.0.0.1:8000}\nabilities: {routes: {/up: {GET: public}}}\n";
    fs::write(directory.path().join("gateway.yaml"), format!("# A comment\n{line}\n{rest}")).unwrap();
    let mut command = Command::new(BINARY);
    let output = command.args(["check", "gateway.yaml"]).current_dir(&directory).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(printed.starts_with(shown), "{printed}\n{shown}");
}

/// A property in a schema's object, through references and alternatives.
fn property(schema: &Value, root: &Value, name: &str) -> Option<Value> {
    if let Some(found) = schema["properties"].get(name) {
        return Some(found.clone());
    }
    if let Some(reference) = schema["$ref"].as_str() {
        return property(root.pointer(reference.trim_start_matches('#'))?, root, name);
    }
    if schema["additionalProperties"].is_object() && !schema["properties"].is_object() {
        return Some(schema["additionalProperties"].clone());
    }
    let alternatives = ["anyOf", "oneOf", "allOf"].iter().flat_map(|it| schema[it].as_array());
    let alternatives = alternatives.flatten().chain(schema.get("items"));
    alternatives.into_iter().find_map(|it| property(it, root, name))
}

/// Whether a path such as `listen.tls` is a key of gateway.yaml.
fn is_key(path: &str, schema: &Value) -> bool {
    let mut at = schema.clone();
    path.split('.').all(|name| match property(&at, schema, name) {
        Some(found) => {
            at = found;
            true
        }
        None => false,
    })
}

#[test]
fn keys_are_those_of_the_schema() {
    let schema: Value = serde_json::from_str(&read("config/gateway.schema.json")).unwrap();
    let sections: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert!(is_key("listen.tls.certificate", &schema) && !is_key("listen.tls.certificat", &schema));
    let mut count = 0;
    // One page shows how to add a key, the other is generated from the schema.
    let others = ["CONTRIBUTING.md", "docs/reference/configuration.md"];
    for page in pages().iter().filter(|page| !others.contains(&&*page.path)) {
        for word in page.code() {
            let path = word.split([':', ' ']).next().unwrap();
            let Some((section, _)) = path.split_once('.') else { continue };
            let is_file = [".yaml", ".rs", ".md", ".json", ".damaged"].iter().any(|it| path.ends_with(it));
            if sections.iter().any(|it| **it == *section) && !path.contains(['/', '*', '[', '<']) && !is_file
            {
                assert!(is_key(path, &schema), "{}: `{word}`", page.path);
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count}");
}

/// A fragment names the file to merge it into, a new file its path.
#[test]
fn files_for_laravel_are_marked_as_new_or_merged() {
    let text = read("docs/guides/laravel.md");
    let mut count = 0;
    for file in fs::read_dir(Path::new(ROOT).join("deploy/laravel")).unwrap().map(|file| file.unwrap().path())
    {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name == "README.md" {
            continue;
        }
        let row = text.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let cells: Vec<&str> =
            row.unwrap_or_else(|| panic!("{name} has no row")).split('|').map(str::trim).collect();
        let (place, how) = (cells[2].trim_matches('`'), cells[3]);
        let code = fs::read_to_string(&file).unwrap();
        match code.contains(&format!("// Into {place}")) {
            true => assert!(how.starts_with("merged: "), "{name}: {how}"),
            false => {
                assert_eq!(how, "new file", "{name}");
                assert!(code.contains(&format!("// {place}\n")), "{name} is not marked as {place}");
            }
        }
        count += 1;
    }
    assert_eq!(count, 7);
    assert!(text.contains("`php artisan install:api`"));
}
