//! The generated pages; `BLESS=1 cargo test documentation` writes them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::configurations::{assert_valid, directory};
use super::{ROOT, help, output, read};

/// Examples of keys that exclude a key of `examples.yaml`, and short examples of mappings.
const EXAMPLES: [(&str, &str); 10] = [
    ("abilities.routes", "{/up: {GET: public}}"),
    ("backend.tls", "{roots: platform}"),
    ("introspection.tls", "{roots: platform}"),
    ("redis.tls", "{ca_file: tls/ca.pem}"),
    ("traces.tls", "{roots: platform}"),
    ("admin.token", "${ADMIN_TOKEN}"),
    ("introspection.client_secret", "${CLIENT_SECRET}"),
    ("redis.url", "${REDIS_URL}"),
    ("traces.secret_headers", "${OTLP_HEADERS}"),
    ("webhook.secret", "${WEBHOOK_SECRET}"),
];

/// The schema definition of the `tls` sections of connections to servers, which has its own table.
const CLIENT_TLS: &str = "ClientTls";

const CONFIGURATION: &str = "\
# Configuration

`gateway.yaml` configures the gateway. Every key has a default except `backend.url`, `introspection.url` and `abilities`.
`stockaj-gateway check` validates a file, `stockaj-gateway schema` prints its JSON Schema for editors, and `GET /config` of the
admin listener shows the effective configuration.

- **Durations** are a number with a unit: `250ms`, `2s`, `5m`, `1h`, `90d`. **Sizes** are a number of bytes or have a unit:
  `64KiB`, `10MiB`, `1GiB`.
- **Environment:** `${NAME}` or `${NAME:-default}` inside a value; `$${` is a literal `${`. A variable that is not set and has
  no default is an error.
- **Files** are relative to the file that names them. Unknown and duplicate keys are errors.
- **Reload:** a [reload](../operations/upgrade.md#change-the-configuration) applies every key, except those marked
  *Restart.* `listen.tls` needs one only if `listen.address` changes as well.

This page is generated from the schema. Sections are in alphabetical order.
";

const COMMANDS: &str = "\
# Commands

`stockaj-gateway` is one binary. Results go to standard output, diagnostics to standard error; `run` logs to standard output.
`routes`, `explain`, `test` and `diff` read only the ability map: they need no secrets and no environment, and accept a map file
as well as a gateway.yaml.

| exit code | meaning |
|---|---|
| 0 | success: valid, allowed, or unchanged |
| 1 | what the command checks is invalid, denied, different, or does not work |
| 2 | the command line is invalid |
| 78 | `run` refuses its configuration (`EX_CONFIG`) |

This page is generated from the program's help.
";

#[test]
fn configuration_page_is_current() {
    assert_current("docs/reference/configuration.md", &configuration());
}

#[test]
fn commands_page_is_current() {
    assert_current("docs/reference/commands.md", &commands());
}

/// Asserts that a page is current; writes it with `BLESS=1`.
fn assert_current(file: &str, expected: &str) {
    let path = Path::new(ROOT).join(file);
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, expected).unwrap();
        return;
    }
    let current = fs::read_to_string(path).unwrap_or_default();
    assert!(current == expected, "{file} is stale: BLESS=1 cargo test documentation");
}

#[test]
fn examples_are_a_valid_configuration_with_every_key() {
    let text = read("tests/documentation/examples.yaml");
    assert_valid(&directory(), &text, "examples.yaml");
    let schema = Schema::new();
    let missing: Vec<String> =
        schema.rows().into_iter().filter(|row| row.example.is_none()).map(|row| row.key).collect();
    assert!(missing.is_empty(), "no example: {missing:?}");
}

fn commands() -> String {
    let root = help(&[]);
    let mut text = COMMANDS.to_owned();
    for command in subcommands(&root) {
        let own = help(&[&command]);
        let _ = write!(text, "\n## `{command}`\n\n");
        let nested = subcommands(&own);
        if nested.is_empty() {
            let _ = writeln!(text, "```text\n{}\n```", shown(&own));
        }
        for nested in nested {
            let own = help(&[&command, &nested]);
            let _ = writeln!(text, "```text\n{}\n```\n", shown(&own));
        }
        text = format!("{}\n", text.trim_end());
    }
    text
}

