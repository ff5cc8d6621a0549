//! `explain`: shows the steps of one decision.

mod advice;
mod nearest;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anstyle::{AnsiColor, Color, Style};
use http::Method;
use ipnet::IpNet;
use jiff::Timestamp;

use super::routes::colour;
use super::token_input::bearer_fields;
use super::{ConfigArgument, Exit, abilities, output, report, show, token_from_stdin};
use crate::config;
use crate::config::settings::IntrospectionStyle;
use crate::policy::bearer::Token;
use crate::policy::decision::{
    ActiveToken, KnownCaller, RouteInputs, decide, missing, read_request, split_query,
};
use crate::policy::expected_claims::ExpectedClaims;
use crate::policy::map::{AbilityMap, RouteMatch};
use crate::policy::network::{ClientAddress, RouteNetworks, WrongNetwork, parse_address, parse_network};
use crate::policy::path::decoded;
use crate::policy::query::{NumberedRequirement, QueryRules};
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::shadow::{Mode, ShadowSettings};
use crate::response::own::status;
use crate::sanitize::sanitize;
use crate::tokens::blocklist::BlockList;
use crate::tokens::hash::TokenHash;
use crate::tokens::introspection::{Inactive, IntrospectionResponse, Mismatch};
use crate::tokens::introspector::Introspector;
use crate::tokens::verdict::Verdict;

/// Explain the decision on a request; exit 0 if it is allowed, 1 if it is denied
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The method, such as GET
    method: String,
    /// The path, such as /api/v2/items, or with a query /api/v2/items?include=renters
    path: String,
    #[command(flatten)]
    config: ConfigArgument,
    /// The abilities of the token, separated by commas; without this the request has no token
    #[arg(long, value_delimiter = ',', value_name = "ABILITIES", conflicts_with = "token_stdin")]
    abilities: Option<Vec<String>>,
    /// Read a token from standard input and introspect it with the `introspection` of the configuration
    #[arg(long)]
    token_stdin: bool,
    /// The client's address, such as 10.1.2.3; without this it is unknown, and routes with `from` refuse it
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    from: Option<IpAddr>,
    /// The networks that the token may be used from, separated by commas; '' is a token that may be used from nowhere
    #[arg(long, value_delimiter = ',', value_name = "NETWORKS", value_parser = network, requires = "abilities")]
    allowed_from: Option<Vec<Listed>>,
}

/// An element of `--allowed-from`; `None` if it is empty.
type Listed = Option<IpNet>;

fn address(text: &str) -> Result<IpAddr, &'static str> {
    parse_address(text).ok_or("not an address such as 10.1.2.3 or fd00::1")
}

fn network(text: &str) -> Result<Listed, &'static str> {
    match text.trim() {
        "" => Ok(None),
        text => parse_network(text).map(Some).ok_or("not a network such as 10.0.0.0/8 or fd00::/8"),
    }
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let loaded = self.config.path().and_then(|path| Ok((config::load_abilities(&path)?, path)));
        let (loaded, path) = match loaded {
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
        let (caller, described) = caller;
        let mut verdict = Exit::Failure;
        let printed = output(Exit::Success, |out| {
            if let Some((name, what)) = described {
                step(out, name, what)?;
            }
            verdict = explain(&loaded.map, (&self.method, &self.path), &caller, self.from.into(), out)?;
            self.decision_listener(&loaded.map, &path, out)
        });
        if printed == Exit::Success { verdict } else { printed }
    }

    /// Writes that the decision listener refuses a path that the proxy listener rewrites, if that listener is on.
    fn decision_listener(&self, map: &AbilityMap, config: &Path, output: &mut dyn Write) -> io::Result<()> {
        let is_rewritten =
            read_request(map, &self.method, &self.path).is_ok_and(|(_, path)| !path.is_borrowed());
        if is_rewritten && config::has_decision_listener(config) {
            step(output, "decision", "the decision listener answers 400: the path is not canonical")?;
        }
        Ok(())
    }

    /// The caller, and a step with what the introspector said about its token.
    fn caller(&self, path: &Path) -> Result<(KnownCaller, Option<TokenStep>), Exit> {
        if self.token_stdin {
            return introspect(path);
        }
        let caller = match &self.abilities {
            // `--abilities ''` is a token without abilities.
            Some(names) => {
                let networks = self.allowed_from.as_ref();
                let allowed_from = networks.map(|list| list.iter().flatten().copied().collect());
                KnownCaller::Active(ActiveToken { abilities: abilities(names), allowed_from })
            }
            None => KnownCaller::Nobody,
        };
        Ok((caller, None))
    }
}

