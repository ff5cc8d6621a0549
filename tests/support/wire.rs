//! HTTP/1.1 as bytes: a minimal parser that keeps messages exactly as received.

use std::io::{self, BufRead, Read};

/// Header fields in the order and spelling of the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// The values of every field with that name, ignoring case.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The value of the only field with that name; panics if there are several.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.all(name);
        let value = values.next();
        assert!(values.next().is_none(), "several {name} fields in {self:?}");
        value
    }

    /// The names in lower case, in order.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
    }
}

/// The head of a message.
#[derive(Clone, Debug)]
pub struct Head {
    /// The request line or status line.
    pub start_line: String,
    /// The fields.
    pub fields: Fields,
    /// The raw bytes, including the empty line.
    pub raw: Vec<u8>,
}

impl Head {
    /// Reads the next head; `None` if the connection ends before its first byte.
    pub fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut raw = Vec::new();
        let mut lines = Vec::new();
        loop {
            let start = raw.len();
            if stream.read_until(b'\n', &mut raw)? == 0 {
                return if raw.is_empty() { Ok(None) } else { Err(broken("the head breaks off", &raw)) };
            }
            let line = String::from_utf8_lossy(&raw[start..]);
            match line.trim_end_matches(['\r', '\n']) {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let mut lines = lines.into_iter();
        let start_line = lines.next().ok_or_else(|| broken("no start line", &raw))?;
        let fields = lines
            .map(|line| match line.split_once(':') {
                Some((name, value)) => Ok((name.to_owned(), value.trim().to_owned())),
                None => Err(broken("a line without a colon", line.as_bytes())),
            })
            .collect::<io::Result<_>>()?;
        Ok(Some(Self { start_line, fields: Fields(fields), raw }))
    }
}

/// A body and the trailers after it.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The body without its transfer coding.
    pub bytes: Vec<u8>,
    /// The trailers of a chunked body.
    pub trailers: Fields,
}

impl Body {
    /// Reads the body that `fields` announce by chunked coding or Content-Length. Without either, reads until the
    /// connection ends if `until_close`, otherwise nothing.
    pub fn read(stream: &mut impl BufRead, fields: &Fields, until_close: bool) -> io::Result<Self> {
        let mut body = Self::default();
        if fields.all("transfer-encoding").any(|value| value.eq_ignore_ascii_case("chunked")) {
            body.read_chunks(stream)?;
        } else if let Some(length) = fields.get("content-length") {
            let length: usize = length.parse().map_err(|_| broken("Content-Length", length.as_bytes()))?;
            body.bytes.resize(length, 0);
            stream.read_exact(&mut body.bytes)?;
        } else if until_close {
            stream.read_to_end(&mut body.bytes)?;
        }
        Ok(body)
    }

    fn read_chunks(&mut self, stream: &mut impl BufRead) -> io::Result<()> {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16).map_err(|_| broken("chunk size", line.as_bytes()))?;
            if size == 0 {
                break;
            }
            if stream.by_ref().take(size).read_to_end(&mut self.bytes)? as u64 != size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut end = [0; 2];
            stream.read_exact(&mut end)?;
            if &end != b"\r\n" {
                return Err(broken("the end of a chunk", &end));
            }
        }
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) => self.trailers.0.push((name.to_owned(), value.trim().to_owned())),
                None => return Ok(()),
            }
        }
    }
}

fn broken(what: &str, bytes: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(bytes);
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {text:?}"))
}
