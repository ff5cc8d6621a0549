//! `init`: writes a gateway.yaml and probes it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::probe::{failures, probe};
use super::prompt;
use super::token_input::TokenArguments;
use super::{Exit, SHIPPED_MAP, output, report, show};
use crate::config::{self, LARGEST as LARGEST_MAP, Severity, load_abilities};
use crate::openapi::document::{LoadedDescription, load_description};
use crate::openapi::draft::{Note, draft, written};

/// The name of the shipped map, next to the gateway.yaml.
const SHIPPED_NAME: &str = "stockaj.yaml";
/// The name of a drafted map, next to the gateway.yaml.
const DRAFT_NAME: &str = "abilities.yaml";
/// The file with the admin token, relative to the directory of the gateway.yaml.
const ADMIN_TOKEN: &str = "secrets/admin-token";
const DEFAULT_BACKEND: &str = "http://127.0.0.1:8000";
/// The path of the introspection route of deploy/laravel.
const DEFAULT_PATH: &str = "/api/v2/token";

/// Write a commented gateway.yaml, and probe the servers that it names
///
/// On a terminal, asks for what the options do not say. Also generates the admin token, which `tokens`, `usage` and
/// `unmapped` need, in secrets/admin-token next to FILE; a token that exists there is kept. Then probes as `check --online`
/// does. Exits with 1 if a file cannot be written or a step fails, with 2 if an option is missing and there is no terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The file to write
    #[arg(default_value = "gateway.yaml")]
    file: PathBuf,
    /// The URL of the application, such as http://127.0.0.1:8000
    #[arg(long, value_name = "URL")]
    backend: Option<String>,
    /// The URL of the introspection endpoint, such as http://127.0.0.1:8000/api/v2/token
    #[arg(long, value_name = "URL")]
    introspection: Option<String>,
    /// How to introspect [default: bearer]
    #[arg(long, value_enum)]
    style: Option<Style>,
    /// The client id for `rfc7662`
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// A file with the client secret for `rfc7662`
    #[arg(long, value_name = "FILE", requires = "client_id")]
    client_secret_file: Option<PathBuf>,
    /// The audience of this service in introspection responses, for `rfc7662`: other tokens are refused
    #[arg(long, value_name = "AUD")]
    audience: Option<String>,
    /// Use this map file
    #[arg(long, value_name = "FILE", group = "source")]
    map: Option<PathBuf>,
    /// Use the map of Stockaj, which is written as stockaj.yaml next to FILE
    #[arg(long, group = "source")]
    shipped_map: bool,
    /// Draft a map from this OpenAPI document, which is written as abilities.yaml next to FILE
    #[arg(long, value_name = "DOCUMENT", group = "source")]
    openapi: Option<PathBuf>,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
    /// Do not probe
    #[arg(long, conflicts_with = "token_file")]
    offline: bool,
    #[command(flatten)]
    token: TokenArguments,
}

/// `--style`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Style {
    /// GET with the token of the client, as Sanctum authenticates it
    #[default]
    Bearer,
    /// RFC 7662: POST with the gateway's own credentials
    Rfc7662,
}

/// The answers to all questions.
struct Answers {
    backend: String,
    introspection: String,
    style: Style,
    client_id: Option<String>,
    client_secret_file: Option<PathBuf>,
    audience: Option<String>,
    map: MapSource,
}

/// Where the ability map is from.
enum MapSource {
    File(PathBuf),
    Shipped,
    OpenApi(PathBuf),
}