/// The name and text of the step that describes an introspected token.
type TokenStep = (&'static str, String);

/// Introspects the token on standard input with the configuration at `path`.
fn introspect(path: &Path) -> Result<(KnownCaller, Option<TokenStep>), Exit> {
    let fail = |error: &dyn Display| {
        report(format_args!("error: {error}"));
        Exit::Failure
    };
    let line = token_from_stdin().map_err(|error| fail(&error))?;
    let loaded = config::load_introspection(path).and_then(|it| Ok((it, config::load_blocked(path)?)));
    let ((introspection, token_bytes), blocked) = match loaded {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            show(&mistakes);
            return Err(Exit::Failure);
        }
    };
    let blocks = BlockList::default();
    blocks.configure(&blocked);
    let Some(fields) = bearer_fields(line.trim()) else {
        return Ok((KnownCaller::Refused(Refusal::MalformedToken), None));
    };
    let token = match Token::from_fields(&fields, token_bytes) {
        Ok(token) => token,
        Err(refusal) => return Ok((KnownCaller::Refused(refusal), None)),
    };
    let answer =
        Introspector::introspect_once(&introspection, token.secret()).map_err(|error| fail(&error))?;
    let shows_id = matches!(introspection.style, IntrospectionStyle::Bearer);
    let is_shown = blocks.blocks_text(token.secret(), shows_id, Timestamp::now());
    Ok(match answer {
        IntrospectionResponse::Active(verdict) => {
            let holder = holder(&verdict);
            let secret = TokenHash::of_secret(token.secret());
            let caller = if blocks.blocks_verdict(&verdict, &secret, Timestamp::now()) {
                KnownCaller::Refused(Refusal::Blocked)
            } else if verdict.has_expired(SystemTime::now()) {
                KnownCaller::Refused(Refusal::ExpiredToken)
            } else {
                let Verdict { abilities, allowed_from, .. } = verdict;
                KnownCaller::Active(ActiveToken { abilities, allowed_from })
            };
            (caller, Some(("token of", holder)))
        }
        // As the gateway, which does not introspect it.
        _ if is_shown => (KnownCaller::Refused(Refusal::Blocked), None),
        IntrospectionResponse::Inactive(Inactive::Reported) => {
            (KnownCaller::Refused(Refusal::InactiveToken), None)
        }
        IntrospectionResponse::Inactive(Inactive::NotYetValid(from)) => {
            (KnownCaller::Refused(Refusal::NotYetValid), Some(("nbf", valid_from(from))))
        }
        IntrospectionResponse::Inactive(Inactive::UnexpectedClaim(mismatch)) => {
            let differs = difference(&mismatch, &introspection.expect);
            (KnownCaller::Refused(Refusal::UnexpectedClaim(mismatch.claim)), Some(("claim", differs)))
        }
        IntrospectionResponse::NoVerdict(why) => {
            fail(&why);
            (KnownCaller::Refused(Refusal::NoVerdict), None)
        }
    })
}

/// When a token becomes valid.
pub(super) fn valid_from(from: SystemTime) -> String {
    match Timestamp::try_from(from) {
        Ok(from) => format!("valid from {from}"),
        Err(_) => "valid in the distant future".to_owned(),
    }
}

/// A claim's value and the expected one.
pub(super) fn difference(mismatch: &Mismatch, expect: &ExpectedClaims) -> String {
    let Mismatch { claim, found } = mismatch;
    let expected = expect.describe(*claim).to_string();
    format!("{} is {}, expected {}", claim.as_str(), sanitize(found), sanitize(&expected))
}

