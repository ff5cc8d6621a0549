//! Makes untrusted names safe for terminals and browsers.

/// Replaces characters that a terminal or browser would interpret or hide: control characters, bidirectional formatting
/// and zero-width characters.
pub fn sanitize(text: &str) -> String {
    text.chars().map(|char| if is_harmful(char) { '\u{fffd}' } else { char }).collect()
}

const fn is_harmful(char: char) -> bool {
    matches!(
        char,
        '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_direction_characters_are_replaced() {
        for (text, expected) in [
            ("warehouse-scanner-prod", "warehouse-scanner-prod"),
            ("Lager 3 – Ä – ماسح – 🛠", "Lager 3 – Ä – ماسح – 🛠"),
            ("\u{1b}[2J\n\u{9b}31m\u{7f}", "\u{fffd}[2J\u{fffd}\u{fffd}31m\u{fffd}"),
            ("a\u{202e}b\u{2066}c\u{200b}d", "a\u{fffd}b\u{fffd}c\u{fffd}d"),
        ] {
            assert_eq!(sanitize(text), expected);
        }
    }
}
