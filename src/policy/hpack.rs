//! Detects the parts of an HTTP/2 request's head that the h2 library drops.
//!
//! h2 removes a fragment (`#…`) from `:path`, and ignores `:scheme` if `:authority` is missing. The gateway refuses both
//! in HTTP/1.1. So this scanner checks header blocks (RFC 7541) for these two before h2 reads them. It stores nothing of
//! other fields.
//!
//! The name of a literal can be an index into the dynamic table. The table's size and evictions do not matter here:
//! indices count from the newest insertion, only the oldest entries are evicted, and an entry that does not fit empties
//! the table. So if this scanner keeps as many insertions as the table can hold entries, an index that is valid for h2
//! means the same insertion here. An index that is invalid for h2 ends the connection.

use std::collections::VecDeque;

/// The largest number of entries in the dynamic table, which has 4096 bytes by default: each entry counts as 32 bytes or
/// more (RFC 7541 section 4.1).
const MAX_ENTRIES: usize = 128;
/// RFC 7541 appendix A.
const STATIC_ENTRIES: u32 = 61;

/// `:path`, `:scheme`, `http` and `https` in the Huffman code of RFC 7541 appendix B.
const HUFFMAN_PATH: &[u8] = b"\xb9\x58\xd3\x3f";
const HUFFMAN_SCHEME: &[u8] = b"\xb8\x82\x4e\x5a\x4b";
const HUFFMAN_HTTP: &[u8] = b"\x9d\x29\xaf";
const HUFFMAN_HTTPS: &[u8] = b"\x9d\x29\xad\x1f";

/// A header block that no decoder accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed header block")]
pub struct Malformed;

/// Scans the header blocks of one connection in their order.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The insertions into the dynamic table, the newest first.
    inserted: VecDeque<Field>,
    at: At,
    /// Whether the current literal is inserted into the table.
    inserts: bool,
    name: Name,
    text: Text,
    /// The first field of the block of which h2 drops a part.
    dropped: Option<Name>,
}

/// The checked fields.
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
    /// Whether h2 drops a part of the value.
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
    /// In a string with `left` bytes to come.
    Text { left: u32, of: Part },
}

/// The meaning of an integer.
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
    /// Continues to scan a block.
    ///
    /// # Errors
    /// [`Malformed`] for an integer that is longer than decoders must accept.
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
                        // h2 accepts four further bytes, too.
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

    /// Ends the block. Returns the reason to refuse it, for the log, if h2 drops a part of it.
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
                self.check(self.field(value));
                At::Field
            }
            Integer::Name if value == 0 => At::Length(Part::Name),
            Integer::Name => {
                self.name = self.field(value).name;
                At::Length(Part::Value)
            }
            // A smaller table evicts the oldest entries, which does not matter here.
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
                    self.inserted.truncate(MAX_ENTRIES - 1);
                    self.inserted.push_front(field);
                }
                self.check(field);
                self.at = At::Field;
            }
        }
    }

    /// Looks up an index (RFC 7541 section 2.3.3). h2 rejects an index outside both tables.
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

    fn check(&mut self, field: Field) {
        if field.is_odd {
            self.dropped.get_or_insert(field.name);
        }
    }
}

/// The string that is being scanned: its first bytes, and whether it contains a `#`.
#[derive(Debug, Default)]
struct Text {
    is_huffman: bool,
    start: [u8; 8],
    /// The number of scanned bytes.
    length: usize,
    has_hash: bool,
    /// The last scanned bits of the Huffman code, and how many of them are not decoded.
    bits: u64,
    undecoded: u32,
}

impl Text {
    fn read(&mut self, bytes: &[u8], find_hash: bool) {
        if let Some(free) = self.start.get_mut(self.length..) {
            let length = free.len().min(bytes.len());
            free[..length].copy_from_slice(&bytes[..length]);
        }
        self.length += bytes.len();
        if find_hash {
            self.has_hash |=
                if self.is_huffman { self.decode(bytes) } else { memchr::memchr(b'#', bytes).is_some() };
        }
    }

    /// Whether the whole string equals `raw`, whose Huffman code is `huffman`.
    fn is(&self, raw: &[u8], huffman: &[u8]) -> bool {
        self.start.get(..self.length) == Some(if self.is_huffman { huffman } else { raw })
    }

    /// Whether the code of a `#` ends in these bytes.
    ///
    /// The code is canonical: the length of a symbol follows from the numeric value of its first bits. So no symbol other
    /// than `#` needs a table entry.
    fn decode(&mut self, bytes: &[u8]) -> bool {
        const HASH: u64 = 0xffa;
        const HASH_BITS: u32 = 12;
        let mut found = false;
        for &byte in bytes {
            self.bits = self.bits << 8 | u64::from(byte);
            self.undecoded += 8;
            // Missing bits are zeros in `window`. A symbol that ends before them is complete.
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

/// The length in bits of the first symbol of `window`, which begins at the most significant bit.
fn symbol_bits(window: u64) -> u32 {
    // At most 30, so that at most 37 bits are undecoded and fit into 64.
    SYMBOLS.iter().find(|(end, _)| window < *end).map_or(30, |&(_, bits)| bits)
}

/// RFC 7541 appendix B: for each length of symbols, the exclusive upper bound of their first bits, and the length.
const SYMBOLS: [(u64, u32); 20] = {
    // The lengths in bits, ascending, and the number of symbols of each.
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
