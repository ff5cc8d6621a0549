//! `explain`: shows the steps of one decision.

mod advice;
mod nearest;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use anstyle::{AnsiColor, Color, Style};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::routes::colour;
use super::{ConfigArgument, Exit, abilities, output, report, show, token_from_stdin};
use crate::config;
use crate::policy::bearer::Token;
use crate::policy::decision::{KnownCaller, decide, missing, read_request, split_query};
use crate::policy::map::{AbilityMap, RouteMatch};
use crate::policy::path::decoded;
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::shadow::{Leniency, Mode};
use crate::response::own::status;
use crate::sanitize::sanitize;
use crate::tokens::introspection::Answer;
use crate::tokens::introspector::Introspector;
use crate::tokens::verdict::Verdict;

/// Explain the decision on a request; exit 0 if it is allowed, 1 if it is denied
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The method, such as GET
    method: String,
    /// The path, such as /api/v2/items
    path: String,
    #[command(flatten)]
    config: ConfigArgument,
    /// The abilities of the token, separated by commas; without this the request has no token
    #[arg(long, value_delimiter = ',', value_name = "ABILITIES", conflicts_with = "token_stdin")]
    abilities: Option<Vec<String>>,
    /// Read a token from standard input and introspect it with the `introspection` of the configuration
    #[arg(long)]
    token_stdin: bool,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let path = self.config.path();
        let loaded = match config::load_abilities(&path) {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Failure;
            }
        };
        let caller = match self.caller(&path) {
            Ok(caller) => caller,
            Err(exit) => return exit,
        };
        let (caller, holder) = caller;
        let mut verdict = Exit::Failure;
        let printed = output(Exit::Success, |out| {
            if let Some(holder) = holder {
                step(out, "token of", holder)?;
            }
            verdict = explain(&loaded.map, &self.method, &self.path, &caller, out)?;
            Ok(())
        });
        if printed == Exit::Success { verdict } else { printed }
    }

    /// The caller, and the description of an introspected token.
    fn caller(&self, path: &Path) -> Result<(KnownCaller, Option<String>), Exit> {
        if self.token_stdin {
            return introspect(path);
        }
        let caller = match &self.abilities {
            // `--abilities ''` is a token without abilities.
            Some(names) => KnownCaller::Active(abilities(names)),
            None => KnownCaller::Nobody,
        };
        Ok((caller, None))
    }
}

/// Introspects the token on standard input with the configuration at `path`.
fn introspect(path: &Path) -> Result<(KnownCaller, Option<String>), Exit> {
    let fail = |error: &dyn Display| {
        report(format_args!("error: {error}"));
        Exit::Failure
    };
    let line = token_from_stdin().map_err(|error| fail(&error))?;
    let (introspection, token_bytes) = match config::load_introspection(path) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            show(&mistakes);
            return Err(Exit::Failure);
        }
    };
    let field = Zeroizing::new([b"Bearer ", line.trim().as_bytes()].concat());
    let Ok(field) = HeaderValue::from_maybe_shared(Bytes::from_owner(field)) else {
        return Ok((KnownCaller::Refused(Refusal::MalformedToken), None));
    };
    let fields = HeaderMap::from_iter([(AUTHORIZATION, field)]);
    let token = match Token::from_fields(&fields, token_bytes) {
        Ok(token) => token,
        Err(refusal) => return Ok((KnownCaller::Refused(refusal), None)),
    };
    let answer = Introspector::ask_once(&introspection, token.secret()).map_err(|error| fail(&error))?;
    Ok(match answer {
        Answer::Active(verdict) => {
            let holder = holder(&verdict);
            let caller = match verdict.has_expired(SystemTime::now()) {
                true => KnownCaller::Refused(Refusal::ExpiredToken),
                false => KnownCaller::Active(verdict.abilities),
            };
            (caller, Some(holder))
        }
        Answer::Inactive => (KnownCaller::Refused(Refusal::InactiveToken), None),
        Answer::NoVerdict(why) => {
            fail(&why);
            (KnownCaller::Refused(Refusal::NoVerdict), None)
        }
    })
}

/// Name, id and expiry of a token. Never the token or its hash, which is the id if the introspector reports none.
fn holder(verdict: &Verdict) -> String {
    let is_hash = verdict.id.len() == 64 && verdict.id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = if is_hash { String::new() } else { format!(" (id {})", sanitize(&verdict.id)) };
    let name = verdict.name.as_deref().map_or("no name".to_owned(), sanitize);
    let expiry = match verdict.expires_at.map(Timestamp::try_from) {
        Some(Ok(expiry)) => format!("expires {expiry}"),
        Some(Err(_)) => "expires in the distant future".to_owned(),
        None => "does not expire".to_owned(),
    };
    format!("{name}{id}, {expiry}")
}

