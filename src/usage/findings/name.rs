//! Whether a token's name says what the guide wants it to say.

/// What a name lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flaw {
    /// Something else than lower-case letters, digits and single hyphens between them.
    #[error("Its name is not words of lower-case letters and digits with hyphens between them.")]
    Form,
    /// One word.
    #[error("Its name is a single word: it does not say both purpose and environment.")]
    Single,
    /// The last word is neither.
    #[error("Its name ends with no environment and no version.")]
    Environment,
}

/// What a name lacks of `purpose-environment`, such as `warehouse-scanner-prod`; `v2` is as good as an environment.
pub(super) fn flaw(name: &str, environments: &[Box<str>]) -> Option<Flaw> {
    let words: Vec<&str> = name.split('-').collect();
    let is_word = |word: &&str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    match &*words {
        words if !words.iter().all(is_word) => Some(Flaw::Form),
        [] | [_] => Some(Flaw::Single),
        [.., last] if is_version(last) || environments.iter().any(|it| **it == **last) => None,
        _ => Some(Flaw::Environment),
    }
}

fn is_version(word: &str) -> bool {
    let digits = word.strip_prefix('v').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::FindingRules;

    #[test]
    fn purpose_and_environment() {
        let environments = FindingRules::default().environments.unwrap();
        for (name, expected) in [
            ("warehouse-scanner-prod", None),
            ("inventory-sync-staging", None),
            ("mobile-app-v2", None),
            ("ci-testing", None),
            ("3pl-v10", None),
            ("a-prod", None),
            ("", Some(Flaw::Form)),
            ("-prod", Some(Flaw::Form)),
            ("scanner-", Some(Flaw::Form)),
            ("scanner--prod", Some(Flaw::Form)),
            ("Scanner-prod", Some(Flaw::Form)),
            ("scanner_prod", Some(Flaw::Form)),
            ("scanner prod", Some(Flaw::Form)),
            ("läger-prod", Some(Flaw::Form)),
            ("scanner-prod\n", Some(Flaw::Form)),
            ("prod", Some(Flaw::Single)),
            ("scanner", Some(Flaw::Single)),
            ("v2", Some(Flaw::Single)),
            ("prod-scanner", Some(Flaw::Environment)),
            ("warehouse-scanner", Some(Flaw::Environment)),
            ("mobile-app-v", Some(Flaw::Environment)),
            ("mobile-app-2", Some(Flaw::Environment)),
            ("mobile-app-v2b", Some(Flaw::Environment)),
            ("mobile-app-canary", Some(Flaw::Environment)),
        ] {
            assert_eq!(flaw(name, &environments), expected, "{name:?}");
        }
        assert_eq!(flaw("mobile-app-canary", &["canary".into()]), None);
    }
}