/// Name, id and expiry of a token. Never the token or its hash, which is the id if the introspector reports none.
pub(super) fn holder(verdict: &Verdict) -> String {
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
    request: (&str, &str),
    caller: &KnownCaller,
    client: ClientAddress,
    output: &mut dyn Write,
) -> io::Result<Exit> {
    let verdict = |output: &mut dyn Write, colour, text: String| {
        let style = Style::new().bold().fg_color(Some(Color::Ansi(colour)));
        step(output, "verdict", format_args!("{style}{text}{style:#}"))
    };
    match steps(map, request, caller, client, output)? {
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
    (method, target): (&str, &str),
    caller: &KnownCaller,
    client: ClientAddress,
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
    let found = map.find(&method, &path);
    let rules = map.query_rules(&found);
    if query.is_some() && rules.is_none() {
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
            if let (Some(rules), Some(query)) = (rules, query) {
                query_steps(rules, query, output)?;
            }
            if let Some(RouteNetworks { networks, place }) = map.networks(&found) {
                let place = place.as_ref().map(|place| format!(" ({}:{})", place.file, place.line));
                step(output, "from", format_args!("{networks}{}", place.unwrap_or_default()))?;
            }
            if let Some(body) = map.route(*route).and_then(|route| route.options().body) {
                step(output, "body", format_args!("{} at most, instead of `limits.body`", size(body)))?;
            }
            if let Some(timeout) = map.route(*route).and_then(|route| route.options().timeout) {
                let timeout = duration(timeout);
                step(output, "timeout", format_args!("{timeout}, instead of `backend.timeout`"))?;
            }
            if let Some(deprecation) = &map.options(&found).deprecated {
                step(output, "deprecated", deprecation)?;
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
    let decision = decide(map, &found, RouteInputs::of(query, client), caller);
    if decision == Ok(Reason::Public) {
        return Ok(decision);
    }
    match caller {
        KnownCaller::Nobody => step(output, "token", "none")?,
        KnownCaller::Active(ActiveToken { abilities, allowed_from }) => {
            let names: Vec<&str> = abilities.names().collect();
            let names = if names.is_empty() { "no abilities".to_owned() } else { names.join(", ") };
            step(output, "token", format_args!("active, with {names}"))?;
            match allowed_from {
                None => {}
                Some(networks) if networks.iter().len() == 0 => step(output, "token from", "nowhere")?,
                Some(networks) => step(output, "token from", networks)?,
            }
        }
        KnownCaller::Refused(refusal) => step(output, "token", refusal.reason().as_str())?,
    }
    let parameter = match &decision {
        Err(Refusal::QueryDenied { rule, .. }) => rules.and_then(|rules| rules.requirement(*rule)),
        _ => None,
    };
    let requirement = match &found {
        _ if parameter.is_some() => parameter.map(|it| &it.requirement),
        RouteMatch::Rule { rule, .. } => Some(&rule.requirement),
        RouteMatch::NoMethod { .. } | RouteMatch::NoRoute => None,
    };
    if let Some(parameter) = parameter {
        step(output, "denied by", parameter.located())?;
    }
    if let Err(Refusal::WrongNetwork(rule)) = &decision {
        let token = match caller {
            KnownCaller::Active(token) => token.allowed_from.as_ref(),
            KnownCaller::Nobody | KnownCaller::Refused(_) => None,
        };
        let route = map.networks(&found);
        step(output, "denied by", WrongNetwork { client, rule: *rule, route, token })?;
    }
    if let (Some(requirement), KnownCaller::Active(token)) = (requirement, caller) {
        let missing = missing(requirement, &token.abilities);
        if !missing.is_empty() {
            step(output, "missing", missing.join(", "))?;
        }
    }
    if let Err(refusal) = &decision
        && map.mode(&found) == Mode::Shadow
    {
        let leniency = ShadowSettings { mode: Mode::Shadow, authentication: Mode::Enforce };
        let text = match leniency.permits(refusal) {
            true => "shadow: the request is forwarded; the verdict is only logged and counted",
            false => "shadow, but a token is required unless `shadow_authentication` is true",
        };
        step(output, "mode", text)?;
    }
    if let Err(refusal) = &decision
        && let Some(advice) =
            advice::advice(refusal, requirement.or(map.requirement(&found).ok()), caller, client)
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

/// Writes the requirements of the parameters of a query, each once. An error is in the verdict.
fn query_steps(rules: &QueryRules, query: &str, output: &mut dyn Write) -> io::Result<()> {
    let mut numbers = BTreeSet::new();
    let read = rules.visit(query, |number, _| {
        numbers.insert(number);
        Ok(())
    });
    if numbers.is_empty() && read.is_ok() {
        return step(output, "query", "no rule of the route applies to it");
    }
    for NumberedRequirement { subject, requirement, place } in
        numbers.into_iter().filter_map(|number| rules.requirement(number))
    {
        let style = colour(requirement);
        let place = match place {
            Some(place) => format!(" ({}:{})", place.file, place.line),
            None => String::new(),
        };
        step(output, "query", format_args!("{subject} requires {style}{requirement}{style:#}{place}"))?;
    }
    Ok(())
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

/// A duration in the syntax of the configuration.
pub(crate) fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(24 * 60 * 60 * 1000, "d"), (60 * 60 * 1000, "h"), (60 * 1000, "m"), (1000, "s")];
    let unit =
        units.into_iter().find(|(unit, _)| milliseconds >= *unit && milliseconds.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{milliseconds}ms"), |(unit, name)| format!("{}{name}", milliseconds / unit))
}

#[cfg(test)]
mod tests;
