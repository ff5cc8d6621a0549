//! Interpolation of `${NAME}` in string values.

use std::borrow::Cow;

/// Looks up environment variables: [`std::env::var`], or a stand-in in tests.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// An error in a `${…}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InterpolationError {
    #[error("`{0}` is not set in the environment and has no default")]
    Unset(String),
    #[error("`${{` without a closing `}}`")]
    Unclosed,
    #[error("`{0}` is not a valid variable name")]
    Name(String),
}

/// A value after interpolation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Interpolated<'a> {
    pub(crate) text: Cow<'a, str>,
    /// Whether any of it came from the environment or a default: if so, it may be a number or a boolean although it is
    /// quoted.
    pub(crate) changed: bool,
}

/// Replaces `${NAME}` and `${NAME:-default}`; as in a shell, the default also replaces an empty value. `$${` is a
/// literal `${`. Interpolated values are not interpolated again.
pub(crate) fn interpolate<'a>(
    text: &'a str,
    environment: &Environment<'_>,
) -> Result<Interpolated<'a>, InterpolationError> {
    if !text.contains("${") {
        return Ok(Interpolated { text: Cow::Borrowed(text), changed: false });
    }
    let mut result = String::new();
    let mut changed = false;
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = (&rest[..start], &rest[start + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = after;
            continue;
        }
        result.push_str(before);
        let (expression, after) = after.split_once('}').ok_or(InterpolationError::Unclosed)?;
        let (name, default) = match expression.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (expression, None),
        };
        if !is_name(name) {
            return Err(InterpolationError::Name(name.to_owned()));
        }
        match (environment(name), default) {
            (Some(value), None) => result.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => result.push_str(&value),
            (_, Some(default)) => result.push_str(default),
            (None, None) => return Err(InterpolationError::Unset(name.to_owned())),
        }
        changed = true;
        rest = after;
    }
    result.push_str(rest);
    Ok(Interpolated { text: Cow::Owned(result), changed })
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("8080".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${PORT}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn names_and_defaults_are_replaced() {
        let table = [
            ("plain $PORT", "plain $PORT", false),
            ("${PORT}", "8080", true),
            ("a${PORT}b${EMPTY}c", "a8080bc", true),
            ("${NONE:-5s}", "5s", true),
            ("${EMPTY:-5s}", "5s", true),
            ("${NONE:-}", "", true),
            ("${PORT:-1}", "8080", true),
            ("$${PORT}", "${PORT}", false),
            ("$$${PORT}", "$${PORT}", false),
            ("${TRICK}", "${PORT}", true),
        ];
        for (text, expected, changed) in table {
            let found = interpolate(text, &environment).unwrap();
            assert_eq!((&*found.text, found.changed), (expected, changed), "{text}");
        }
    }

    #[test]
    fn malformed_and_unset_names_are_errors() {
        use InterpolationError::{Name, Unclosed, Unset};
        let table = [
            ("${NONE}", Unset("NONE".to_owned())),
            ("${PORT", Unclosed),
            ("${}", Name(String::new())),
            ("${1A}", Name("1A".to_owned())),
            ("${A B:-x}", Name("A B".to_owned())),
        ];
        for (text, expected) in table {
            assert_eq!(interpolate(text, &environment), Err(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn interpolation_never_panics(text in "[$ {}:a-z-]{0,20}|\\PC{0,40}") {
            let _ = interpolate(&text, &environment);
        }

        #[test]
        fn text_without_a_dollar_stays_the_same(text in "[^$]{0,40}") {
            let found = interpolate(&text, &environment).unwrap();
            prop_assert_eq!(&*found.text, &*text);
        }
    }
}
