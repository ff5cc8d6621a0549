//! `deprecated` of a route: the fields that announce the end of a route to its callers.

use std::fmt::{self, Display, Formatter};

use http::header::LINK;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::authority::{is_host, split_port};
use super::source_location::SourceLocation;

/// RFC 9745 section 2.
const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
/// RFC 8594 section 3.
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// The longest link, in bytes.
const MAX_LINK: usize = 1024;

/// The announced end of a route. Its fields are written once, when the map is loaded.
#[derive(Clone, Debug)]
pub struct Deprecation {
    /// `since`: when the route was or will be deprecated.
    pub since: Option<Moment>,
    /// `sunset`: when the route will probably stop to respond.
    pub sunset: Option<Moment>,
    /// `link`: a page about it.
    pub link: Option<Box<str>>,
    /// The location of `sunset` in a file, or that of `deprecated` without one.
    pub place: Option<SourceLocation>,
    fields: Fields,
}

/// The values of the fields; `None` for a field that is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    deprecation: Option<HeaderValue>,
    sunset: Option<HeaderValue>,
    link: Option<HeaderValue>,
    /// The names of the fields, for Access-Control-Expose-Headers.
    names: HeaderValue,
}

/// A point in time.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Seconds since 1970.
    pub seconds: i64,
    /// As an HTTP-date (RFC 9110 section 5.6.7).
    pub http_date: Box<str>,
    /// As written in the map.
    pub text: Box<str>,
}

/// Why a route's `deprecated` is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeprecationError {
    /// No key is set.
    #[error("at least one of `since`, `sunset` and `link` is needed")]
    Empty,
    /// RFC 9745 section 4.
    #[error("the sunset is before the deprecation")]
    SunsetFirst,
    /// The link is none, or cannot be a part of a header field.
    #[error("{0}")]
    Link(&'static str),
    /// A value cannot be that of a header field. Does not happen.
    #[error("the value cannot be sent in a header field")]
    Value,
}

impl Deprecation {
    /// Checks the values, and writes the fields.
    ///
    /// # Errors
    /// [`DeprecationError`].
    pub fn new(
        since: Option<Moment>,
        sunset: Option<Moment>,
        link: Option<Box<str>>,
        place: Option<SourceLocation>,
    ) -> Result<Self, DeprecationError> {
        if let (Some(since), Some(sunset)) = (&since, &sunset)
            && sunset.seconds < since.seconds
        {
            return Err(DeprecationError::SunsetFirst);
        }
        if let Some(link) = &link {
            check_link(link).map_err(DeprecationError::Link)?;
        }
        let value = |text: Option<String>| text.map(|it| HeaderValue::from_str(&it)).transpose();
        let written = [
            ("Deprecation", since.as_ref().map(|since| format!("@{}", since.seconds))),
            ("Sunset", sunset.as_ref().map(|sunset| sunset.http_date.to_string())),
            ("Link", link.as_ref().map(|link| format!("<{link}>; rel=\"deprecation\""))),
        ];
        let sent = written.iter().filter(|(_, value)| value.is_some());
        let names: Vec<&str> = sent.map(|(name, _)| *name).collect();
        if names.is_empty() {
            return Err(DeprecationError::Empty);
        }
        let names = HeaderValue::from_str(&names.join(", ")).map_err(|_| DeprecationError::Value)?;
        let [deprecation, sunset_date, link_value] = written.map(|(_, text)| value(text));
        let fields = Fields {
            deprecation: deprecation.map_err(|_| DeprecationError::Value)?,
            sunset: sunset_date.map_err(|_| DeprecationError::Value)?,
            link: link_value.map_err(|_| DeprecationError::Value)?,
            names,
        };
        Ok(Self { since, sunset, link, place, fields })
    }

    /// Adds the fields to a response of the backend, whose own Deprecation and Sunset take precedence.
    pub fn announce(&self, fields: &mut HeaderMap) {
        let Fields { deprecation, sunset, link, .. } = &self.fields;
        if let Some(value) = deprecation {
            fields.entry(DEPRECATION).or_insert_with(|| value.clone());
        }
        if let Some(value) = sunset {
            fields.entry(SUNSET).or_insert_with(|| value.clone());
        }
        if let Some(value) = link {
            fields.append(LINK, value.clone());
        }
    }

    /// The names of the fields that [`announce`](Self::announce) adds, separated by commas.
    pub const fn names(&self) -> &HeaderValue {
        &self.fields.names
    }
}

/// Locations do not count.
impl PartialEq for Deprecation {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Eq for Deprecation {}

impl Display for Deprecation {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let text = |it: &Option<Moment>| it.as_ref().map(|it| it.text.clone());
        let parts = [
            text(&self.since).map(|since| format!("since {since}")),
            text(&self.sunset).map(|sunset| format!("sunset {sunset}")),
            self.link.as_ref().map(ToString::to_string),
        ];
        formatter.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Checks that a link is an absolute http or https URL (RFC 3986) without user information, which would be published.
fn check_link(link: &str) -> Result<(), &'static str> {
    if link.len() > MAX_LINK {
        return Err("use at most 1024 bytes");
    }
    let rest = link.strip_prefix("https://").or_else(|| link.strip_prefix("http://"));
    let rest = rest.ok_or("begin it with `https://` or `http://`")?;
    let is_part_of_url =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte);
    if !rest.bytes().all(is_part_of_url) {
        return Err("percent-encode characters that a URL cannot have");
    }
    let mut escapes = rest.split('%').skip(1).map(|escape| escape.as_bytes().get(..2));
    if !escapes.all(|escape| escape.is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit))) {
        return Err("write two hexadecimal digits after `%`, or `%25`");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("remove the user name and password: every caller can read the link");
    }
    let after = rest.get(authority.len()..).unwrap_or_default();
    if after.contains(['[', ']']) || after.split('#').count() > 2 {
        return Err("percent-encode characters that a URL cannot have");
    }
    let (host, port) = split_port(authority);
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number.to_string() == port));
    if is_host(host) && is_port { Ok(()) } else { Err("name a host, such as `https://docs.example/v2`") }
}

