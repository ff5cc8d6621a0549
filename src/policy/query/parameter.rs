//! Reads the parameters of a query.

use std::borrow::Cow;

use crate::policy::refusal::Refusal;

/// The largest number of parameters: the default of PHP's `max_input_vars`. PHP ignores those after it.
pub const MAX_PARAMETERS: usize = 1000;

/// The largest number of keys in a name: the default of PHP's `max_input_nesting_level`. PHP drops deeper parameters.
pub const MAX_DEPTH: usize = 64;

const TOO_MANY: Refusal = Refusal::BadRequest("query with more than 1000 parameters");
const SEMICOLON: Refusal =
    Refusal::BadRequest("query with a semicolon, which some parsers take for a separator");
const ESCAPE: Refusal = Refusal::BadRequest("percent sign without two hex digits in a query parameter");
const ENCODING: Refusal = Refusal::BadRequest("query parameter that is not UTF-8");
const CONTROL: Refusal = Refusal::BadRequest("control character in the name of a query parameter");
const NO_NAME: Refusal = Refusal::BadRequest("query parameter without a name");
const BRACKETS: Refusal = Refusal::BadRequest("unbalanced brackets in the name of a query parameter");
const TOO_DEEP: Refusal = Refusal::BadRequest("query parameter with more than 64 keys");
const KEY: Refusal = Refusal::BadRequest("key of a query parameter that begins with a space");

/// A parameter of a query, such as `fields[renters]=name`.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// Decoded.
    name: Cow<'a, str>,
    /// The length of the name before the first bracket.
    base: usize,
    /// As sent.
    value: &'a str,
}

/// The parameters of a query. Empty ones are left out, as PHP does.
pub fn parameters(query: &str) -> impl Iterator<Item = Result<Parameter<'_>, Refusal>> {
    query.split('&').filter(|text| !text.is_empty()).enumerate().map(|(number, text)| {
        if number >= MAX_PARAMETERS {
            return Err(TOO_MANY);
        }
        if text.contains(';') {
            return Err(SEMICOLON);
        }
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let name = decoded(name)?;
        let base = base(&name)?;
        Ok(Parameter { name, base, value })
    })
}

impl Parameter<'_> {
    /// The name before the first bracket, decoded. PHP also folds it, see [`folds_to`](Self::folds_to).
    pub fn base(&self) -> &str {
        &self.name[..self.base]
    }

    /// The keys in brackets; an empty one for `[]`.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        // The name has been validated: each key is between `[` and `]`.
        self.name[self.base..].split_terminator(']').map(|key| key.strip_prefix('[').unwrap_or(key))
    }

    /// The decoded value.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] for a malformed escape, which PHP leaves as it is, and for bytes that are not UTF-8.
    pub fn value(&self) -> Result<Cow<'_, str>, Refusal> {
        decoded(self.value)
    }

    /// Whether PHP reads the base as `name`: it skips leading spaces, and replaces spaces and dots by `_`.
    pub fn folds_to(&self, name: &str) -> bool {
        let base = self.base().trim_start_matches(' ').bytes();
        base.map(|byte| if matches!(byte, b' ' | b'.') { b'_' } else { byte }).eq(name.bytes())
    }
}

/// Decodes `+` and `%XX`.
fn decoded(text: &str) -> Result<Cow<'_, str>, Refusal> {
    if !text.bytes().any(|byte| matches!(byte, b'+' | b'%')) {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        decoded.push(match first {
            b'+' => b' ',
            b'%' => {
                let [high, low, after @ ..] = rest else { return Err(ESCAPE) };
                rest = after;
                hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low).ok_or(ESCAPE)?
            }
            byte => *byte,
        });
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| ENCODING)
}

fn hex(digit: u8) -> Option<u8> {
    // At most 15.
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

/// Validates a name. Returns the length of its base.
fn base(name: &str) -> Result<usize, Refusal> {
    if name.chars().any(char::is_control) {
        return Err(CONTROL);
    }
    let end = name.find('[').unwrap_or(name.len());
    let (base, mut rest) = name.split_at(end);
    if base.bytes().all(|byte| byte == b' ') {
        return Err(NO_NAME);
    }
    if base.contains(']') {
        return Err(BRACKETS);
    }
    for depth in 1.. {
        if rest.is_empty() {
            break;
        }
        if depth > MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        // PHP reads `a[b` as `a_b`, and ignores what follows a bracket in `a[b]c`.
        let (key, after) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).ok_or(BRACKETS)?;
        if key.contains('[') {
            return Err(BRACKETS);
        }
        if key.starts_with(' ') {
            // PHP reads `a[ ]` as `a[]`.
            return Err(KEY);
        }
        rest = after;
    }
    Ok(end)
}
