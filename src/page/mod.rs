//! The layout and style of all web pages.
//!
//! A page is one document without scripts or external resources. Its Content-Security-Policy forbids both.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

/// For light and dark schemes, screen and print. Colours only repeat what the text says.
///
/// Classes: `code`, `.quiet`, `.tag` with `.good`, `.warn` or `.bad`, and `.number` in tables.
const STYLE: &str = include_str!("style.css");

/// Renders a page. `title` is also its heading, `style` is added to the shared style, and `body` follows the heading.
///
/// The policy allows the style sheet by its hash. `style` attributes have no effect, but SVG presentation attributes
/// do.
pub fn page(title: &str, style: &str, body: &Markup) -> Markup {
    let policy = policy(style);
    let style = format!("{STYLE}{style}");
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (title) }
                // Without it, browsers request /favicon.ico.
                link rel="icon" href="data:,";
                style { (PreEscaped(&style)) }
            }
            body {
                main {
                    h1 { (title) }
                    (body)
                }
            }
        }
    }
}

/// The Content-Security-Policy of a page with this `style`. It allows the style sheet, and forms that target the
/// origin of the page. The server also sends it as a header field.
pub fn policy(style: &str) -> String {
    let hash = Sha256::new().chain_update(STYLE).chain_update(style).finalize();
    let hash = STANDARD.encode(hash);
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'self'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_loads_nothing_and_escapes_its_arguments() {
        let text = page("<i>&", "td { color: red }", &html! { p { "\"<script>" } }).into_string();
        assert!(text.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{text}");
        assert!(text.contains("<title>&lt;i&gt;&amp;</title>") && text.contains("<h1>&lt;i&gt;&amp;</h1>"));
        assert!(text.contains("<p>&quot;&lt;script&gt;</p>") && text.contains("td { color: red }</style>"));
        for word in ["<script", "http:", "https:", "url(", "@import", " src="] {
            assert!(!text.contains(word), "{word}: {text}");
        }
    }
}
