//! Conventions that a scan of the sources can check, such as the layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The modules of `config` from top to bottom.
const CONFIG_LAYERS: [&[&str]; 3] = [
    &["ability_map", "gateway", "section_only"],
    &["listener_overlap", "sections"],
    &["language", "settings"],
];

/// Crates and modules that `policy` must not use.
const IMPURE: [&str; 13] = [
    "tokio",
    "hyper",
    "hyper_util",
    "moka",
    "tracing",
    "jiff",
    "std::env",
    "std::fs",
    "TcpListener",
    "TcpStream",
    "std::time",
    "std::thread",
    "std::io",
];

/// The layers of modules from top to bottom, as `src/lib.rs` lists them.
static LAYERS: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
    let text = read(Path::new("src/lib.rs"));
    let layers = text.lines().filter_map(|line| line.strip_prefix("//! layer: "));
    layers.map(|layer| layer.split(' ').map(str::to_owned).collect()).collect()
});

fn layer(module: &str) -> usize {
    let position = LAYERS.iter().position(|modules| modules.iter().any(|it| it == module));
    position.unwrap_or_else(|| panic!("`{module}` has no layer in src/lib.rs"))
}

#[test]
fn modules_import_only_lower_layers() {
    let violations: Vec<String> = sources("src")
        .into_iter()
        .filter_map(|file| Some((module_path(&file)?, file)))
        .flat_map(|(path, file)| {
            violations(&path, &read(&file)).into_iter().map(move |it| format!("{}: {it}", file.display()))
        })
        .collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn config_language_imports_no_section() {
    let modules = modules();
    let place = |module: &str| {
        let name = module.strip_prefix("config::")?.split("::").next()?.to_owned();
        let layer = CONFIG_LAYERS.iter().position(|names| names.contains(&&*name));
        Some((layer.unwrap_or_else(|| panic!("`{module}` has no layer in tests/house.rs")), name))
    };
    for (module, text) in &modules {
        let Some((layer, name)) = place(module) else { continue };
        for imported in imported_files(module, text, &modules) {
            let is_allowed = place(&imported).is_none_or(|(other, it)| layer < other || it == name);
            assert!(is_allowed, "`{module}` imports `{imported}`");
        }
    }
}

#[test]
fn files_have_no_import_cycle() {
    let modules = modules();
    let mut imports: BTreeMap<&String, BTreeSet<String>> =
        modules.iter().map(|(module, text)| (module, imported_files(module, text, &modules))).collect();
    // Modules that import no others are not part of a cycle.
    while let Some(free) = imports
        .iter()
        .find(|(_, imported)| !imported.iter().any(|it| imports.contains_key(it)))
        .map(|(module, _)| *module)
    {
        imports.remove(free);
    }
    assert!(imports.is_empty(), "modules in or above a cycle: {imports:#?}");
}

#[test]
fn imported_files_are_found_through_paths_and_groups() {
    let names = ["a", "a::b", "a::b::c", "a::d", "e"];
    let modules = names.map(|name| (name.to_owned(), String::new())).into();
    for (module, text, expected) in [
        ("a::d", "use super::b::c::It;", &["a::b::c"][..]),
        ("a::d", "use super::b::{c, It};", &["a::b", "a::b::c"]),
        ("a::b::c", "use super::It; use super::super::d;", &["a::d"]),
        ("e", "use crate::a::{self, b::It};", &["a", "a::b"]),
    ] {
        let found: Vec<String> = imported_files(module, text, &modules).into_iter().collect();
        assert_eq!(found, expected, "{module}: {text}");
    }
}

#[test]
fn import_scan_finds_every_form_of_import() {
    for (path, text, expected) in [
        ("tokens", "use crate::server::Server;", &["server"][..]),
        ("tokens", "use crate::{client::Pool, gateway};", &["gateway"]),
        ("tokens", "use crate::{\n    config::{Settings, Cache},\n    backend::forward,\n};", &["backend"]),
        ("tokens", "let it = crate::response::own::refuse();", &["response"]),
        ("tokens", "use super::backend;", &["backend"]),
        ("tokens::cache", "use super::super::backend;", &["backend"]),
        ("tokens::cache", "use super::backend; // of tokens", &[]),
        ("tokens::cache", "use crate::tokens::verdict; use crate::{client, policy};", &[]),
        ("policy::path", "use crate::config::Settings;", &["config"]),
        ("policy::path", "use std::time::Instant;", &["std::time"]),
        ("config", "//! See [`crate::server`].\nuse crate::policy;", &[]),
        ("config", "#[cfg(test)]\nmod tests {\n    use crate::server;\n}", &[]),
        ("cli::demo", "use crate::{demo::Stockaj, server::Server};", &[]),
        ("demo", "use crate::policy::path;", &["policy"]),
    ] {
        let found = violations(path, text);
        assert_eq!(found.len(), expected.len(), "{path}: {text}: {found:?}");
        for name in expected {
            assert!(found.iter().any(|it| it.contains(&format!("`{name}`"))), "{path}: {text}: {found:?}");
        }
    }
}

#[test]
fn every_module_is_described_in_lib_rs() {
    let text = read(Path::new("src/lib.rs"));
    let modules: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or(line.strip_prefix("mod "))?.strip_suffix(';'))
        .collect();
    assert!(!modules.is_empty());
    for module in modules {
        layer(module);
        let drawn = [format!("//! {module}/ "), format!("//! {module}.rs ")];
        assert!(
            text.lines().any(|line| drawn.iter().any(|start| line.starts_with(start))),
            "`{module}` is not in the map of src/lib.rs"
        );
    }
}

