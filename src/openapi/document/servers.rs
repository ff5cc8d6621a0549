//! The path of a document's servers, which precedes all its paths.

use super::object::{entry, merged, text};
use crate::config::language::{Decoder, Diagnostic, Entry, Node, Value};

/// The longest address of a server, in bytes: defaults of variables may name variables.
const MAX_URL_BYTES: usize = 8 * 1024;

/// The path of the first server; a warning if another one has another path.
pub(super) fn base_path(Entry { key, value }: &Entry, decoder: &mut Decoder<'_>) -> String {
    decoder.within(key, |decoder| {
        let servers = decoder.list(value, "a list of servers").unwrap_or_default();
        let mut paths: Vec<(String, &Node)> = Vec::new();
        for server in servers {
            let Some(url) = entry(server, "url").and_then(|entry| text(&entry.value)) else {
                decoder.missing(server, "url");
                continue;
            };
            match with_defaults(url, server) {
                Some(full) => {
                    let path = path_of_url(&full);
                    if paths.is_empty() {
                        check_variables(&path_of_url(url), &path, server, decoder);
                    }
                    paths.push((path, server));
                }
                None => {
                    let label = format!("a server URL has at most {MAX_URL_BYTES} bytes");
                    decoder.record(Diagnostic::error("server URL too long").at(server.span, label));
                }
            }
        }
        let Some((first, _)) = paths.first() else { return String::new() };
        if let Some((_, other)) = paths.iter().find(|(path, _)| path != first) {
            let label = format!("ignored; the first server has the path `{first}`");
            let warning = Diagnostic::warning("servers with different paths").at(other.span, label);
            decoder.record(warning.hint("`--prefix PATH` selects another path"));
        }
        first.clone()
    })
}

/// Warns about variables in the path of a server that may have several values, or that have none.
fn check_variables(written: &str, path: &str, server: &Node, decoder: &mut Decoder<'_>) {
    const HINT: &str = "`--prefix PATH` selects another path";
    if path.contains(['{', '}']) {
        let label = format!("a variable in the path has no default: `{path}`");
        decoder.record(Diagnostic::warning("unresolved variable").at(server.span, label).hint(HINT));
    }
    let Some(variables) = entry(server, "variables") else { return };
    for variable in merged(&variables.value) {
        let values = entry(&variable.value, "enum").map(|entry| &entry.value.value);
        let has_several = matches!(values, Some(Value::List(values)) if values.len() > 1);
        if has_several && written.contains(&format!("{{{}}}", variable.key.text)) {
            let label = format!("only the default is used: the path is `{path}`");
            let warning = Diagnostic::warning("variable with several values").at(variable.key.span, label);
            decoder.record(warning.hint(HINT));
        }
    }
}

/// The URL of a server with the defaults of its variables; `None` if that is too long.
fn with_defaults(url: &str, server: &Node) -> Option<String> {
    let variables = entry(server, "variables").map(|entry| merged(&entry.value)).unwrap_or_default();
    let mut url = url.to_owned();
    for variable in variables {
        let Some(default) = entry(&variable.value, "default").and_then(|entry| text(&entry.value)) else {
            continue;
        };
        let name = format!("{{{}}}", variable.key.text);
        if url.len().saturating_add(url.matches(&name).count().saturating_mul(default.len())) > MAX_URL_BYTES
        {
            return None;
        }
        url = url.replace(&name, default);
    }
    (url.len() <= MAX_URL_BYTES).then_some(url)
}

/// The path of a URL that may be relative, without a slash at its end.
pub(super) fn path_of_url(url: &str) -> String {
    let path = match url.split_once("://").map(|(_, rest)| rest).or_else(|| url.strip_prefix("//")) {
        Some(rest) => rest.find('/').map_or("", |start| &rest[start..]),
        None => url.trim_start_matches('.'),
    };
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
