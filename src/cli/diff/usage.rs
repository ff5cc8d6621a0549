//! Compares the decisions of two maps on recorded calls.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use http::Method;
use jiff::civil::Date;
use serde::Serialize;

use crate::cli::read_report;
use crate::policy::ability::{Abilities, is_all};
use crate::policy::decision::{KnownCaller, RouteInputs, decide};
use crate::policy::difference::Difference;
use crate::policy::map::{AbilityMap, RouteMatch};
use crate::policy::network::ClientAddress;
use crate::sanitize::sanitize;
use crate::usage::report::{Report, TokenUsage, UsageRow, Verdict};

/// The ledger's route of requests without a rule.
const UNMAPPED: &str = "unmapped";

/// Recorded calls have no query and no address. Those that networks refused were recorded as denied, and do not count.
const ANYWHERE: RouteInputs<'_> = RouteInputs::of(None, ClientAddress::Any);

#[derive(Debug, thiserror::Error)]
pub(super) enum UsageError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not what `usage --format json` prints: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
}

/// Reads a usage report.
pub(super) fn read(path: &Path) -> Result<Report, UsageError> {
    let text = read_report(path).map_err(|source| UsageError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| UsageError::Json { path: path.to_owned(), source })
}

/// The recorded calls whose decision changes.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Affected<'a> {
    /// The first day of the report; `None` if it is unbounded.
    since: Option<Date>,
    /// Calls that were allowed and would be denied.
    denied: Vec<AffectedToken<'a>>,
    /// Calls that were denied and would be allowed.
    allowed: Vec<AffectedToken<'a>>,
    /// The number of calls on routes that the old map lacks. Their decisions cannot be compared.
    #[serde(rename = "untold")]
    unknown: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct AffectedToken<'a> {
    id: &'a str,
    name: Option<&'a str>,
    calls: Vec<AffectedCalls<'a>>,
}

/// The calls of one token with one method on one route.
#[derive(Debug, PartialEq, Serialize)]
struct AffectedCalls<'a> {
    method: &'a str,
    /// The route of the record.
    route: &'a str,
    count: u64,
    /// Whether `count` is an upper bound: the new map decides differently on only some paths of the route, or the report
    /// counts one call under several abilities.
    up_to: bool,
}

/// Finds the recorded calls whose decision changes. The report has their route, not their path. A call counts if the
/// new map decides differently on all paths for which the old map finds that route, and counts as `up_to` if on some.
pub(super) fn affected<'a>(
    old: &AbilityMap,
    new: &AbilityMap,
    difference: &Difference<'_>,
    usage: &'a Report,
) -> Affected<'a> {
    let mut affected = Affected { since: usage.since, ..Affected::default() };
    for token in &usage.tokens {
        let abilities = Abilities::new(token.abilities.iter().map(String::as_str));
        let change = Comparison { old, new, difference, caller: KnownCaller::with(abilities) };
        let (mut denied, mut allowed) = (Vec::new(), Vec::new());
        for ((route, method, verdict), (count, several)) in calls(token) {
            let Some(effect) = change.effect(route, method, verdict) else {
                affected.unknown = affected.unknown.saturating_add(count);
                continue;
            };
            let into = if verdict == Verdict::Allowed { &mut denied } else { &mut allowed };
            match effect {
                Effect::Unchanged => {}
                Effect::Changed => into.push(AffectedCalls { method, route, count, up_to: several }),
                Effect::PartlyChanged => into.push(AffectedCalls { method, route, count, up_to: true }),
            }
        }
        for (calls, into) in [(denied, &mut affected.denied), (allowed, &mut affected.allowed)] {
            if !calls.is_empty() {
                into.push(AffectedToken { id: &token.id, name: token.name.as_deref(), calls });
            }
        }
    }
    affected
}

type Calls<'a> = BTreeMap<(&'a str, &'a str, Verdict), (u64, bool)>;

/// The calls of a token by route, method and verdict, and whether their number is an upper bound. The report counts a
/// call on an `all` requirement in the row of each ability of it: of all abilities if it was allowed, of the missing
/// ones if it was denied.
fn calls(token: &TokenUsage) -> Calls<'_> {
    let mut grouped: BTreeMap<(&str, &str, Verdict, &str), Vec<u64>> = BTreeMap::new();
    // Calls that a parameter of their query denied would be decided by their query, which is not recorded.
    let rows = token.usage.iter().filter(|row| row.parameter.is_none());
    for UsageRow { route, verdict, methods, requirement, .. } in rows {
        for (method, count) in methods {
            grouped.entry((route, method, *verdict, requirement)).or_default().push(*count);
        }
    }
    let mut calls = Calls::new();
    for ((route, method, verdict, requirement), counts) in grouped {
        let total = calls.entry((route, method, verdict)).or_default();
        match verdict {
            Verdict::Allowed if is_all(requirement) => {
                total.0 = total.0.saturating_add(counts.iter().max().copied().unwrap_or_default());
            }
            Verdict::Allowed | Verdict::Denied => {
                total.0 = counts.iter().fold(total.0, |sum, count| sum.saturating_add(*count));
                total.1 |= counts.len() > 1 && is_all(requirement);
            }
        }
    }
    calls
}

