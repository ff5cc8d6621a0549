//! Content negotiation by the `Accept` field (RFC 9110 section 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

/// Whether `Accept` prefers `text/html` to `application/json`. Clients without a preference get JSON: browsers have one.
pub(super) fn accepts_html(fields: &HeaderMap) -> bool {
    let ranges = ranges(fields);
    quality(&ranges, "text", "html") > quality(&ranges, "application", "json")
}

/// Whether `Accept` prefers YAML (`application/yaml`, RFC 9512) or plain text to `application/json`.
pub(super) fn accepts_yaml(fields: &HeaderMap) -> bool {
    let ranges = ranges(fields);
    let json = quality(&ranges, "application", "json");
    [("application", "yaml"), ("text", "yaml"), ("text", "plain")]
        .into_iter()
        .any(|(main, sub)| quality(&ranges, main, sub) > json)
}

/// The media ranges of every `Accept` field.
fn ranges(fields: &HeaderMap) -> Vec<Range<'_>> {
    let texts = fields.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).filter_map(Range::parse).collect()
}

/// A media range: `text/html`, `text/*` or `*/*`, with its weight.
struct Range<'a> {
    main: &'a str,
    sub: &'a str,
    /// In thousandths.
    quality: u16,
}

impl<'a> Range<'a> {
    /// `None` if `text` is no media range, or if it requires a parameter other than `charset=utf-8`: no response has
    /// another one.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (main, sub) = parts.next()?.split_once('/')?;
        let mut quality = 1000;
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=')?;
            match name {
                _ if name.eq_ignore_ascii_case("q") => quality = thousandths(value)?,
                _ if name.eq_ignore_ascii_case("charset")
                    && value.trim_matches('"').eq_ignore_ascii_case("utf-8") => {}
                _ => return None,
            }
        }
        Some(Self { main, sub, quality })
    }

    /// How precisely the range names a type, from 0 (`*/*`) to 2; `None` if it does not match.
    fn precision(&self, main: &str, sub: &str) -> Option<u8> {
        let is_main = self.main.eq_ignore_ascii_case(main);
        match (self.main, self.sub) {
            (_, it) if is_main && it.eq_ignore_ascii_case(sub) => Some(2),
            (_, "*") if is_main => Some(1),
            ("*", "*") => Some(0),
            _ => None,
        }
    }
}

/// The weight of the range that matches the type most precisely; 0 if none matches.
fn quality(ranges: &[Range<'_>], main: &str, sub: &str) -> u16 {
    let matching = ranges.iter().filter_map(|range| Some((range.precision(main, sub)?, range.quality)));
    matching.max().map(|(_, quality)| quality).unwrap_or_default()
}

/// Parses a weight such as `0`, `1` or `0.85`: at most 1, with at most three digits after the point.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let digits = rest.bytes().all(|byte| byte.is_ascii_digit());
    match (whole, format!("{rest:0<3}").parse()) {
        ("0", Ok(quality @ 0..1000)) if digits && rest.len() <= 3 => Some(quality),
        ("1", Ok(0)) if digits && rest.len() <= 3 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_html_and_programs_get_json() {
        for (accept, expected) in [
            // Chromium, Firefox, Safari.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", true),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("text/html", true),
            ("TEXT/HTML; Charset=UTF-8", true),
            ("text/*", true),
            ("text/html;q=0.5, application/json;q=0.4", true),
            ("text/html ;\tq=0.001", true),
            ("*/*, application/json;q=0.9", true),
            ("text/html;q=1.000, */*;q=0.999", true),
            // curl, fetch, and clients without a preference.
            ("*/*", false),
            ("", false),
            ("application/json", false),
            ("application/json, text/html", false),
            ("application/json, text/html;q=0.9", false),
            ("text/html;q=0.4, application/json;q=0.5", false),
            ("text/html;q=0.4, */*;q=0.5", false),
            ("text/html;q=0, text/*;q=1", false),
            ("text/html;q=0", false),
            // Invalid media ranges and weights, and types that are not served.
            ("text/html;q=2", false),
            ("text/html;q=1.001", false),
            ("text/html;q=0.1234", false),
            ("text/html;q=", false),
            ("text/html;q=-1", false),
            ("text/html;q=.5", false),
            ("text/html;level=1", false),
            ("*/html", false),
            ("text", false),
            ("image/*", false),
            (",;,=;/", false),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(accepts_html(&fields), expected, "{accept}");
        }
    }

    #[test]
    fn yaml_is_chosen_only_if_it_is_preferred() {
        for (accept, expected) in [
            ("application/yaml", true),
            ("text/yaml", true),
            ("text/plain", true),
            ("application/yaml, application/json;q=0.5", true),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
            ("*/*", false),
            ("application/json", false),
            ("application/json, application/yaml", false),
            ("", false),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(accepts_yaml(&fields), expected, "{accept}");
        }
    }

    #[test]
    fn several_accept_fields_are_one_list() {
        let mut fields = HeaderMap::new();
        assert!(!accepts_html(&fields));
        fields.append(ACCEPT, "application/json;q=0.5".parse().unwrap());
        fields.append(ACCEPT, "text/html".parse().unwrap());
        assert!(accepts_html(&fields));
    }
}
