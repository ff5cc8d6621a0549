//! The commands on the documentation's pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::configurations::completed;
use super::{Block, Page, ROOT, help, pages, read};
use crate::support::{BINARY, Gateway, Introspector, Upstream, Verdict};

/// A `console` block contains a command of the program and its output.
#[test]
fn commands_print_what_the_pages_show() {
    let mut count = 0;
    for page in pages() {
        for block in page.blocks("console") {
            let (command, expected) = block.split_once('\n').unwrap();
            let words: Vec<&str> = command.strip_prefix("$ stockaj-gateway ").unwrap().split(' ').collect();
            // Some commands exit with 1: a request is denied, or maps differ.
            // A developer may have a gateway.yaml in the repository's root, which would come first.
            let mut command_line = Command::new(BINARY);
            command_line.args(words).env("STOCKAJ_GATEWAY_CONFIG", "config/gateway.yaml");
            let run = command_line.output().unwrap();
            assert_eq!(String::from_utf8(run.stdout).unwrap(), expected, "{}: {command}", page.path);
            count += 1;
        }
    }
    assert!(count > 4, "{count}");
}

/// The lines of a shell block, with continued lines joined.
fn lines(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    joined.lines().map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
}

/// The program's commands and options, in `sh` blocks and in prose.
#[test]
fn commands_and_options_are_those_of_the_program() {
    let commands = help(&[]);
    let mut count = 0;
    for page in pages() {
        let shell = page.blocks("sh");
        let shell = shell.iter().flat_map(|block| lines(block));
        for line in shell.chain(page.code()) {
            for (index, _) in line.match_indices("stockaj-gateway ") {
                let before = &line[..index];
                // Neither a directory with that name nor a Secret.
                if !(before.trim_end().is_empty()
                    || ["| ", "& ", "bin/", "exec ", "env ", "run: "].iter().any(|it| before.ends_with(it)))
                {
                    continue;
                }
                let rest = &line[index + "stockaj-gateway ".len()..];
                let mut words = rest.split(['|', '<', '>', ';']).next().unwrap().split_whitespace();
                let Some(command) = words.next() else { continue };
                let place = format!("{}: {line}", page.path);
                assert!(commands.contains(&format!("\n  {command} ")), "{place}: no command {command}");
                let mut path = vec![command];
                let mut known = help(&path);
                for word in words {
                    if known.contains("\nCommands:") && known.contains(&format!("\n  {word} ")) {
                        path.push(word);
                        known = help(&path);
                    } else if word.starts_with("--") {
                        let option = word.split('=').next().unwrap();
                        assert!(known.contains(option), "{place}: {path:?} has no {option}");
                    }
                }
                count += 1;
            }
        }
    }
    assert!(count > 40, "{count}");
}

/// The file that a block contains, named in its first line.
fn file_of(block: &Block) -> Option<&str> {
    let file = block.text.strip_prefix("# ")?.lines().next()?;
    (file.contains('/') && !file.contains(' ')).then_some(file)
}

