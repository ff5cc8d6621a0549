//! `GET /unmapped`: the requests that the ability map does not cover, as JSON or as a map file to paste from.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::VARY;
use http::{HeaderValue, Method, Request, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Admin;
use super::accept::accepts_yaml;
use super::audit::{Action, Actor, unavailable};
use super::response::{AdminResponse, json, message, text};
use crate::config::language::scalar;
use crate::openapi::convention;
use crate::policy::guide;
use crate::policy::map::{AbilityMap, RouteMatch};
use crate::policy::path::CanonicalPath;
use crate::policy::refusal::Reason;
use crate::policy::target::METHODS;
use crate::sanitize::sanitize;
use crate::telemetry::lines::AuditPriority;
use crate::telemetry::unmapped::{TokenCount, UncoveredPath, UncoveredReport};

/// The largest number of paths in a response.
const MAX_ROWS: usize = 1000;

#[derive(Serialize)]
struct Listing<'a> {
    unmapped: Vec<Row<'a>>,
    /// The number of paths for which the tables had no room.
    evicted_paths: u64,
}

/// A path, or a route that lacks methods.
#[derive(Serialize)]
struct Row<'a> {
    path: &'a str,
    /// The route that lacks the methods; null if no route matches the path.
    route: Option<&'a str>,
    reason: &'static str,
    count: u64,
    methods: Map<String, Value>,
    tokens: Vec<TokenRow<'a>>,
    /// Requests of tokens beyond those listed.
    other_tokens_count: u64,
    first_seen: Option<String>,
    last_seen: Option<String>,
}

#[derive(Serialize)]
struct TokenRow<'a> {
    /// Null for requests without a token, or with one that has no verdict.
    id: Option<&'a str>,
    name: Option<&'a str>,
    count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Yaml,
}

/// Lists the recorded requests that the current map does not cover.
pub(super) fn show(admin: &Admin, actor: Actor<'_>, request: &Request<Bytes>) -> AdminResponse {
    let format = match request.uri().query().unwrap_or_default() {
        "" if accepts_yaml(request.headers()) => Format::Yaml,
        "" | "format=json" => Format::Json,
        "format=yaml" => Format::Yaml,
        _ => return message(StatusCode::BAD_REQUEST, "The query must be `format=json` or `format=yaml`."),
    };
    let Ok(slot) = admin.audit.reserve(AuditPriority::Read) else { return unavailable() };
    let settings = admin.settings.load();
    let map = &settings.abilities;
    let mut report = admin.uncovered.report();
    remove_covered(&mut report, map);
    actor.record(
        slot,
        Action { action: "show unmapped requests", subject: None, count: Some(report.paths.len()) },
    );
    let mut response = match format {
        Format::Yaml => text("application/yaml", snippet(&report, map)),
        Format::Json => match serde_json::to_vec(&listing(&report, map)) {
            Ok(listing) => json(StatusCode::OK, listing),
            Err(error) => {
                tracing::error!(%error, "unmapped requests cannot be listed");
                message(StatusCode::INTERNAL_SERVER_ERROR, "Server Error")
            }
        },
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// Removes requests that the map covers since a reload, and all paths after the first [`MAX_ROWS`].
fn remove_covered(report: &mut UncoveredReport, map: &AbilityMap) {
    for path in &mut report.paths {
        for (count, method) in path.methods.iter_mut().zip(METHODS) {
            if *count > 0 && matches!(found(map, &path.path, &method), Some(RouteMatch::Rule { .. })) {
                *count = 0;
            }
        }
    }
    report.paths.retain(|path| path.count() > 0);
    report.paths.truncate(MAX_ROWS);
}

/// Looks up a method and a masked path or template; `None` if no request can have such a path.
fn found<'map>(map: &'map AbilityMap, path: &str, method: &Method) -> Option<RouteMatch<'map>> {
    let segments = path.split('/').map(|segment| if segment.starts_with('{') { "0" } else { segment });
    let sample = segments.collect::<Vec<_>>().join("/");
    let path = CanonicalPath::new(&sample).ok()?;
    Some(map.find(method, &path))
}

/// The template of the route that lacks the methods.
fn route<'map>(map: &'map AbilityMap, path: &str) -> Option<&'map str> {
    let number = found(map, path, &Method::GET)?.route()?;
    map.templates().nth(number)
}

fn listing<'a>(report: &'a UncoveredReport, map: &'a AbilityMap) -> Listing<'a> {
    let rows = report.paths.iter().map(|path| row(path, route(map, &path.path)));
    Listing { unmapped: rows.collect(), evicted_paths: report.evicted }
}

fn row<'a>(path: &'a UncoveredPath, route: Option<&'a str>) -> Row<'a> {
    let time = |at: SystemTime| seconds(at).map(|at| at.to_string());
    let token = |token: &'a TokenCount| TokenRow {
        id: token.id.as_deref(),
        name: token.name.as_deref(),
        count: token.count,
    };
    let reason = if route.is_some() { Reason::MethodNotMapped } else { Reason::Unmapped };
    Row {
        path: &path.path,
        route,
        reason: reason.as_str(),
        count: path.count(),
        methods: methods(path).map(|(method, count)| (method.to_string(), count.into())).collect(),
        tokens: path.tokens.iter().map(token).collect(),
        other_tokens_count: path.other_tokens,
        first_seen: time(path.first_seen),
        last_seen: time(path.last_seen),
    }
}