/// The names under `Commands:` in the help, except `help`.
fn subcommands(help: &str) -> Vec<String> {
    let lines =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let lines = lines.filter(|line| !line.starts_with("   "));
    let names = lines.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

/// A help text without trailing spaces, blank lines between options, and the help option.
fn shown(help: &str) -> String {
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let is_inside = |index: usize| lines.get(index + 1).is_some_and(|next| next.starts_with(' '));
    let lines = lines.iter().enumerate().filter(|(index, line)| !line.is_empty() || !is_inside(*index));
    let lines: Vec<&str> = lines.map(|(_, line)| *line).collect();
    let mut kept: Vec<&str> = Vec::new();
    let mut skips = false;
    for line in lines {
        if line.trim_start().starts_with("-h, --help") {
            skips = true;
        } else if !line.starts_with("          ") || !skips {
            skips = false;
            if !(line.is_empty() && kept.last().is_some_and(|last| last.is_empty())) {
                kept.push(line);
            }
        }
    }
    let mut text = String::new();
    let mut lines = kept.into_iter().peekable();
    while let Some(line) = lines.next() {
        text += line;
        // A description that fits on the line of its option, if it is the only line.
        let is_option = line.starts_with("  ") && line.trim_start().starts_with(['-', '[', '<']);
        let mut following = lines.clone();
        let description = following.next().and_then(|line| line.strip_prefix("          "));
        let is_last = following.next().is_none_or(|line| !line.starts_with("          "));
        if let Some(description) = description.filter(|it| is_option && is_last && !it.starts_with(' '))
            && line.len() + description.len() < 100
        {
            text += &format!("  {description}");
            lines.next();
        }
        text.push('\n');
    }
    text.trim_end().to_owned()
}

/// A row in a table of keys.
struct Row {
    key: String,
    kind: String,
    default: Option<String>,
    example: Option<String>,
    needs_restart: bool,
    is_required: bool,
    description: String,
}

/// The schema of gateway.yaml with examples.
struct Schema {
    root: Value,
    examples: Value,
    /// The keys that a reload does not apply.
    fixed: BTreeSet<String>,
}

fn configuration() -> String {
    let schema = Schema::new();
    let mut text = CONFIGURATION.to_owned();
    let (mut simple, mut sections) = (Vec::new(), Vec::new());
    for (name, node) in schema.properties(&schema.root) {
        match schema.is_section(node) {
            true => sections.push((name, node)),
            false => simple.push(name),
        }
    }
    let rows = schema.rows();
    for (name, node) in sections {
        let _ = write!(text, "\n## `{name}`\n\n{}\n\n", schema.description(node));
        table(&mut text, rows.iter().filter(|row| row.key.starts_with(&format!("{name}."))));
    }
    text += "\n## Other keys\n\n";
    table(&mut text, rows.iter().filter(|row| simple.contains(&&row.key)));
    text += "\n## TLS to servers\n\nThe keys of `backend.tls`, `introspection.tls`, `redis.tls` and `traces.tls`, below each of these.\n\n";
    table(&mut text, schema.client_tls().iter());
    text
}

fn table<'a>(text: &mut String, rows: impl Iterator<Item = &'a Row>) {
    *text += "| key | type | default | example | meaning |\n|---|---|---|---|---|\n";
    let code = |value: &Option<String>| match value {
        Some(value) => format!("`{}`", value.replace('|', "\\|")),
        None => String::new(),
    };
    for row in rows {
        let restart = if row.needs_restart { " *Restart.*" } else { "" };
        let default = if row.is_required { "*required*".to_owned() } else { code(&row.default) };
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {}{restart} |",
            row.key,
            row.kind,
            default,
            code(&row.example),
            row.description.replace('|', "\\|"),
        );
    }
}

