use httlib_hpack::Encoder;
use proptest::prelude::*;

use super::*;

const FRAGMENT: Option<&str> = Some("fragment in the target");
const SCHEME: Option<&str> = Some("scheme that is not served");

/// The result for each of these blocks of one connection, scanned in pieces of `size`.
fn found(blocks: &[Vec<u8>], size: usize) -> Vec<Option<&'static str>> {
    let mut scanner = Scanner::default();
    let mut read = |block: &Vec<u8>| {
        block.chunks(size).for_each(|piece| scanner.read(piece).unwrap());
        scanner.end().unwrap()
    };
    blocks.iter().map(&mut read).collect()
}

fn assert_found(blocks: &[Vec<u8>], expected: &[Option<&str>]) {
    for size in [1, 2, 3, usize::MAX] {
        assert_eq!(found(blocks, size), expected, "in pieces of {size}: {blocks:x?}");
    }
}

fn string(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 127);
    [&[length], text.as_bytes()].concat()
}

/// A literal whose first byte selects the name.
fn literal(first: u8, value: &str) -> Vec<u8> {
    [vec![first], string(value)].concat()
}

#[test]
fn fragment_is_found_in_every_representation_of_a_path() {
    for first in [0x44, 0x45, 0x04, 0x05, 0x14, 0x15] {
        for (path, expected) in [
            ("/a", None),
            ("/a#b", FRAGMENT),
            ("#", FRAGMENT),
            ("/a?b#", FRAGMENT),
            ("", None),
            ("/a%23b", None),
        ] {
            assert_found(&[literal(first, path)], &[expected]);
        }
    }
    for first in [0x40, 0x00, 0x10] {
        let named = |name: &str, value: &str| [vec![first], string(name), string(value)].concat();
        assert_found(&[named(":path", "/a#b")], &[FRAGMENT]);
        for name in ["path", ":paths", ":pat", "referer", ":authority", ""] {
            assert_found(&[named(name, "/a#b")], &[None]);
        }
    }
    // Static entries, a field and a table size update.
    assert_found(&[vec![0x82, 0x84, 0x85, 0x86, 0x87, 0x3f, 0x01]], &[None]);
}

#[test]
fn fragment_is_found_in_a_huffman_code() {
    for flags in 0..16 {
        for (path, expected) in [
            ("/a", None),
            ("/a#b", FRAGMENT),
            ("#", FRAGMENT),
            ("/>>>>>>>>>>>><|~^}", None),
            ("/\u{e9}\u{20ac}\u{1f600}\0\u{1}\u{7f}", None),
            ("/\u{e9}\u{20ac}\u{1f600}\0\u{1}\u{7f}#", FRAGMENT),
        ] {
            let mut block = Vec::new();
            let field = (b":path".to_vec(), path.as_bytes().to_vec(), flags);
            Encoder::default().encode(field, &mut block).unwrap();
            assert_found(&[block], &[expected]);
        }
    }
}

#[test]
fn symbol_length_follows_from_its_first_bits() {
    for symbol in 0..=u8::MAX {
        for count in 1..=8 {
            let mut block = Vec::new();
            let value = vec![symbol; count];
            Encoder::default().encode((b"a".to_vec(), value, Encoder::HUFFMAN_VALUE), &mut block).unwrap();
            // One byte for the representation, two for the name, one for the length.
            let code = &block[4..];
            let mut text = Text { is_huffman: true, ..Text::default() };
            assert_eq!(text.decode(code), symbol == b'#', "{symbol}");
            // The remainder is padding: less than a byte of ones.
            assert!(text.undecoded < 8, "{symbol}: {} bits", text.undecoded);
            let padding = (1_u64 << text.undecoded) - 1;
            assert_eq!(text.bits & padding, padding, "{symbol}");
        }
    }
}

#[test]
fn huffman_constants_encode_their_names_and_schemes() {
    for (text, code) in [
        (":path", HUFFMAN_PATH),
        (":scheme", HUFFMAN_SCHEME),
        ("http", HUFFMAN_HTTP),
        ("https", HUFFMAN_HTTPS),
    ] {
        let mut block = Vec::new();
        let field = (b"a".to_vec(), text.as_bytes().to_vec(), Encoder::HUFFMAN_VALUE);
        Encoder::default().encode(field, &mut block).unwrap();
        assert_eq!(&block[4..], code, "{text}");
    }
}

