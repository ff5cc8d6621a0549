//! Completion scripts and manual pages: they contain every command, and shells and `man` accept them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::BINARY;

fn run(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands of the program, from its help.
fn commands(of: &[&str]) -> Vec<String> {
    let help = run(&[of, &["--help"]].concat());
    let lines =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn config_option_has_the_short_form_in_every_command() {
    let mut count = 0;
    for name in commands(&[]).iter().filter(|name| *name != "help") {
        let nested = commands(&[name]);
        let nested = nested.iter().filter(|name| *name != "help").map(|nested| vec![&**name, &**nested]);
        for path in nested.chain([vec![&**name]]) {
            let help = run(&[&path[..], &["--help"]].concat());
            let option = help.lines().find(|line| line.contains("--config <FILE>"));
            count += usize::from(option.is_some());
            assert!(option.is_none_or(|line| line.trim_start().starts_with("-c, ")), "{path:?}: {option:?}");
        }
    }
    assert!(count >= 8, "{count}");
}

/// Passes a script to a program, if it is installed.
fn accepts(program: &str, arguments: &[&str], script: &Path) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(arguments).arg(script).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8").env("MANPAGER", "cat");
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn completion_scripts_have_every_command_and_are_valid() {
    let names = commands(&[]);
    assert!(names.len() >= 15, "{names:?}");
    for (shell, arguments) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = run(&["completions", shell]);
        for name in names.iter().chain(&commands(&["tokens"])) {
            let has = script.split(|it: char| !it.is_alphanumeric() && it != '-').any(|word| word == name);
            assert!(has, "{shell}: {name}");
        }
        for option in ["--config", "--token-stdin", "--require-coverage"] {
            assert!(script.contains(option.trim_start_matches('-')), "{shell}: {option}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, &script).unwrap();
        let checked = accepts(shell, arguments, file.path());
        assert!(shell != "bash" || checked.is_some());
        if let Some(checked) = checked {
            assert!(checked.status.success() && checked.stderr.is_empty(), "{shell}: {checked:?}");
        }
    }
    let unknown = Command::new(BINARY).args(["completions", "powershell"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn bash_completes_commands_and_options() {
    let script = run(&["completions", "bash"]);
    let complete = |words: &[&str]| {
        let program = format!(
            "{script}\nCOMP_WORDS=({}) COMP_CWORD={}\n_stockaj__gateway stockaj-gateway {} {}\necho \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let output = Command::new("bash").args(["--norc", "-c", &program]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete(&["stockaj-gateway", "ro"]), "routes");
    assert_eq!(complete(&["stockaj-gateway", "check", "--str"]), "--strict");
    assert_eq!(complete(&["stockaj-gateway", "tokens", "re"]), "revoke");
}

#[test]
fn manual_has_a_page_for_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("share/man/man1");
    assert_eq!(run(&["man", pages.to_str().unwrap()]), "");
    let root = fs::read_to_string(pages.join("stockaj-gateway.1")).unwrap();
    for name in commands(&[]) {
        assert!(root.contains(&name.replace('-', "\\-")), "{name}: {root}");
        let page = pages.join(format!("stockaj-gateway-{name}.1"));
        assert!(name == "help" || page.is_file(), "{}", page.display());
    }
    for entry in fs::read_dir(&pages).unwrap() {
        let page = entry.unwrap().path();
        if let Some(shown) = accepts("man", &["--warnings", "-l"], &page) {
            let text = String::from_utf8_lossy(&shown.stdout);
            // In images without manual pages, `man` prints only a notice.
            let is_man = !String::from_utf8_lossy(&shown.stdout).contains("minimized");
            assert!(shown.status.success(), "{shown:?}");
            assert!(
                shown.stderr.is_empty(),
                "{}: {}",
                page.display(),
                String::from_utf8_lossy(&shown.stderr)
            );
            assert!(!is_man || text.contains("SYNOPSIS"), "{text}");
        }
    }

    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = Command::new(BINARY).arg("man").arg(file.join("below")).output().unwrap();
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: cannot write the manual pages to `"), "{stderr}");
}
