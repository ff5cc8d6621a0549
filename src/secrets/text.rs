//! Decodes UTF-8 text and recognises UTF-16.

/// The byte order mark that Windows programs write before UTF-8 text.
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Why bytes are not text. Contains none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The text is only white space.
    #[error("it is empty")]
    Empty,
    /// The bytes are UTF-16, with or without a byte order mark.
    #[error("it is UTF-16, not UTF-8")]
    Utf16,
    /// The bytes are neither UTF-8 nor UTF-16.
    #[error("it is not UTF-8 text")]
    NotUtf8,
}

/// Decodes a file's text, without its byte order mark.
///
/// # Errors
/// If the bytes are empty or not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str, TextError> {
    let is_nul = |byte: Option<&u8>| byte == Some(&0);
    // In UTF-16, one of the two bytes of an ASCII character is NUL.
    if matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) || is_nul(bytes.first()) ^ is_nul(bytes.get(1)) {
        return Err(TextError::Utf16);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| TextError::NotUtf8)?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    if text.trim().is_empty() { Err(TextError::Empty) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_mark_is_removed_and_utf16_is_named() {
        let utf16 = |text: &str, swap: bool| -> Vec<u8> {
            let unit = |unit: u16| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() };
            text.encode_utf16().flat_map(unit).collect()
        };
        for (bytes, expected) in [
            (b"a secret\n".to_vec(), Ok("a secret\n")),
            ("\u{feff}a secret".into(), Ok("a secret")),
            ("".into(), Err(TextError::Empty)),
            ("\u{feff}\r\n ".into(), Err(TextError::Empty)),
            (utf16("\u{feff}a secret", false), Err(TextError::Utf16)),
            (utf16("\u{feff}a secret", true), Err(TextError::Utf16)),
            (utf16("a secret", false), Err(TextError::Utf16)),
            (utf16("a secret", true), Err(TextError::Utf16)),
            (b"a secret\xff".to_vec(), Err(TextError::NotUtf8)),
        ] {
            assert_eq!(decode(&bytes), expected, "{bytes:?}");
        }
    }
}