#[test]
fn only_http_and_https_are_schemes() {
    for (scheme, expected) in
        [("http", None), ("https", None), ("HTTP", SCHEME), ("ftp", SCHEME), ("", SCHEME), ("httpsx", SCHEME)]
    {
        for flags in [0, Encoder::HUFFMAN_VALUE, Encoder::HUFFMAN_NAME | Encoder::WITH_INDEXING] {
            let mut block = Vec::new();
            let field = (b":scheme".to_vec(), scheme.as_bytes().to_vec(), flags);
            Encoder::default().encode(field, &mut block).unwrap();
            assert_found(&[block], &[expected]);
        }
        assert_found(&[literal(0x46, scheme), literal(0x07, scheme)], &[expected, expected]);
    }
}

#[test]
fn index_of_an_inserted_field_is_resolved() {
    let insert_path = literal(0x44, "/a#b");
    let insert_other = literal(0x40 | 32, "a#b");
    // Index 62 is the newest insertion.
    let newest = vec![0x80 | 62];
    let newest_name = |value: &str| literal(0x40 | 62, value);
    assert_found(&[insert_path.clone(), newest.clone()], &[FRAGMENT, FRAGMENT]);
    assert_found(
        &[insert_path.clone(), insert_other.clone(), newest.clone(), vec![0x80 | 63]],
        &[FRAGMENT, None, None, FRAGMENT],
    );
    assert_found(
        &[literal(0x44, "/a"), newest.clone(), newest_name("/b#"), newest_name("/c"), newest.clone()],
        &[None, None, FRAGMENT, None, None],
    );
    assert_found(&[insert_other, newest_name("a#b")], &[None, None]);
    // A size of 0 empties h2's table; the next insertion is the newest in both.
    let emptied = [vec![0x20], literal(0x44, "/x")].concat();
    assert_found(&[insert_path.clone(), emptied, newest_name("/y#")], &[FRAGMENT, None, FRAGMENT]);
    // The largest number of entries.
    let many: Vec<u8> = (0..127).flat_map(|_| literal(0x40 | 32, "")).collect();
    // 62 + 127 = 189 = 127 + 62, and in a literal 63 + 126.
    let oldest = vec![0xff, 62];
    assert_found(&[insert_path.clone(), many, oldest], &[FRAGMENT, None, FRAGMENT]);
    let mut scanner = Scanner::default();
    for _ in 0..10_000 {
        scanner.read(&insert_path).unwrap();
    }
    assert!(scanner.inserted.len() == MAX_ENTRIES && scanner.inserted.capacity() <= 2 * MAX_ENTRIES);
}

#[test]
fn block_that_ends_within_a_field_is_malformed() {
    for block in [&[0x40][..], &[0x00, 1], &[0x00, 1, b'a'], &[0x04, 2, b'/'], &[0xff], &[0x3f, 0x80]] {
        let mut scanner = Scanner::default();
        scanner.read(block).unwrap();
        assert_eq!(scanner.end(), Err(Malformed), "{block:x?}");
    }
    for block in [&[0xff; 6][..], &[0x00, 0x7f, 0xff, 0xff, 0xff, 0xff], &[0x1f, 0x80, 0x80, 0x80, 0x80]] {
        assert_eq!(Scanner::default().read(block), Err(Malformed), "{block:x?}");
    }
    // The longest integer that h2 accepts.
    assert_eq!(Scanner::default().read(&[0xff, 0xff, 0xff, 0xff, 0x7f]), Ok(()));
}

fn field() -> impl Strategy<Value = (String, String)> {
    let name = "(:path|:scheme|:method|referer|[a-c]{1,3})";
    (name, "([ -~]{0,12}|/[a-z#]{0,4}|https?|GET|[#-&\u{e9}\u{20ac}]{0,40})")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Compares with an encoder that has a dynamic table, for every representation of fields.
    #[test]
    fn decoded_fields_equal_the_encoded_ones(
        blocks in prop::collection::vec(prop::collection::vec((field(), 0_u8..32), 0..8), 1..12),
        size in 1..40_usize,
    ) {
        let mut encoder = Encoder::with_dynamic_size(4096);
        let mut encoded = Vec::new();
        let mut expected = Vec::new();
        for fields in &blocks {
            let mut block = Vec::new();
            for ((name, value), flags) in fields {
                encoder.encode((name.clone().into_bytes(), value.clone().into_bytes(), *flags), &mut block).unwrap();
            }
            encoded.push(block);
            expected.push(fields.iter().find_map(|((name, value), _)| match &**name {
                ":path" if value.contains('#') => FRAGMENT,
                ":scheme" if value != "http" && value != "https" => SCHEME,
                _ => None,
            }));
        }
        prop_assert_eq!(found(&encoded, size), expected);
    }

    #[test]
    fn arbitrary_header_blocks_do_not_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
        let mut scanner = Scanner::default();
        for piece in pieces {
            if scanner.read(&piece).is_err() || piece.len() > 60 && scanner.end().is_err() {
                break;
            }
        }
    }
}
