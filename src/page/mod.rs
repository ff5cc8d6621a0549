//! What the web pages share: their frame and their look.
//!
//! A page is one file: no script, nothing that is loaded from elsewhere, and a policy that would forbid it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

/// For light and dark, for screen and paper. Colours only repeat what the text says.
///
/// `code`; `.quiet`; `.tag` with `.good`, `.warn` or `.bad`; in tables `.number`.
const STYLE: &str = include_str!("style.css");

/// A whole page: `title` is its heading too, `style` what only this page needs, `body` what comes below the heading.
///
/// The policy allows the style by its hash: an attribute `style` has no effect, attributes of SVG do.
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
                // Else a browser asks for /favicon.ico.
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

/// The Content-Security-Policy of a page with this style of its own: nothing but its styles, whatever else comes to be
/// in it; forms ask where the page is from. Who serves a page sends it as a field, too.
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
    fn a_page_loads_nothing_and_escapes_what_it_is_given() {
        let text = page("<i>&", "td { color: red }", &html! { p { "\"<script>" } }).into_string();
        assert!(text.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{text}");
        assert!(text.contains("<title>&lt;i&gt;&amp;</title>") && text.contains("<h1>&lt;i&gt;&amp;</h1>"));
        assert!(text.contains("<p>&quot;&lt;script&gt;</p>") && text.contains("td { color: red }</style>"));
        for word in ["<script", "http:", "https:", "url(", "@import", " src="] {
            assert!(!text.contains(word), "{word}: {text}");
        }
    }
}
