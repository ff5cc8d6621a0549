//! Masks identifiers and secrets in paths and fields before they are logged.

/// The longest masked path, in bytes.
pub const MAX_PATH: usize = 256;

/// The largest number of segments of a masked path.
pub const MAX_SEGMENTS: usize = 16;

/// The placeholder for a segment that may be an identifier or a secret.
pub const PARAMETER: &str = "{id}";

/// The placeholder for the segments after the limits.
pub const REST: &str = "{*rest}";

/// The longest segment that is not masked, in bytes.
const MAX_SEGMENT: usize = 48;

/// The longest part of a segment that is not masked, in bytes. `-`, `_` and `.` separate the parts.
const MAX_PART: usize = 20;

/// The shortest run of hexadecimal digits that counts as an identifier.
const HEX: usize = 8;

/// The largest number of digits of a segment that is not masked, unless it is a version.
const DIGITS: usize = 2;

/// The length of the random part of a Sanctum token, in bytes.
const SECRET: usize = 40;

/// Masks a canonical path so that it is safe to log. Every segment that is not clearly a word becomes `{id}`, and the
/// segments over [`MAX_PATH`] or [`MAX_SEGMENTS`] become `{*rest}`.
///
/// The result is a pattern of the ability map. It consists of ASCII letters, digits, `-`, `_`, `.`, `/` and the
/// placeholders.
pub fn mask(path: &str) -> String {
    let below_root = path.strip_prefix('/').unwrap_or_default();
    if below_root.is_empty() {
        return "/".to_owned();
    }
    let mut masked = String::with_capacity(path.len().min(MAX_PATH));
    for (index, segment) in below_root.split('/').enumerate() {
        let shown = if is_word(segment) { segment } else { PARAMETER };
        let length = masked.len() + "/".len() + shown.len();
        masked.push('/');
        if index == MAX_SEGMENTS || length + "/".len() + REST.len() > MAX_PATH {
            masked.push_str(REST);
            break;
        }
        masked.push_str(shown);
    }
    masked
}

/// Whether a segment is clearly a word that a developer chose, such as `rental-items` or `v2`.
fn is_word(segment: &str) -> bool {
    if segment.is_empty() || segment.len() > MAX_SEGMENT {
        return false;
    }
    if is_version(segment) {
        return true;
    }
    let parts = || segment.split(['-', '_', '.']);
    let hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let length: usize = parts().map(str::len).sum();
    segment.bytes().any(|byte| byte.is_ascii_alphabetic())
        && segment.bytes().filter(u8::is_ascii_digit).count() <= DIGITS
        && !(length >= HEX && parts().all(hex))
        && parts().all(|part| part.is_empty() || is_part(part))
}

/// `v2`, `V2` or `v2.1`
fn is_version(segment: &str) -> bool {
    let number = |text: &str| (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    segment
        .strip_prefix(['v', 'V'])
        .is_some_and(|numbers| numbers.split('.').count() <= 3 && numbers.split('.').all(number))
}

fn is_part(part: &str) -> bool {
    let bytes = part.as_bytes();
    if bytes.len() > MAX_PART || !bytes.iter().all(u8::is_ascii_alphanumeric) {
        return false;
    }
    if bytes.len() >= HEX && bytes.iter().all(u8::is_ascii_hexdigit) {
        return false;
    }
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    if digits > 0 {
        // `oauth2`, `base64`, `i18n`: at most one number of two digits among lower-case letters.
        let numbers = bytes.split(|byte| !byte.is_ascii_digit()).filter(|number| !number.is_empty()).count();
        let is_lower = bytes.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        return is_lower && digits < bytes.len() && numbers == 1;
    }
    let is_single_case = bytes.iter().all(u8::is_ascii_lowercase) || bytes.iter().all(u8::is_ascii_uppercase);
    // `getItems` and `PDFExport` have no single lower-case letters; base64 has many.
    is_single_case
        || bytes.split(u8::is_ascii_uppercase).filter(|run| !run.is_empty()).all(|run| run.len() > 1)
}

/// Whether a field's value may contain a Sanctum token: a digit before a `|`, or a run of 40 letters and digits with
/// upper case, lower case and digits. Such a value is not logged.
pub fn may_hold_token(value: &[u8]) -> bool {
    // Searching for the rare byte first is faster: the compiler vectorizes it.
    let has_id = value.contains(&b'|')
        && value.windows(2).any(|pair| matches!(pair, [digit, b'|'] if digit.is_ascii_digit()));
    has_id || long_runs(value).any(is_mixed)
}

/// Whether a Host may contain a token or a password: also in what precedes `@`, which no valid Host has.
pub fn may_host_hold_secret(host: &[u8]) -> bool {
    host.contains(&b'@') || may_hold_token(host)
}

/// The runs of at least [`SECRET`] letters and digits.
///
/// Such a run at or after `start` contains the byte at `start + SECRET - 1`, or begins later. So the search goes backwards
/// from that byte to the nearest other character: a few steps for 40 bytes of usual text.
fn long_runs(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = value.get(start..)?;
            match rest.get(..SECRET)?.iter().rposition(|byte| !byte.is_ascii_alphanumeric()) {
                Some(end) => start += end + 1,
                None => {
                    let end = rest.iter().position(|byte| !byte.is_ascii_alphanumeric());
                    let run = &rest[..end.unwrap_or(rest.len())];
                    start += run.len();
                    return Some(run);
                }
            }
        }
    })
}