/// The effect of a change on the decisions on all paths of a route.
enum Effect {
    Unchanged,
    Changed,
    PartlyChanged,
}

/// The maps, for one token.
struct Comparison<'a> {
    old: &'a AbilityMap,
    new: &'a AbilityMap,
    difference: &'a Difference<'a>,
    caller: KnownCaller,
}

impl Comparison<'_> {
    /// The effect on the paths for which the old map finds `route` and has the recorded `verdict`; `None` if it lacks
    /// the route.
    fn effect(&self, route: &str, method: &str, verdict: Verdict) -> Option<Effect> {
        if route != UNMAPPED && !self.old.templates().any(|template| template == route) {
            return None;
        }
        let Ok(method) = Method::from_bytes(method.as_bytes()) else { return Some(Effect::Unchanged) };
        let (mut changed, mut unchanged) = (false, false);
        for class in &self.difference.classes {
            // Requests whose path the old map rejects are recorded without a route.
            if class.refused[0] || class.sample == "*" && method != Method::OPTIONS {
                continue;
            }
            let found = self.old.found(class.old, &method);
            let label = match found {
                RouteMatch::Rule { route, .. } | RouteMatch::NoMethod { route } => {
                    self.old.templates().nth(route).unwrap_or_default()
                }
                RouteMatch::NoRoute => UNMAPPED,
            };
            let was_allowed = decide(self.old, &found, ANYWHERE, &self.caller).is_ok();
            if label == route && was_allowed == (verdict == Verdict::Allowed) {
                let found = self.new.found(class.new, &method);
                let is_allowed =
                    !class.refused[1] && decide(self.new, &found, ANYWHERE, &self.caller).is_ok();
                if is_allowed == was_allowed { unchanged = true } else { changed = true }
            }
        }
        Some(match (changed, unchanged) {
            (false, _) => Effect::Unchanged,
            (true, false) => Effect::Changed,
            (true, true) => Effect::PartlyChanged,
        })
    }
}

impl Affected<'_> {
    pub(super) fn print(&self, output: &mut dyn Write) -> io::Result<()> {
        let period = self.since.map(|day| format!(" since {day}")).unwrap_or_default();
        writeln!(output, "Over the recorded usage{period}")?;
        for (what, tokens) in [("would be denied", &self.denied), ("would be allowed", &self.allowed)] {
            print_tokens(what, tokens, output)?;
        }
        if self.denied.is_empty() && self.allowed.is_empty() {
            writeln!(output, "  no decision would change")?;
        }
        match self.unknown {
            0 => Ok(()),
            calls => writeln!(output, "  unknown: {} on routes that the old map lacks", count(calls, "call")),
        }
    }
}

