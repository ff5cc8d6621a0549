//! Writes YAML.

/// A text as a scalar on one line, quoted if a plain scalar would have another meaning. It may be the key of a block
/// mapping.
pub(crate) fn scalar(text: &str) -> String {
    let options = serde_yaml::ser_options! {
        yaml_12: true,
        no_lang_directive: true,
        prefer_block_scalars: false,
    };
    let mut yaml = serde_yaml::to_string_with_options(&text, options)
        // Cannot happen. A JSON string is a YAML scalar.
        .unwrap_or_else(|_| serde_json::Value::from(text).to_string());
    yaml.truncate(yaml.trim_end_matches('\n').len());
    yaml
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::language::{Decoder, SecretSections, Source, Value};

    #[test]
    fn text_is_quoted_if_it_would_be_read_as_something_else() {
        for (text, yaml) in [
            ("/api/v2/items/{id}", "/api/v2/items/{id}"),
            ("/a:b/it's", "/a:b/it's"),
            ("/a:", "\"/a:\""),
            ("/a #b", "\"/a #b\""),
            ("", "\"\""),
            ("true", "\"true\""),
            ("no", "no"),
            ("1.5", "\"1.5\""),
            ("a\n\u{85}\u{feff}", "\"a\\n\\N\\uFEFF\""),
        ] {
            assert_eq!(scalar(text), yaml);
        }
        assert!(!scalar(&"word ".repeat(100)).contains('\n'));
    }

    proptest! {
        /// Quoted as a key and as a value.
        #[test]
        fn text_is_read_as_it_was_written(text in "[a{}:#'\" -]{0,6}|\\PC{0,12}|(?s).{0,6}|[0-9.eE_x+-]{1,5}") {
            let yaml = format!("{}: {}\n", scalar(&text), scalar(&text));
            let mut decoder = Decoder::new(&|_| None, &SecretSections::NONE);
            let tree = decoder.parse(Source::of_text("a", yaml.clone()));
            let [entry] = tree.as_deref().unwrap().entries() else { panic!("{yaml}") };
            let Value::Scalar { text: value, .. } = &entry.value.value else { panic!("{yaml}") };
            prop_assert_eq!((&*entry.key.text, &**value), (&*text, &*text), "{}", yaml);
        }
    }
}