fn methods(path: &UncoveredPath) -> impl Iterator<Item = (Method, u64)> {
    METHODS.into_iter().zip(path.methods).filter(|(_, count)| *count > 0)
}

/// A time without fractions of a second.
fn seconds(at: SystemTime) -> Option<Timestamp> {
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    Timestamp::from_second(i64::try_from(since.as_secs()).ok()?).ok()
}

/// A map file with the paths that no route matches. Every rule is `deny`, so that pasting it permits nothing.
fn snippet(report: &UncoveredReport, map: &AbilityMap) -> String {
    let mut text = String::from(
        "# Paths that the ability map lacks, most requests first. `deny` is a placeholder: replace it by an ability,\n\
         # `authenticated` or `public`. A comment after it suggests an ability by the naming of the other routes.\n",
    );
    if report.evicted > 0 {
        let _ = writeln!(text, "# The list is incomplete: there was no room for {} paths.", report.evicted);
    }
    let of_map = |ability: &str| {
        let mut rules = map.routes().flat_map(|route| route.rules().map(|(_, rule)| rule));
        rules.any(|rule| rule.requirement.abilities().any(|it| it == ability))
    };
    let is_known = |ability: &str| guide::abilities().any(|it| it == ability) || of_map(ability);
    let suggestion =
        |method: &Method, path: &str| convention::ability(method, path).filter(|ability| is_known(ability));
    let (mut routes, mut written) = (String::new(), HashSet::new());
    let mut lacking = String::new();
    for path in &report.paths {
        if let Some(template) = route(map, &path.path) {
            for (method, count) in methods(path) {
                let _ = write!(lacking, "#   {template}: {method}, {}", requests(count));
                let _ = match suggestion(&method, template) {
                    Some(ability) => writeln!(lacking, " # {ability}"),
                    None => writeln!(lacking),
                };
            }
            continue;
        }
        let pattern = pattern(&path.path);
        let mut rules = String::new();
        for (method, _) in methods(path) {
            // HEAD follows GET; a rule for OPTIONS would decide CORS preflights.
            let method = if method == Method::HEAD { Method::GET } else { method };
            if method == Method::OPTIONS || rules.contains(&format!("    {method}: ")) {
                continue;
            }
            let _ = match suggestion(&method, &pattern) {
                Some(ability) => writeln!(rules, "    {method}: deny # {ability}"),
                None => writeln!(rules, "    {method}: deny"),
            };
        }
        if !rules.is_empty() && written.insert(pattern.clone()) {
            let _ = write!(routes, "  # {}\n  {}:\n{rules}", comment(path), scalar(&pattern));
        }
    }
    text.push_str(if routes.is_empty() { "routes: {}\n" } else { "routes:\n" });
    text.push_str(&routes);
    if !lacking.is_empty() {
        text.push_str("# Routes of the map that lack a method:\n");
        text.push_str(&lacking);
    }
    text
}

/// A pattern whose parameters have distinct names: `/parts/{id}/items/{id2}`.
fn pattern(path: &str) -> String {
    let mut parameters = 0;
    let segments = path.split('/').map(|segment| match segment {
        rest if rest.starts_with("{*") => "{*rest}".to_owned(),
        parameter if parameter.starts_with('{') => {
            parameters += 1;
            if parameters == 1 { "{id}".to_owned() } else { format!("{{id{parameters}}}") }
        }
        literal => literal.to_owned(),
    });
    segments.collect::<Vec<_>>().join("/")
}

/// The number of requests, the methods, the tokens and the time of the last request.
fn comment(path: &UncoveredPath) -> String {
    let mut text = requests(path.count());
    let counts: Vec<String> = methods(path).map(|(method, count)| format!("{method} {count}")).collect();
    let _ = write!(text, " ({})", counts.join(", "));
    let tokens: Vec<String> = path.tokens.iter().map(token).collect();
    let _ = write!(text, "; {}", tokens.join(", "));
    if path.other_tokens > 0 {
        text.push_str(", others");
    }
    if let Some(last) = seconds(path.last_seen) {
        let _ = write!(text, "; last {last}");
    }
    text
}

/// `token "17" "scanner"`. Ids and names are escaped, so that none ends the line of the comment.
fn token(token: &TokenCount) -> String {
    match (&token.id, &token.name) {
        (None, _) => "no known token".to_owned(),
        (Some(id), None) => format!("token {:?}", sanitize(id)),
        (Some(id), Some(name)) => format!("token {:?} {:?}", sanitize(id), sanitize(name)),
    }
}