fn is_mixed(run: &[u8]) -> bool {
    run.iter().any(u8::is_ascii_uppercase)
        && run.iter().any(u8::is_ascii_lowercase)
        && run.iter().any(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::map::{MapBuilder, Unmapped};
    use super::super::path::CanonicalPath;
    use super::*;

    #[test]
    fn words_are_not_masked() {
        for segment in [
            "api",
            "v2",
            "V2",
            "v2.1",
            "v10",
            "items",
            "rental-items",
            "kiosk",
            "search_results",
            "getItems",
            "RentalItems",
            "PDFExport",
            "userID",
            "oauth2",
            "base64",
            "i18n",
            "utf8",
            "s3",
            "2fa",
            "API",
            "README.md",
            "openapi.json",
            ".well-known",
            ".env",
            "wp-login.php",
            "favicon.ico",
            "notification-preferences",
            "internationalization",
            "facade",
            "a",
        ] {
            assert_eq!(mask(&format!("/{segment}")), format!("/{segment}"));
        }
    }

    #[test]
    fn identifiers_and_secrets_are_masked() {
        let long = "a".repeat(MAX_PART + 1);
        let hyphens = "ab-".repeat(20);
        for segment in [
            "1",
            "17",
            "2024",
            "2024-11-30",
            "-",
            "order-17",
            "SKU12",
            "a1b2",
            "abc123",
            "deadbeef",
            "DEADBEEF",
            "dead-beef",
            "550e8400-e29b-41d4-a716-446655440000",
            "550e8400e29b41d4a716446655440000",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01arz3ndektsv4rrffq69g5fav",
            "aGVsbG8gd29ybGQ",
            "YWJjZGVm",
            "c2VjcmV0",
            "QzmXwLkPvTsRbN",
            "dGhpcyBpcyBhIHNlY3JldA==",
            "17|Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq",
            "17%7CQz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq",
            "Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxNyJ9.dBjftJeZ4CVPmB92K27uhbUJU1p1r",
            "anna@example.org",
            "anna%40example.org",
            "a%20b",
            "%C3%A9",
            "é",
            "a b",
            "a:b",
            "a;b",
            "~anna",
            "$where",
            "{id}",
            "v1234",
            "v1.2.3.4",
            "v",
            "sk_live_51H8xY2",
            "ab12-cd34-ef56",
            &long,
            &hyphens,
        ] {
            let expected = if segment == "v" { "/v" } else { "/{id}" };
            assert_eq!(mask(&format!("/{segment}")), expected, "{segment}");
        }
    }

    #[test]
    fn segments_are_masked_individually() {
        for (path, expected) in [
            ("/", "/"),
            ("*", "/"),
            (
                "/api/v2/things/17/parts/550e8400-e29b-41d4-a716-446655440000",
                "/api/v2/things/{id}/parts/{id}",
            ),
            ("/17", "/{id}"),
        ] {
            assert_eq!(mask(path), expected);
        }
    }

    #[test]
    fn long_path_ends_with_the_rest_placeholder() {
        assert_eq!(mask(&"/a".repeat(16)), "/a".repeat(16));
        assert_eq!(mask(&"/a".repeat(17)), format!("{}/{{*rest}}", "/a".repeat(16)));
        assert_eq!(mask(&"/a".repeat(5000)), format!("{}/{{*rest}}", "/a".repeat(16)));
        let long = mask(&format!("/{}", ["twenty-four-and-six-teen"; 16].join("/")));
        assert!(long.len() <= MAX_PATH && long.ends_with("/{*rest}"), "{long}");
    }

    #[test]
    fn values_with_a_token_are_recognised() {
        for (value, expected) in [
            ("17|x", true),
            ("curl/8.5 (17|x)", true),
            ("Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq", true),
            ("id=Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq;", true),
            ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)", false),
            ("a|b", false),
            ("|17", false),
            ("550e8400-e29b-41d4-a716-446655440000", false),
            ("2fd4e1c67a2d28fced849ee1bb76e7391b93eb12", false),
            ("", false),
        ] {
            assert_eq!(may_hold_token(value.as_bytes()), expected, "{value}");
        }
        assert!(!may_hold_token(&b"a".repeat(128)));
    }

    proptest! {
        #[test]
        fn masked_path_is_short_and_has_no_special_characters(path in "(/([a-zA-Z0-9._|%@é~-]{0,60}|[a-z]{1,9}|[0-9a-f]{8,40})){1,40}") {
            let masked = mask(&path);
            prop_assert!(masked.len() <= MAX_PATH, "{}", masked);
            let plain = masked.replace(PARAMETER, "").replace(REST, "");
            prop_assert!(plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte)), "{}", masked);
            prop_assert!(!masked.contains(['|', '%', '@']));
            for segment in masked[1..].split('/') {
                let digits = segment.bytes().filter(u8::is_ascii_digit).count();
                prop_assert!(digits <= 9, "{}", segment);
                prop_assert!(segment.len() <= MAX_SEGMENT, "{}", segment);
            }
        }

        #[test]
        fn token_is_recognised_at_any_position(
            value in "([A-Za-z0-9]{0,45}[ -~é]{0,3}){0,5}|[a-c0-2|A ]{0,60}|[Aa1]{38,42}[ ]?[Aa1]{38,42}"
        ) {
            let bytes = value.as_bytes();
            let has_id = bytes.windows(2).any(|pair| pair[0].is_ascii_digit() && pair[1] == b'|');
            let has_secret = bytes.split(|byte| !byte.is_ascii_alphanumeric()).any(|run| {
                run.len() >= SECRET
                    && run.iter().any(u8::is_ascii_uppercase)
                    && run.iter().any(u8::is_ascii_lowercase)
                    && run.iter().any(u8::is_ascii_digit)
            });
            prop_assert_eq!(may_hold_token(bytes), has_id || has_secret, "{}", value);
        }

        #[test]
        fn random_identifiers_are_always_masked(
            id in prop_oneof![
                "[0-9]{1,20}",
                "[0-9a-f]{8,64}",
                "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
                "[0-9]{1,9}\\|[A-Za-z0-9]{40}",
                "[a-z]{1,9}@[a-z]{1,9}\\.[a-z]{2,3}",
                "[A-Za-z0-9]{21,80}",
            ]
        ) {
            prop_assert_eq!(mask(&format!("/items/{}", id)), "/items/{id}");
        }

        #[test]
        fn masked_canonical_path_is_a_pattern(path in "(/[a-z0-9._-]{1,30}){1,20}") {
            if let Ok(path) = CanonicalPath::new(&path) {
                let mut number = 0;
                let pattern: Vec<String> = mask(path.as_str()).split('/').map(|segment| match segment {
                    PARAMETER => { number += 1; format!("{{id{number}}}") }
                    segment => segment.to_owned(),
                }).collect();
                prop_assert!(MapBuilder::new(Unmapped::Deny).route(&pattern.join("/"), []).is_ok(), "{:?}", pattern);
            }
        }
    }
}
