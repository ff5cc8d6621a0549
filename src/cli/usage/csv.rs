//! Usage as CSV (RFC 4180).

use std::io::{self, Write};

use crate::sanitize::sanitize;
use crate::usage::report::{Report, TokenUsage, UsageRow, Verdict};

const HEADING: &str = "token,name,ability,route,method,verdict,count,first_day,last_day,parameter\r\n";

/// Writes a row for each token, ability, route, method and verdict. The days are those of all methods together.
pub(super) fn write(report: &Report, output: &mut dyn Write) -> io::Result<()> {
    output.write_all(HEADING.as_bytes())?;
    for token in &report.tokens {
        for row in &token.usage {
            let methods = row.methods.iter().map(|(method, count)| (method.as_str(), *count));
            // A report may lack the methods.
            let unknown = row.methods.is_empty().then_some(("", row.count));
            for (method, count) in methods.chain(unknown) {
                line(token, row, method, count, output)?;
            }
        }
    }
    Ok(())
}

fn line(
    token: &TokenUsage,
    row: &UsageRow,
    method: &str,
    count: u64,
    output: &mut dyn Write,
) -> io::Result<()> {
    let verdict = match row.verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
    };
    let day = |day: Option<&jiff::civil::Date>| day.map(ToString::to_string).unwrap_or_default();
    let (id, name) = (cell(&token.id), cell(token.name.as_deref().unwrap_or_default()));
    let (ability, route) = (cell(row.ability.as_deref().unwrap_or_default()), cell(&row.route));
    let (method, first, last) = (cell(method), day(row.days.keys().next()), day(row.days.keys().next_back()));
    let parameter = cell(row.parameter.as_deref().unwrap_or_default());
    write!(output, "{id},{name},{ability},{route},{method},{verdict},{count},{first},{last},{parameter}\r\n")
}

/// Quotes a cell if necessary. An apostrophe prevents a spreadsheet from reading a name as a formula.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let text = format!("{}{}", if formula { "'" } else { "" }, sanitize(text));
    if text.contains([',', '"', '\'']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cell_cannot_be_split_or_read_as_a_formula() {
        for (text, expected) in [
            ("", ""),
            ("items:read", "items:read"),
            ("a b", "a b"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=1+1", "\"'=1+1\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("\t=1", "\"'\u{fffd}=1\""),
            ("\r\n=1", "\"'\u{fffd}\u{fffd}=1\""),
            ("a\nb\u{1b}[2J", "a\u{fffd}b\u{fffd}[2J"),
            ("1-2", "1-2"),
        ] {
            assert_eq!(cell(text), expected, "{text:?}");
        }
    }
}
