//! The files of a release, and the workflows that build and publish it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn at(file: &str) -> PathBuf {
    Path::new(ROOT).join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(at(file)).unwrap()
}

/// The standard output of a program; panics if it fails.
fn output(command: &mut Command) -> String {
    let output = command.current_dir(ROOT).output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn workflows() -> BTreeMap<String, String> {
    let files = fs::read_dir(at(".github/workflows")).unwrap().map(|entry| entry.unwrap().path());
    let named = files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path));
    named.map(|(name, path)| (name, fs::read_to_string(path).unwrap())).collect()
}

/// The findings of actionlint about a workflow and, by shellcheck, about its scripts.
fn actionlint(text: &str) -> Output {
    let mut command = Command::new(at("target/actionlint/bin/actionlint"));
    // A repository with only the workflows, so that calls between them are resolved.
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join(".github/workflows");
    fs::create_dir_all(&own).unwrap();
    fs::create_dir(directory.path().join(".git")).unwrap();
    for (name, other) in workflows() {
        fs::write(own.join(name), other).unwrap();
    }
    fs::write(own.join("tried.yml"), text).unwrap();
    command.arg("-no-color").arg(".github/workflows/tried.yml").current_dir(directory.path());
    command.output().unwrap()
}

#[test]
#[ignore = "needs workflows: tests/run"]
fn actionlint_accepts_the_workflows() {
    for (name, text) in workflows() {
        let output = actionlint(&text);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
    let text = &workflows()["release.yml"];
    for (from, to, expected) in [
        ("needs: [check, build]", "needs: [check, biuld]", "biuld"),
        ("--title \"$VERSION\"", "--title $VERSION", "shellcheck"),
        ("steps.push.outputs.image", "steps.pull.outputs.image", "pull"),
    ] {
        let wrong = text.replace(from, to);
        assert_ne!(wrong, *text);
        let output = actionlint(&wrong);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{to}: {said}");
    }
}

/// A tag can be moved to other code, a commit cannot.
#[test]
fn workflows_pin_actions_to_commits_and_call_existing_scripts() {
    let (mut actions, mut scripts) = (0, BTreeSet::new());
    for (name, text) in workflows() {
        for line in text.lines() {
            if let Some((_, action)) = line.split_once("uses: ") {
                if action.starts_with("./") {
                    assert!(at(action).is_file(), "{name}: {action}");
                    continue;
                }
                let (commit, tag) = action.split_once('@').unwrap().1.split_once(" # v").unwrap_or_default();
                let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
                assert!(is_commit && tag.split('.').count() == 3, "{name}: {line}");
                actions += 1;
            }
            let words = line.split([' ', '"', '(', '[', ',', '\'']).filter(|word| {
                [".ci/", "deploy/", "tests/"].iter().any(|start| word.starts_with(start))
                    && !word.contains('*')
            });
            scripts.extend(words.map(str::to_owned));
        }
        // Permissions are declared at the top: read access to the repository only.
        assert!(text.contains("\npermissions:\n  contents: read\n\n"), "{name}");
    }
    assert!(actions > 8, "{actions}");
    for script in [".ci/run", ".ci/deny", "deploy/release", "deploy/push-image", "tests/install"] {
        assert!(scripts.contains(script), "{script}: {scripts:?}");
    }
    for script in scripts {
        assert!(at(&script).exists(), "{script}");
    }
}

#[test]
fn rust_version_is_the_same_everywhere() {
    let toolchain = read("rust-toolchain.toml");
    let pinned = toolchain.split("channel = \"").nth(1).unwrap().split('"').next().unwrap();
    let minor = pinned.rsplit_once('.').unwrap().0;
    assert!(read("Cargo.toml").contains(&format!("\nrust-version = \"{minor}\"\n")));
    let image = format!("rust:{minor}-bookworm");
    for file in ["deploy/Dockerfile", ".github/workflows/ci.yml", ".github/workflows/release.yml"] {
        let text = read(file);
        assert!(text.contains(&image), "{file}");
        assert_eq!(text.matches("rust:").count(), text.matches(&image).count(), "{file}");
    }
}

/// The text files below a directory.
fn texts(directory: &str) -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(at(&next)).unwrap().map(|entry| entry.unwrap()) {
            let name = format!("{next}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                open.push(name);
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                found.push((name, text));
            }
        }
    }
    found
}

