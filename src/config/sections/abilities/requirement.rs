//! Requirements: an ability, `all` or `any` of several, or a keyword.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::config::language::{Decoder, Diagnostic, Entry, Node, Value, nearest};
use crate::policy::ability::{Requirement, RequirementError};
use crate::policy::guide;

/// Requirements other than abilities. They are case-sensitive: `Deny` is an ability, which a token with `*` has.
const KEYWORDS: [&str; 3] = ["public", "authenticated", "deny"];

pub(super) fn decode_requirement(node: &Node, decoder: &mut Decoder<'_>) -> Option<Requirement> {
    const REQUIREMENT: &str = "an ability, `{all: […]}`, `{any: […]}`, `public`, `authenticated` or `deny`";
    match &node.value {
        Value::Mapping(entries) => {
            decoder.reject_unknown(entries, &["all", "any"]);
            let mut lists = entries.iter().filter(|entry| matches!(&*entry.key.text, "all" | "any"));
            match (lists.next(), lists.next()) {
                (Some(Entry { key, value }), None) => {
                    decoder.within(key, |decoder| decode_abilities(&key.text, value, decoder))
                }
                (Some(first), Some(second)) => {
                    let error = Diagnostic::error("`all` and `any` together")
                        .at(second.key.span, "expected only one of the two")
                        .related(first.key.span, "the other key");
                    decoder.reject(error)
                }
                (None, _) if entries.is_empty() => decoder.mismatch(node, "invalid requirement", REQUIREMENT),
                // Unknown keys are reported.
                (None, _) => None,
            }
        }
        Value::List(_) => {
            let hint = "write `{all: […]}` or `{any: […]}`".to_owned();
            decoder.mismatch_with(node, "invalid requirement", REQUIREMENT, Some(hint))
        }
        Value::Scalar { .. } | Value::Broken => {
            let word = decoder.string(node, REQUIREMENT)?;
            let requirement = checked(Requirement::from_word(&word), node, decoder)?;
            requirement.abilities().for_each(|ability| warn_of_typo(ability, node, decoder));
            Some(requirement)
        }
    }
}

/// Decodes the list of `all` or `any`.
fn decode_abilities(kind: &str, node: &Node, decoder: &mut Decoder<'_>) -> Option<Requirement> {
    let items = decoder.list(node, "a list of abilities")?;
    let mut abilities: Vec<Cow<'_, str>> = Vec::new();
    for item in items {
        // Validated one by one, so that an error has the place of its item.
        abilities.extend(decode_ability(item, decoder));
    }
    if abilities.len() < items.len() {
        return None;
    }
    let abilities = abilities.iter().map(|ability| &**ability);
    let requirement = if kind == "all" { Requirement::all(abilities) } else { Requirement::any(abilities) };
    checked(requirement, node, decoder)
}

/// Decodes an ability of a list.
pub(crate) fn decode_ability<'node>(node: &'node Node, decoder: &mut Decoder<'_>) -> Option<Cow<'node, str>> {
    let ability = decoder.string(node, "an ability")?;
    checked(Requirement::all([&*ability]), node, decoder)?;
    warn_of_typo(&ability, node, decoder);
    Some(ability)
}

fn checked(
    requirement: Result<Requirement, RequirementError>,
    node: &Node,
    decoder: &mut Decoder<'_>,
) -> Option<Requirement> {
    let error = match requirement {
        Ok(requirement) => return Some(requirement),
        Err(error) => error,
    };
    // The text of the error may quote the environment.
    let label = if decoder.may_show_all(node) { error.to_string() } else { "not an ability".to_owned() };
    decoder.reject(Diagnostic::error("invalid requirement").at(node.span, label))
}

fn warn_of_typo(ability: &str, node: &Node, decoder: &mut Decoder<'_>) {
    // An ability that resembles one of the guide is probably a typing error.
    if guide::abilities().any(|known| known == ability) || !decoder.may_show(node) {
        return;
    }
    let near = guide::abilities().min_by_key(|known| strsim::osa_distance(ability, known));
    let near = near.filter(|known| strsim::osa_distance(ability, known) <= 2);
    if let Some(near) = near.or_else(|| nearest(ability, KEYWORDS)) {
        let warning = Diagnostic::warning("unknown ability")
            .at(node.span, format!("Stockaj does not document `{ability}`"))
            .hint(format!("did you mean `{near}`?"));
        decoder.record(warning);
    }
}

/// Stands for requirements in the schema.
pub(super) struct RequirementSchema;

impl JsonSchema for RequirementSchema {
    fn schema_name() -> Cow<'static, str> {
        "Requirement".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let abilities = json_schema!({
            "type": "array", "minItems": 1,
            "items": {"type": "string", "minLength": 1, "not": {"enum": KEYWORDS}},
        });
        json_schema!({
            "description": "An ability, `all` or `any` of several abilities, `public` (no token), `authenticated` (any valid token) or `deny`.",
            "anyOf": [
                {"enum": KEYWORDS},
                {"enum": guide::abilities().collect::<Vec<_>>()},
                {"type": "string", "minLength": 1},
                {
                    "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": false,
                    "properties": {"all": abilities, "any": abilities},
                },
            ],
        })
    }
}