#[test]
fn code_contains_no_unsafe() {
    assert!(read(Path::new("Cargo.toml")).contains(concat!("uns", "afe_code = \"forbid\"")));
    let word = concat!("uns", "afe");
    for (file, line, text) in lines() {
        let code = text.split("//").next().unwrap_or_default();
        let mut words = code.split(|character: char| !character.is_alphanumeric() && character != '_');
        assert!(!words.any(|it| it == word), "{}:{line}: {text}", file.display());
    }
}

#[test]
fn ignored_tests_state_a_reason() {
    let ignored = concat!("#[", "ignore");
    for (file, line, text) in lines() {
        if let Some((_, rest)) = text.split_once(ignored) {
            assert!(rest.trim_start().starts_with("= \""), "{}:{line}: {text}", file.display());
        }
    }
}

/// The imports of a module that violate the direction of the layers.
fn violations(module: &str, text: &str) -> Vec<String> {
    let top = module.split("::").next().unwrap_or_default();
    let text = code(text);
    let root = "super::".repeat(module.split("::").count());
    let known = |it: &String| LAYERS.iter().any(|modules| modules.contains(it));
    let imported: BTreeSet<String> =
        ["crate::", &root].into_iter().flat_map(|prefix| imports(&text, prefix)).filter(known).collect();
    let mut found: Vec<String> = imported
        .into_iter()
        .filter(|it| it != top && layer(it) <= layer(top))
        .map(|it| format!("`{top}` imports `{it}`"))
        .collect();
    if top == "policy" {
        let used = IMPURE.iter().filter(|name| text.contains(&format!("{name}::")));
        found.extend(used.map(|name| format!("`policy` uses `{name}`")));
    }
    found
}

/// The code of every module.
fn modules() -> BTreeMap<String, String> {
    sources("src").into_iter().filter_map(|file| Some((module_path(&file)?, code(&read(&file))))).collect()
}

/// The modules whose files a module imports from, without its parents and children.
fn imported_files(module: &str, text: &str, modules: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut base = Some(module);
    let mut prefix = String::new();
    while let Some(current) = base {
        prefix += "super::";
        base = current.rsplit_once("::").map(|(parent, _)| parent);
        follow(text, &prefix, base.unwrap_or_default(), modules, &mut found);
    }
    follow(text, "crate::", "", modules, &mut found);
    let is_below = |one: &str, other: &str| one.starts_with(&format!("{other}::"));
    found.retain(|it| it != module && !is_below(it, module) && !is_below(module, it));
    found
}

/// Adds the modules that paths below `prefix` refer to; `prefix` stands for `base`.
fn follow(
    text: &str,
    prefix: &str,
    base: &str,
    modules: &BTreeMap<String, String>,
    found: &mut BTreeSet<String>,
) {
    for name in imports(text, prefix) {
        let module = if base.is_empty() { name.clone() } else { format!("{base}::{name}") };
        if !modules.contains_key(&module) {
            found.extend(modules.get_key_value(base).map(|(base, _)| base.clone()));
            continue;
        }
        let deeper = format!("{prefix}{name}::");
        match text.contains(&deeper) {
            true => follow(text, &deeper, &module, modules, found),
            false => {
                found.insert(module);
            }
        }
    }
}

/// The first names after `prefix`, through one level of braces.
fn imports(text: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (start, _) in text.match_indices(prefix) {
        let before = text[..start].chars().next_back();
        if before.is_some_and(|it| it.is_alphanumeric() || it == '_' || it == ':') {
            continue;
        }
        let rest = &text[start + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_names(group)),
            None => names.extend(name(rest)),
        }
    }
    names
}

fn group_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut expected) = (0, Vec::new(), true);
    for (index, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            it if expected && depth == 0 && !it.is_whitespace() => {
                names.extend(name(&group[index..]));
                expected = false;
            }
            _ => {}
        }
    }
    names
}

fn name(text: &str) -> Option<String> {
    let end = text.find(|it: char| !it.is_alphanumeric() && it != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// Removes comments, and the unit tests at the end of a file.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// `tokens::cache` for `src/tokens/cache.rs`; `None` for the roots.
fn module_path(file: &Path) -> Option<String> {
    let inside = file.strip_prefix("src").ok()?.with_extension("");
    let mut names: Vec<_> = inside.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names.last().is_some_and(|name| name == "mod") {
        names.pop();
    }
    (names != ["main"] && names != ["lib"]).then(|| names.join("::"))
}

fn lines() -> impl Iterator<Item = (PathBuf, usize, String)> {
    const ALL: [&str; 5] = ["src", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets"];
    ALL.into_iter().flat_map(sources).flat_map(|file| {
        let lines: Vec<String> = read(&file).lines().map(str::to_owned).collect();
        lines.into_iter().enumerate().map(move |(index, line)| (file.clone(), index + 1, line))
    })
}

fn sources(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::from(directory)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(root().join(&directory)).into_iter().flatten() {
            let path = directory.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