/// The ability map of the configuration.
struct Map {
    /// `abilities.file`
    reference: String,
    /// A file to write, and its text.
    written: Option<(PathBuf, String)>,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        match self.initialize() {
            Ok(exit) | Err(exit) => exit,
        }
    }

    fn initialize(&self) -> Result<Exit, Exit> {
        self.refuse_to_overwrite(&self.file)?;
        let answers = self.answers()?;
        let map = self.map(&answers.map)?;
        if let Some((path, _)) = &map.written {
            self.refuse_to_overwrite(path)?;
        }
        let servers = self.servers(&answers)?;
        self.validate(&servers)?;
        let text = format!("{LISTENERS}{servers}{}", abilities(&map.reference));
        if let Some((path, text)) = &map.written {
            self.write(path, text)?;
        }
        let token = self.file.with_file_name(ADMIN_TOKEN);
        let is_new = generate_admin_token(&token).map_err(|error| {
            report(format_args!("error: cannot write `{}`: {error}", token.display()));
            Exit::Failure
        })?;
        self.write(&self.file, &text)?;
        let loaded = config::load(&self.file).map_err(|mistakes| {
            show(&mistakes);
            Exit::Failure
        })?;
        if loaded.warnings.count(Severity::Warning) > 0 {
            show(&loaded.warnings);
        }
        let routes = loaded.settings.abilities.routes().len();
        let wrote = map.written.iter().map(|(path, _)| path);
        let wrote = wrote.chain(is_new.then_some(&token)).chain([&self.file]);
        let wrote: Vec<String> = wrote.map(|path| format!("wrote {}", path.display())).collect();
        let mut exit = output(Exit::Success, |out| writeln!(out, "{} ({routes} routes)", wrote.join("\n")));
        if exit == Exit::Success && !self.offline {
            let token = self.token.read()?;
            let steps = probe(loaded.settings, token.as_ref());
            let failed = failures(&steps).next().is_some();
            exit = output(if failed { Exit::Failure } else { Exit::Success }, |out| {
                steps.iter().try_for_each(|step| step.write(out))
            });
        }
        let (file, verb) =
            (shell_word(&self.file), if exit == Exit::Success { "run" } else { "check --online" });
        report(format_args!("next: stockaj-gateway {verb} --config {file}"));
        Ok(exit)
    }

    fn refuse_to_overwrite(&self, path: &Path) -> Result<(), Exit> {
        if self.force || fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        report(format_args!("error: `{}` exists\nhelp: name another file, or use `--force`", path.display()));
        Err(Exit::Failure)
    }

    /// The values of options, of questions, and of defaults.
    fn answers(&self) -> Result<Answers, Exit> {
        let is_interactive = prompt::is_interactive();
        let ask = |given: &Option<String>, question: &str, default: &str, option: &str| match given {
            Some(value) => Ok(value.clone()),
            None if is_interactive => asked(prompt::line(question, default)),
            None => Err(missing(option)),
        };
        let backend = ask(&self.backend, "URL of the application", DEFAULT_BACKEND, "--backend URL")?;
        let default = format!("{}{DEFAULT_PATH}", backend.trim_end_matches('/'));
        // A Unix socket has no URL of an endpoint.
        let default = if backend.starts_with("unix:") { String::new() } else { default };
        let introspection =
            ask(&self.introspection, "URL of its introspection endpoint", &default, "--introspection URL")?;
        let style = match self.style {
            Some(style) => style,
            None if self.client_id.is_some() || self.audience.is_some() => Style::Rfc7662,
            None if is_interactive && self.introspection.is_none() => {
                let answer = asked(prompt::line("Style of introspection: bearer or rfc7662", "bearer"))?;
                match &*answer {
                    "bearer" => Style::Bearer,
                    "rfc7662" => Style::Rfc7662,
                    _ => {
                        report("error: the style is neither `bearer` nor `rfc7662`");
                        return Err(Exit::Usage);
                    }
                }
            }
            None => Style::Bearer,
        };
        let (mut client_id, mut client_secret_file) =
            (self.client_id.clone(), self.client_secret_file.clone());
        if style == Style::Rfc7662 && is_interactive && client_id.is_none() {
            client_id = Some(asked(prompt::line("Client id (Enter: none)", ""))?).filter(|id| !id.is_empty());
            if client_id.is_some() && client_secret_file.is_none() {
                let file = asked(prompt::line("File with the client secret (Enter: none)", ""))?;
                client_secret_file = Some(PathBuf::from(file)).filter(|file| *file != PathBuf::new());
            }
        }
        let mut audience = self.audience.clone();
        if style == Style::Rfc7662 && is_interactive && audience.is_none() {
            let question = "Audience (`aud`) of tokens for this application (Enter: none)";
            audience = Some(asked(prompt::line(question, ""))?).filter(|audience| !audience.is_empty());
        }
        let map = match (&self.map, self.shipped_map, &self.openapi) {
            (Some(map), ..) => MapSource::File(map.clone()),
            (None, true, _) => MapSource::Shipped,
            (None, false, Some(document)) => MapSource::OpenApi(document.clone()),
            (None, false, None) if is_interactive => asked_map()?,
            (None, false, None) => {
                return Err(missing("--map FILE, --shipped-map or --openapi DOCUMENT"));
            }
        };
        Ok(Answers { backend, introspection, style, client_id, client_secret_file, audience, map })
    }

    /// Reads or drafts the ability map.
    fn map(&self, source: &MapSource) -> Result<Map, Exit> {
        let invalid = |mistakes| {
            show(&mistakes);
            Exit::Failure
        };
        let beside = |name: &str, text: String| Map {
            reference: name.to_owned(),
            written: Some((self.file.with_file_name(name), text)),
        };
        match source {
            MapSource::Shipped => Ok(beside(SHIPPED_NAME, SHIPPED_MAP.to_owned())),
            MapSource::File(path) => {
                load_abilities(path).map_err(invalid)?;
                Ok(Map { reference: self.reference(path)?, written: None })
            }
            MapSource::OpenApi(document) => {
                let loaded = load_description(document, None).map_err(invalid)?;
                let LoadedDescription { description, mut warnings } = loaded;
                let draft = draft(&description);
                for Note { place, message, why } in &draft.notes {
                    warnings.warn(place.as_ref(), message.clone(), why.clone());
                }
                show(&warnings);
                let name = document.file_name().unwrap_or_default().to_string_lossy();
                let text = written(&draft, &name, description.sends_requests);
                if text.len() as u64 > LARGEST_MAP {
                    report(format_args!(
                        "error: the draft is larger than {} MiB\nhelp: use `stockaj-gateway openapi --ignore`",
                        LARGEST_MAP >> 20
                    ));
                    return Err(Exit::Failure);
                }
                Ok(beside(DRAFT_NAME, text))
            }
        }
    }

    /// A path for the gateway.yaml, in which paths are relative to its directory.
    fn reference(&self, path: &Path) -> Result<String, Exit> {
        let is_beside = self.file.parent().is_none_or(|parent| parent.as_os_str().is_empty());
        let path = if is_beside { Ok(path.to_owned()) } else { std::path::absolute(path) };
        match path.map(PathBuf::into_os_string).map(|path| path.into_string()) {
            Ok(Ok(path)) => Ok(path),
            Ok(Err(path)) => {
                report(format_args!("error: `{}` is not UTF-8, which YAML requires", path.display()));
                Err(Exit::Failure)
            }
            Err(error) => {
                report(format_args!("error: {error}"));
                Err(Exit::Failure)
            }
        }
    }

    /// Validates the answers before anything is written.
    fn validate(&self, servers: &str) -> Result<(), Exit> {
        let text = format!("{servers}abilities: {{routes: {{/: {{GET: deny}}}}}}\n");
        match config::load_text(&self.file.display().to_string(), text) {
            Ok(_) => Ok(()),
            Err(mistakes) => {
                show(&mistakes);
                Err(Exit::Failure)
            }
        }
    }

    /// The sections of the gateway.yaml that name the servers.
    fn servers(&self, answers: &Answers) -> Result<String, Exit> {
        let Answers { backend, introspection, style, client_id, client_secret_file, audience, .. } = answers;
        let mut style_keys = String::new();
        match style {
            Style::Bearer => {
                style_keys += "  # GET with the client's own token: is it active, and what may it do?\n  style: bearer\n";
            }
            Style::Rfc7662 => {
                style_keys += "  # RFC 7662: POST with the token and the gateway's own credentials.\n  style: rfc7662\n";
            }
        }
        if let Some(id) = client_id {
            style_keys += &format!("  client_id: {}\n", quoted(id));
        }
        if let Some(file) = client_secret_file {
            style_keys += &format!("  client_secret_file: {}\n", quoted(&self.reference(file)?));
        }
        if let Some(audience) = audience {
            style_keys += &format!(
                "  # Tokens that the introspector knows for other services are refused.\n  expect: {{aud: {}}}\n",
                quoted(audience)
            );
        }
        let (backend, introspection) = (quoted(backend), quoted(introspection));
        Ok(format!(
            "\
backend:
  # Where permitted requests go. Clients must not be able to reach it in another way.
  url: {backend}

introspection:
  url: {introspection}
{style_keys}
cache:
  # How long a token that was deleted in the application may still work here, unless it is revoked here, too.
  ttl: 60s

"
        ))
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), Exit> {
        let mut options = OpenOptions::new();
        match self.force {
            true => options.create(true).truncate(true),
            false => options.create_new(true),
        };
        let written = options.write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| {
            report(format_args!("error: cannot write `{}`: {error}", path.display()));
            Exit::Failure
        })
    }
}

