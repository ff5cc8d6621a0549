//! Decodes the body of a response (RFC 9112 sections 6 and 7).

use bytes::{Buf, Bytes};
use http::HeaderMap;
use httparse::Status;

use super::head::{Framing, collect, end_of_head};
use super::malformed::{MAX_EXTENSION, MAX_FIELDS, MAX_TRAILERS, Malformed};

/// Decodes one body.
#[derive(Debug)]
pub(super) enum Decoder {
    /// The body is complete.
    Done,
    /// This many bytes are missing; at least one.
    Length(u64),
    /// See [`Chunks`].
    Chunked(Chunks),
    /// All bytes until the connection ends.
    UntilClose,
}

/// The next part of a chunked body.
#[derive(Debug)]
pub(super) enum Chunks {
    /// The digits of a chunk size: their value and number.
    Size { value: u64, digits: u8 },
    /// White space or an extension after the digits: its length so far.
    Extension { value: u64, length: usize },
    /// The LF after the size.
    SizeEnd { value: u64 },
    /// The data of a chunk; at least one byte.
    Data { left: u64 },
    /// CR and LF after the data: how many of them have been received.
    DataEnd { received: u8 },
    /// The trailer section as received so far.
    Trailers { section: Vec<u8>, searched: usize },
}

/// The result of one step of decoding.
#[derive(Debug, PartialEq)]
pub(super) enum Decoded {
    /// A part of the data.
    Data(Bytes),
    /// The trailer fields, which end the body.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// More bytes are needed.
    Incomplete,
}

const FIRST_CHUNK: Chunks = Chunks::Size { value: 0, digits: 0 };

impl Decoder {
    pub(super) const fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(FIRST_CHUNK),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// The number of missing data bytes, if known.
    pub(super) const fn remaining(&self) -> Option<u64> {
        match self {
            Self::Done => Some(0),
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Decodes from the start of `input` and consumes it.
    ///
    /// # Errors
    /// [`Malformed`]. Must not be called again afterwards.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, Malformed> {
        match self {
            Self::Done => Ok(Decoded::End),
            _ if input.is_empty() => Ok(Decoded::Incomplete),
            Self::UntilClose => Ok(Decoded::Data(std::mem::take(input))),
            Self::Length(left) => {
                let data = take(input, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Decoded::Data(data))
            }
            Self::Chunked(chunks) => {
                let decoded = chunks.decode(input)?;
                if matches!(decoded, Decoded::End | Decoded::Trailers(_)) {
                    *self = Self::Done;
                }
                Ok(decoded)
            }
        }
    }
}

impl Chunks {
    fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, Malformed> {
        loop {
            let Some(&byte) = input.first() else { return Ok(Decoded::Incomplete) };
            *self = match self {
                Self::Data { left } => {
                    let data = take(input, *left);
                    *left -= data.len() as u64;
                    if *left == 0 {
                        *self = Self::DataEnd { received: 0 };
                    }
                    return Ok(Decoded::Data(data));
                }
                Self::Trailers { section, searched } => {
                    return trailers(section, searched, input);
                }
                Self::Size { value, digits } => match (hex(byte), byte) {
                    (Some(digit), _) if *digits < 16 => {
                        Self::Size { value: *value << 4 | digit, digits: *digits + 1 }
                    }
                    (None, b'\r') if *digits > 0 => Self::SizeEnd { value: *value },
                    (None, b';' | b' ' | b'\t') if *digits > 0 => {
                        Self::Extension { value: *value, length: 1 }
                    }
                    _ => return Err(Malformed::ChunkSize),
                },
                Self::Extension { length: MAX_EXTENSION, .. } => return Err(Malformed::ChunkExtension),
                Self::Extension { value, length } => match byte {
                    b'\r' => Self::SizeEnd { value: *value },
                    b'\n' => return Err(Malformed::ChunkSize),
                    _ => Self::Extension { value: *value, length: *length + 1 },
                },
                Self::SizeEnd { value } => match (byte, *value) {
                    (b'\n', 0) => Self::Trailers { section: Vec::new(), searched: 0 },
                    (b'\n', left) => Self::Data { left },
                    _ => return Err(Malformed::ChunkSize),
                },
                Self::DataEnd { received: 0 } if byte == b'\r' => Self::DataEnd { received: 1 },
                Self::DataEnd { received: 1 } if byte == b'\n' => FIRST_CHUNK,
                Self::DataEnd { .. } => return Err(Malformed::ChunkEnd),
            };
            input.advance(1);
        }
    }
}

/// Parses the trailer section, which ends with an empty line.
fn trailers(section: &mut Vec<u8>, searched: &mut usize, input: &mut Bytes) -> Result<Decoded, Malformed> {
    // An empty section is just its empty line, which would otherwise follow another line.
    const LINE_BEFORE: &[u8] = b"\r\n";
    if section.is_empty() {
        section.extend_from_slice(LINE_BEFORE);
    }
    let held = section.len();
    let room = (LINE_BEFORE.len() + MAX_TRAILERS).saturating_sub(held);
    section.extend_from_slice(&input[..input.len().min(room)]);
    let Some(end) = end_of_head(section, *searched) else {
        if section.len() >= LINE_BEFORE.len() + MAX_TRAILERS {
            return Err(Malformed::LongTrailers);
        }
        *searched = section.len();
        *input = Bytes::new();
        return Ok(Decoded::Incomplete);
    };
    input.advance(end - held);
    section.truncate(end);
    if !section.ends_with(b"\r\n\r\n") {
        return Err(Malformed::Trailers(httparse::Error::NewLine));
    }
    let section = Bytes::from(std::mem::take(section)).slice(LINE_BEFORE.len()..);
    if matches!(&*section, b"\r\n") {
        return Ok(Decoded::End);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(&section, &mut fields) {
        Ok(Status::Complete((length, fields))) if length == section.len() => {
            let (fields, _) = collect(fields, &section, |_, _| true)?;
            Ok(Decoded::Trailers(fields))
        }
        Ok(_) => Err(Malformed::Trailers(httparse::Error::NewLine)),
        Err(httparse::Error::TooManyHeaders) => Err(Malformed::ManyFields),
        Err(error) => Err(Malformed::Trailers(error)),
    }
}

/// Splits at most `most` bytes off the start of `input`.
fn take(input: &mut Bytes, most: u64) -> Bytes {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    input.split_to(length)
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests;