/// Writes the steps of a decision in the gateway's order.
fn explain(
    map: &AbilityMap,
    method: &str,
    target: &str,
    caller: &KnownCaller,
    output: &mut dyn Write,
) -> io::Result<Exit> {
    let verdict = |output: &mut dyn Write, colour, text: String| {
        let style = Style::new().bold().fg_color(Some(Color::Ansi(colour)));
        step(output, "verdict", format_args!("{style}{text}{style:#}"))
    };
    match steps(map, method, target, caller, output)? {
        Ok(reason) => {
            verdict(output, AnsiColor::Green, format!("allowed ({})", reason.as_str()))?;
            Ok(Exit::Success)
        }
        Err(refusal) => {
            let why = match &refusal {
                Refusal::BadRequest(why) => format!(": {why}"),
                _ => String::new(),
            };
            let text =
                format!("denied with {} ({}){why}", status(&refusal).as_u16(), refusal.reason().as_str());
            verdict(output, AnsiColor::Red, text)?;
            Ok(Exit::Failure)
        }
    }
}

fn steps(
    map: &AbilityMap,
    method: &str,
    target: &str,
    caller: &KnownCaller,
    output: &mut dyn Write,
) -> io::Result<Result<Reason, Refusal>> {
    step(output, "request", format_args!("{method} {target}"))?;
    let (method, path) = match read_request(map, method, target) {
        Ok(read) => read,
        Err(refusal) => {
            if let Some(nearest) = nearest::method(method) {
                step(output, "hint", format_args!("methods are case-sensitive: did you mean {nearest}?"))?;
            }
            return Ok(Err(refusal));
        }
    };
    let (_, query) = split_query(target);
    let how = if path.is_borrowed() { "as sent" } else { "rewritten: this is matched and forwarded" };
    step(output, "path", format_args!("{} ({how})", path.as_str()))?;
    if query.is_some() {
        step(output, "query", "forwarded as sent; the decision does not read it")?;
    }
    if method == Method::POST {
        let text = "POST; `_method` is ignored, so is X-HTTP-Method-Override unless `backend.method_override` is `honour`";
        step(output, "method", text)?;
    } else if method == Method::OPTIONS {
        step(output, "method", "OPTIONS; for a CORS preflight, the method that it requests is decided")?;
    } else if query.is_some_and(names_a_method) {
        step(output, "method", format_args!("{method}; `_method` is ignored"))?;
    }

    let found = map.find(&method, &path);
    let template = |route: usize| map.templates().nth(route).unwrap_or_default();
    match &found {
        RouteMatch::Rule { route, rule } => {
            step(output, "route", template(*route))?;
            let style = colour(&rule.requirement);
            let place = match &rule.place {
                Some(place) => format!(" ({}:{})", place.file, place.line),
                None => String::new(),
            };
            step(output, "requirement", format_args!("{style}{}{style:#}{place}", rule.requirement))?;
            if let Some(body) = map.route(*route).and_then(|route| route.options().body) {
                step(output, "body", format_args!("{} at most, instead of `limits.body`", size(body)))?;
            }
        }
        RouteMatch::NoMethod { route } => {
            step(
                output,
                "route",
                format_args!("{} (has no {method}; no other route is tried)", template(*route)),
            )?;
        }
        RouteMatch::NoRoute => step(output, "route", "none (unmapped)")?,
    }
    let decision = decide(map, &found, caller);
    if decision == Ok(Reason::Public) {
        return Ok(decision);
    }
    match caller {
        KnownCaller::Nobody => step(output, "token", "none")?,
        KnownCaller::Active(abilities) => {
            let names: Vec<&str> = abilities.names().collect();
            let names = if names.is_empty() { "no abilities".to_owned() } else { names.join(", ") };
            step(output, "token", format_args!("active, with {names}"))?;
        }
        KnownCaller::Refused(refusal) => step(output, "token", refusal.reason().as_str())?,
    }
    if let (RouteMatch::Rule { rule, .. }, KnownCaller::Active(abilities)) = (&found, caller) {
        let missing = missing(&rule.requirement, abilities);
        if !missing.is_empty() {
            step(output, "missing", missing.join(", "))?;
        }
    }
    if let Err(refusal) = &decision
        && map.mode(&found) == Mode::Shadow
    {
        let leniency = Leniency { mode: Mode::Shadow, authentication: Mode::Enforce };
        let text = match leniency.forgives(refusal) {
            true => "shadow: the request is forwarded; the verdict is only logged and counted",
            false => "shadow, but a token is required unless `shadow_authentication` is true",
        };
        step(output, "mode", text)?;
    }
    if let Err(refusal) = &decision
        && let Some(advice) = advice::advice(refusal, map.requirement(&found).ok(), caller)
    {
        step(output, "advice", advice)?;
    }
    if decision.is_err()
        && let Some(hint) = hint(map, &method, path.as_str(), &found)
    {
        step(output, "hint", hint)?;
    }
    Ok(decision)
}