fn requests(count: u64) -> String {
    format!("{count} request{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config;
    use crate::policy::ability::Requirement;
    use crate::policy::map::{MapBuilder, Unmapped};
    use crate::telemetry::unmapped::{MissingPart, Uncovered, UncoveredRequests, UncoveredToken};

    fn map(unmapped: Unmapped) -> AbilityMap {
        let mut builder = MapBuilder::new(unmapped);
        let rule = |method| [(method, Requirement::from_word("items:read").unwrap(), None)];
        builder.route("/api/v2/items", rule(Method::GET)).unwrap();
        builder.route("/api/v2/items/{item}", rule(Method::PUT)).unwrap();
        builder.build()
    }

    /// Path, missing part of the map, method, and the token's id and name.
    type Request<'a> = (&'a str, MissingPart, Method, Option<(&'a str, &'a str)>);

    fn recorded(requests: &[Request<'_>]) -> UncoveredReport {
        let all = UncoveredRequests::new(1);
        for (path, missing, method, token) in requests {
            let token = token.map(|(id, name)| (Arc::<str>::from(id), Arc::<str>::from(name)));
            let token = token.as_ref().map(|(id, name)| UncoveredToken { id, name: Some(name) });
            let now = UNIX_EPOCH + std::time::Duration::from_millis(1_796_007_890_123);
            all.worker(0).record(&Uncovered { path, missing: *missing, method, token, now });
        }
        all.report()
    }

    /// The routes of a snippet, as the configuration loader reads them.
    fn load(snippet: &str) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), snippet).unwrap();
        let loaded = config::load_abilities(file.path());
        let loaded = loaded.unwrap_or_else(|report| panic!("{}\n{snippet}", report.render(false)));
        let rules = |route: &crate::policy::map::Route| {
            let rules: Vec<_> =
                route.rules().map(|(method, rule)| format!("{method} {}", rule.requirement)).collect();
            format!("{}: {}", route.template(), rules.join(", "))
        };
        loaded.map.routes().map(rules).collect()
    }

    #[test]
    fn snippet_is_a_map_that_permits_nothing() {
        let hostile =
            Some(("17\n/evil: {GET: public}", "a\r\n  /evil:\n    GET: public # \u{2028}\u{85}\u{ffff}"));
        let report = recorded(&[
            ("/api/v2/variants/{id}/tags/{id}", MissingPart::Route, Method::GET, Some(("17", "scanner"))),
            ("/api/v2/variants/{id}/tags/{id}", MissingPart::Route, Method::DELETE, None),
            ("/api/v2/variants/{id}/tags/{id}", MissingPart::Route, Method::DELETE, hostile),
            ("/.well-known/{*rest}", MissingPart::Route, Method::HEAD, None),
            ("/only-options", MissingPart::Route, Method::OPTIONS, None),
            ("/{id}", MissingPart::Route, Method::POST, hostile),
            ("/", MissingPart::Route, Method::GET, None),
            // A reload has removed this route.
            ("/api/v2/variants/{variant}/tags/{tag}", MissingPart::Method, Method::PUT, None),
            ("/api/v2/a:b/it's", MissingPart::Method, Method::PUT, None),
            ("/api/v2/items", MissingPart::Method, Method::DELETE, None),
        ]);
        let snippet = snippet(&report, &map(Unmapped::Deny));
        assert_eq!(
            load(&snippet),
            [
                "/: GET deny",
                "/.well-known/{*rest}: GET deny",
                "/api/v2/a:b/it's: PUT deny",
                "/api/v2/variants/{id}/tags/{id2}: GET deny, DELETE deny",
                "/{id}: POST deny",
            ],
            "{snippet}"
        );
        assert!(snippet.contains("    DELETE: deny # items:delete\n"), "{snippet}");
        assert!(
            snippet.contains("  # 3 requests (GET 1, DELETE 2); token \"17\" \"scanner\", no known token")
        );
        assert!(snippet.contains("; last 2026-11-30T03:04:50Z\n"), "{snippet}");
        assert!(snippet.contains("#   /api/v2/items: DELETE, 1 request # items:delete\n"), "{snippet}");
        assert_eq!(load(&super::snippet(&UncoveredReport::default(), &map(Unmapped::Deny))), [""; 0]);
    }

    #[test]
    fn requests_that_a_new_map_covers_are_not_listed() {
        let mut report = recorded(&[
            ("/api/v2/items", MissingPart::Route, Method::GET, None),
            ("/api/v2/items", MissingPart::Route, Method::POST, None),
            ("/api/v2/items/{id}", MissingPart::Route, Method::PUT, None),
            ("/api/v2/other", MissingPart::Route, Method::GET, None),
        ]);
        let map = map(Unmapped::Authenticated);
        remove_covered(&mut report, &map);
        let listing = listing(&report, &map);
        let rows: Vec<_> =
            listing.unmapped.iter().map(|row| (row.path, row.route, row.reason, row.count)).collect();
        let expected = [
            ("/api/v2/items", Some("/api/v2/items"), "method_not_mapped", 1),
            ("/api/v2/other", None, "unmapped", 1),
        ];
        assert_eq!(rows, expected);
        assert_eq!(listing.unmapped[0].methods.keys().collect::<Vec<_>>(), ["POST"]);
    }
}
