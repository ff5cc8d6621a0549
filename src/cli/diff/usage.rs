//! What a change of the map does to the calls that were recorded.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use http::Method;
use jiff::civil::Date;
use serde::Serialize;

use crate::cli::read_report;
use crate::policy::ability::Abilities;
use crate::policy::decision::{Caller, decide};
use crate::policy::difference::Difference;
use crate::policy::map::{AbilityMap, Found};
use crate::shown::shown;
use crate::usage::report::{Report, TokenUsage, UsageRow, Verdict};

/// What the ledger calls requests that no rule was found for.
const UNMAPPED: &str = "unmapped";

/// Why recorded usage cannot be told of.
#[derive(Debug, thiserror::Error)]
pub(super) enum UsageError {
    /// The file.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// As it was named.
        path: PathBuf,
        source: io::Error,
    },
    /// What is in it.
    #[error("{} is not what `usage --format json` prints: {source}", path.display())]
    Json {
        /// As it was named.
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// Reads a report of usage.
pub(super) fn read(path: &Path) -> Result<Report, UsageError> {
    let text = read_report(path).map_err(|source| UsageError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| UsageError::Json { path: path.to_owned(), source })
}

/// Recorded calls that would be decided differently.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Affected<'a> {
    /// The first day of the record; none: all of it.
    since: Option<Date>,
    /// Calls that were allowed.
    denied: Vec<AffectedToken<'a>>,
    /// Calls that were denied.
    allowed: Vec<AffectedToken<'a>>,
    /// Calls on routes that the old map does not have, of which nothing can be told.
    untold: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct AffectedToken<'a> {
    id: &'a str,
    name: Option<&'a str>,
    calls: Vec<AffectedCalls<'a>>,
}

/// Calls of one token with one method on one route.
#[derive(Debug, PartialEq, Serialize)]
struct AffectedCalls<'a> {
    method: &'a str,
    /// The route by which they were recorded.
    route: &'a str,
    count: u64,
    /// Whether there may have been fewer: the new map decides differently on some paths of the route only, or the
    /// record has a call for each of several abilities.
    up_to: bool,
}

/// What becomes of recorded calls. The record tells the route, not the path: a call counts where the new map
/// decides otherwise on all the paths for which the old one found that route, and counts as `up_to` where it does so on
/// some.
pub(super) fn affected<'a>(
    old: &AbilityMap,
    new: &AbilityMap,
    difference: &Difference<'_>,
    usage: &'a Report,
) -> Affected<'a> {
    let mut affected = Affected { since: usage.since, ..Affected::default() };
    for token in &usage.tokens {
        let abilities = Abilities::new(token.abilities.iter().map(String::as_str));
        let change = Comparison { old, new, difference, caller: Caller::Active(abilities) };
        let (mut denied, mut allowed) = (Vec::new(), Vec::new());
        for ((route, method, verdict), (count, several)) in calls(token) {
            let Some(fate) = change.fate(route, method, verdict) else {
                affected.untold = affected.untold.saturating_add(count);
                continue;
            };
            let into = if verdict == Verdict::Allowed { &mut denied } else { &mut allowed };
            match fate {
                Fate::Same => {}
                Fate::Other => into.push(AffectedCalls { method, route, count, up_to: several }),
                Fate::Mixed => into.push(AffectedCalls { method, route, count, up_to: true }),
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

/// The calls of a token by route, method and verdict; and whether there may have been fewer. A call that `all` of
/// several abilities stand for is in the row of each: all of them where it was allowed, those missing where it was not.
fn calls(token: &TokenUsage) -> Calls<'_> {
    let mut alike: BTreeMap<(&str, &str, Verdict, &str), Vec<u64>> = BTreeMap::new();
    for UsageRow { route, verdict, methods, requirement, .. } in &token.usage {
        for (method, count) in methods {
            alike.entry((route, method, *verdict, requirement)).or_default().push(*count);
        }
    }
    let mut calls = Calls::new();
    for ((route, method, verdict, requirement), counts) in alike {
        let total = calls.entry((route, method, verdict)).or_default();
        match verdict {
            Verdict::Allowed if requirement.starts_with("{all:") => {
                total.0 = total.0.saturating_add(counts.iter().max().copied().unwrap_or_default());
            }
            Verdict::Allowed | Verdict::Denied => {
                total.0 = counts.iter().fold(total.0, |sum, count| sum.saturating_add(*count));
                total.1 |= counts.len() > 1 && requirement.starts_with("{all:");
            }
        }
    }
    calls
}

enum Fate {
    /// Nothing changes.
    Same,
    /// They would be decided otherwise.
    Other,
    /// Some of them might be.
    Mixed,
}

/// The maps, for one token.
struct Comparison<'a> {
    old: &'a AbilityMap,
    new: &'a AbilityMap,
    difference: &'a Difference<'a>,
    caller: Caller,
}

impl Comparison<'_> {
    /// What becomes of calls that the old map decides as they were; none where it has no such route.
    fn fate(&self, route: &str, method: &str, verdict: Verdict) -> Option<Fate> {
        if route != UNMAPPED && !self.old.templates().any(|template| template == route) {
            return None;
        }
        let Ok(method) = Method::from_bytes(method.as_bytes()) else { return Some(Fate::Same) };
        let (mut other, mut same) = (false, false);
        for class in &self.difference.classes {
            // Requests that the old map refuses are recorded under no route.
            if class.refused[0] || class.sample == "*" && method != Method::OPTIONS {
                continue;
            }
            let found = self.old.found(class.old, &method);
            let label = match found {
                Found::Rule { route, .. } | Found::NoMethod { route } => {
                    self.old.templates().nth(route).unwrap_or_default()
                }
                Found::NoRoute => UNMAPPED,
            };
            let was_allowed = decide(self.old, &found, &self.caller).is_ok();
            if label == route && was_allowed == (verdict == Verdict::Allowed) {
                let found = self.new.found(class.new, &method);
                let is_allowed = !class.refused[1] && decide(self.new, &found, &self.caller).is_ok();
                if is_allowed == was_allowed { same = true } else { other = true }
            }
        }
        Some(match (other, same) {
            (false, _) => Fate::Same,
            (true, false) => Fate::Other,
            (true, true) => Fate::Mixed,
        })
    }
}

