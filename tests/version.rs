//! `--version`, and the build script that provides its values.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::BINARY;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn long_version_shows_the_origin_of_the_build() {
    let short = concat!("stockaj-gateway ", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(Command::new(BINARY).arg("-V")), format!("{short}\n"));
    let long = stdout(Command::new(BINARY).arg("--version"));
    let lines: Vec<&str> = long.lines().collect();
    let [first, commit, date, target, rustc] = lines[..] else { panic!("{long}") };
    assert_eq!(first, short);
    assert!(commit.starts_with("commit: ") && date.starts_with("date:   "), "{long}");
    assert!(target.starts_with("target: ") && target.contains("-linux-"), "{long}");
    assert!(rustc.starts_with("rustc:  1."), "{long}");
}

/// The values that build.rs passes to the compiler.
struct BuildScript {
    directory: tempfile::TempDir,
}

impl BuildScript {
    fn compile() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("source")).unwrap();
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        stdout(
            Command::new(rustc)
                .args(["--edition", "2024", "--crate-name", "build_script", "-o"])
                .arg(directory.path().join("script"))
                .arg(Path::new(ROOT).join("build.rs")),
        );
        Self { directory }
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]);
        git.env("GIT_COMMITTER_DATE", "2024-02-29T23:59:59Z").env("GIT_AUTHOR_DATE", "2020-01-01T00:00:00Z");
        stdout(git.args(arguments).current_dir(self.directory.path().join("source"))).trim().to_owned()
    }

    /// Commit, date, and the files that trigger the build script, without build.rs.
    fn run(&self, profile: &str, environment: &[(&str, &str)]) -> (String, String, Vec<String>) {
        let mut command = Command::new(self.directory.path().join("script"));
        command.env_clear().env("PROFILE", profile).env("TARGET", "a-b-c");
        // A parent directory may be a repository, so git is available.
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("CARGO_MANIFEST_DIR", self.directory.path().join("source"));
        let printed = stdout(command.envs(environment.iter().copied()));
        let value = |name: &str| {
            let prefix = format!("cargo::rustc-env=STOCKAJ_GATEWAY_BUILD_{name}=");
            printed.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
        };
        assert_eq!((&*value("TARGET"), &*value("RUSTC")), ("a-b-c", "unknown"));
        let files = printed.lines().filter_map(|line| line.strip_prefix("cargo::rerun-if-changed="));
        let files = files.filter(|file| *file != "build.rs").map(str::to_owned).collect();
        (value("COMMIT"), value("DATE"), files)
    }
}

#[test]
#[ignore = "needs git: tests/run"]
fn build_script_names_the_commit_with_and_without_a_repository() {
    const COMMIT: &str = "STOCKAJ_GATEWAY_COMMIT";
    const EPOCH: &str = "SOURCE_DATE_EPOCH";
    let unknown = ("unknown".to_owned(), "unknown".to_owned(), Vec::new());
    let script = BuildScript::compile();
    assert_eq!(script.run("release", &[]), unknown, "a source archive");

    // An unpacked archive inside another repository.
    let outer = script.directory.path().join("source");
    let git = |arguments: &[&str]| {
        stdout(
            Command::new("git").args(["-c", "init.defaultBranch=main"]).args(arguments).current_dir(&outer),
        )
    };
    git(&["-C", "..", "init", "--quiet"]);
    assert_eq!(script.run("release", &[]), unknown, "the repository of a parent directory");

    script.git(&["init", "--quiet"]);
    assert_eq!(script.run("release", &[]).0, "unknown", "no commit yet");
    script.git(&["commit", "--quiet", "--allow-empty", "--message", "first"]);
    let head = script.git(&["rev-parse", "HEAD"]);
    let (commit, date, files) = script.run("release", &[]);
    assert_eq!((&*commit, &*date), (&*head, "2024-02-29"));
    assert!(files.len() == 2 && files[0].ends_with(".git/HEAD"), "{files:?}");
    assert!(files[1].ends_with(".git/refs/heads/main"), "{files:?}");
    assert!(files.iter().all(|file| Path::new(file).exists()), "cargo would always run it again: {files:?}");
    assert_eq!(script.run("debug", &[]), unknown, "a commit does not trigger a debug build");

    for (environment, commit, date) in [
        (&[(EPOCH, "0")][..], &*head, "1970-01-01"),
        (&[(EPOCH, "951782400")], &head, "2000-02-29"),
        (&[(EPOCH, "4107542400")], &head, "2100-03-01"),
        (&[(EPOCH, "yesterday")], &head, "unknown"),
        (&[(COMMIT, "0123abc")], "0123abc", "unknown"),
        (&[(COMMIT, &head)], &head, "2024-02-29"),
        (&[(COMMIT, "0123abc"), (EPOCH, "86400")], "0123abc", "1970-01-02"),
        (&[(COMMIT, ""), (EPOCH, "")], &head, "2024-02-29"),
        (&[(COMMIT, "a\ncargo::rustc-env=B=c")], "unknown", "unknown"),
    ] {
        let found = script.run("release", environment);
        assert_eq!((&*found.0, &*found.1), (commit, date), "{environment:?}");
    }
    let found = script.run("debug", &[(COMMIT, "0123abc"), (EPOCH, "86400")]);
    assert_eq!((&*found.0, &*found.1), ("0123abc", "1970-01-02"), "a debug build with the variable set");

    // A worktree has its own HEAD; the branch is in the main repository.
    script.git(&["worktree", "add", "--quiet", "../tree"]);
    let tree = script.directory.path().join("tree");
    let (commit, _, files) = script.run("release", &[("CARGO_MANIFEST_DIR", tree.to_str().unwrap())]);
    assert_eq!(commit, head);
    assert!(files.len() == 2 && files.iter().all(|file| Path::new(file).exists()), "{files:?}");
}
