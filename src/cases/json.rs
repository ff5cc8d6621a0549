//! Outcomes as JSON, for programs.

use serde_json::{Value, json};

use super::coverage::RuleCoverage;
use super::{CheckResult, Expected, PolicyTests, explain, label};
use crate::policy::decision::{ActiveToken, KnownCaller};
use crate::policy::map::RouteMatch;
use crate::policy::network::ClientAddress;
use crate::policy::refusal::Refusal;
use crate::policy::source_location::SourceLocation;

/// The outcome of a check.
pub fn result_value(tests: &PolicyTests, outcome: &CheckResult<'_>) -> Value {
    let check = outcome.check;
    let reason = match &outcome.decision {
        Ok(reason) => *reason,
        Err(refusal) => refusal.reason(),
    };
    let mut value = json!({
        "case": label(check),
        "place": place_value(check.place.as_ref()),
        "name": check.name.as_deref(),
        "method": check.method,
        "path": check.target,
        "caller": check.sender.name,
        "abilities": match &check.sender.caller {
            KnownCaller::Active(token) => json!(token.abilities.names().collect::<Vec<_>>()),
            _ => Value::Null,
        },
        "expected": word(check.expected),
        "decided": word(outcome.actual()),
        "reason": reason.as_str(),
        "passed": outcome.passed(),
    });
    if let ClientAddress::Known(address) = check.client {
        value["from"] = json!(address);
    }
    if let KnownCaller::Active(ActiveToken { allowed_from: Some(networks), .. }) = &check.sender.caller {
        value["allowed_from"] = networks.texts().into();
    }
    if let Some(RouteMatch::Rule { route, rule }) = &outcome.found {
        value["rule"] = json!({
            "path": tests.map.templates().nth(*route),
            "requirement": rule.requirement.to_string(),
            "place": place_value(rule.place.as_ref()),
        });
    }
    if !outcome.passed() {
        let failure = explain(tests, outcome);
        value["why"] = failure.why.into();
        value["hint"] = failure.hint.into();
    }
    if let Err(Refusal::BadRequest(why)) = &outcome.decision {
        value["why"] = (*why).into();
    }
    value
}

/// A rule that no check reaches.
pub fn unreached_value(rule: &RuleCoverage) -> Value {
    let mut value = json!({
        "path": rule.template,
        "method": rule.method,
        "requirement": rule.requirement,
        "place": place_value(rule.place.as_ref()),
    });
    if let Some((_, parameter)) = &rule.parameter {
        value["parameter"] = json!(parameter);
    }
    value
}

fn word(expected: Expected) -> Value {
    match expected {
        Expected::Allow => "allow".into(),
        Expected::Refuse(status) => status.into(),
    }
}

/// A place as file, line and column.
pub fn place_value(place: Option<&SourceLocation>) -> Value {
    place.map_or(
        Value::Null,
        |place| json!({"file": &*place.file, "line": place.line, "column": place.column}),
    )
}