/// The request that was probably meant, if the map has no rule for this one.
fn hint(map: &AbilityMap, method: &Method, path: &str, found: &RouteMatch<'_>) -> Option<String> {
    match found {
        RouteMatch::Rule { .. } => None,
        RouteMatch::NoMethod { route } => {
            let methods: Vec<&str> = map.route(*route)?.rules().map(|(method, _)| method.as_str()).collect();
            Some(format!("the methods of this route: {}", methods.join(", ")))
        }
        RouteMatch::NoRoute => nearest::route(map, method, path).map(|near| format!("nearest route: {near}")),
    }
}

/// Whether PHP sees a `_method` parameter in the query. PHP decodes names, skips leading spaces, replaces spaces and
/// dots by `_`, and stops at a NUL.
fn names_a_method(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default().replace('+', " ");
        let name: Vec<u8> = decoded(name.as_bytes()).take_while(|&byte| byte != 0).collect();
        let name =
            name.trim_ascii_start().iter().map(|&byte| if matches!(byte, b' ' | b'.') { b'_' } else { byte });
        name.eq(*b"_method")
    })
}

fn step(output: &mut dyn Write, name: &str, what: impl Display) -> io::Result<()> {
    writeln!(output, "{name:11}  {what}")
}

/// A number of bytes in the syntax of the configuration.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ability::{Abilities, Requirement};
    use crate::policy::map::{MapBuilder, RouteOptions, Unmapped};
    use crate::policy::source_location::SourceLocation;

    fn map(unmapped: Unmapped) -> AbilityMap {
        let place = |line| Some(SourceLocation { file: "stockaj.yaml".into(), line, column: 5 });
        let word = |word| Requirement::from_word(word).unwrap();
        let mut builder = MapBuilder::new(unmapped);
        builder.route("/up", [(Method::GET, word("public"), place(3))]).unwrap();
        let all = Requirement::all(["items:read", "items:update"]).unwrap();
        builder
            .route(
                "/api/v2/items/{id}",
                [
                    (Method::GET, word("items:read"), place(7)),
                    (Method::POST, all, place(8)),
                    (Method::DELETE, word("deny"), None),
                ],
            )
            .unwrap();
        let body = RouteOptions { body: Some(500 << 20), ..RouteOptions::default() };
        builder.route_with("/uploads", body, [(Method::POST, word("items:create"), place(9))]).unwrap();
        builder.build()
    }

    fn explained(unmapped: Unmapped, method: &str, target: &str, caller: &KnownCaller) -> (Exit, String) {
        let mut output = anstream::StripStream::new(Vec::new());
        let exit = explain(&map(unmapped), method, target, caller, &mut output).unwrap();
        (exit, String::from_utf8(output.into_inner()).unwrap())
    }

    fn holder(names: &[&str]) -> KnownCaller {
        KnownCaller::Active(Abilities::new(names.iter().copied()))
    }

    #[test]
    fn allowed_request_shows_every_step() {
        let (exit, text) = explained(
            Unmapped::Deny,
            "GET",
            "/api/v2/items/%35/?a=%2F",
            &holder(&["rents:read", "items:read"]),
        );
        assert_eq!(exit, Exit::Success);
        assert_eq!(
            text,
            "\
request      GET /api/v2/items/%35/?a=%2F
path         /api/v2/items/5 (rewritten: this is matched and forwarded)
query        forwarded as sent; the decision does not read it
route        /api/v2/items/{id}
requirement  items:read (stockaj.yaml:7)
token        active, with items:read, rents:read
verdict      allowed (allowed)
"
        );
    }

    #[test]
    fn body_limit_of_a_route_is_shown() {
        let (exit, text) = explained(Unmapped::Deny, "POST", "/uploads", &holder(&["items:create"]));
        assert_eq!(exit, Exit::Success);
        assert_eq!(
            text,
            "\
request      POST /uploads
path         /uploads (as sent)
method       POST; `_method` is ignored, so is X-HTTP-Method-Override unless `backend.method_override` is `honour`
route        /uploads
requirement  items:create (stockaj.yaml:9)
body         500MiB at most, instead of `limits.body`
token        active, with items:create
verdict      allowed (allowed)
"
        );
        for (bytes, text) in
            [(1, "1B"), (1023, "1023B"), (1024, "1KiB"), (1 << 40, "1024GiB"), (5 << 19, "2560KiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn public_route_needs_no_token() {
        let (exit, text) = explained(Unmapped::Deny, "HEAD", "/up", &KnownCaller::Nobody);
        assert_eq!(exit, Exit::Success);
        assert_eq!(
            text,
            "\
request      HEAD /up
path         /up (as sent)
route        /up
requirement  public (stockaj.yaml:3)
verdict      allowed (public)
"
        );
    }

    #[test]
    fn missing_abilities_are_listed_with_advice() {
        let (exit, text) = explained(Unmapped::Deny, "POST", "/api/v2/items/5", &holder(&["items:read"]));
        assert_eq!(exit, Exit::Failure);
        assert_eq!(
            text,
            "\
request      POST /api/v2/items/5
path         /api/v2/items/5 (as sent)
method       POST; `_method` is ignored, so is X-HTTP-Method-Override unless `backend.method_override` is `honour`
route        /api/v2/items/{id}
requirement  {all: [items:read, items:update]} (stockaj.yaml:8)
token        active, with items:read
missing      items:update
advice       add items:update to the token, or create a new one with: items:read,items:update
verdict      denied with 403 (missing_ability)
"
        );
    }

    #[test]
    fn method_parameter_in_the_query_is_reported_as_ignored() {
        for (method, query, is_reported) in [
            ("GET", "_method=DELETE", true),
            ("DELETE", "a=b&%5Fmethod=DELETE", true),
            ("GET", ".method=DELETE", true),
            ("GET", "%20_method=DELETE", true),
            ("GET", "+_method", true),
            ("GET", "_method%00x=DELETE", true),
            ("GET", "method=DELETE", false),
            ("GET", "a=_method", false),
            ("GET", "_methods=a&_METHOD=b", false),
            ("POST", "a=b", true),
        ] {
            let target = format!("/api/v2/items/5?{query}");
            let (_, text) = explained(Unmapped::Deny, method, &target, &holder(&["items:read"]));
            let line = text.lines().find(|line| line.starts_with("method       "));
            let line = line.map(|line| line.contains(method) && line.contains("`_method` is ignored"));
            assert_eq!(line, is_reported.then_some(true), "{method} {query}\n{text}");
        }
    }

    #[test]
    fn shadow_mode_shows_the_denial_and_that_it_is_not_enforced() {
        let rule = [(Method::GET, Requirement::from_word("items:read").unwrap(), None)];
        let mut builder = MapBuilder::new(Unmapped::Deny).in_mode(Mode::Shadow);
        builder.route("/items", rule).unwrap();
        let map = builder.build();
        let forwarded =
            "mode         shadow: the request is forwarded; the verdict is only logged and counted";
        let required = "mode         shadow, but a token is required unless `shadow_authentication` is true";
        for (target, caller, expected, exit) in [
            ("/items", holder(&["items:create"]), Some(forwarded), Exit::Failure),
            ("/nowhere", holder(&["*"]), Some(forwarded), Exit::Failure),
            ("/items", KnownCaller::Nobody, Some(required), Exit::Failure),
            ("/items", holder(&["items:read"]), None, Exit::Success),
        ] {
            let mut output = anstream::StripStream::new(Vec::new());
            assert_eq!(explain(&map, "GET", target, &caller, &mut output).unwrap(), exit);
            let text = String::from_utf8(output.into_inner()).unwrap();
            assert_eq!(text.lines().find(|line| line.starts_with("mode ")), expected, "{text}");
        }
    }

    #[test]
    fn rejected_path_is_not_matched() {
        let (exit, text) = explained(Unmapped::Deny, "GET", "/api/v2/%2e%2e/up", &KnownCaller::Nobody);
        assert_eq!(exit, Exit::Failure);
        assert_eq!(
            text,
            "\
request      GET /api/v2/%2e%2e/up
verdict      denied with 400 (bad_request): dot segment in the path
"
        );
    }

    #[test]
    fn verdicts_follow_the_order_of_a_decision() {
        let nobody = || KnownCaller::Nobody;
        let malformed = || KnownCaller::Refused(Refusal::MalformedToken);
        let inactive = || KnownCaller::Refused(Refusal::InactiveToken);
        let no_verdict = || KnownCaller::Refused(Refusal::NoVerdict);
        let every = || holder(&["*"]);
        let none = || holder(&[]);
        for (unmapped, method, target, caller, expected) in [
            (
                Unmapped::Deny,
                "get",
                "/up",
                every(),
                "denied with 400 (bad_request): method that is not served",
            ),
            (
                Unmapped::Deny,
                "G T",
                "/up",
                every(),
                "denied with 400 (bad_request): method that is not served",
            ),
            (
                Unmapped::Deny,
                "TRACE",
                "/up",
                every(),
                "denied with 400 (bad_request): method that is not served",
            ),
            (Unmapped::Deny, "GET", "/up#", every(), "denied with 400 (bad_request): fragment in the target"),
            (
                Unmapped::Deny,
                "GET",
                "*",
                every(),
                "denied with 400 (bad_request): path does not begin with a slash",
            ),
            (Unmapped::Deny, "GET", "/up", malformed(), "allowed (public)"),
            (Unmapped::Deny, "GET", "/nowhere", nobody(), "denied with 401 (missing_token)"),
            (Unmapped::Deny, "GET", "/nowhere", malformed(), "denied with 401 (malformed_token)"),
            (Unmapped::Deny, "GET", "/nowhere", inactive(), "denied with 403 (unmapped)"),
            (Unmapped::Deny, "GET", "/nowhere", no_verdict(), "denied with 403 (unmapped)"),
            (Unmapped::Deny, "OPTIONS", "*", every(), "denied with 403 (unmapped)"),
            (Unmapped::Deny, "DELETE", "/api/v2/items/5", nobody(), "denied with 401 (missing_token)"),
            (Unmapped::Deny, "DELETE", "/api/v2/items/5", inactive(), "denied with 403 (denied)"),
            (Unmapped::Deny, "DELETE", "/api/v2/items/5", every(), "denied with 403 (denied)"),
            (
                Unmapped::Authenticated,
                "PUT",
                "/api/v2/items/5",
                every(),
                "denied with 403 (method_not_mapped)",
            ),
            (Unmapped::Authenticated, "PUT", "/nowhere", none(), "allowed (allowed)"),
            (Unmapped::Authenticated, "PUT", "/nowhere", inactive(), "denied with 401 (inactive_token)"),
            (Unmapped::Deny, "GET", "/api/v2/items/5", inactive(), "denied with 401 (inactive_token)"),
            (Unmapped::Deny, "GET", "/api/v2/items/5", no_verdict(), "denied with 503 (no_verdict)"),
            (Unmapped::Deny, "GET", "/api/v2/items/5", none(), "denied with 403 (missing_ability)"),
            (Unmapped::Deny, "HEAD", "/api/v2/items/5", every(), "allowed (allowed)"),
        ] {
            let (exit, text) = explained(unmapped, method, target, &caller);
            let verdict = text.lines().last().and_then(|line| line.strip_prefix("verdict      "));
            assert_eq!(verdict, Some(expected), "{method} {target}\n{text}");
            assert_eq!(exit == Exit::Success, expected.starts_with("allowed"), "{method} {target}");
        }
    }

    #[test]
    fn abilities_are_parsed_from_the_command_line() {
        for (abilities, expected) in [
            (None, Exit::Failure),
            (Some(vec![]), Exit::Failure),
            (Some(vec![String::new()]), Exit::Failure),
            (Some(vec!["rents:read".to_owned(), " items:read".to_owned()]), Exit::Success),
        ] {
            let arguments = Arguments {
                method: "GET".to_owned(),
                path: "/api/v2/items/5".to_owned(),
                config: ConfigArgument { config: None },
                abilities,
                token_stdin: false,
            };
            let caller = arguments.caller(Path::new("unread")).unwrap();
            let (method, path) = (&arguments.method, &arguments.path);
            let exit = explain(&map(Unmapped::Deny), method, path, &caller.0, &mut Vec::new()).unwrap();
            assert_eq!(exit, expected, "{arguments:?}");
        }
    }
}
