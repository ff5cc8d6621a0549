//! A naive HTTP/1 parser, which panics on anything that two parsers could interpret differently.

/// A parsed message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub method: String,
    pub target: String,
    pub http_1_0: bool,
    /// Names in lower case, values without the white space around them.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Whether the body is complete.
    pub complete: bool,
}

impl Message {
    /// The values of every field of that name.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(it, _)| it == name).map(|(_, value)| &**value)
    }
}

/// Parses bytes that consist of messages. The last body may be truncated.
pub fn read(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        // RFC 9112 section 2.2
        bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        let end = find(bytes, b"\r\n\r\n").expect("a whole head");
        let head = &bytes[..end];
        let mut message = self::head(head);
        bytes = &bytes[end + 4..];
        let coding: Vec<&[u8]> = message.all("transfer-encoding").collect();
        let length: Vec<&[u8]> = message.all("content-length").collect();
        let (body, complete) = match (&*coding, &*length) {
            ([], []) => (Vec::new(), true),
            ([], [length]) => {
                let length = std::str::from_utf8(length).unwrap().parse::<u64>().expect("a length");
                let here = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
                let body = bytes[..here].to_vec();
                bytes = &bytes[here..];
                (body, here as u64 == length)
            }
            ([coding], []) => {
                assert!(coding.eq_ignore_ascii_case(b"chunked"), "{head:?}");
                chunked(&mut bytes)
            }
            _ => panic!("two lengths: {head:?}"),
        };
        (message.body, message.complete) = (body, complete);
        assert!(complete || bytes.is_empty());
        messages.push(message);
    }
    messages
}

fn head(head: &[u8]) -> Message {
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(end) = find(rest, b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    for line in &lines {
        let is_text = |byte: &u8| !byte.is_ascii_control() || *byte == b'\t';
        assert!(!line.is_empty() && line.iter().all(is_text), "{line:?}");
    }
    let words: Vec<&[u8]> = lines[0].split(|&byte| byte == b' ').collect();
    let [method, target, version @ (b"HTTP/1.1" | b"HTTP/1.0")] = &*words else { panic!("{:?}", lines[0]) };
    assert!(is_token(method) && !target.is_empty() && target.iter().all(u8::is_ascii_graphic));
    let fields = lines[1..].iter().map(|line| {
        let colon = find(line, b":").expect("a colon");
        assert!(is_token(&line[..colon]), "{line:?}");
        let name = std::str::from_utf8(&line[..colon]).unwrap().to_ascii_lowercase();
        (name, trim(&line[colon + 1..]).to_vec())
    });
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().to_owned();
    Message {
        method: text(method),
        target: text(target),
        http_1_0: *version == b"HTTP/1.0",
        fields: fields.collect(),
        body: Vec::new(),
        complete: false,
    }
}

/// The data of a chunked body, and whether it is complete. Advances `bytes` beyond it.
fn chunked(bytes: &mut &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(bytes, b"\r\n") else {
            *bytes = &[];
            return (body, false);
        };
        let size = bytes[..end].split(|&byte| byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).unwrap();
        assert!(size.bytes().all(|byte| byte.is_ascii_hexdigit()), "{size:?}");
        let size = u64::from_str_radix(size, 16).expect("a size");
        *bytes = &bytes[end + 2..];
        if size == 0 {
            break;
        }
        let here = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len());
        body.extend_from_slice(&bytes[..here]);
        *bytes = &bytes[here..];
        match bytes.strip_prefix(b"\r\n") {
            Some(rest) => *bytes = rest,
            None => {
                assert!(b"\r\n".starts_with(bytes), "a chunk ends where its size says");
                *bytes = &[];
                return (body, false);
            }
        }
    }
    // Trailers, until an empty line.
    loop {
        let Some(end) = find(bytes, b"\r\n") else {
            *bytes = &[];
            return (body, false);
        };
        let is_end = end == 0;
        *bytes = &bytes[end + 2..];
        if is_end {
            return (body, true);
        }
    }
}

fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
