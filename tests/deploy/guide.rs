//! The operations guide: what it names is there, and its commands work where their tools can be had.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::support::{BINARY, Gateway, Introspector, Upstream, Verdict};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const GUIDES: [&str; 2] = ["deploy/README.md", "deploy/laravel/README.md"];

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap()
}

/// A fenced block.
struct Block {
    /// What it is under.
    heading: String,
    language: String,
    text: String,
}

fn all_blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut heading, mut open) = (Vec::new(), "", None::<Block>);
    for line in text.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(language), None) => {
                let (heading, language) = (heading.to_owned(), language.to_owned());
                open = Some(Block { heading, language, text: String::new() });
            }
            (None, Some(mut block)) => {
                block.text += &format!("{line}\n");
                open = Some(block);
            }
            (None, None) if line.starts_with('#') => heading = line.trim_start_matches(['#', ' ']),
            (None, None) => {}
        }
    }
    blocks
}

/// Those of one language, each with its heading.
fn blocks(text: &str, language: &str) -> Vec<(String, String)> {
    let all = all_blocks(text).into_iter().filter(|block| block.language == language);
    all.map(|block| (block.heading, block.text)).collect()
}

/// The file that a block says it is.
fn file_of(block: &Block) -> Option<&str> {
    let file = block.text.strip_prefix("# ")?.lines().next()?;
    (file.contains('/') && !file.contains(' ')).then_some(file)
}

/// What is between single backticks, outside of blocks.
fn code(text: &str) -> Vec<&str> {
    text.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2)).collect()
}

