//! `routes`: prints the effective ability map.

mod callable;
mod matrix;
mod options;

use std::io::{self, Write};
use std::path::Path;

use anstyle::Style;
use serde_json::{Value, json};

use self::callable::Callable;
pub(crate) use self::options::{deprecation_json, query_json};
use super::{ConfigArgument, Exit, abilities, output, report, show};
use crate::config;
use crate::policy::ability::{Requirement, RequirementKind};
use crate::policy::map::{AbilityMap, RouteMatch, RouteOptions, Unmapped};
use crate::policy::shadow::Mode;

/// Print the effective ability map in matching order; reads no secrets and no environment
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    format: RoutesFormat,
    /// Only the requests that a token with these abilities allows, separated by commas; '' is a token without abilities
    #[arg(long = "for", value_delimiter = ',', value_name = "ABILITIES")]
    held: Option<Vec<String>>,
}

/// `--format`
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum RoutesFormat {
    /// Aligned columns for people
    #[default]
    Table,
    /// JSON for programs
    Json,
    /// A web page of abilities and routes
    Html,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        match self.config.path().and_then(|path| Ok((config::load_abilities(&path)?, path))) {
            Ok((loaded, path)) => output(Exit::Success, |out| self.print(&loaded.map, &path, out)),
            Err(mistakes) => {
                show(&mistakes);
                Exit::Failure
            }
        }
    }

    /// Prints the map of the file `path`.
    fn print(&self, map: &AbilityMap, path: &Path, output: &mut dyn Write) -> io::Result<()> {
        if let Some(names) = &self.held {
            let callable = Callable::new(map, abilities(names));
            for note in callable.notes() {
                report(format_args!("note: {note}"));
            }
            return match self.format {
                RoutesFormat::Table => callable.table(output),
                RoutesFormat::Json => callable.json(output),
                RoutesFormat::Html => writeln!(output, "{}", matrix::callable_page(&callable, path)),
            };
        }
        match self.format {
            RoutesFormat::Table => table(map, output),
            RoutesFormat::Json => list(map, output),
            RoutesFormat::Html => writeln!(output, "{}", matrix::page(map, path)),
        }
    }
}

const HEADING: Style = Style::new().bold();

/// Writes a row for each method of each route, then one for unmapped paths.
fn table(map: &AbilityMap, output: &mut dyn Write) -> io::Result<()> {
    let unmapped = match map.unmapped() {
        Unmapped::Deny => Requirement::deny(),
        Unmapped::Authenticated => Requirement::authenticated(),
    };
    let rows: Vec<(&str, &str, &Requirement, Mode, &RouteOptions)> = map
        .routes()
        .enumerate()
        .flat_map(|(number, route)| {
            let mode = map.mode(&RouteMatch::NoMethod { route: number });
            route.rules().map(move |(method, rule)| {
                (method.as_str(), route.template(), &rule.requirement, mode, route.options())
            })
        })
        .chain([("*", "(unmapped)", &unmapped, map.mode(&RouteMatch::NoRoute), map.options_of(None))])
        .collect();
    let width = rows.iter().map(|(_, path, ..)| path.chars().count()).max().unwrap_or_default();

    writeln!(output, "{HEADING}{:7}  {:width$}  REQUIREMENT{HEADING:#}", "METHOD", "PATH")?;
    for (method, path, requirement, mode, options) in rows {
        let style = colour(requirement);
        // A public rule without rules for query and networks denies nothing, so its mode has no effect.
        let RouteOptions { query, from, .. } = options;
        let may_deny = *requirement.kind() != RequirementKind::Public || query.is_some() || from.is_some();
        let mode = (mode == Mode::Shadow && may_deny).then(|| "(shadow: not enforced)".to_owned());
        let options = options::texts(options).into_iter().chain(mode);
        let options: String = options.map(|text| format!("  {text}")).collect();
        writeln!(output, "{method:7}  {path:width$}  {style}{requirement}{style:#}{options}")?;
    }
    Ok(())
}

/// Highlights `public` and `deny`.
pub(crate) const fn colour(requirement: &Requirement) -> Style {
    use anstyle::{AnsiColor, Color};
    match requirement.kind() {
        RequirementKind::Public => Style::new().fg_color(Some(Color::Ansi(AnsiColor::Yellow))),
        RequirementKind::Deny => Style::new().fg_color(Some(Color::Ansi(AnsiColor::Red))),
        RequirementKind::Authenticated | RequirementKind::All(_) | RequirementKind::Any(_) => Style::new(),
    }
}

/// Writes `[{"path", "method", "requirement"}]`, one rule per line. Rules of a route with options also have these.
fn list(map: &AbilityMap, output: &mut dyn Write) -> io::Result<()> {
    let rules = map.routes().flat_map(|route| {
        route.rules().map(|(method, rule)| {
            let requirement = requirement_json(&rule.requirement);
            // Formatted by hand: `json!` sorts keys, and the contract fixes this order.
            format!(
                r#"  {{"path": {}, "method": {}, "requirement": {requirement}{}}}"#,
                Value::from(route.template()),
                Value::from(method.as_str()),
                options::members(route.options()),
            )
        })
    });
    lines(rules, output)
}

