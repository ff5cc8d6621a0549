//! The abilities of the guide, in every style.

use super::{SETTINGS, TestEnv};
use crate::abilities::{GUIDE, all_but, guide, shipped_with, token};
use crate::support::decision::Style;

fn assert_guide(env: &TestEnv, style: Style) {
    let mut asker = env.asker(style);
    for ((method, path), ability) in guide() {
        let path = path.replace("{id}", "17");
        for abilities in [&[ability][..], &["*"]] {
            let decision = asker.ask_with(method, &path, &token(abilities));
            assert!(decision.is_allowed(), "{style:?} {method} {path} {abilities:?}: {decision:?}");
        }
        for abilities in [all_but(ability), vec![]] {
            let decision = asker.ask_with(method, &path, &token(&abilities));
            let context = format!("{style:?} {method} {path} {abilities:?}: {decision:?}");
            assert_eq!(decision.status, 403, "{context}");
            assert!(!decision.is_allowed(), "{context}");
            let challenge =
                format!(r#"Bearer realm="stockaj", error="insufficient_scope", scope="{ability}""#);
            assert_eq!(decision.field("www-authenticate"), Some(&*challenge), "{context}");
        }
    }
}

#[test]
fn described_requests_are_allowed_by_exactly_the_abilities_of_the_guide() {
    assert_eq!(GUIDE.len(), 19);
    for (settings, path_prefix) in SETTINGS {
        let env = shipped_with(settings);
        for style in Style::all(path_prefix) {
            assert_guide(&env, *style);
        }
        assert!(env.backend.requests().is_empty());
    }
}