/// As it is done for headings in Markdown.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.split("\n```").step_by(2).flat_map(str::lines).filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
        kept.map(|it| if it == ' ' { '-' } else { it }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn guide_links_have_a_target() {
    let mut count = 0;
    for guide in GUIDES {
        let text = read(guide);
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = Path::new(guide).parent().unwrap().join(file);
            let is_own = file.is_empty();
            assert!(is_own || Path::new(ROOT).join(&path).exists(), "{guide}: {target}");
            if !anchor.is_empty() {
                let other = if is_own { text.clone() } else { read(path.to_str().unwrap()) };
                assert!(anchors(&other).contains(anchor), "{guide}: {target}");
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn guide_metrics_are_documented_in_the_readme() {
    let known = read("README.md");
    let mut count = 0;
    for guide in GUIDES {
        let text = read(guide);
        for rest in text.split("stockaj_gateway_").skip(1) {
            let end = rest.find(|it: char| !it.is_ascii_lowercase() && it != '_').unwrap_or(rest.len());
            let name = ["_bucket", "_count", "_sum"]
                .iter()
                .fold(&rest[..end], |name, suffix| name.strip_suffix(suffix).unwrap_or(name));
            let is_known = known.contains(&format!("| `stockaj_gateway_{name}`"));
            assert!(is_known, "{guide} names stockaj_gateway_{name}, which the README does not");
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}

/// A property of a schema's object, through references and alternatives.
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
fn guide_keys_are_in_the_schema() {
    let schema: Value = serde_json::from_str(&read("config/gateway.schema.json")).unwrap();
    let sections: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert!(is_key("listen.tls.certificate", &schema) && !is_key("listen.tls.certificat", &schema));
    let mut count = 0;
    for guide in GUIDES {
        let text = read(guide);
        for word in code(&text) {
            let path = word.split([':', ' ']).next().unwrap();
            let Some((section, _)) = path.split_once('.') else { continue };
            if sections.iter().any(|it| **it == *section)
                && !path.contains(['/', '*'])
                && !path.ends_with(".yaml")
            {
                assert!(is_key(path, &schema), "{guide}: `{word}`");
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count}");
}

/// The lines of a shell block, those that go on joined.
fn lines(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    joined.lines().map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
}

static HELP: LazyLock<String> = LazyLock::new(|| help(&[]));

fn help(command: &[&str]) -> String {
    let output = Command::new(BINARY).args(command).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The gateway's own commands and options, in blocks and in prose, are those that it has.
#[test]
fn guide_commands_exist_in_the_binary() {
    let mut count = 0;
    for guide in GUIDES {
        let text = read(guide);
        let shell: Vec<String> = blocks(&text, "sh").iter().flat_map(|(_, block)| lines(block)).collect();
        let prose = code(&text).into_iter().map(str::to_owned);
        for line in shell.into_iter().chain(prose) {
            for (index, _) in line.match_indices("stockaj-gateway ") {
                let before = &line[..index];
                // Not a directory of that name, nor a Secret.
                if !(before.trim_end().is_empty()
                    || ["| ", "& ", "bin/", "exec ", "env "].iter().any(|it| before.ends_with(it)))
                {
                    continue;
                }
                let rest = &line[index + "stockaj-gateway ".len()..];
                let mut words = rest.split(['|', '<', '>', ';']).next().unwrap().split_whitespace();
                let Some(command) = words.next() else { continue };
                assert!(HELP.contains(&format!("\n  {command} ")), "{guide}: {line}: no command {command}");
                let mut path = vec![command];
                let mut known = help(&path);
                for word in words {
                    if known.contains("\nCommands:") && known.contains(&format!("\n  {word} ")) {
                        path.push(word);
                        known = help(&path);
                    } else if word.starts_with("--") {
                        let option = word.split('=').next().unwrap();
                        assert!(known.contains(option), "{guide}: {line}: {path:?} has no {option}");
                    }
                }
                count += 1;
            }
        }
    }
    assert!(count > 5, "{count}");
}

/// What a command names in the repository is there, unless an earlier command makes it.
#[test]
fn guide_commands_name_only_existing_files() {
    let mut count = 0;
    for guide in GUIDES {
        let mut made = BTreeSet::new();
        for block in all_blocks(&read(guide)) {
            made.extend(file_of(&block).map(str::to_owned));
            let lines = if block.language == "sh" { lines(&block.text) } else { Vec::new() };
            for line in lines {
                let words: Vec<&str> = line.split_whitespace().collect();
                for (index, word) in words.iter().enumerate() {
                    let word = word.trim_end_matches([')', ';']).trim_end_matches("/*");
                    let is_ours =
                        ["deploy/", "config/", "tests/"].iter().any(|start| word.starts_with(start));
                    if !is_ours || word.contains('$') {
                        continue;
                    }
                    if words[0] == "mkdir" || (index > 0 && words[index - 1] == ">") {
                        made.insert(word.to_owned());
                    }
                    let is_there = made.contains(word) || Path::new(ROOT).join(word).exists();
                    assert!(is_there, "{guide}, {}: {word}", block.heading);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 5, "{count}");
}

/// A gateway.yaml passes `check`; where only a part of one is shown, with the rest of the one that is shipped.
#[test]
fn guide_configurations_pass_check() {
    let shipped = read("config/gateway.yaml");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::copy(Path::new(ROOT).join("config/stockaj.yaml"), at("stockaj.yaml")).unwrap();
    let authority = crate::support::Authority::new();
    let issued = authority.issue(&["localhost"], |_| {});
    fs::create_dir(at("tls")).unwrap();
    fs::write(at("tls/tls.crt"), issued.certificate).unwrap();
    fs::write(at("tls/tls.key"), issued.private_key).unwrap();
    let secrets = Path::new(ROOT).join("tests/deploy/secrets");
    let mut count = 0;
    for guide in GUIDES {
        for (heading, block) in blocks(&read(guide), "yaml") {
            if block.contains("kind: Kustomization") || block.contains("services:") {
                continue;
            }
            let text = whole(&block, &shipped);
            fs::write(at("gateway.yaml"), &text).unwrap();
            let mut command = Command::new(BINARY);
            for variable in ["CREDENTIALS_DIRECTORY", "STOCKAJ_SECRETS"] {
                command.env(variable, &secrets);
            }
            let output = command.arg("check").arg("--config").arg(at("gateway.yaml")).output().unwrap();
            assert!(output.status.success(), "{heading}: {}", String::from_utf8_lossy(&output.stderr));
            count += 1;
        }
    }
    assert!(count > 1, "{count}");
}

/// `block` with the top-level sections of `shipped` that it does not have.
fn whole(block: &str, shipped: &str) -> String {
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

/// What can be tried without a cluster, a systemd or a container engine: each block as it stands, in a copy of the
/// repository, under a root of its own.
#[test]
#[ignore = "needs guide: tests/run"]
fn guide_commands_print_the_documented_output() {
    let text = read(GUIDES[0]);
    let (mut ran, mut left) = (0, Vec::new());
    let sandbox = tempfile::tempdir().unwrap();
    let root = sandbox.path().join("root");
    let repository = sandbox.path().join("repository");
    for name in ["deploy", "config"] {
        fs::create_dir_all(repository.join("target/image")).unwrap();
        let from = Path::new(ROOT).join(name);
        assert!(Command::new("cp").arg("-R").arg(from).arg(&repository).status().unwrap().success());
    }
    fs::copy(BINARY, repository.join("target/image/stockaj-gateway")).unwrap();
    fs::create_dir_all(root.join("usr/local/bin")).unwrap();
    let path = format!(
        "{}:{ROOT}/target/kubernetes/bin:{}",
        Path::new(BINARY).parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    for block in all_blocks(&text) {
        let heading = &block.heading;
        if let Some(file) = file_of(&block) {
            fs::write(repository.join(file), &block.text).unwrap();
        }
        if block.language != "sh" {
            continue;
        }
        for line in lines(&block.text).iter().filter(|line| !line.is_empty()) {
            let Some(line) = tried(line, root.to_str().unwrap()) else {
                left.push(format!("{heading}: {line}"));
                continue;
            };
            let mut command = Command::new("bash");
            command.args(["-e", "-o", "pipefail", "-c", &line]).current_dir(&repository).env("PATH", &path);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{heading}: {line}\n{said}");
            ran += 1;
        }
    }
    println!("ran {ran}; left {}:\n{}", left.len(), left.join("\n"));
    assert!(ran > 10, "{ran}");
}

/// Each line of "Who uses what" as it stands: asked of a gateway that runs, and with a ledger that is damaged.
#[test]
fn guide_usage_commands_run_against_gateway_and_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (upstream, introspector) = (Upstream::start(), Introspector::start());
    introspector.know("17|secret", Verdict::active(&["items:read"]).named("17", "warehouse-scanner-prod"));
    let start = || {
        let gateway = Gateway::builder().backend(&upstream).introspector(&introspector);
        let usage = format!("usage: {{path: {}, flush_interval: 200ms}}\n", at("usage.redb").display());
        let gateway = gateway.yaml("admin:\n  token: an-operators-token\n").yaml(&usage).start();
        let yaml = format!("admin: {{address: '{}', token: an-operators-token}}\n{usage}", gateway.admin());
        fs::write(at("gateway.yaml"), yaml).unwrap();
        gateway
    };
    let run = |line: &str| {
        let path = Path::new(BINARY).parent().unwrap().display().to_string();
        let line = line
            .replace("kubectl exec \"$pod\" -c gateway -- /stockaj-gateway", "stockaj-gateway")
            .replace("/var/lib/stockaj-gateway", directory.path().to_str().unwrap());
        let mut command = Command::new("bash");
        command
            .args(["-e", "-c", &line])
            .current_dir(&directory)
            .env("STOCKAJ_GATEWAY_CONFIG", at("gateway.yaml"));
        let output =
            command.env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap())).output().unwrap();
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let all = blocks(&read(GUIDES[0]), "sh");
    let all: Vec<String> =
        all.iter().filter(|(heading, _)| heading == "Who uses what").flat_map(|(_, it)| lines(it)).collect();
    let (moving, asking): (Vec<&String>, Vec<&String>) = all.iter().partition(|line| line.starts_with("mv "));

    let gateway = start();
    assert_eq!(gateway.get("/api/v2/items", Some("17|secret")).status, 200);
    for line in &asking {
        let said = run(line);
        // What it printed, or what is in the file that it went to, the last one that is named.
        let file = line
            .rsplit_once(" > ")
            .map(|(_, file)| file.trim_matches(['"', ' ']).replace("$pod.json\"; done", "stockaj-0.json"));
        let said = file.map_or(said, |file| fs::read_to_string(at(&file)).unwrap());
        assert!(said.contains("warehouse-scanner-prod"), "{line}: {said}");
    }
    drop(gateway);

    fs::write(at("usage.redb"), "damaged ".repeat(1000)).unwrap();
    let gateway = start();
    gateway.wait_for_log(|line| line["error"].as_str().is_some_and(|it| it.contains("move it away")));
    moving.iter().for_each(|line| drop(run(line)));
    gateway.wait_for_log(|line| line["message"] == "usage: the ledger is written again");
    assert!(at("usage.redb.damaged").exists());
    assert_eq!((moving.len(), asking.len()), (1, 6));
}

/// A command as it can be tried here; none where it cannot.
fn tried(line: &str, root: &str) -> Option<String> {
    // After what is put into its environment.
    let program = line.trim_start_matches(['(', ' ']).split(' ').find(|word| !word.contains('='))?;
    let inside = |line: &str| {
        line.replace(" /etc/", &format!(" {root}/etc/")).replace(" /usr/", &format!(" {root}/usr/"))
    };
    match program {
        // An engine, a cluster, a running application or gateway: other tests have these.
        "cargo" | "curl" | "docker" | "buildah" | "podman" | "deploy/build-static" | "mv" => None,
        _ if line.contains("kubectl exec ") => None,
        "kubectl" if line.contains(" apply --kustomize ") => {
            Some(line.replace("kubectl apply --kustomize", "kubectl kustomize"))
        }
        "kubectl" if !line.contains("kubectl kustomize") => None,
        "helm" if !line.contains("helm template") => None,
        // Without a manager it can do what concerns files.
        "systemctl" if line.contains(" enable ") => {
            Some(line.replace("systemctl enable --now", &format!("systemctl --root={root} enable")))
        }
        "systemctl" | "journalctl" => None,
        "stockaj-gateway" if [" tokens ", " run ", " usage"].iter().any(|it| line.contains(it)) => None,
        _ => Some(inside(line)),
    }
}
