//! What the HTTP/2 library drops from the head of a request before the request is read.
//!
//! h2 cuts `#…` off `:path`, and forgets `:scheme` if there is no `:authority`. HTTP/1.1 refuses both. So header
//! blocks (RFC 7541) are scanned for these two before h2 has them. Nothing is stored of any other field.
//!
//! What a literal with an indexed name is depends on the dynamic table. Its sizes and evictions do not matter here:
//! indices count from the newest insertion, only the oldest entries are evicted, and an entry that does not fit
//! leaves the table empty. So an index that is valid for h2 means the same insertion here, if as many insertions are
//! remembered as the table can hold entries. Where h2 and this scanner could differ about what is valid, h2 ends the
//! connection.

use std::collections::VecDeque;

/// How many entries the dynamic table of 4096 bytes, the default, can hold: each counts for 32 at least (RFC 7541
/// section 4.1).
const MOST_ENTRIES: usize = 128;
/// RFC 7541 appendix A.
const STATIC_ENTRIES: u32 = 61;

/// `:path`, `:scheme`, `http` and `https` in the Huffman code of RFC 7541 appendix B.
const HUFFMAN_PATH: &[u8] = b"\xb9\x58\xd3\x3f";
const HUFFMAN_SCHEME: &[u8] = b"\xb8\x82\x4e\x5a\x4b";
const HUFFMAN_HTTP: &[u8] = b"\x9d\x29\xaf";
const HUFFMAN_HTTPS: &[u8] = b"\x9d\x29\xad\x1f";

/// A header block that no decoder can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed header block")]
pub struct Malformed;

/// Scans the header blocks of one connection, in the order in which they come.
#[derive(Debug, Default)]
pub struct Scanner {
    /// What was inserted into the dynamic table, the newest first.
    inserted: VecDeque<Field>,
    at: At,
    /// Of the literal that is being read.
    inserts: bool,
    name: Name,
    text: Text,
    /// What the block has of which a part would be dropped.
    dropped: Option<Name>,
}

/// The fields that are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    Path,
    Scheme,
    #[default]
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: Name,
    /// Whether h2 would drop a part of the value.
    is_odd: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// The first byte of a field.
    #[default]
    Field,
    /// A further byte of an integer.
    Integer { value: u32, shift: u32, of: Integer },
    /// The first byte of a string's length.
    Length(Part),
    /// So many bytes of a string.
    Text { left: u32, of: Part },
}

/// What an integer is.
#[derive(Clone, Copy, Debug)]
enum Integer {
    /// The index of a whole field.
    Field,
    /// The index of a literal's name; 0 if the name follows.
    Name,
    TableSize,
    Length {
        of: Part,
        is_huffman: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Name,
    Value,
}

impl Scanner {
    /// Reads on in a block.
    ///
    /// # Errors
    /// [`Malformed`] for an integer that is longer than a decoder has to take.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.at {
                At::Field => {
                    // RFC 7541 section 6
                    self.inserts = byte & 0xc0 == 0x40;
                    let (bits, of) = match byte {
                        0x80.. => (7, Integer::Field),
                        0x40.. => (6, Integer::Name),
                        0x20.. => (5, Integer::TableSize),
                        _ => (4, Integer::Name),
                    };
                    self.begin_integer(byte, bits, of);
                }
                At::Integer { value, shift, of } => {
                    let value = value + (u32::from(byte & 0x7f) << shift);
                    match (byte & 0x80, shift) {
                        (0, _) => self.end_integer(value, of),
                        // h2 takes four further bytes, too.
                        (_, 21..) => return Err(Malformed),
                        (_, _) => self.at = At::Integer { value, shift: shift + 7, of },
                    }
                }
                At::Length(of) => {
                    self.begin_integer(byte, 7, Integer::Length { of, is_huffman: byte & 0x80 != 0 });
                }
                At::Text { left, of } => {
                    let length = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (text, others) = bytes.split_at(length);
                    if of == Part::Name || self.name != Name::Other {
                        self.text.read(text, of == Part::Value && self.name == Name::Path);
                    }
                    bytes = others;
                    // At most what is left.
                    match left - length as u32 {
                        0 => self.end_text(of),
                        left => self.at = At::Text { left, of },
                    }
                    continue;
                }
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Ends the block, and tells what h2 would drop of it: a refusal's text, for the log.
    ///
    /// # Errors
    /// [`Malformed`] if it ends within a field.
    pub fn end(&mut self) -> Result<Option<&'static str>, Malformed> {
        let dropped = self.dropped.take();
        match std::mem::take(&mut self.at) {
            At::Field => Ok(match dropped {
                Some(Name::Path) => Some("fragment in the target"),
                Some(Name::Scheme) => Some("scheme that is not served"),
                Some(Name::Other) | None => None,
            }),
            At::Integer { .. } | At::Length(_) | At::Text { .. } => Err(Malformed),
        }
    }

    /// RFC 7541 section 5.1
    fn begin_integer(&mut self, byte: u8, bits: u32, of: Integer) {
        let most = (1_u8 << bits) - 1;
        let value = u32::from(byte & most);
        if value < u32::from(most) {
            self.end_integer(value, of);
        } else {
            self.at = At::Integer { value, shift: 0, of };
        }
    }

