//! The options of a route in the table, on the page, and as JSON.

use serde_json::{Value, json};

use super::requirement_json;
use crate::cli::units::{duration, size};
use crate::policy::deprecation::{Deprecation, Moment};
use crate::policy::map::RouteOptions;
use crate::policy::query::{QueryRules, WrittenCheck};

/// The options of a route in the words of its file. Its mode depends on that of the map, and is not included.
pub(super) fn texts(options: &RouteOptions) -> Vec<String> {
    let RouteOptions { query, from, body, timeout, deprecated, mode: _ } = options;
    let texts = [
        query.as_ref().map(|rules| format!("query {rules}")),
        from.as_ref().map(|from| format!("from [{}]", from.networks)),
        body.map(|bytes| format!("body {}", size(bytes))),
        timeout.map(|timeout| format!("timeout {}", duration(timeout))),
        deprecated.as_ref().map(|deprecation| format!("(deprecated {deprecation})")),
    ];
    texts.into_iter().flatten().collect()
}

/// The options of a route as members of a JSON object, each after a comma.
pub(super) fn members(options: &RouteOptions) -> String {
    let RouteOptions { query, from, body, timeout, deprecated, mode } = options;
    let members = [
        ("query", query.as_deref().map(query_json)),
        ("from", from.as_ref().map(|from| json!(from.networks.texts()))),
        ("body", body.map(|bytes| json!(size(bytes)))),
        ("timeout", timeout.map(|timeout| json!(duration(timeout)))),
        ("deprecated", deprecated.as_deref().map(deprecation_json)),
        ("mode", mode.map(|mode| json!(mode.as_str()))),
    ];
    let members = members.into_iter().filter_map(|(name, value)| Some((name, value?)));
    members.map(|(name, value)| format!(r#", "{name}": {value}"#)).collect()
}

/// `query` as it is written in YAML, as JSON.
pub(crate) fn query_json(rules: &QueryRules) -> Value {
    let word = |denies: bool| if denies { "deny" } else { "allow" };
    let parameters = rules.parameters().map(|(name, check)| {
        let check = match check {
            WrittenCheck::Requirement(requirement) => requirement_json(requirement),
            WrittenCheck::Values { split, values, deny_others } => {
                let values: serde_json::Map<String, Value> =
                    values.iter().map(|(value, it)| ((*value).to_owned(), requirement_json(it))).collect();
                let mut check = json!({"values": values, "others": word(deny_others)});
                if let Some(split) = split {
                    check["split"] = json!(split);
                }
                check
            }
        };
        (name.to_owned(), check)
    });
    let others = ("others".to_owned(), json!(word(rules.denies_others())));
    parameters.chain([others]).collect()
}

/// `deprecated` as it is written in YAML, as JSON.
pub(crate) fn deprecation_json(deprecation: &Deprecation) -> Value {
    let Deprecation { since, sunset, link, .. } = deprecation;
    let text = |it: &Option<Moment>| it.as_ref().map(|it| Value::from(&*it.text));
    let members =
        [("since", text(since)), ("sunset", text(sunset)), ("link", link.as_deref().map(Value::from))];
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
