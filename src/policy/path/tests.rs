use proptest::prelude::*;

use super::*;

#[test]
fn canonical_paths_are_borrowed() {
    for path in [
        "/",
        "/up",
        "/api/v2/items",
        "/api/v2/items/5",
        "/a-b._~!$&'()*+,=:@",
        "/a|b[0]",
        "/.well-known/x",
        "/a/...",
        "/a/..b",
        "/a/b..",
        "/a/.b",
        "/file.json",
        "/%C3%A9",
        "/%E2%82%AC",
        "/%F0%9F%98%80",
        "/a%20b",
        "/a%3Fb",
        "/a%23b",
        "/100%25",
        "/100%25%20x",
        "/a%252",
        "/a%25zz",
        "/a%2569",
        "/a%253Bx",
        "/a%3Bx",
        "/a%22%3C%3E%5E%60%7B%7D",
        "/index.ph",
        "/xindex.php",
        "/Index",
    ] {
        let canonical = CanonicalPath::new(path).unwrap_or_else(|refusal| panic!("{path}: {refusal:?}"));
        assert_eq!(canonical.as_str(), path);
        assert!(canonical.is_borrowed(), "{path}");
    }
}

#[test]
fn other_spellings_are_canonicalised() {
    for (path, expected) in [
        ("/up/", "/up"),
        ("/api/v2/items/", "/api/v2/items"),
        ("/%61pi", "/api"),
        ("/%61%70%69/", "/api"),
        ("/%7Ex%2d%5F%2ejson", "/~x-_.json"),
        ("/a%2E%2E", "/a.."),
        ("/%2E%2E%2E", "/..."),
        ("/%c3%a9", "/%C3%A9"),
        ("/%C3%a9%2b", "/%C3%A9%2B"),
        ("/a%3fb%20c/%41", "/a%3Fb%20c/A"),
        ("/100%25/", "/100%25"),
    ] {
        let canonical = CanonicalPath::new(path).unwrap_or_else(|refusal| panic!("{path}: {refusal:?}"));
        assert_eq!(canonical.as_str(), expected, "{path}");
        assert!(!canonical.is_borrowed(), "{path}");
    }
}

#[test]
fn ambiguous_paths_are_refused() {
    for (why, paths) in [
        (NOT_ABSOLUTE, &["", "a", "*", "api/v2", "?", "http://h/"][..]),
        (EMPTY_SEGMENT, &["//", "//a", "/a//", "/a//b", "///", "/%61//b"]),
        (
            DOT_SEGMENT,
            &[
                "/.",
                "/..",
                "/./",
                "/../",
                "/a/..",
                "/a/.",
                "/a/../b",
                "/a/./b",
                "/%2e",
                "/%2e%2E/a",
                "/a/.%2e",
                "/a/%2e./b",
                "/..%2e/../a",
            ],
        ),
        ("encoded separator in the path", &["/a%2Fb", "/a%2fb", "/%5C", "/a%5cb", "/%2f"]),
        (
            "encoded control character in the path",
            &["/%00", "/a%0A", "/a%0d%0a", "/%1f", "/a%7F", "/a%09", "/%C2%80", "/%c2%9F"],
        ),
        (
            "percent sign without two hex digits",
            &["/%", "/a%", "/a%2", "/%zz", "/%2g", "/%g2", "/%%32F", "/a%u002f", "/%2/"],
        ),
        (
            "path is not UTF-8 once decoded",
            &[
                "/%80",
                "/%C3",
                "/%C3/",
                "/%C3a9",
                "/%C3%28",
                "/%C0%AF",
                "/%C1%9C",
                "/%E0%80%AF",
                "/%ED%A0%80",
                "/%F4%90%80%80",
                "/%F8%88%80%80%80",
                "/%FF",
                "/%E2%82",
                "/%C3%",
                "/%F0%9F%98",
            ],
        ),
        (
            "separator or control character in the path, encoded more than once",
            &[
                "/a%252Fb",
                "/a%252fb",
                "/a%255Cb",
                "/a%2500",
                "/a%250a",
                "/a%25252F",
                "/a%2525252525252F",
                "/a%25%32F",
                "/a%25%32%46",
                "/a%252%46",
                "/a%25252%2546",
                "/%25%32%35%32F",
                "/%252525%32F",
            ],
        ),
        (DOT_SEGMENT, &["/%252e", "/%252e%252e/a", "/a/%252E.", "/a/.%25252e/b", "/a/%25%32%65"]),
        ("backslash in the path", &["/a\\b", "/\\"]),
        ("path parameter", &["/a;b", "/;", "/a/..;/b", "/a;jsessionid=1"]),
        ("fragment in the target", &["/a#b", "/#"]),
        ("query in the path", &["/a?b"]),
        ("raw byte beyond ASCII in the path", &["/é", "/a\u{ff0f}b", "/\u{80}"]),
        (
            "character that a path cannot hold",
            &["/a b", "/a\0", "/a\n", "/a\tb", "/\"", "/<a>", "/{id}", "/a^b", "/`", "/\u{7f}"],
        ),
    ] {
        for path in paths {
            assert_eq!(CanonicalPath::new(path), Err(Refusal::BadRequest(why)), "{path:?}");
        }
    }
}

