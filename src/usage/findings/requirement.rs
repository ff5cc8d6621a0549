//! Parses the text form of a requirement, which reports and the ledger store.

use super::Requirement;

impl Requirement {
    /// Parses what [`Display`](std::fmt::Display) writes; `None` if `text` is something else.
    pub fn read(text: &str) -> Option<Self> {
        let list = |word: &str| text.strip_prefix(word)?.strip_suffix("]}");
        let of_list = |text: &str, any: bool| {
            let names = names(text)?;
            let names = names.iter().map(String::as_str);
            if any { Self::any(names).ok() } else { Self::all(names).ok() }
        };
        match (list("{all: ["), list("{any: [")) {
            (Some(text), _) => of_list(text, false),
            (None, Some(text)) => of_list(text, true),
            (None, None) if text.starts_with('\'') => match &*names(text)? {
                [name] => Self::all([name.as_str()]).ok(),
                _ => None,
            },
            (None, None) => Self::from_word(text).ok(),
        }
    }
}

/// Parses names separated by `, `, plain or quoted.
fn names(text: &str) -> Option<Vec<String>> {
    let (mut names, mut rest) = (Vec::new(), text);
    loop {
        let (name, after) = match rest.strip_prefix('\'') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        names.push(name);
        match after.strip_prefix(", ") {
            Some(after) => rest = after,
            None => return after.is_empty().then_some(names),
        }
    }
}

/// The text before the closing quote, in which `''` is one quote, and the text after it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let (mut name, mut rest) = (String::new(), text);
    loop {
        let (before, after) = rest.split_once('\'')?;
        name.push_str(before);
        match after.strip_prefix('\'') {
            Some(after) => {
                name.push('\'');
                rest = after;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_text_is_not_parsed() {
        for text in [
            "",
            "{any: []}",
            "{any: [a, deny]}",
            "{any: [a,b]}",
            "{any: [a, ]}",
            "{any: ['a]}",
            "{any: [a}",
            "{all: ['a'b]}",
            "'a', 'b'",
            "a b",
        ] {
            assert_eq!(Requirement::read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn display_and_read_are_inverse(names in prop::collection::vec("[!#-\\[\\]-~]{1,6}", 1..4)) {
            let names = || names.iter().map(String::as_str);
            for requirement in [Requirement::all(names()), Requirement::any(names())].into_iter().flatten() {
                prop_assert_eq!(Requirement::read(&requirement.to_string()), Some(requirement));
            }
        }

        #[test]
        fn read_never_panics(text in "(\\{a(ll|ny): \\[)?[a', ]{0,8}(\\]\\})?|\\PC{0,20}") {
            let _ = Requirement::read(&text);
        }
    }

    #[test]
    fn keywords_are_parsed() {
        for requirement in [Requirement::public(), Requirement::authenticated(), Requirement::deny()] {
            assert_eq!(Requirement::read(&requirement.to_string()), Some(requirement));
        }
    }
}