/// The sections of the gateway.yaml before those of [`Arguments::servers`].
const LISTENERS: &str = "\
# Written by `stockaj-gateway init`. All other keys have defaults: `stockaj-gateway schema` describes them.
# After a change, run `stockaj-gateway check`; with `--online` it also probes the servers. Without `--config FILE`, commands
# read ./gateway.yaml.
listen:
  address: 0.0.0.0:8080
  # Networks of the proxies in front of the gateway. X-Forwarded-* is trusted from these only.
  trusted_proxies: []

admin:
  # /metrics, /healthz and /readyz. Everything else, such as revoking a token, needs the admin token.
  address: 127.0.0.1:9090
  token_file: secrets/admin-token

";

/// Generates the admin token, for its owner alone, and returns whether it is new. One that exists is kept.
fn generate_admin_token(path: &Path) -> io::Result<bool> {
    let mut random = Zeroizing::new([0; 32]);
    File::open("/dev/urandom")?.read_exact(&mut *random)?;
    if let Some(directory) = path.parent() {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    };
    let line = Zeroizing::new(format!("{}\n", &*Zeroizing::new(hex::encode(*random))));
    file.write_all(line.as_bytes()).inspect_err(|_| {
        // A part of a token would be taken for the whole.
        let _ = fs::remove_file(path);
    })?;
    Ok(true)
}