    fn end_integer(&mut self, value: u32, of: Integer) {
        self.at = match of {
            Integer::Field => {
                self.note(self.field(value));
                At::Field
            }
            Integer::Name if value == 0 => At::Length(Part::Name),
            Integer::Name => {
                self.name = self.field(value).name;
                At::Length(Part::Value)
            }
            // Where it makes the table smaller, what is evicted is the oldest.
            Integer::TableSize => At::Field,
            Integer::Length { of, is_huffman } => {
                self.text = Text { is_huffman, ..Text::default() };
                if value == 0 {
                    return self.end_text(of);
                }
                At::Text { left: value, of }
            }
        };
    }

    fn end_text(&mut self, of: Part) {
        match of {
            Part::Name => {
                self.name = if self.text.is(b":path", HUFFMAN_PATH) {
                    Name::Path
                } else if self.text.is(b":scheme", HUFFMAN_SCHEME) {
                    Name::Scheme
                } else {
                    Name::Other
                };
                self.at = At::Length(Part::Value);
            }
            Part::Value => {
                let is_odd = match self.name {
                    Name::Path => self.text.has_hash,
                    Name::Scheme => {
                        !self.text.is(b"http", HUFFMAN_HTTP) && !self.text.is(b"https", HUFFMAN_HTTPS)
                    }
                    Name::Other => false,
                };
                let field = Field { name: self.name, is_odd };
                if self.inserts {
                    self.inserted.truncate(MOST_ENTRIES - 1);
                    self.inserted.push_front(field);
                }
                self.note(field);
                self.at = At::Field;
            }
        }
    }

    /// RFC 7541 section 2.3.3. What is in neither table is an error that h2 finds.
    fn field(&self, index: u32) -> Field {
        let name = match index {
            4 | 5 => Name::Path,
            6 | 7 => Name::Scheme,
            _ => Name::Other,
        };
        let newest = index.checked_sub(STATIC_ENTRIES + 1).and_then(|place| usize::try_from(place).ok());
        let inserted = newest.and_then(|place| self.inserted.get(place));
        inserted.copied().unwrap_or(Field { name, is_odd: false })
    }

    fn note(&mut self, field: Field) {
        if field.is_odd {
            self.dropped.get_or_insert(field.name);
        }
    }
}

/// A string that is being read: its first bytes, and whether there is a `#` in it.
#[derive(Debug, Default)]
struct Text {
    is_huffman: bool,
    start: [u8; 8],
    /// How many bytes have come.
    length: usize,
    has_hash: bool,
    /// Of the Huffman code, the last bits that have come, and how many of them are not decoded.
    bits: u64,
    undecoded: u32,
}

impl Text {
    fn read(&mut self, bytes: &[u8], looks_for_hash: bool) {
        if let Some(free) = self.start.get_mut(self.length..) {
            let length = free.len().min(bytes.len());
            free[..length].copy_from_slice(&bytes[..length]);
        }
        self.length += bytes.len();
        if looks_for_hash {
            self.has_hash |=
                if self.is_huffman { self.decode(bytes) } else { memchr::memchr(b'#', bytes).is_some() };
        }
    }

    /// Whether this is the whole string.
    fn is(&self, raw: &[u8], huffman: &[u8]) -> bool {
        self.start.get(..self.length) == Some(if self.is_huffman { huffman } else { raw })
    }

    /// Whether a `#` ends in these bytes of a Huffman code.
    ///
    /// The code is canonical: how long a symbol is follows from the size of the bits that it begins with, so that no
    /// symbol but `#` has to be known.
    fn decode(&mut self, bytes: &[u8]) -> bool {
        const HASH: u64 = 0xffa;
        const HASH_BITS: u32 = 12;
        let mut found = false;
        for &byte in bytes {
            self.bits = self.bits << 8 | u64::from(byte);
            self.undecoded += 8;
            // Bits that have not come yet are taken for zeros: a symbol that would end before them is whole.
            while self.undecoded > 0 {
                let window = self.bits << (64 - self.undecoded);
                let length = symbol_bits(window);
                if length > self.undecoded {
                    break;
                }
                found |= length == HASH_BITS && window >> (64 - HASH_BITS) == HASH;
                self.undecoded -= length;
            }
        }
        found
    }
}

/// How many bits the first symbol has in bits that begin at the left.
fn symbol_bits(window: u64) -> u32 {
    // At most 30, and so 37 undecoded ones.
    SYMBOLS.iter().find(|(end, _)| window < *end).map_or(30, |&(_, bits)| bits)
}

/// RFC 7541 appendix B: below which bits symbols have no more than so many bits.
const SYMBOLS: [(u64, u32); 20] = {
    // How many symbols there are of how many bits, the shortest first.
    let counts: [(u32, u64); 20] = [
        (5, 10),
        (6, 26),
        (7, 32),
        (8, 6),
        (10, 5),
        (11, 3),
        (12, 2),
        (13, 6),
        (14, 2),
        (15, 3),
        (19, 3),
        (20, 8),
        (21, 13),
        (22, 26),
        (23, 29),
        (24, 12),
        (25, 4),
        (26, 15),
        (27, 19),
        (28, 29),
    ];
    let mut symbols = [(0, 0); 20];
    let (mut end, mut index) = (0, 0);
    while index < counts.len() {
        let (bits, count) = counts[index];
        end += count << (64 - bits);
        symbols[index] = (end, bits);
        index += 1;
    }
    symbols
};

#[cfg(test)]
mod tests;
