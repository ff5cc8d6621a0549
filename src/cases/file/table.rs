//! Requests, and the rows of `table`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{Address, Expected};
use crate::config::language::{Decode, Decoder, Diagnostic, Entry, Key, Node, OneOrMore, join, leaf_schema};

const REQUEST: &str = "a method and a path such as `GET /api/v2/items`";
/// A method, a space, and a target.
const REQUEST_PATTERN: &str = "^[^ ]+ [^ ]+$";
/// The key of a row that is no caller.
pub(super) const FROM: &str = "from";

/// A method and a target.
#[derive(Clone, Debug)]
pub(super) struct RawRequest {
    pub(super) method: Box<str>,
    pub(super) target: Box<str>,
}

impl RawRequest {
    fn parse(text: &str) -> Option<Self> {
        let (method, target) = text.split_once(' ')?;
        let is_word = |word: &str| !word.is_empty() && !word.chars().any(|it| it == ' ' || it.is_control());
        (is_word(method) && is_word(target)).then(|| Self { method: method.into(), target: target.into() })
    }
}

impl Decode for RawRequest {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.string(node, REQUEST)?;
        Self::parse(&text).or_else(|| decoder.mismatch(node, "invalid request", REQUEST))
    }
}

leaf_schema!(RawRequest, json_schema!({"type": "string", "pattern": REQUEST_PATTERN}));

/// The requests of `table`, and their rows.
#[derive(Debug)]
pub(super) struct Table(pub(super) Vec<TableEntry>);

/// A request and its rows: one, or several for different client addresses.
#[derive(Debug)]
pub(super) struct TableEntry {
    key: Key,
    pub(super) request: RawRequest,
    pub(super) rows: Vec<Row>,
}

/// The expected decisions by caller, for one client address.
#[derive(Debug)]
pub(super) struct Row {
    /// `None` if it is unknown.
    pub(super) from: Option<Address>,
    pub(super) cells: Vec<(Key, Expected)>,
}

impl TableEntry {
    /// The path of the entry in reports.
    pub(super) fn path(&self) -> String {
        let mut path = "table".to_owned();
        join(&mut path, &self.key.text);
        path
    }
}

impl Decode for Table {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let entries = decoder.mapping(node, "a mapping of requests")?;
        let entries: Vec<Option<TableEntry>> = entries
            .iter()
            .map(|entry| decoder.within(&entry.key, |decoder| decode_entry(entry, decoder)))
            .collect();
        entries.into_iter().collect::<Option<_>>().map(Self)
    }

    fn absent(_decoder: &mut Decoder<'_>) -> Option<Self> {
        Some(Self(Vec::new()))
    }
}

fn decode_entry(Entry { key, value }: &Entry, decoder: &mut Decoder<'_>) -> Option<TableEntry> {
    let request = RawRequest::parse(&key.text);
    if request.is_none() {
        decoder.record(Diagnostic::error("invalid request").at(key.span, format!("expected {REQUEST}")));
    }
    let OneOrMore(rows) = OneOrMore::decode(value, decoder)?;
    Some(TableEntry { key: key.clone(), request: request?, rows })
}

impl Decode for Row {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let entries = decoder.mapping(node, "a mapping such as `{reader: allow, nobody: 401}`")?;
        let (mut from, mut cells, mut is_valid) = (None, Vec::new(), true);
        for Entry { key, value } in entries {
            is_valid &= decoder.within(key, |decoder| {
                if &*key.text == FROM {
                    from = Address::decode(value, decoder);
                    return from.is_some();
                }
                let cell = Expected::decode(value, decoder).map(|expected| (key.clone(), expected));
                let is_valid = cell.is_some();
                cells.extend(cell);
                is_valid
            });
        }
        if is_valid && cells.is_empty() {
            return decoder.mismatch(node, "empty row", "at least one caller");
        }
        is_valid.then_some(Self { from, cells })
    }
}

impl JsonSchema for Row {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Row".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let expected = generator.subschema_for::<Expected>();
        let from = generator.subschema_for::<Address>();
        json_schema!({
            "description": "The expected decisions by caller, and the client's address in `from`.",
            "type": "object",
            "properties": {FROM: from},
            "additionalProperties": expected,
            "minProperties": 1,
            "if": {"required": [FROM]},
            "then": {"minProperties": 2},
        })
    }
}

impl JsonSchema for Table {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Table".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rows = OneOrMore::<Row>::json_schema(generator);
        json_schema!({
            "type": "object",
            "patternProperties": {REQUEST_PATTERN: rows},
            "additionalProperties": false,
        })
    }
}
