//! Checks the name of a token against the naming convention of the guide.

/// A violation of the naming convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flaw {
    /// The name has other characters than lower-case letters, digits and single hyphens between them.
    #[error("Its name does not consist of words of lower-case letters and digits, joined by hyphens.")]
    Form,
    /// The name is one word.
    #[error("Its name is a single word: it lacks a purpose or an environment.")]
    Single,
    /// The last word is neither an environment nor a version.
    #[error("Its name does not end with an environment or a version.")]
    Environment,
}

/// The violation of `purpose-environment`, such as `warehouse-scanner-prod`. A version such as `v2` may replace the
/// environment.
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
    fn names_need_a_purpose_and_an_environment_or_version() {
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
