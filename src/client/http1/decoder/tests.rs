use http::HeaderValue;

use super::*;

/// Data and trailers.
type Whole = (Vec<u8>, HeaderMap);

/// Decodes `pieces`; returns the result and the unread rest.
fn decode(framing: Framing, pieces: &[&[u8]]) -> (Result<Whole, Malformed>, Vec<u8>) {
    let mut decoder = Decoder::new(framing);
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    for (index, piece) in pieces.iter().enumerate() {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Decoded::Data(more)) => data.extend_from_slice(&more),
                Ok(Decoded::Trailers(fields)) => trailers = fields,
                Ok(Decoded::Incomplete) => break,
                Ok(Decoded::End) => {
                    let mut rest = input.to_vec();
                    rest.extend(pieces[index + 1..].concat());
                    return (Ok((data, trailers)), rest);
                }
                Err(malformed) => return (Err(malformed), Vec::new()),
            }
        }
    }
    panic!("no end of {pieces:?}");
}

#[test]
fn chunked_body_is_decoded_wherever_it_is_divided() {
    let body = b"5\r\nhello\r\n006;x=\"y\"\r\n world\r\n0 \r\nX-Sum: 1\r\nY: 2\r\n\r\nrest";
    for cut in 0..body.len() {
        let (decoded, rest) = decode(Framing::Chunked, &[&body[..cut], &body[cut..]]);
        let (data, trailers) = decoded.unwrap();
        assert_eq!((&*data, &*rest), (&b"hello world"[..], &b"rest"[..]), "cut at {cut}");
        assert_eq!((trailers.len(), trailers["x-sum"].as_bytes()), (2, &b"1"[..]), "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(decode(Framing::Chunked, &bytes).1, b"rest");
}

#[test]
fn malformed_chunks_are_rejected() {
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(MAX_EXTENSION));
    let trailers = format!("0\r\nA: {}\r\n\r\n", "x".repeat(MAX_TRAILERS));
    let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
    for (body, expected) in [
        ("x\r\n", Malformed::ChunkSize),
        ("\r\n", Malformed::ChunkSize),
        ("5\nhello", Malformed::ChunkSize),
        ("5\rxhello", Malformed::ChunkSize),
        ("-5\r\n", Malformed::ChunkSize),
        ("0x5\r\n", Malformed::ChunkSize),
        (" 5\r\n", Malformed::ChunkSize),
        ("5;a\nb\r\nhello", Malformed::ChunkSize),
        ("00000000000000005\r\nhello", Malformed::ChunkSize),
        ("5\r\nhello!\r\n", Malformed::ChunkEnd),
        ("5\r\nhello\n0\r\n\r\n", Malformed::ChunkEnd),
        ("0\r\nevil\r\n\r\n", Malformed::Trailers(httparse::Error::HeaderName)),
        ("0\r\n\n", Malformed::Trailers(httparse::Error::NewLine)),
        ("0\r\nA: b\n\n", Malformed::Trailers(httparse::Error::NewLine)),
        (&long, Malformed::ChunkExtension),
        (&trailers, Malformed::LongTrailers),
        (&many, Malformed::ManyFields),
    ] {
        assert_eq!(decode(Framing::Chunked, &[body.as_bytes()]).0, Err(expected), "{body:.40}");
    }
}

#[test]
fn trailers_keep_repeated_fields() {
    let (decoded, _) = decode(Framing::Chunked, &[b"0\r\nA: 1\r\nA: 2\r\n\r\n"]);
    let (_, trailers) = decoded.unwrap();
    let values: Vec<&HeaderValue> = trailers.get_all("a").iter().collect();
    assert_eq!(values, ["1", "2"]);
}

#[test]
fn body_with_a_length_ends_with_its_last_byte() {
    let (decoded, rest) = decode(Framing::Length(4), &[b"bo", b"dyrest"]);
    assert_eq!((decoded.unwrap().0, rest), (b"body".to_vec(), b"rest".to_vec()));
    assert!(Decoder::new(Framing::None).is_done());
}