#[test]
fn files_name_the_version_of_the_crate() {
    let mut count = 0;
    for (file, text) in ["deploy", "docs"].into_iter().flat_map(texts) {
        for before in ["stockaj-gateway:", "stockaj-gateway_", "newTag: ", "ARG VERSION=", "appVersion: "] {
            for (_, after) in text.match_indices(before).map(|(start, it)| text.split_at(start + it.len())) {
                let end = after.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(after.len());
                let version = after[..end].trim_end_matches('.');
                if !version.is_empty() {
                    assert_eq!(version, VERSION, "{file}: {before}{version}");
                    count += 1;
                }
            }
        }
    }
    assert!(count > 10, "{count}");
}

/// Runs deploy/release and returns the checksums in SHA256SUMS by file.
fn release(options: &[&str]) -> BTreeMap<String, String> {
    output(Command::new("deploy/release").arg("--prebuilt").args(options));
    let directory = at("target/release-artefacts");
    let sums = fs::read_to_string(directory.join("SHA256SUMS")).unwrap();
    let mut check = Command::new("sh");
    output(
        check.args(["-c", "cd target/release-artefacts && sha256sum --check --strict --quiet SHA256SUMS"]),
    );
    let sums = sums.lines().map(|line| line.split_once("  ").unwrap());
    let sums: BTreeMap<String, String> = sums.map(|(sum, file)| (file.to_owned(), sum.to_owned())).collect();
    let files =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = files.filter(|name| name != "SHA256SUMS").collect();
    assert!(sums.keys().eq(&files), "{sums:?} {files:?}");
    sums
}

#[test]
#[ignore = "needs release: tests/run"]
fn release_has_every_artefact_and_is_reproducible() {
    let machine = std::env::consts::ARCH;
    let debian = if machine == "x86_64" { "amd64" } else { "arm64" };
    let mut sums = release(&[]);
    let tarball = format!("stockaj-gateway-{machine}-linux.tar.gz");
    let image = format!("stockaj-gateway-{machine}-image.tar");
    let names: Vec<&String> = sums.keys().collect();
    assert_eq!(
        names,
        [
            &*format!("stockaj-{VERSION}.tgz"),
            &*image,
            &*tarball,
            &*format!("stockaj-gateway-{machine}.cdx.json"),
            &*format!("stockaj-gateway_{VERSION}_{debian}.deb"),
        ]
    );
    let artefact = |name: &str| at("target/release-artefacts").join(name);

    // The unpacked tarball works.
    let directory = tempfile::tempdir().unwrap();
    output(Command::new("tar").arg("-xzf").arg(artefact(&tarball)).arg("-C").arg(directory.path()));
    let unpacked = directory.path().join(format!("stockaj-gateway-{VERSION}"));
    for file in ["LICENSE-APACHE", "LICENSE-MIT", "LICENSES-OF-CRATES", "systemd/stockaj-gateway.socket"] {
        assert!(unpacked.join(file).is_file(), "{file}");
    }
    let mut check = Command::new(unpacked.join("stockaj-gateway"));
    output(check.arg("check").arg("--config").arg(unpacked.join("config/gateway.yaml")));

    let bill: Value = serde_json::from_str(
        &fs::read_to_string(artefact(&format!("stockaj-gateway-{machine}.cdx.json"))).unwrap(),
    )
    .unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(bill["metadata"]["component"]["version"], VERSION);

    let chart = output(Command::new("tar").arg("-tzf").arg(artefact(&format!("stockaj-{VERSION}.tgz"))));
    for file in ["Chart.yaml", "values.yaml", "templates/_helpers.tpl"] {
        assert!(chart.lines().any(|line| line == format!("stockaj/{file}")), "{chart}");
    }

    // The pushed image has the printed digest.
    let pushed = directory.path().join("pushed");
    let mut push = Command::new("deploy/push-image");
    let digest = output(push.arg(format!("dir:{}", pushed.display())).arg(artefact(&image)));
    let manifest = fs::read(pushed.join("manifest.json")).unwrap();
    let sum = output(Command::new("sha256sum").arg(pushed.join("manifest.json")));
    assert_eq!(digest.trim(), format!("sha256:{}", &sum[..64]));
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["manifests"][0]["platform"]["architecture"], debian);

    sums.remove(&image);
    assert_eq!(release(&["--without-image"]), sums, "the same binary gives the same files");
}