#[test]
fn front_controller_is_seen_in_any_segment_case_and_encoding() {
    for path in [
        "/index.php",
        "/index.php/",
        "/index.php/api/v2/items",
        "/INDEX.PHP/x",
        "/%69ndex.php/x",
        "/index%2ephp",
        "/index.phpapi/v2/items/5",
        "/index%2Ephp%20x",
        "/%2569ndex.php/a",
        "/index%252ephp",
        "/sub/index.php",
        "/sub/index.php/api/v2/items",
        "/sub/dir/Index.Php/x",
        "/sub/index%2EPHP/x",
        "/sub/%69%6e%64%65%78%2e%70%68%70",
        "/sub/%2569ndex.php/a",
        "/sub/%25252569ndex.php/a",
        "/sub/index.phpapi/v2/items/5",
        "/a/b/c/index.php.bak",
    ] {
        assert!(CanonicalPath::new(path).unwrap().names_front_controller(), "{path}");
        let owned = CanonicalPath::new(path).unwrap().into_owned();
        assert!(owned.names_front_controller(), "{path}");
        assert!(owned.as_str().split('/').any(|segment| is_front_controller(segment.as_bytes())), "{path}");
    }
    for path in [
        "/",
        "/index",
        "/index.ph/p",
        "/xindex.php",
        "/a/xindex.php",
        "/index/.php",
        "/a.index.php",
        "/index%20.php",
    ] {
        assert!(!CanonicalPath::new(path).unwrap().names_front_controller(), "{path}");
        assert!(!path.split('/').any(|segment| is_front_controller(segment.as_bytes())), "{path}");
    }
}

#[test]
fn nested_encodings_are_decoded_in_one_pass() {
    let path = format!("/a%{}2F", "25".repeat(100_000));
    assert!(CanonicalPath::new(&path).is_err());
    let path = format!("/a{}x", "%25".repeat(100_000));
    assert!(CanonicalPath::new(&path).is_ok());
}

/// Decodes like a decoder that keeps a stray `%`.
fn decode(path: &[u8]) -> Vec<u8> {
    decoded(path).collect()
}

fn raw_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => "[a-z0-9.]{1,3}",
        3 => Just("/".to_owned()),
        2 => Just("%25".to_owned()),
        2 => "%2[5EFef]",
        1 => "%[0-9A-Fa-f]{2}",
        1 => "%[0-9a-g]{0,2}",
        1 => "2[5EFef]",
        1 => Just("index.php".to_owned()),
        1 => "[ -~é]",
        1 => "%C3%A9",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn canonicalisation_is_idempotent_and_keeps_the_meaning(raw in raw_path()) {
        if let Ok(path) = CanonicalPath::new(&raw) {
            let again = CanonicalPath::new(path.as_str()).unwrap();
            prop_assert_eq!(again.as_str(), path.as_str());
            prop_assert!(again.is_borrowed());
            prop_assert_eq!(path.is_borrowed(), path.as_str() == raw);
            // The decoded bytes are those of the raw path, without a trailing slash.
            let mut sent = decode(raw.as_bytes());
            if sent.len() > 1 && sent.ends_with(b"/") {
                sent.pop();
            }
            prop_assert_eq!(decode(path.as_str().as_bytes()), sent);
        }
    }

    #[test]
    fn no_number_of_decodings_reveals_another_path(raw in raw_path()) {
        if let Ok(path) = CanonicalPath::new(&raw) {
            let separators = path.as_str().matches('/').count();
            let mut view = path.as_str().as_bytes().to_vec();
            loop {
                prop_assert_eq!(view.iter().filter(|&&byte| byte == b'/').count(), separators);
                prop_assert!(!view.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\'));
                let segments: Vec<&[u8]> = view[1..].split(|&byte| byte == b'/').collect();
                prop_assert!(!segments.iter().any(|segment| matches!(*segment, b"." | b"..")));
                prop_assert!(segments.len() == 1 || !segments.contains(&&b""[..]));
                let is_named =
                    segments.iter().any(|it| it.to_ascii_lowercase().starts_with(b"index.php"));
                prop_assert!(!is_named || path.names_front_controller());
                let next = decode(&view);
                if next == view {
                    break;
                }
                view = next;
            }
        }
    }
}