impl Affected<'_> {
    pub(super) fn print(&self, output: &mut dyn Write) -> io::Result<()> {
        let period = self.since.map(|day| format!(" since {day}")).unwrap_or_default();
        writeln!(output, "Over the recorded usage{period}")?;
        let none = [("would be denied", &self.denied), ("would be allowed", &self.allowed)];
        for (what, tokens) in none {
            print_tokens(what, tokens, output)?;
        }
        if self.denied.is_empty() && self.allowed.is_empty() {
            writeln!(output, "  no call would be decided otherwise")?;
        }
        match self.untold {
            0 => Ok(()),
            calls => writeln!(
                output,
                "  nothing can be told of {} on routes that the old map lacks",
                count(calls, "call")
            ),
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
            let name = shown(name.unwrap_or("(no name)"));
            writeln!(
                output,
                "    {} {name}: {method} {route}, {bound}{}",
                shown(id),
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

    fn told(old: &AbilityMap, new: &AbilityMap, tokens: &serde_json::Value) -> String {
        let report: Report = serde_json::from_value(json!({"tokens": tokens})).unwrap();
        let difference = difference(old, new).unwrap();
        let mut output = Vec::new();
        affected(old, new, &difference, &report).print(&mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn calls_are_counted_where_every_path_of_their_route_changes() {
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
                // To `/items/search` perhaps.
                row("r", "/items/{id}", "allowed", "GET", 7, "r"),
                // Still denied.
                row("d", "/items/{id}", "denied", "DELETE", 9, "d"),
                // Perhaps to `/x`, which wants an ability now.
                row("", "unmapped", "allowed", "GET", 4, "authenticated"),
            ]},
            // Had the ability, and was denied then.
            {"id": "18", "name": null, "abilities": ["u", "w"], "usage": [row("u", "/items/{id}", "denied", "PUT", 2, "u")]},
            {"id": "19", "name": "new", "abilities": ["w"], "usage": [row("u", "/items/{id}", "denied", "PUT", 1, "u")]},
            {"id": "20", "name": "old", "abilities": ["u"], "usage": [row("u", "/gone", "allowed", "PUT", 5, "u")]},
            // What nobody may do: to put `/items/search`.
            {"id": "21", "name": "all", "abilities": ["*"], "usage": [row("u", "/items/{id}", "allowed", "PUT", 6, "u")]},
        ]);
        assert_eq!(
            told(&old, &new, &tokens),
            "\
Over the recorded usage
  2 tokens would be denied up to 317 calls
    17 sync-prod: GET /items/{id}, up to 7 calls
    17 sync-prod: PUT /items/{id}, 300 calls
    17 sync-prod: GET unmapped, up to 4 calls
    21 all: PUT /items/{id}, up to 6 calls
  1 token would be allowed up to 1 call
    19 new: PUT /items/{id}, up to 1 call
  nothing can be told of 5 calls on routes that the old map lacks
"
        );
        assert_eq!(told(&old, &old, &json!([tokens[1]])), told(&old, &old, &json!([])));
    }

    #[test]
    fn counts_that_are_too_great_to_be_summed_stay_at_the_greatest() {
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
        let told = told(&old, &new, &tokens);
        assert!(told.contains("2 tokens would be denied 18446744073709551615 calls"), "{told}");
        assert!(told.contains("nothing can be told of 18446744073709551615 calls"), "{told}");
    }

    #[test]
    fn a_call_that_several_abilities_stand_for_is_one() {
        let all = Requirement::all(["a", "b", "c"]).unwrap();
        let old = map(&[("/x", &[("GET", all), ("PUT", word("public"))])]);
        let new = map(&[("/x", &[("GET", word("deny"))])]);
        let rows = |verdict, names: &[&str]| {
            let rows = names.iter().map(|name| row(name, "/x", verdict, "GET", 3, "{all: [a, b, c]}"));
            rows.collect::<Vec<_>>()
        };
        let holder = json!([{"id": "1", "name": "n", "abilities": ["a", "b", "c"], "usage": rows("allowed", &["a", "b", "c"])}]);
        assert_eq!(
            told(&old, &new, &holder),
            "Over the recorded usage\n  1 token would be denied 3 calls\n    1 n: GET /x, 3 calls\n"
        );
        let open = map(&[("/x", &[("GET", word("a"))])]);
        let other =
            json!([{"id": "1", "name": "n", "abilities": ["a"], "usage": rows("denied", &["b", "c"])}]);
        assert_eq!(
            told(&old, &open, &other),
            "Over the recorded usage\n  1 token would be allowed up to 6 calls\n    1 n: GET /x, up to 6 calls\n"
        );
    }
}
