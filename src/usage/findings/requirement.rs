//! Parses the requirements of a report, which are written as in the ability map.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::policy::ability::Requirement;

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Lists {
    All(Vec<String>),
    Any(Vec<String>),
}

/// Parses what `Display` writes of a requirement; `None` if `text` is something else.
pub(super) fn requirement(text: &str) -> Option<Requirement> {
    let names = |names: &[String], any: bool| {
        let names = names.iter().map(String::as_str);
        if any { Requirement::any(names) } else { Requirement::all(names) }
    };
    let read = match text.as_bytes().first()? {
        b'{' => match decode(text)? {
            Lists::All(all) => names(&all, false),
            Lists::Any(any) => names(&any, true),
        },
        b'\'' => names(&[decode(text)?], false),
        _ => return Requirement::from_word(text).ok(),
    };
    // YAML can express it in other ways, which `Display` does not write.
    read.ok().filter(|requirement| requirement.to_string() == text)
}

fn decode<T: DeserializeOwned>(text: &str) -> Option<T> {
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! { max_depth: 2, max_anchors: 0, max_aliases: 0 },
        with_snippet: false,
    };
    serde_yaml::from_str_with_options(text, options).ok()
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
            "'a'",
            "{any: [a], all: [b]}",
            "{any: [&a a, *a]}",
            "{any: [!!str a]}",
            "{any: [a]} # a",
            "{any: [a]}\n--- b",
            "{",
            "a b",
        ] {
            assert_eq!(requirement(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn display_and_read_are_inverse(names in prop::collection::vec("[!#-\\[\\]-~]{1,6}", 1..4)) {
            let names = || names.iter().map(String::as_str);
            for written in [Requirement::all(names()), Requirement::any(names())].into_iter().flatten() {
                prop_assert_eq!(requirement(&written.to_string()), Some(written));
            }
        }

        #[test]
        fn read_never_panics(text in "(\\{a(ll|ny): \\[)?[a', ]{0,8}(\\]\\})?|\\PC{0,20}") {
            let _ = requirement(&text);
        }
    }

    #[test]
    fn keywords_are_parsed() {
        for written in [Requirement::public(), Requirement::authenticated(), Requirement::deny()] {
            assert_eq!(requirement(&written.to_string()), Some(written));
        }
    }
}
