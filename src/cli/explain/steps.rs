//! The steps of one decision, in the gateway's order.

use std::collections::BTreeSet;
use std::io::{self, Write};

use http::Method;

use super::{advice, nearest, step};
use crate::cli::routes::colour;
use crate::cli::units::{duration, size};
use crate::policy::ability::Requirement;
use crate::policy::decision::{
    ActiveToken, KnownCaller, RouteInputs, decide, missing, read_request, split_query,
};
use crate::policy::map::{AbilityMap, Route, RouteMatch};
use crate::policy::network::{ClientAddress, RouteNetworks, WrongNetwork};
use crate::policy::path::decoded;
use crate::policy::query::{NumberedRequirement, QueryRules};
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::shadow::{Mode, ShadowSettings};
use crate::policy::source_location::SourceLocation;

/// A request that is explained, with its result in the map.
struct Explained<'a> {
    map: &'a AbilityMap,
    method: &'a Method,
    /// The canonical path.
    path: &'a str,
    query: Option<&'a str>,
    found: RouteMatch<'a>,
    caller: &'a KnownCaller,
    client: ClientAddress,
}

/// Writes the steps of a decision, and returns it.
pub(super) fn steps(
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
    let request = Explained { map, method: &method, path: path.as_str(), query, found, caller, client };
    request.method_steps(output)?;
    request.route_steps(output)?;
    let decision = decide(map, &found, RouteInputs::of(query, client), caller);
    if decision == Ok(Reason::Public) {
        return Ok(decision);
    }
    request.token_steps(output)?;
    if let Err(refusal) = &decision {
        request.refusal_steps(refusal, output)?;
    }
    Ok(decision)
}

impl<'a> Explained<'a> {
    /// The rules for the query of the route.
    fn rules(&self) -> Option<&'a QueryRules> {
        self.map.query_rules(&self.found)
    }

    /// The steps about the query, a method override and a preflight.
    fn method_steps(&self, output: &mut dyn Write) -> io::Result<()> {
        let Self { method, query, .. } = self;
        if query.is_some() && self.rules().is_none() {
            step(output, "query", "forwarded as sent; the decision does not read it")?;
        }
        if *method == Method::POST {
            let text = "POST; `_method` is ignored, so is X-HTTP-Method-Override unless `backend.method_override` is `honour`";
            step(output, "method", text)
        } else if *method == Method::OPTIONS {
            step(output, "method", "OPTIONS; for a CORS preflight, the method that it requests is decided")
        } else if query.is_some_and(names_a_method) {
            step(output, "method", format_args!("{method}; `_method` is ignored"))
        } else {
            Ok(())
        }
    }

    /// The route, its requirement and its options.
    fn route_steps(&self, output: &mut dyn Write) -> io::Result<()> {
        let template = |route: usize| self.map.route(route).map(Route::template).unwrap_or_default();
        match &self.found {
            RouteMatch::Rule { route, rule } => {
                step(output, "route", template(*route))?;
                let (style, place) = (colour(&rule.requirement), located(rule.place.as_ref()));
                step(output, "requirement", format_args!("{style}{}{style:#}{place}", rule.requirement))?;
                if let (Some(rules), Some(query)) = (self.rules(), self.query) {
                    query_steps(rules, query, output)?;
                }
                self.option_steps(output)
            }
            RouteMatch::NoMethod { route } => {
                let (template, method) = (template(*route), self.method);
                let text = format_args!("{template} (has no {method}; no other route is tried)");
                step(output, "route", text)
            }
            RouteMatch::NoRoute => step(output, "route", "none (unmapped)"),
        }
    }

    /// The options of the route other than `query`.
    fn option_steps(&self, output: &mut dyn Write) -> io::Result<()> {
        let options = self.map.options(&self.found);
        if let Some(RouteNetworks { networks, place }) = options.from.as_deref() {
            step(output, "from", format_args!("{networks}{}", located(place.as_ref())))?;
        }
        if let Some(body) = options.body {
            step(output, "body", format_args!("{} at most, instead of `limits.body`", size(body)))?;
        }
        if let Some(timeout) = options.timeout {
            step(output, "timeout", format_args!("{}, instead of `backend.timeout`", duration(timeout)))?;
        }
        match &options.deprecated {
            Some(deprecation) => step(output, "deprecated", deprecation),
            None => Ok(()),
        }
    }

    /// The abilities and networks of the token.
    fn token_steps(&self, output: &mut dyn Write) -> io::Result<()> {
        match self.caller {
            KnownCaller::Nobody => step(output, "token", "none"),
            KnownCaller::Active(ActiveToken { abilities, allowed_from }) => {
                let names: Vec<&str> = abilities.names().collect();
                let names = if names.is_empty() { "no abilities".to_owned() } else { names.join(", ") };
                step(output, "token", format_args!("active, with {names}"))?;
                match allowed_from {
                    None => Ok(()),
                    Some(networks) if networks.iter().len() == 0 => step(output, "token from", "nowhere"),
                    Some(networks) => step(output, "token from", networks),
                }
            }
            KnownCaller::Refused(refusal) => step(output, "token", refusal.reason().as_str()),
        }
    }

    /// The rule that refuses the request, and what would help.
    fn refusal_steps(&self, refusal: &Refusal, output: &mut dyn Write) -> io::Result<()> {
        let Self { map, found, caller, client, .. } = *self;
        let token = match caller {
            KnownCaller::Active(token) => Some(token),
            KnownCaller::Nobody | KnownCaller::Refused(_) => None,
        };
        let parameter = match refusal {
            Refusal::QueryDenied { rule, .. } => self.rules().and_then(|rules| rules.requirement(*rule)),
            _ => None,
        };
        let of_method = map.requirement(&found).ok();
        let requirement: Option<&Requirement> = parameter.map(|it| &it.requirement).or(of_method);
        if let Some(parameter) = parameter {
            step(output, "denied by", parameter.located())?;
        }
        if let Refusal::WrongNetwork(rule) = refusal {
            let token = token.and_then(|token| token.allowed_from.as_ref());
            let route = map.networks(&found);
            step(output, "denied by", WrongNetwork { client, rule: *rule, route, token })?;
        }
        if let (Some(requirement), Some(token)) = (requirement, token) {
            let missing = missing(requirement, &token.abilities);
            if !missing.is_empty() {
                step(output, "missing", missing.join(", "))?;
            }
        }
        if map.mode(&found) == Mode::Shadow {
            step(output, "mode", in_shadow_mode(refusal))?;
        }
        if let Some(advice) = advice::advice(refusal, requirement, caller, client) {
            step(output, "advice", advice)?;
        }
        match hint(map, self.method, self.path, &found) {
            Some(hint) => step(output, "hint", hint),
            None => Ok(()),
        }
    }
}

/// Whether a refusal on a route in shadow mode is enforced.
fn in_shadow_mode(refusal: &Refusal) -> &'static str {
    let permits = |authentication| ShadowSettings { mode: Mode::Shadow, authentication }.permits(refusal);
    if permits(Mode::Enforce) {
        "shadow: the request is forwarded; the verdict is only logged and counted"
    } else if permits(Mode::Shadow) {
        "shadow, but refusals of the token are enforced unless `shadow_authentication` is true"
    } else {
        "shadow, but this refusal is enforced in every mode"
    }
}

/// The place of a rule, in parentheses after it; empty if it is unknown.
fn located(place: Option<&SourceLocation>) -> String {
    place.map(|place| format!(" ({}:{})", place.file, place.line)).unwrap_or_default()
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
        let (style, place) = (colour(requirement), located(place.as_ref()));
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