/// The section `abilities`.
fn abilities(file: &str) -> String {
    let file = quoted(file);
    format!(
        "\
abilities:
  # Which ability a token needs for which path and method.
  file: {file}
  # Paths that no route matches: `deny`, or `authenticated` for any active token.
  unmapped: deny
  # A route here replaces the same route of the file.
  # routes:
  #   /api/v2/items: {{GET: items:read, POST: items:create}}
"
    )
}

/// A YAML scalar; in quotes unless it is certainly plain.
fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && !text.ends_with(':')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._:-".contains(&byte))
        && text.contains(['/', '.', ':']);
    // Text in JSON is a double-quoted scalar.
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// A path as a word of a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Asks where the ability map is from.
fn asked_map() -> Result<MapSource, Exit> {
    let question = "Ability map: a map file, an OpenAPI document, or `stockaj` for the map of Stockaj";
    let answer = asked(prompt::line(question, "stockaj"))?;
    let path = PathBuf::from(&answer);
    Ok(match (answer == "stockaj" && !path.exists(), is_openapi(&path)) {
        (true, _) => MapSource::Shipped,
        (false, true) => MapSource::OpenApi(path),
        (false, false) => MapSource::File(path),
    })
}

/// Whether the first key of a file is that of an OpenAPI document.
fn is_openapi(path: &Path) -> bool {
    const START: usize = 4096;
    let mut start = Vec::with_capacity(START);
    let read = fs::File::open(path).and_then(|file| file.take(START as u64).read_to_end(&mut start));
    let text = String::from_utf8_lossy(&start);
    let has_key = |line: &str| {
        let line = line.trim_start_matches(['{', ' ', '\t', '"', '\'']);
        line.starts_with("openapi\"") || line.starts_with("openapi:") || line.starts_with("swagger")
    };
    read.is_ok() && text.lines().any(has_key)
}

fn asked<T>(answer: io::Result<T>) -> Result<T, Exit> {
    answer.map_err(|error| {
        report(format_args!("error: no answer: {error}"));
        Exit::Usage
    })
}

fn missing(option: &str) -> Exit {
    report(format_args!(
        "error: `{option}` is missing\nhelp: without a terminal, options must say everything"
    ));
    Exit::Usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_unless_yaml_reads_them_as_they_are() {
        for (text, expected) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("stockaj.yaml", "stockaj.yaml"),
            ("gateway", "\"gateway\""),
            ("true", "\"true\""),
            ("1.5", "\"1.5\""),
            ("a: b.c", "\"a: b.c\""),
            ("http://h/#x", "\"http://h/#x\""),
            ("", "\"\""),
            ("a\"b\n", "\"a\\\"b\\n\""),
        ] {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(shell_word(Path::new("a/b.yaml")), "a/b.yaml");
        assert_eq!(shell_word(Path::new("it's here")), "'it'\\''s here'");
    }
}
