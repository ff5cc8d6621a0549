//! The query of a report: of `GET /usage`, and of the `usage` command.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use jiff::ToSpan;
use jiff::civil::Date;

/// The longest period, in days: ten years.
const MAX_DAYS: u16 = 3650;

/// A number of days up to and including today, written as `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(u16);

impl Since {
    /// The first day, if `today` is the last.
    pub fn first_day(self, today: Date) -> Date {
        today.saturating_sub((i64::from(self.0) - 1).days())
    }
}

impl FromStr for Since {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let digits = text.strip_suffix('d').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(days @ 1..=MAX_DAYS) => Ok(Self(days)),
            _ => Err(QueryError::Since),
        }
    }
}

impl fmt::Display for Since {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}d", self.0)
    }
}

/// Selects the days and tokens of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportQuery {
    /// The period; `None` for all recorded days.
    pub since: Option<Since>,
    /// The id of a token; `None` for all tokens.
    pub token: Option<String>,
    /// The page of the token list, from 0. URLs count from 1.
    pub page: usize,
}

/// A query is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// An invalid `since`.
    #[error("`since` must be a number of days from `1d` to `3650d`, such as `30d`")]
    Since,
    /// An invalid `page`.
    #[error("`page` must be a number from 1 to 10000")]
    Page,
    /// An unknown or repeated parameter.
    #[error("the query accepts only `since`, `token` and `page`, each once")]
    Parameter,
}

impl ReportQuery {
    /// Parses a query string. Empty parameters, as a form sends them, are ignored.
    ///
    /// # Errors
    /// Returns an error if a parameter is unknown, repeated or invalid.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let mut report_query = Self::default();
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                return Err(QueryError::Parameter);
            }
            match (&*name, &*value) {
                ("since" | "token" | "page", "") => {}
                ("since", value) => report_query.since = Some(value.parse()?),
                ("token", value) => report_query.token = Some(value.to_owned()),
                ("page", value) => match value.parse() {
                    Ok(number @ 1..=10_000) => report_query.page = number - 1,
                    _ => return Err(QueryError::Page),
                },
                _ => return Err(QueryError::Parameter),
            }
            seen.push(name);
        }
        Ok(report_query)
    }

    /// The query string with its `?`; empty if all parameters have their defaults.
    pub fn query_string(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(since) = self.since {
            query.append_pair("since", &since.to_string());
        }
        if let Some(token) = &self.token {
            query.append_pair("token", token);
        }
        if self.page > 0 {
            query.append_pair("page", &(self.page + 1).to_string());
        }
        match query.finish() {
            query if query.is_empty() => query,
            query => format!("?{query}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_is_parsed_and_serialised() {
        let report_query = |since: Option<u16>, token: Option<&str>, page| ReportQuery {
            since: since.map(Since),
            token: token.map(str::to_owned),
            page,
        };
        for (query, expected, written) in [
            ("", report_query(None, None, 0), ""),
            ("since=&token=&page=", report_query(None, None, 0), ""),
            ("since=30d", report_query(Some(30), None, 0), "?since=30d"),
            ("page=1", report_query(None, None, 0), ""),
            ("page=3&since=1d", report_query(Some(1), None, 2), "?since=1d&page=3"),
            ("token=17", report_query(None, Some("17"), 0), "?token=17"),
            (
                "token=a%26b+%22%3C%C3%A4",
                report_query(None, Some("a&b \"<ä"), 0),
                "?token=a%26b+%22%3C%C3%A4",
            ),
        ] {
            assert_eq!(ReportQuery::parse(query), Ok(expected.clone()), "{query}");
            assert_eq!(expected.query_string(), written);
            assert_eq!(ReportQuery::parse(written.trim_start_matches('?')), Ok(expected));
        }
    }

    #[test]
    fn invalid_queries_are_rejected() {
        for (query, why) in [
            ("since=30", QueryError::Since),
            ("since=0d", QueryError::Since),
            ("since=+3d", QueryError::Since),
            ("since=1h", QueryError::Since),
            ("since=d", QueryError::Since),
            ("since=3651d", QueryError::Since),
            ("since=99999999999999d", QueryError::Since),
            ("page=0", QueryError::Page),
            ("page=10001", QueryError::Page),
            ("page=-1", QueryError::Page),
            ("tokens=1", QueryError::Parameter),
            ("token=1&token=2", QueryError::Parameter),
            ("Since=30d", QueryError::Parameter),
        ] {
            assert_eq!(ReportQuery::parse(query), Err(why), "{query}");
        }
    }

    #[test]
    fn period_ends_today() {
        let today = jiff::civil::date(2026, 3, 1);
        for (since, first) in [("1d", "2026-03-01"), ("2d", "2026-02-28"), ("30d", "2026-01-31")] {
            assert_eq!(since.parse::<Since>().unwrap().first_day(today).to_string(), first);
        }
    }
}
