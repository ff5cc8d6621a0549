//! Compares the claims in an introspector's response with `introspection.expect` (RFC 7662 section 2.2).

use serde_json::Value;

use crate::policy::expected_claims::{Claim, ExpectedClaims};

/// The longest description of a claim's value, in bytes.
const MAX_FOUND: usize = 256;

/// A claim that is not the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The claim.
    pub claim: Claim,
    /// Its value as JSON, or `absent`: for commands that an operator runs, not for logs. At most [`MAX_FOUND`] bytes.
    pub found: Box<str>,
}

/// The first claim in `answer` that is not the expected one. A claim that is absent or has another type than RFC 7662
/// gives it never is.
pub(super) fn find_mismatch(expected: &ExpectedClaims, answer: &Value) -> Option<Mismatch> {
    let differs = |claim: &Claim| {
        !expected.values(*claim).is_empty() && !is_expected(expected, *claim, answer.get(claim.as_str()))
    };
    let claim = Claim::ALL.into_iter().find(differs)?;
    Some(Mismatch { claim, found: describe(answer.get(claim.as_str())) })
}

fn is_expected(expected: &ExpectedClaims, claim: Claim, value: Option<&Value>) -> bool {
    match value {
        Some(Value::String(text)) => expected.accepts(claim, text),
        // Only an audience may be a list (RFC 7519 section 4.1.3).
        Some(Value::Array(items)) if claim == Claim::Audience => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            texts.is_some_and(|texts| texts.into_iter().any(|text| expected.accepts(claim, text)))
        }
        _ => false,
    }
}

fn describe(value: Option<&Value>) -> Box<str> {
    let Some(value) = value else { return "absent".into() };
    let mut text = value.to_string();
    text.truncate(text.floor_char_boundary(MAX_FOUND));
    text.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const API: &str = "https://api.example";
    const ISSUER: &str = "https://issuer.example";

    fn expected() -> ExpectedClaims {
        ExpectedClaims {
            audiences: [API.into(), "legacy-api".into()].into(),
            issuer: Some(ISSUER.into()),
            token_type: Some("Bearer".into()),
            client_ids: ["app".into(), "sync".into()].into(),
        }
    }

    fn fine() -> Value {
        json!({"active": true, "aud": API, "iss": ISSUER, "token_type": "bearer", "client_id": "app"})
    }

    #[test]
    fn every_expected_claim_must_be_present_with_its_type_and_value() {
        let table = [
            ("aud", json!(API), true),
            ("aud", json!("legacy-api"), true),
            ("aud", json!([API]), true),
            ("aud", json!(["https://other.example", "legacy-api"]), true),
            ("aud", json!([]), false),
            ("aud", json!(["https://other.example"]), false),
            ("aud", json!("https://other.example"), false),
            ("aud", json!("https://api.example/"), false),
            ("aud", json!("https://api.example legacy-api"), false),
            ("aud", json!("HTTPS://API.EXAMPLE"), false),
            ("aud", json!(""), false),
            ("aud", json!([API, 7]), false),
            ("aud", json!([[API]]), false),
            ("aud", json!({"0": API}), false),
            ("aud", json!(7), false),
            ("aud", json!(true), false),
            ("aud", Value::Null, false),
            ("iss", json!(ISSUER), true),
            ("iss", json!([ISSUER]), false),
            ("iss", json!("https://issuer.example/"), false),
            ("iss", json!("https://ISSUER.example"), false),
            ("iss", json!({}), false),
            ("iss", Value::Null, false),
            ("token_type", json!("Bearer"), true),
            ("token_type", json!("BEARER"), true),
            ("token_type", json!("DPoP"), false),
            ("token_type", json!("Bearer "), false),
            ("token_type", json!(["Bearer"]), false),
            ("token_type", Value::Null, false),
            ("client_id", json!("app"), true),
            ("client_id", json!("sync"), true),
            ("client_id", json!("App"), false),
            ("client_id", json!("another"), false),
            ("client_id", json!(["app"]), false),
            ("client_id", json!(17), false),
            ("client_id", Value::Null, false),
        ];
        let expected = expected();
        for (claim, value, matches) in table {
            let mut answer = fine();
            answer[claim] = value.clone();
            let found = find_mismatch(&expected, &answer);
            assert_eq!(found.is_none(), matches, "{claim} {value}: {found:?}");
            if let Some(found) = found {
                assert_eq!((found.claim.as_str(), &*found.found), (claim, &*value.to_string()));
            }
        }
        for claim in Claim::ALL {
            let mut answer = fine();
            answer.as_object_mut().unwrap().remove(claim.as_str());
            let absent = Mismatch { claim, found: "absent".into() };
            assert_eq!(find_mismatch(&expected, &answer), Some(absent));
        }
        for answer in [json!([]), json!("aud"), Value::Null] {
            assert!(find_mismatch(&expected, &answer).is_some(), "{answer}");
            assert!(find_mismatch(&ExpectedClaims::default(), &answer).is_none(), "{answer}");
        }
    }

    #[test]
    fn claims_without_an_expected_value_are_not_compared() {
        let expected = ExpectedClaims { issuer: Some(ISSUER.into()), ..ExpectedClaims::default() };
        let answer = json!({"iss": ISSUER, "aud": 7, "token_type": null, "client_id": []});
        assert_eq!(find_mismatch(&expected, &answer), None);
        assert_eq!(find_mismatch(&ExpectedClaims::default(), &json!({})), None);
    }

    #[test]
    fn long_values_are_described_in_bounded_text() {
        let answer = json!({"iss": "ä".repeat(10_000)});
        let found = find_mismatch(&expected(), &answer).unwrap();
        assert!(found.found.len() <= MAX_FOUND && found.found.starts_with("\"ää"), "{}", found.found);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::hash_map("[ab]", inner, 0..2).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        /// Against a rule of the other form: the set of JSON values that are accepted for each claim.
        #[test]
        fn answers_pass_only_with_an_accepted_value_of_each_expected_claim(
            audiences in prop::collection::vec("[ab]{1,2}", 0..3),
            issuer in prop::option::of("[ab]{1,2}"),
            token_type in prop::option::of("[ab]{1,2}"),
            client_ids in prop::collection::vec("[ab]{1,2}", 0..3),
            aud in prop::option::of(value()),
            iss in prop::option::of(value()),
            kind in prop::option::of(value()),
            client in prop::option::of(value()),
        ) {
            let boxed = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
            let expected = ExpectedClaims {
                audiences: boxed(&audiences),
                issuer: issuer.as_deref().map(Into::into),
                token_type: token_type.as_deref().map(Into::into),
                client_ids: boxed(&client_ids),
            };
            let claims = [("aud", &aud), ("iss", &iss), ("token_type", &kind), ("client_id", &client)];
            let present = claims.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
            let answer = Value::from_iter(present);
            let one_of = |texts: &[String], value: &Option<Value>| {
                texts.is_empty() || texts.iter().any(|text| *value == Some(json!(text)))
            };
            let listed = match &aud {
                Some(Value::Array(items)) => items.iter().all(Value::is_string)
                    && items.iter().any(|item| audiences.iter().any(|text| *item == json!(text))),
                _ => false,
            };
            let passes = (one_of(&audiences, &aud) || listed)
                && one_of(issuer.as_slice(), &iss)
                && one_of(token_type.as_slice(), &kind)
                && one_of(&client_ids, &client);
            prop_assert_eq!(find_mismatch(&expected, &answer).is_none(), passes);
        }
    }
}