fn print_tokens(what: &str, tokens: &[AffectedToken<'_>], output: &mut dyn Write) -> io::Result<()> {
    if tokens.is_empty() {
        return Ok(());
    }
    let all = || tokens.iter().flat_map(|token| &token.calls);
    let calls = count(all().fold(0, |sum, calls| calls.count.saturating_add(sum)), "call");
    let bound = if all().any(|calls| calls.up_to) { "up to " } else { "" };
    writeln!(output, "  {} {what} {bound}{calls}", count(tokens.len() as u64, "token"))?;
    for AffectedToken { id, name, calls } in tokens {
        for AffectedCalls { method, route, count: number, up_to } in calls {
            let bound = if *up_to { "up to " } else { "" };
            let name = sanitize(name.unwrap_or("(no name)"));
            writeln!(
                output,
                "    {} {name}: {method} {route}, {bound}{}",
                sanitize(id),
                count(*number, "call")
            )?;
        }
    }
    Ok(())
}

/// `1 call`, `2 calls`
fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::ability::Requirement;
    use crate::policy::difference::difference;
    use crate::policy::map::{MapBuilder, Unmapped};

    fn map(routes: &[(&str, &[(&str, Requirement)])]) -> AbilityMap {
        let mut builder = MapBuilder::new(Unmapped::Authenticated);
        for (template, methods) in routes {
            let methods = methods.iter().map(|(method, it)| (method.parse().unwrap(), it.clone(), None));
            builder.route(template, methods).unwrap();
        }
        builder.build()
    }

    fn word(word: &str) -> Requirement {
        Requirement::from_word(word).unwrap()
    }

    fn row(
        ability: &str,
        route: &str,
        verdict: &str,
        method: &str,
        count: u64,
        requirement: &str,
    ) -> serde_json::Value {
        json!({
            "ability": ability, "route": route, "verdict": verdict, "count": count,
            "methods": {method: count}, "requirement": requirement,
        })
    }

    fn printed(old: &AbilityMap, new: &AbilityMap, tokens: &serde_json::Value) -> String {
        let report: Report = serde_json::from_value(json!({"tokens": tokens})).unwrap();
        let difference = difference(old, new).unwrap();
        let mut output = Vec::new();
        affected(old, new, &difference, &report).print(&mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn calls_count_in_full_only_if_every_path_of_their_route_changes() {
        let item = [("GET", word("r")), ("PUT", word("u")), ("DELETE", word("d"))];
        let old = map(&[("/items/{id}", &item)]);
        let changed = [("GET", word("r")), ("PUT", word("w")), ("DELETE", word("d"))];
        let new = map(&[
            ("/items/{id}", &changed),
            ("/items/search", &[("GET", word("s"))]),
            ("/x", &[("GET", word("x"))]),
        ]);
        let tokens = json!([
            {"id": "17", "name": "sync-prod", "abilities": ["r", "u"], "usage": [
                row("u", "/items/{id}", "allowed", "PUT", 300, "u"),
                // Possibly `/items/search`.
                row("r", "/items/{id}", "allowed", "GET", 7, "r"),
                // Still denied.
                row("d", "/items/{id}", "denied", "DELETE", 9, "d"),
                // Possibly `/x`, which requires an ability in the new map.
                row("", "unmapped", "allowed", "GET", 4, "authenticated"),
            ]},
            // Has the ability now, but was denied.
            {"id": "18", "name": null, "abilities": ["u", "w"], "usage": [row("u", "/items/{id}", "denied", "PUT", 2, "u")]},
            {"id": "19", "name": "new", "abilities": ["w"], "usage": [row("u", "/items/{id}", "denied", "PUT", 1, "u")]},
            {"id": "20", "name": "old", "abilities": ["u"], "usage": [row("u", "/gone", "allowed", "PUT", 5, "u")]},
            // Possibly `/items/search`, which has no PUT in the new map.
            {"id": "21", "name": "all", "abilities": ["*"], "usage": [row("u", "/items/{id}", "allowed", "PUT", 6, "u")]},
        ]);
        assert_eq!(
            printed(&old, &new, &tokens),
            "\
Over the recorded usage
  2 tokens would be denied up to 317 calls
    17 sync-prod: GET /items/{id}, up to 7 calls
    17 sync-prod: PUT /items/{id}, 300 calls
    17 sync-prod: GET unmapped, up to 4 calls
    21 all: PUT /items/{id}, up to 6 calls
  1 token would be allowed up to 1 call
    19 new: PUT /items/{id}, up to 1 call
  unknown: 5 calls on routes that the old map lacks
"
        );
        assert_eq!(printed(&old, &old, &json!([tokens[1]])), printed(&old, &old, &json!([])));
    }

    #[test]
    fn sums_of_large_counts_saturate() {
        let old = map(&[("/x", &[("GET", word("a"))])]);
        let new = map(&[("/x", &[("GET", word("deny"))])]);
        let rows = |route, requirement: &str| {
            [
                row("a", route, "allowed", "GET", u64::MAX, requirement),
                row("b", route, "allowed", "GET", 1, requirement),
            ]
        };
        let usage = [rows("/x", "a"), rows("/x", "{all: [a, b]}"), rows("/gone", "a")].concat();
        let tokens = json!([{"id": "1", "name": "n", "abilities": ["a"], "usage": usage}, {"id": "2", "name": "n", "abilities": ["a"], "usage": usage}]);
        let text = printed(&old, &new, &tokens);
        assert!(text.contains("2 tokens would be denied 18446744073709551615 calls"), "{text}");
        assert!(text.contains("unknown: 18446744073709551615 calls"), "{text}");
    }

    #[test]
    fn call_recorded_under_several_abilities_counts_once() {
        let all = Requirement::all(["a", "b", "c"]).unwrap();
        let old = map(&[("/x", &[("GET", all), ("PUT", word("public"))])]);
        let new = map(&[("/x", &[("GET", word("deny"))])]);
        let rows = |verdict, names: &[&str]| {
            let rows = names.iter().map(|name| row(name, "/x", verdict, "GET", 3, "{all: [a, b, c]}"));
            rows.collect::<Vec<_>>()
        };
        let holder = json!([{"id": "1", "name": "n", "abilities": ["a", "b", "c"], "usage": rows("allowed", &["a", "b", "c"])}]);
        assert_eq!(
            printed(&old, &new, &holder),
            "Over the recorded usage\n  1 token would be denied 3 calls\n    1 n: GET /x, 3 calls\n"
        );
        let open = map(&[("/x", &[("GET", word("a"))])]);
        let other =
            json!([{"id": "1", "name": "n", "abilities": ["a"], "usage": rows("denied", &["b", "c"])}]);
        assert_eq!(
            printed(&old, &open, &other),
            "Over the recorded usage\n  1 token would be allowed up to 6 calls\n    1 n: GET /x, up to 6 calls\n"
        );
    }
}