#[cfg(test)]
mod tests {
    use super::super::test_fields::fields;
    use super::*;

    fn moment(seconds: i64, http_date: &str) -> Moment {
        Moment { seconds, http_date: http_date.into(), text: http_date.into() }
    }

    fn sunset() -> Option<Moment> {
        Some(moment(1_798_675_200, "Thu, 31 Dec 2026 00:00:00 GMT"))
    }

    fn lines(fields: &HeaderMap) -> Vec<String> {
        fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn only_the_configured_fields_are_announced() {
        let since = || Some(moment(1_767_225_600, "-"));
        let link = || Some("https://docs.example/v2?a=%20#end".into());
        let (deprecation, sunset_line) =
            ("deprecation: @1767225600", "sunset: Thu, 31 Dec 2026 00:00:00 GMT");
        let link_line = "link: <https://docs.example/v2?a=%20#end>; rel=\"deprecation\"";
        for (since, sunset, link, expected, names) in [
            (since(), None, None, &[deprecation][..], "Deprecation"),
            (None, sunset(), None, &[sunset_line], "Sunset"),
            (None, None, link(), &[link_line], "Link"),
            (since(), sunset(), link(), &[deprecation, sunset_line, link_line], "Deprecation, Sunset, Link"),
        ] {
            let deprecation = Deprecation::new(since, sunset, link, None).unwrap();
            let mut sent = HeaderMap::new();
            deprecation.announce(&mut sent);
            assert_eq!(lines(&sent), expected);
            assert_eq!(deprecation.names(), names);
        }
    }

    #[test]
    fn fields_of_the_backend_stay() {
        let deprecation =
            Deprecation::new(Some(moment(0, "-")), sunset(), Some("http://a/".into()), None).unwrap();
        let sent = [("Deprecation", "true"), ("Sunset", "soon"), ("Link", "</2>; rel=next")];
        let mut response = fields(sent);
        deprecation.announce(&mut response);
        let expected = [
            "deprecation: true",
            "sunset: soon",
            "link: </2>; rel=next",
            "link: <http://a/>; rel=\"deprecation\"",
        ];
        assert_eq!(lines(&response), expected);
    }

    #[test]
    fn order_of_the_dates_is_checked() {
        let day = |number: i64| Some(moment(number, "-"));
        assert!(Deprecation::new(day(1), day(1), None, None).is_ok());
        assert_eq!(Deprecation::new(day(2), day(1), None, None), Err(DeprecationError::SunsetFirst));
        assert_eq!(Deprecation::new(None, None, None, None), Err(DeprecationError::Empty));
    }

    #[test]
    fn link_is_an_absolute_url_that_a_field_can_have() {
        for link in [
            "https://docs.example",
            "http://docs.example:8080/v2/",
            "https://[2001:db8::1]:443/a;b",
            "https://docs.example/a'b(c)*!$&,=@:~",
            "https://docs.example/%C3%A4#a?b/c",
        ] {
            assert_eq!(check_link(link), Ok(()), "{link}");
        }
        let long = format!("https://docs.example/{}", "a".repeat(MAX_LINK));
        for link in [
            "",
            "docs.example/v2",
            "//docs.example/v2",
            "/v2",
            "ftp://docs.example",
            "javascript:alert(1)",
            "HTTPS://docs.example",
            "https://",
            "https:///v2",
            "https://:80/",
            "https://user:secret@docs.example/",
            "https://docs.example:/",
            "https://docs.example:0443/",
            "https://docs.example:65536/",
            "https://[::g]/",
            "https://a]b/",
            "https://docs.example/a b",
            "https://docs.example/<a>",
            "https://docs.example/\"; rel=\"next",
            "https://docs.example/\r\nSet-Cookie: a=b",
            "https://docs.example/ä",
            "https://docs.example/a\\b",
            "https://docs.example/%",
            "https://docs.example/%2",
            "https://docs.example/%2g",
            "https://docs.example/[a]",
            "https://docs.example/#a#b",
            &long,
        ] {
            assert!(check_link(link).is_err(), "{link}");
        }
    }

    #[test]
    fn spelling_of_a_date_makes_no_difference() {
        let one = Deprecation::new(None, sunset(), None, None).unwrap();
        let other = Moment { text: "2026-12-31".into(), ..sunset().unwrap() };
        let place = SourceLocation { file: "a.yaml".into(), line: 1, column: 1 };
        let other = Deprecation::new(None, Some(other), None, Some(place)).unwrap();
        assert_eq!(one, other);
        assert_eq!(other.to_string(), "sunset 2026-12-31");
    }
}