/// Files in commands exist, unless an earlier command of the page creates them.
#[test]
fn files_in_commands_exist() {
    let mut count = 0;
    for page in pages() {
        let mut made = BTreeSet::new();
        for block in page.all_blocks() {
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
                    assert!(is_there, "{}: {word}", page.path);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 20, "{count}");
}

/// Prose names a file by its path from the repository's root or from `src`.
#[test]
fn files_in_prose_exist() {
    let mut count = 0;
    for page in pages() {
        let directory = Path::new(&page.path).parent().unwrap().to_owned();
        for word in page.code() {
            let roots = ["src/", "tests/", "deploy/", "config/", "docs/", "fuzz/", "benches/", ".ci/"];
            let is_file = roots.iter().any(|root| word.starts_with(root))
                || (word.ends_with(".rs") && word.contains('/'));
            // NAME is a placeholder, PHP files belong to the application, and build results are not in the repository.
            let is_pattern =
                word.contains(['*', '{', '<', ' ']) || word.contains("NAME") || word.ends_with(".php");
            if !is_file || is_pattern || word.starts_with("benches/results") {
                continue;
            }
            // Scripts and their paths on pages in subdirectories.
            let places =
                [Path::new(ROOT).to_owned(), Path::new(ROOT).join("src"), Path::new(ROOT).join(&directory)];
            assert!(places.iter().any(|place| place.join(&word).exists()), "{}: `{word}`", page.path);
            count += 1;
        }
    }
    assert!(count > 80, "{count}");
}

/// Runs each `sh` block that needs no cluster, systemd or container engine, in a copy of the repository.
#[test]
#[ignore = "needs guide: tests/run"]
fn shell_blocks_run() {
    let (mut ran, mut left) = (0, Vec::new());
    for page in pages() {
        let sandbox = tempfile::tempdir().unwrap();
        let root = sandbox.path().join("root");
        let repository = sandbox.path().join("repository");
        fs::create_dir_all(repository.join("target/image")).unwrap();
        for name in ["deploy", "config"] {
            let from = Path::new(ROOT).join(name);
            assert!(Command::new("cp").arg("-R").arg(from).arg(&repository).status().unwrap().success());
        }
        fs::copy(BINARY, repository.join("target/image/stockaj-gateway")).unwrap();
        // Documented on the page about certificates, for runbooks.
        fs::create_dir_all(repository.join("tls")).unwrap();
        let issued = crate::support::Authority::new().issue(&["localhost"], |_| {});
        fs::write(repository.join("tls/tls.crt"), issued.certificate).unwrap();
        fs::create_dir_all(root.join("usr/local/bin")).unwrap();
        let path = format!(
            "{}:{ROOT}/target/kubernetes/bin:{}",
            Path::new(BINARY).parent().unwrap().display(),
            std::env::var("PATH").unwrap()
        );
        for block in page.all_blocks() {
            if let Some(file) = file_of(&block)
                && let Some(parent) = repository.join(file).parent().filter(|parent| parent.exists())
            {
                let name = Path::new(file).file_name().unwrap();
                fs::write(parent.join(name), &block.text).unwrap();
            }
            // Commands after a map use it.
            if block.language == "yaml" && format!("\n{}", block.text).contains("\nabilities:") {
                let text = completed(&block.text, &read("config/gateway.yaml"));
                fs::write(repository.join("gateway.yaml"), text).unwrap();
            }
            // As `init --map map.yaml` would write it.
            if block.language == "yml" && block.text.starts_with("routes:") {
                let servers = "backend: {url: http://127.0.0.1:8000}\nintrospection: {url: http://127.0.0.1:8000/token}\n";
                fs::write(repository.join("map.yaml"), &block.text).unwrap();
                fs::write(
                    repository.join("gateway.yaml"),
                    format!("{servers}abilities: {{file: map.yaml}}\n"),
                )
                .unwrap();
            }
            if block.language != "sh" {
                continue;
            }
            for line in lines(&block.text).iter().filter(|line| !line.is_empty()) {
                let Some(line) = runnable(line, root.to_str().unwrap()) else {
                    left.push(format!("{}: {line}", page.path));
                    continue;
                };
                let mut command = Command::new("bash");
                command
                    .args(["-e", "-o", "pipefail", "-c", &line])
                    .current_dir(&repository)
                    .env("PATH", &path);
                let output = command.output().unwrap();
                let text = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{}: {line}\n{text}", page.path);
                ran += 1;
            }
        }
    }
    println!("ran {ran}; left {}:\n{}", left.len(), left.join("\n"));
    assert!(ran > 20, "{ran}");
}

/// Rewrites a command so that it can run here; `None` if it cannot.
fn runnable(line: &str, root: &str) -> Option<String> {
    // Skips leading assignments.
    let program = line.trim_start_matches(['(', ' ']).split(' ').find(|word| !word.contains('='))?;
    let inside = |line: &str| {
        line.replace(" /etc/", &format!(" {root}/etc/")).replace(" /usr/", &format!(" {root}/usr/"))
    };
    match program {
        // Commands that need an engine, a cluster, a running application or gateway, or a build are covered by other
        // tests.
        "cargo"
        | "curl"
        | "docker"
        | "dpkg"
        | "php"
        | "buildah"
        | "podman"
        | "deploy/build-static"
        | "tests/run"
        | "mv" => None,
        // With the shipped files, they are run by `tests/proxies`.
        "nginx" | "caddy" | "traefik" | "envoy" => None,
        _ if line.contains("kubectl exec ") || line.contains("openssl s_client ") => None,
        "kubectl" if line.contains(" apply --kustomize ") => {
            Some(line.replace("kubectl apply --kustomize", "kubectl kustomize"))
        }
        "kubectl" if !line.contains("kubectl kustomize") => None,
        "helm" if !line.contains("helm template") => None,
        // systemd can create links even if it is not running.
        "systemctl" if line.contains(" enable ") => {
            Some(line.replace("systemctl enable --now", &format!("systemctl --root={root} enable")))
        }
        "systemctl" | "journalctl" => None,
        // The space is that after a command without arguments.
        "stockaj-gateway"
            if [
                " tokens ",
                " run ",
                " usage",
                " unmapped",
                " openapi ",
                " init ",
                " --online",
                " --token-stdin",
            ]
            .iter()
            .any(|it| format!("{line} ").contains(it)) =>
        {
            None
        }
        _ => Some(inside(line)),
    }
}

/// Runs the commands of the page about usage with a running gateway and a damaged ledger.
#[test]
fn usage_commands_report_usage() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (upstream, introspector) = (Upstream::start(), Introspector::start());
    introspector
        .set_verdict("17|secret", Verdict::active(&["items:read"]).named("17", "warehouse-scanner-prod"));
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
    let page =
        pages().into_iter().find(|page: &Page| page.path == "docs/guides/usage-and-findings.md").unwrap();
    let all: Vec<String> = page.blocks("sh").iter().flat_map(|block| lines(block)).collect();
    let (moving, asking): (Vec<&String>, Vec<&String>) = all.iter().partition(|line| line.starts_with("mv "));

    let gateway = start();
    assert_eq!(gateway.get("/api/v2/items", Some("17|secret")).status, 200);
    for line in &asking {
        let printed = run(line);
        // The output, or the file that it was last redirected to.
        let file = line
            .rsplit_once(" > ")
            .map(|(_, file)| file.trim_matches(['"', ' ']).replace("$pod.json\"; done", "stockaj-0.json"));
        let printed = file.map_or(printed, |file| fs::read_to_string(at(&file)).unwrap());
        assert!(printed.contains("warehouse-scanner-prod"), "{line}: {printed}");
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
