//! `query` of a route: the rules for the parameters of its query.

use schemars::{Schema, json_schema};

use super::requirement::decode_requirement;
use crate::config::language::{Decode, Decoder, Diagnostic, Entry, Node, Value, words};
use crate::policy::query::{QueryRules, RawCheck, RawParameter, RawValue};

/// The key of parameters, or values, that are not listed.
const OTHERS: &str = "others";
/// The keys of a rule by value.
const BY_VALUE: [&str; 3] = ["split", "values", OTHERS];

/// `others`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    Allow,
    Deny,
}

words!(Others { "allow" => Self::Allow, "deny" => Self::Deny });

/// Decodes the rules of a route.
pub(super) fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<QueryRules> {
    const RULES: &str = "a mapping of parameters such as `{debug: deny}`";
    let entries = decoder.mapping(node, RULES)?;
    if entries.is_empty() {
        return decoder.mismatch(node, "no rules", RULES);
    }
    let before = decoder.error_count();
    let mut others = None;
    let mut parameters = Vec::new();
    for Entry { key, value } in entries {
        decoder.within(key, |decoder| {
            if &*key.text == OTHERS {
                if Others::decode(value, decoder) == Some(Others::Deny) {
                    others = Some(decoder.place(key.span));
                }
                return;
            }
            let Some(check) = decode_check(value, decoder) else { return };
            let parameter = RawParameter { name: key.text.clone(), check, place: decoder.place(key.span) };
            match parameter.check() {
                Ok(()) => parameters.push(parameter),
                Err(error) => {
                    decoder.record(Diagnostic::error("invalid parameter").at(key.span, error.to_string()));
                }
            }
        });
    }
    if decoder.error_count() > before {
        return None;
    }
    // Cannot fail: every parameter has been checked.
    QueryRules::new(parameters, others).ok()
}

fn decode_check(node: &Node, decoder: &mut Decoder<'_>) -> Option<RawCheck> {
    let Value::Mapping(entries) = &node.value else {
        return decode_requirement(node, decoder).map(RawCheck::Requirement);
    };
    if !entries.iter().any(|entry| BY_VALUE.contains(&&*entry.key.text)) {
        return decode_requirement(node, decoder).map(RawCheck::Requirement);
    }
    decoder.reject_unknown(entries, &BY_VALUE);
    let (mut split, mut values, mut deny_others) = (None, None, true);
    for Entry { key, value } in entries {
        decoder.within(key, |decoder| match &*key.text {
            "split" => split = decoder.string(value, "a separator such as `\",\"`").map(|it| (*it).into()),
            "values" => values = decode_values(value, decoder),
            OTHERS => deny_others = Others::decode(value, decoder) != Some(Others::Allow),
            _ => {}
        });
    }
    if !entries.iter().any(|entry| &*entry.key.text == "values") {
        decoder.missing(node, "values");
    }
    Some(RawCheck::Values { split, values: values?, deny_others })
}

fn decode_values(node: &Node, decoder: &mut Decoder<'_>) -> Option<Vec<RawValue>> {
    const VALUES: &str = "a mapping of values such as `{renters: renters:read}`";
    let entries = decoder.mapping(node, VALUES)?;
    if entries.is_empty() {
        return decoder.mismatch(node, "no values", VALUES);
    }
    let values: Vec<Option<RawValue>> = entries
        .iter()
        .map(|Entry { key, value }| {
            decoder.within(key, |decoder| {
                let requirement = decode_requirement(value, decoder)?;
                Some(RawValue { value: key.text.clone(), requirement, place: decoder.place(key.span) })
            })
        })
        .collect();
    values.into_iter().collect()
}

/// The schema of `query`. `requirement` is that of a requirement.
pub(super) fn schema(requirement: &Schema) -> Schema {
    let others = |description: &str| json_schema!({"enum": ["allow", "deny"], "description": description});
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "description": "Rules for the parameters of the query, by name as in `fields[renters]`. The request must satisfy the rule of each of its parameters in addition to the method's requirement: see [query parameters](../guides/query-parameters.md).",
        "properties": {
            "others": others("Parameters that are not listed: `allow` (default) or `deny`."),
        },
        "additionalProperties": {
            "anyOf": [
                requirement,
                {
                    "type": "object",
                    "required": ["values"],
                    "additionalProperties": false,
                    "properties": {
                        "split": {
                            "type": "string", "minLength": 1, "maxLength": 8,
                            "description": "Separates several values in one parameter.",
                        },
                        "values": {
                            "type": "object", "minProperties": 1, "additionalProperties": requirement,
                            "description": "The requirement of each value.",
                        },
                        "others": others("Values that are not listed: `deny` (default) or `allow`."),
                    },
                },
            ],
        },
    })
}