impl Schema {
    fn new() -> Self {
        let examples = read("tests/documentation/examples.yaml");
        let source = read("src/server/configuration.rs");
        let fixed = source.split("keep(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let fixed: BTreeSet<String> = fixed.map(str::to_owned).collect();
        assert!(fixed.contains("listen.address") && fixed.len() >= 6, "{fixed:?}");
        Self {
            root: serde_json::from_str(&output(&["schema"])).unwrap(),
            examples: serde_yaml::from_str(&examples).unwrap(),
            fixed,
        }
    }

    fn properties<'a>(&self, node: &'a Value) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        node["properties"].as_object().into_iter().flat_map(Map::iter)
    }

    fn description(&self, node: &Value) -> String {
        node["description"].as_str().unwrap_or_default().to_owned()
    }

    /// A node without references, single alternatives, null, and strings from the environment.
    fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        if let Some(reference) = node["$ref"].as_str() {
            return self.resolve(self.root.pointer(reference.trim_start_matches('#')).unwrap());
        }
        for group in ["allOf", "anyOf"] {
            let is_real = |it: &&Value| it["type"] != "null" && it["pattern"] != "\\$\\{";
            let real: Vec<&Value> = node[group].as_array().into_iter().flatten().filter(is_real).collect();
            if let [only] = real[..] {
                return self.resolve(only);
            }
        }
        node
    }

    fn is_section(&self, node: &Value) -> bool {
        self.resolve(node)["properties"].is_object()
    }

    fn is_client_tls(&self, node: &Value) -> bool {
        let text = node.to_string();
        text.contains(&format!("#/definitions/{CLIENT_TLS}\""))
    }

    /// A row for each key except those of TLS to servers.
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.add_rows(&self.root, "", &mut rows);
        rows
    }

    fn client_tls(&self) -> Vec<Row> {
        let node = &self.root["definitions"][CLIENT_TLS];
        let mut rows = Vec::new();
        for (name, property) in self.properties(node) {
            let mut row = self.row(name, property);
            row.example = self.example(&format!("backend.tls.{name}"));
            rows.push(row);
        }
        rows
    }

    fn add_rows(&self, node: &Value, prefix: &str, rows: &mut Vec<Row>) {
        let first = rows.len();
        for (name, property) in self.properties(node) {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let resolved = self.resolve(property);
            if self.is_client_tls(property) {
                let mut row = self.row(&key, property);
                row.kind = "[TLS](#tls-to-servers)".to_owned();
                rows.push(row);
            } else if key == "listen.tls" {
                rows.push(self.row(&key, property));
                let entry = &self.root["definitions"]["ListenTls"];
                self.add_rows(entry, &key, rows);
            } else if key == "abilities.routes" {
                rows.push(self.row(&key, property));
                self.add_route_rows(resolved, rows);
            } else if resolved["properties"].is_object() {
                self.add_rows(resolved, &key, rows);
            } else {
                rows.push(self.row(&key, property));
            }
        }
        let required = node["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let required: Vec<String> = required
            .map(|name| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") })
            .collect();
        for row in rows.iter_mut().skip(first) {
            row.is_required |= required.contains(&row.key);
        }
    }

    /// The options of a route. The methods share one row.
    fn add_route_rows(&self, routes: &Value, rows: &mut Vec<Row>) {
        let (_, route) = routes["patternProperties"].as_object().unwrap().iter().next().unwrap();
        let route_example = &self.examples["abilities"]["routes"]["/api/v2/items"];
        rows.push(Row {
            key: "abilities.routes.PATH.METHOD".to_owned(),
            kind: "requirement".to_owned(),
            default: None,
            example: Some(inline(&route_example["POST"])),
            needs_restart: false,
            is_required: false,
            description: "An ability, `{all: […]}` or `{any: […]}` of abilities, `public`, `authenticated` or `deny`: see \
                          [the ability map](../concepts/decision.md#the-ability-map)."
                .to_owned(),
        });
        for (name, property) in
            self.properties(route).filter(|(name, _)| name.starts_with(char::is_lowercase))
        {
            let mut row = self.row(&format!("abilities.routes.PATH.{name}"), property);
            row.example = Some(inline(&route_example[name.as_str()]));
            if name == "query" {
                row.kind = "map of parameters".to_owned();
            }
            rows.push(row);
        }
    }

    fn row(&self, key: &str, property: &Value) -> Row {
        let resolved = self.resolve(property);
        let default = property.get("default").or_else(|| resolved.get("default"));
        Row {
            key: key.to_owned(),
            kind: self.kind(key, property),
            default: default.map(inline),
            example: self.example(key),
            needs_restart: self.fixed.contains(key),
            is_required: false,
            description: self.description(property),
        }
    }

    fn example(&self, key: &str) -> Option<String> {
        if let Some((_, example)) = EXAMPLES.iter().find(|(name, _)| *name == key) {
            return Some((*example).to_owned());
        }
        let value = self.examples.pointer(&format!("/{}", key.replace('.', "/")))?;
        Some(inline(value))
    }

    /// The type of a value, in words.
    fn kind(&self, key: &str, property: &Value) -> String {
        let node = self.resolve(property);
        if let Some(words) = node["enum"].as_array() {
            return words.iter().map(|word| format!("`{}`", inline(word))).collect::<Vec<_>>().join(", ");
        }
        if let Some(alternatives) = node["anyOf"].as_array() {
            if alternatives.iter().any(|it| it["pattern"].as_str().is_some_and(|it| it.contains("KiB"))) {
                return "size".to_owned();
            }
            let list = alternatives.iter().map(|it| self.resolve(it)).any(|it| it["type"] == "array");
            let one = alternatives.iter().map(|it| self.resolve(it)).find(|it| it["type"] != "array");
            let one = one.map(|one| self.kind(key, one)).unwrap_or_default();
            return if list { format!("{one}, or a list") } else { one };
        }
        if node["properties"].is_object() {
            return "section".to_owned();
        }
        if node["patternProperties"].is_object() {
            return "map of path patterns".to_owned();
        }
        if node["additionalProperties"].is_object() {
            return format!("map to {}", self.kind(key, &node["additionalProperties"]));
        }
        let types: Vec<&str> = match &node["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let pattern = node["pattern"].as_str().unwrap_or_default();
        let kind = if types.contains(&"array") {
            return format!("list of {}", plural(&self.kind(key, &node["items"])));
        } else if types.contains(&"boolean") {
            "boolean"
        } else if types.contains(&"integer") {
            return range("integer", node);
        } else if types.contains(&"number") {
            return range("number", node);
        } else if pattern.contains("(ms|s|m|h|d)") {
            if pattern.starts_with("^0*[1-9]") { "duration, above 0" } else { "duration" }
        } else if pattern.contains("([^~/]|~[01])*") {
            "JSON Pointer"
        } else if node["writeOnly"] == true {
            "secret"
        } else if pattern.starts_with("^unix:.|^[0-9.]+:") {
            "address"
        } else if pattern.starts_with("^[hH]") || pattern.starts_with("^https?") {
            "URL"
        } else if ["file", "certificate", "private_key", "client_ca", "path", "shadow"]
            .iter()
            .any(|it| key.ends_with(it))
        {
            "file"
        } else {
            "string"
        };
        kind.to_owned()
    }
}

fn plural(kind: &str) -> String {
    if kind.starts_with('`') { kind.to_owned() } else { format!("{kind}s") }
}

/// A number with its range. A limit that only the type sets is left out.
fn range(kind: &str, node: &Value) -> String {
    let largest = node["maximum"].as_u64().filter(|largest| *largest < u64::from(u32::MAX));
    match (node["minimum"].as_u64(), largest) {
        (Some(least), Some(largest)) => format!("{kind}, {least}–{largest}"),
        (Some(least), None) if least > 0 => format!("{kind}, from {least}"),
        _ => kind.to_owned(),
    }
}

/// A value as single-line YAML.
fn inline(value: &Value) -> String {
    match value {
        // A number in quotes stays a string.
        Value::String(text) if text.parse::<f64>().is_ok() => format!("\"{text}\""),
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let entries: Vec<String> =
                entries.iter().map(|(key, value)| format!("{key}: {}", inline(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}
