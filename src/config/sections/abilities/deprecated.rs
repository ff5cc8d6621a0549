//! `deprecated` of a route.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::Offset;
use schemars::{Schema, json_schema};

use crate::config::language::{Decode, Decoder, Diagnostic, Entry, FROM_ENVIRONMENT, Node, leaf_schema};
use crate::policy::deprecation::{Deprecation, DeprecationError, Moment};

const KEYS: [&str; 3] = ["since", "sunset", "link"];

const MOMENT: &str = "a date such as `2026-12-31`, or a time such as `2026-12-31T12:00:00Z`";

/// A date, which is the beginning of its day in UTC, or a time of RFC 3339.
#[derive(Debug)]
struct When(Moment);

impl Decode for When {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.string(node, MOMENT)?;
        match moment(&text) {
            Some(moment) => Some(Self(moment)),
            None => decoder.mismatch(node, "invalid date", MOMENT),
        }
    }
}

leaf_schema!(
    When,
    json_schema!({"type": "string", "pattern": format!(
        r"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([Tt][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(\.[0-9]+)?([Zz]|[+-][0-9]{{2}}:[0-9]{{2}}))?$|{FROM_ENVIRONMENT}"
    )})
);

/// Reads a date or a time from 1970 on; jiff alone would also read other forms of ISO 8601.
fn moment(text: &str) -> Option<Moment> {
    let has_shape = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                b'+' => matches!(byte, b'+' | b'-'),
                other => byte.eq_ignore_ascii_case(&other),
            })
    };
    let time: Timestamp = if has_shape(text, "0000-00-00") {
        let date: Date = text.parse().ok()?;
        Offset::UTC.to_timestamp(date.to_datetime(Time::midnight())).ok()?
    } else {
        let (time, rest) = text.split_at_checked("0000-00-00T00:00:00".len())?;
        let offset = match rest.strip_prefix('.') {
            Some(fraction) => fraction.trim_start_matches(|digit: char| digit.is_ascii_digit()),
            None => rest,
        };
        if !has_shape(time, "0000-00-00T00:00:00") || !(has_shape(offset, "Z") || has_shape(offset, "+00:00"))
        {
            return None;
        }
        text.parse().ok()?
    };
    let http_date = DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
    let seconds = time.as_second();
    (seconds >= 0).then(|| Moment { seconds, http_date: http_date.into(), text: text.into() })
}

/// The deprecation with these values of a report; `None` if one is invalid in a map, too.
pub fn parse(since: Option<&str>, sunset: Option<&str>, link: Option<&str>) -> Option<Deprecation> {
    let when = |text: Option<&str>| match text {
        None => Some(None),
        Some(text) => moment(text).map(Some),
    };
    Deprecation::new(when(since)?, when(sunset)?, link.map(Into::into), None).ok()
}

/// Decodes the value of `deprecated`.
pub(super) fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Arc<Deprecation>> {
    const KEYS_OF: &str = "a mapping such as `{since: 2026-01-01, sunset: 2026-12-31}`";
    let entries = decoder.mapping(node, KEYS_OF)?;
    let before = decoder.error_count();
    decoder.reject_unknown(entries, &KEYS);
    let (mut since, mut sunset, mut link) = (None, None, None);
    for Entry { key, value } in entries {
        decoder.within(key, |decoder| match &*key.text {
            "since" => since = When::decode(value, decoder).map(|when| when.0),
            "sunset" => sunset = When::decode(value, decoder).map(|when| when.0),
            "link" => link = decoder.string(value, "a URL such as `https://docs.example/v2`").map(Into::into),
            _ => {}
        });
    }
    if decoder.error_count() > before {
        return None;
    }
    let key = entries.iter().find(|entry| &*entry.key.text == "sunset").map(|entry| entry.key.span);
    let place = decoder.place(key.unwrap_or(node.span));
    let error = match Deprecation::new(since, sunset, link, place) {
        Ok(deprecation) => return Some(Arc::new(deprecation)),
        Err(error) => error,
    };
    let Some(name) = named_key(&error) else {
        return decoder.mismatch(node, "nothing is announced", KEYS_OF);
    };
    let Entry { key, value } = entries.iter().find(|entry| &*entry.key.text == name)?;
    let diagnostic = match error {
        DeprecationError::Link(hint) => Diagnostic::error("invalid link")
            .at(value.span, "expected an absolute http or https URL")
            .hint(hint),
        error => Diagnostic::error("invalid date").at(value.span, error.to_string()),
    };
    decoder.within(key, |decoder| decoder.reject(diagnostic))
}

/// The key that an error is about; `None` if it is about all of them.
const fn named_key(error: &DeprecationError) -> Option<&'static str> {
    match error {
        DeprecationError::Empty => None,
        DeprecationError::SunsetFirst => Some("sunset"),
        DeprecationError::Link(_) | DeprecationError::Value => Some("link"),
    }
}

/// The schema of `deprecated`. `when` is that of a date.
pub(super) fn schema(generator: &mut schemars::SchemaGenerator) -> Schema {
    let mut when = |description: &str| {
        let mut schema = generator.subschema_for::<When>();
        schema.insert("description".to_owned(), description.into());
        schema
    };
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "description": "Announces the end of the route in responses: see [deprecating routes](../guides/deprecating-routes.md).",
        "properties": {
            "since": when("When the route was or will be deprecated, as a date in UTC or a time (RFC 3339): the field Deprecation."),
            "sunset": when("When the route will probably stop to respond: the field Sunset. Not before `since`."),
            "link": {
                "type": "string", "maxLength": 1024, "pattern": format!("^https?://|{FROM_ENVIRONMENT}"),
                "description": "A page about it: the field Link with `rel=\"deprecation\"`. An absolute http or https URL.",
            },
        },
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_moments() {
        for (text, expected) in [
            ("1970-01-01", Some((0, "Thu, 01 Jan 1970 00:00:00 GMT"))),
            ("2026-12-31", Some((1_798_675_200, "Thu, 31 Dec 2026 00:00:00 GMT"))),
            ("2028-02-29", Some((1_835_395_200, "Tue, 29 Feb 2028 00:00:00 GMT"))),
            ("2023-06-30T23:59:59Z", Some((1_688_169_599, "Fri, 30 Jun 2023 23:59:59 GMT"))),
            ("2023-07-01t01:59:59.75+02:00", Some((1_688_169_599, "Fri, 30 Jun 2023 23:59:59 GMT"))),
            ("9999-12-30", Some((253_402_128_000, "Thu, 30 Dec 9999 00:00:00 GMT"))),
            ("1969-12-31", None),
            ("2026-02-29", None),
            ("2026-13-01", None),
            ("2026-1-1", None),
            ("20260101", None),
            ("2026-01-01T00:00Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01T00:00:00.Z", None),
            ("2026-01-01T25:00:00Z", None),
            ("2026-01-01T00:00:00+0200", None),
            ("2026-01-01T00:00:00Z[UTC]", None),
            ("2026-01-01 00:00:00Z", None),
            ("+002026-01-01", None),
            ("ä026-01-01", None),
            ("", None),
        ] {
            let found = moment(text);
            let found = found.as_ref().map(|it| (it.seconds, &*it.http_date));
            assert_eq!(found, expected, "{text}");
        }
    }
}
