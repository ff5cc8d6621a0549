//! What is asked of usage: the query of `GET /usage`, and the options of the command.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use jiff::ToSpan;
use jiff::civil::Date;

/// The longest period, in days: ten years.
const LONGEST: u16 = 3650;

/// The last so many days, today's among them. Written `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(u16);

impl Since {
    /// The first day of them, where `today` is the last.
    pub fn first_day(self, today: Date) -> Date {
        today.saturating_sub((i64::from(self.0) - 1).days())
    }
}

impl FromStr for Since {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let digits = text.strip_suffix('d').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(days @ 1..=LONGEST) => Ok(Self(days)),
            _ => Err(QuestionError::Since),
        }
    }
}

impl fmt::Display for Since {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}d", self.0)
    }
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Of which days; none: of all that are kept.
    pub since: Option<Since>,
    /// Of which token, by its id; none: of all.
    pub token: Option<String>,
    /// Of a long list of tokens, which part is shown: 0 is the first. Pages number them from 1.
    pub page: usize,
}

/// Why a question is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Of `since`.
    #[error("`since` is a number of days such as `30d`, of ten years at most")]
    Since,
    /// Of `page`.
    #[error("`page` is a number from 1 to 10000")]
    Page,
    /// Another word.
    #[error("the query has `since`, `token` and `page`, each once, and nothing else")]
    Word,
}

impl Question {
    /// Reads a query. What is empty, as a form sends it, is as if it were not there.
    ///
    /// # Errors
    /// Where it has a word that is not known, one twice, or one that makes no sense.
    pub fn parse(query: &str) -> Result<Self, QuestionError> {
        let mut question = Self::default();
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                return Err(QuestionError::Word);
            }
            match (&*name, &*value) {
                ("since" | "token" | "page", "") => {}
                ("since", value) => question.since = Some(value.parse()?),
                ("token", value) => question.token = Some(value.to_owned()),
                ("page", value) => match value.parse() {
                    Ok(number @ 1..=10_000) => question.page = number - 1,
                    _ => return Err(QuestionError::Page),
                },
                _ => return Err(QuestionError::Word),
            }
            seen.push(name);
        }
        Ok(question)
    }

    /// The query that asks it, with its `?`; empty where nothing is asked in particular.
    pub fn query(&self) -> String {
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
    fn a_query_is_read_and_written() {
        let question = |since: Option<u16>, token: Option<&str>, page| Question {
            since: since.map(Since),
            token: token.map(str::to_owned),
            page,
        };
        for (query, expected, written) in [
            ("", question(None, None, 0), ""),
            ("since=&token=&page=", question(None, None, 0), ""),
            ("since=30d", question(Some(30), None, 0), "?since=30d"),
            ("page=1", question(None, None, 0), ""),
            ("page=3&since=1d", question(Some(1), None, 2), "?since=1d&page=3"),
            ("token=17", question(None, Some("17"), 0), "?token=17"),
            ("token=a%26b+%22%3C%C3%A4", question(None, Some("a&b \"<ä"), 0), "?token=a%26b+%22%3C%C3%A4"),
        ] {
            assert_eq!(Question::parse(query), Ok(expected.clone()), "{query}");
            assert_eq!(expected.query(), written);
            assert_eq!(Question::parse(written.trim_start_matches('?')), Ok(expected));
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_question() {
        for (query, why) in [
            ("since=30", QuestionError::Since),
            ("since=0d", QuestionError::Since),
            ("since=+3d", QuestionError::Since),
            ("since=1h", QuestionError::Since),
            ("since=d", QuestionError::Since),
            ("since=3651d", QuestionError::Since),
            ("since=99999999999999d", QuestionError::Since),
            ("page=0", QuestionError::Page),
            ("page=10001", QuestionError::Page),
            ("page=-1", QuestionError::Page),
            ("tokens=1", QuestionError::Word),
            ("token=1&token=2", QuestionError::Word),
            ("Since=30d", QuestionError::Word),
        ] {
            assert_eq!(Question::parse(query), Err(why), "{query}");
        }
    }

    #[test]
    fn today_is_the_last_of_the_days() {
        let today = jiff::civil::date(2026, 3, 1);
        for (since, first) in [("1d", "2026-03-01"), ("2d", "2026-02-28"), ("30d", "2026-01-31")] {
            assert_eq!(since.parse::<Since>().unwrap().first_day(today).to_string(), first);
        }
    }
}