/// Writes a JSON array of values in JSON, one per line.
fn lines(values: impl Iterator<Item = String>, output: &mut dyn Write) -> io::Result<()> {
    let values: Vec<String> = values.collect();
    match values.is_empty() {
        true => writeln!(output, "[]"),
        false => writeln!(output, "[\n{}\n]", values.join(",\n")),
    }
}

/// The requirement as it is written in YAML, as JSON.
pub(crate) fn requirement_json(requirement: &Requirement) -> Value {
    let names: Vec<&str> = requirement.abilities().collect();
    match requirement.kind() {
        RequirementKind::Public => json!("public"),
        RequirementKind::Authenticated => json!("authenticated"),
        RequirementKind::Deny => json!("deny"),
        RequirementKind::All(_) => match &*names {
            [name] => json!(name),
            _ => json!({ "all": names }),
        },
        RequirementKind::Any(_) => json!({ "any": names }),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use std::time::Duration;

    use super::*;
    use crate::policy::ability::Abilities;
    use crate::policy::deprecation::{Deprecation, Moment};
    use crate::policy::map::MapBuilder;
    use crate::policy::network::{RouteNetworks, parse_network};
    use crate::policy::query::{QueryRules, RawCheck, RawParameter, RawValue};

    fn map() -> AbilityMap {
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let words = |pairs: &[(Method, &str)]| {
            pairs
                .iter()
                .map(|(method, word)| (method.clone(), Requirement::from_word(word).unwrap(), None))
                .collect::<Vec<_>>()
        };
        builder.route("/api/v2/{*rest}", words(&[(Method::GET, "authenticated")])).unwrap();
        builder
            .route("/api/v2/items/{id}", words(&[(Method::GET, "items:read"), (Method::DELETE, "deny")]))
            .unwrap();
        builder.route("/up", words(&[(Method::GET, "public")])).unwrap();
        let any = Requirement::any(["items:read", "rents:read"]).unwrap();
        let all = Requirement::all(["items:read", "items:update"]).unwrap();
        builder.route("/api/v2/reports", [(Method::POST, all, None), (Method::HEAD, any, None)]).unwrap();
        builder.build()
    }

    fn arguments(format: RoutesFormat) -> Arguments {
        Arguments { config: ConfigArgument { config: None }, format, held: None }
    }

    fn printed(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut output = anstream::StripStream::new(Vec::new());
        print(&mut output).unwrap();
        String::from_utf8(output.into_inner()).unwrap()
    }

    #[test]
    fn table_is_aligned_and_in_matching_order() {
        let arguments = arguments(RoutesFormat::Table);
        assert_eq!(
            printed(|output| arguments.print(&map(), Path::new("gateway.yaml"), output)),
            "\
METHOD   PATH                REQUIREMENT
GET      /api/v2/items/{id}  items:read
DELETE   /api/v2/items/{id}  deny
HEAD     /api/v2/reports     {any: [items:read, rents:read]}
POST     /api/v2/reports     {all: [items:read, items:update]}
GET      /api/v2/{*rest}     authenticated
GET      /up                 public
*        (unmapped)          deny
"
        );
    }

    #[test]
    fn table_marks_rules_in_shadow_mode() {
        let mut builder = MapBuilder::new(Unmapped::Deny).in_mode(Mode::Shadow);
        let rule = |word| [(Method::GET, Requirement::from_word(word).unwrap(), None)];
        let enforced = RouteOptions { mode: Some(Mode::Enforce), ..RouteOptions::default() };
        builder.route("/a", rule("items:read")).unwrap();
        builder.route_with("/b", enforced, rule("items:read")).unwrap();
        builder.route("/up", rule("public")).unwrap();
        assert_eq!(
            printed(|output| table(&builder.build(), output)),
            "\
METHOD   PATH        REQUIREMENT
GET      /a          items:read  (shadow: not enforced)
GET      /b          items:read
GET      /up         public
*        (unmapped)  deny  (shadow: not enforced)
"
        );
    }

    #[test]
    fn json_has_requirements_as_in_yaml() {
        let arguments = arguments(RoutesFormat::Json);
        assert_eq!(
            printed(|output| arguments.print(&map(), Path::new("gateway.yaml"), output)),
            r#"[
  {"path": "/api/v2/items/{id}", "method": "GET", "requirement": "items:read"},
  {"path": "/api/v2/items/{id}", "method": "DELETE", "requirement": "deny"},
  {"path": "/api/v2/reports", "method": "HEAD", "requirement": {"any":["items:read","rents:read"]}},
  {"path": "/api/v2/reports", "method": "POST", "requirement": {"all":["items:read","items:update"]}},
  {"path": "/api/v2/{*rest}", "method": "GET", "requirement": "authenticated"},
  {"path": "/up", "method": "GET", "requirement": "public"}
]
"#
        );
        assert_eq!(
            printed(|output| arguments.print(&AbilityMap::default(), Path::new("gateway.yaml"), output)),
            "[]\n"
        );
    }

    #[test]
    fn json_has_rules_for_the_query_as_in_yaml() {
        let word = |word| Requirement::from_word(word).unwrap();
        let value = |value: &str, requirement| RawValue { value: value.into(), requirement, place: None };
        let any = Requirement::any(["a", "b"]).unwrap();
        let values = vec![value("variants", Requirement::public()), value("renters", any)];
        let include = RawCheck::Values { split: Some(",".into()), values, deny_others: true };
        let parameter = |name: &str, check| RawParameter { name: name.into(), check, place: None };
        let parameters =
            vec![parameter("include", include), parameter("debug", RawCheck::Requirement(word("deny")))];
        let query = Some(QueryRules::new(parameters, None).unwrap().into());
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let rule = [(Method::GET, word("items:read"), None)];
        builder.route_with("/a", RouteOptions { query, ..RouteOptions::default() }, rule).unwrap();
        let map = builder.build();
        let rules: Value = serde_json::from_str(&printed(|output| list(&map, output))).unwrap();
        assert_eq!(
            rules[0]["query"],
            json!({
                "include": {
                    "split": ",",
                    "values": {"variants": "public", "renters": {"any": ["a", "b"]}},
                    "others": "deny",
                },
                "debug": "deny",
                "others": "allow",
            })
        );
        let page = matrix::page(&map, Path::new("a.yaml"));
        for text in ["debug: deny", "include=renters", "<td class=\"number\">1</td>"] {
            assert!(page.contains(text), "{text}: {page}");
        }
    }

    #[test]
    fn deprecated_routes_are_marked() {
        let moment = |text: &str| Moment { seconds: 0, http_date: "-".into(), text: text.into() };
        let link = Some("https://docs.example/v2".into());
        let deprecation = Deprecation::new(None, Some(moment("2026-12-31")), link, None).unwrap();
        let deprecated = RouteOptions { deprecated: Some(deprecation.into()), ..RouteOptions::default() };
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let rule = [(Method::GET, Requirement::from_word("items:read").unwrap(), None)];
        builder.route_with("/a", deprecated, rule).unwrap();
        let map = builder.build();
        let text = printed(|output| table(&map, output));
        let row = "GET      /a          items:read  (deprecated sunset 2026-12-31, https://docs.example/v2)";
        assert!(text.lines().any(|line| line == row), "{text}");
        assert_eq!(
            printed(|output| list(&map, output)),
            "[\n  {\"path\": \"/a\", \"method\": \"GET\", \"requirement\": \"items:read\", \
             \"deprecated\": {\"link\":\"https://docs.example/v2\",\"sunset\":\"2026-12-31\"}}\n]\n"
        );
        let page = matrix::page(&map, Path::new("a.yaml"));
        assert!(page.contains("deprecated sunset 2026-12-31, https://docs.example/v2"), "{page}");
    }

    #[test]
    fn every_form_shows_networks_and_limits_of_routes() {
        let networks = ["10.0.0.0/8", "::1"].map(|text| parse_network(text).unwrap()).into_iter().collect();
        let options = RouteOptions {
            from: Some(RouteNetworks { networks, place: None }.into()),
            body: Some(500 << 20),
            timeout: Some(Duration::from_secs(120)),
            mode: Some(Mode::Shadow),
            ..RouteOptions::default()
        };
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let rule = [(Method::GET, Requirement::from_word("items:read").unwrap(), None)];
        builder.route_with("/a", options, rule).unwrap();
        let map = builder.build();
        let words = "from [10.0.0.0/8, ::1]  body 500MiB  timeout 2m";
        let row = format!("GET      /a          items:read  {words}  (shadow: not enforced)");
        let text = printed(|output| table(&map, output));
        assert!(text.lines().any(|line| line == row), "{text}");
        let members = "\"from\": [\"10.0.0.0/8\",\"::1\"], \"body\": \"500MiB\", \"timeout\": \"2m\", \
                       \"mode\": \"shadow\"";
        let start = "[\n  {\"path\": \"/a\", \"method\": \"GET\", \"requirement\": \"items:read\"";
        assert_eq!(printed(|output| list(&map, output)), format!("{start}, {members}}}\n]\n"));

        let callable = Callable::new(&map, Abilities::new(["items:read"]));
        let text = printed(|output| callable.table(output));
        assert!(text.ends_with(&format!("GET      /a    items:read  {words}\n")), "{text}");
        let json = printed(|output| callable.json(output));
        assert_eq!(json, format!("{start}, {members}, \"by\": [\"items:read\"]}}\n]\n"));
        let page = Path::new("a.yaml");
        for page in [matrix::page(&map, page), matrix::callable_page(&callable, page)] {
            for word in ["from [10.0.0.0/8, ::1]", "body 500MiB", "timeout 2m"] {
                assert!(page.contains(word), "{word}: {page}");
            }
        }
    }

    #[test]
    fn keywords_are_coloured() {
        let mut output = Vec::new();
        table(&map(), &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        assert!(text.contains("\u{1b}[31mdeny\u{1b}[0m"), "{text:?}");
        assert!(text.contains("\u{1b}[33mpublic\u{1b}[0m"), "{text:?}");
    }
}
