//! Charts: bars within tables of numbers, and columns by day with a table.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::{Span, ToSpan};
use maud::{Markup, html};

use super::super::overview::{AbilityLine, Calls, Denial, DenialLine, Overview};
use super::{counted, grouped, number, sanitize, scrolling, share};

/// The most columns. If there are more days, each column covers several.
const MAX_COLUMNS: i32 = 62;
/// The most rows in a chart.
const MAX_ROWS: usize = 40;

/// The requests by ability, most first.
pub(super) fn abilities(overview: &Overview) -> Markup {
    let mut lines: Vec<(&String, &AbilityLine)> = overview.abilities.iter().collect();
    lines.sort_by(|one, other| other.1.calls.all().cmp(&one.1.calls.all()).then(one.0.cmp(other.0)));
    let max = lines.first().map_or(0, |(_, line)| line.calls.all());
    html! {
        section aria-labelledby="abilities" {
            h2 #abilities { "Requests by ability" }
            @if lines.is_empty() {
                p { "No request required an ability." }
            } @else {
                (scrolling("Requests by ability", &html! {
                    table.chart {
                        caption.aside { "Requests by ability, most first" }
                        thead {
                            tr {
                                th scope="col" { "Ability" }
                                th scope="col" { (legend()) }
                                th.number scope="col" { "Allowed" }
                                th.number scope="col" { "Denied" }
                                th.number scope="col" { "Tokens with it" }
                                th.number scope="col" { "Tokens using it" }
                            }
                        }
                        tbody {
                            @for (name, line) in lines.iter().take(MAX_ROWS) {
                                tr {
                                    th scope="row" { bdi { code { (sanitize(name)) } } }
                                    td.bar { (bar(line.calls, max)) }
                                    (number(line.calls.allowed))
                                    (number(line.calls.denied))
                                    (number(line.granted))
                                    (number(line.used))
                                }
                            }
                        }
                    }
                }))
                (more_rows(lines.len(), "ability", "abilities", overview.is_truncated))
            }
        }
    }
}

/// The denied requests, most first.
pub(super) fn denials(overview: &Overview) -> Markup {
    let mut lines: Vec<(&Denial, &DenialLine)> = overview.denials.iter().collect();
    lines.sort_by(|one, other| other.1.count.cmp(&one.1.count).then(one.0.cmp(other.0)));
    let max = lines.first().map_or(0, |(_, line)| line.count);
    html! {
        section aria-labelledby="denials" {
            h2 #denials { "Denied requests" }
            @if lines.is_empty() {
                p { "Nothing." }
            } @else {
                (scrolling("Denied requests", &html! {
                    table.chart {
                        caption.aside { "Denied requests by route and missing ability, most first" }
                        thead {
                            tr {
                                th scope="col" { "Route" }
                                th scope="col" { "Missing ability" }
                                th scope="col" { span.aside { "Chart" } }
                                th.number scope="col" { "Denied" }
                                th.number scope="col" { "Tokens" }
                            }
                        }
                        tbody {
                            @for (denial, line) in lines.iter().take(MAX_ROWS) {
                                tr {
                                    th scope="row" { bdi { code { (sanitize(&denial.route)) } } }
                                    td { (ability(denial.ability.as_deref())) }
                                    td.bar { (bar(Calls { allowed: 0, denied: line.count }, max)) }
                                    (number(line.count))
                                    (number(line.tokens))
                                }
                            }
                        }
                    }
                }))
                (more_rows(lines.len(), "pair of route and ability", "pairs of route and ability", overview.is_truncated))
            }
        }
    }
}

/// A missing ability.
pub(super) fn ability(ability: Option<&str>) -> Markup {
    html! {
        @match ability {
            Some(ability) => bdi { code { (sanitize(ability)) } },
            None => "–",
        }
    }
}

fn more_rows(lines: usize, one: &str, several: &str, cut: bool) -> Markup {
    let more_rows = lines.saturating_sub(MAX_ROWS);
    html! {
        @if more_rows > 0 || cut {
            p.quiet {
                @match more_rows {
                    0 => "More rows",
                    1 => (format!("1 more {one}")),
                    _ => (format!("{} more {several}", grouped(more_rows as u64))),
                }
                "; see all of them with " code { "usage --format csv" } "."
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        span.legend { span.swatch.allowed {} "allowed" }
        span.legend { span.swatch.denied {} "denied" }
    }
}

/// A bar with two segments. It is hidden from screen readers, since the numbers are in the same row.
fn bar(calls: Calls, max: u64) -> Markup {
    let (allowed, denied) = (width(calls.allowed, max), width(calls.denied, max));
    html! {
        svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            rect.allowed width=(format!("{allowed:.1}")) height="10" {}
            rect.denied x=(format!("{allowed:.1}")) width=(format!("{denied:.1}")) height="10" {}
        }
    }
}

/// A length out of 100. Values above zero have a visible minimum.
fn width(part: u64, max: u64) -> f64 {
    if part == 0 || max == 0 { 0.0 } else { (part as f64 / max as f64 * 100.0).max(0.6) }
}

/// A column of a chart: one or more days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    first: Date,
    last: Date,
    calls: Calls,
}

/// Divides all days from the first to the last into columns, including days without requests.
pub(super) fn columns(days: &BTreeMap<Date, Calls>) -> Vec<Column> {
    let (Some(&first), Some(&last)) = (days.keys().next(), days.keys().next_back()) else {
        return Vec::new();
    };
    let since_first = |date: Date| first.until(date).as_ref().map_or(0, Span::get_days);
    let length = since_first(last);
    let each = (length + MAX_COLUMNS) / MAX_COLUMNS;
    let mut columns: Vec<Column> = (0..=length / each)
        .map(|index| Column {
            first: first.saturating_add((index * each).days()),
            last: first.saturating_add((index * each + each - 1).min(length).days()),
            calls: Calls::default(),
        })
        .collect();
    for (date, calls) in days {
        let index = usize::try_from(since_first(*date) / each).unwrap_or_default();
        if let Some(column) = columns.get_mut(index) {
            column.calls.add_all(*calls);
        }
    }
    columns
}

/// Requests and denials by day. Each chart has its own scale, since denials are few.
pub(super) fn days(days: &BTreeMap<Date, Calls>) -> Markup {
    let columns = columns(days);
    html! {
        @if !columns.is_empty() {
            section aria-labelledby="days" {
                h2 #days { "By day" }
                div.pair {
                    (figure("Requests", "allowed", &columns, |calls| calls.all()))
                    (figure("Denied", "denied", &columns, |calls| calls.denied))
                }
                details {
                    summary { "Show as a table" }
                    (scrolling("By day", &table(&columns)))
                }
            }
        }
    }
}

fn figure(name: &str, class: &str, columns: &[Column], value: fn(Calls) -> u64) -> Markup {
    const HEIGHT: f64 = 100.0;
    let sum: u64 = columns.iter().fold(0, |sum, column| sum.saturating_add(value(column.calls)));
    let highest = columns.iter().max_by_key(|column| value(column.calls));
    let max = highest.map_or(0, |column| value(column.calls));
    let summary = match highest {
        Some(highest) if max > 0 => {
            format!("{name}: {} in total, at most {} on {}", grouped(sum), grouped(max), highest.label())
        }
        _ => format!("{name}: none"),
    };
    let heights = columns.iter().map(|column| width(value(column.calls), max) / 100.0 * HEIGHT);
    html! {
        figure {
            figcaption { (summary) }
            svg.columns role="img" aria-label=(summary) focusable="false" preserveAspectRatio="none"
                viewBox=(format!("0 0 {} {HEIGHT}", columns.len() * 10)) {
                @for ((index, column), height) in columns.iter().enumerate().zip(heights) {
                    rect class=(class) x=(index * 10 + 1) y=(format!("{:.1}", HEIGHT - height)) width="8" height=(format!("{height:.1}")) {
                        title { (column.label()) ": " (grouped(value(column.calls))) }
                    }
                }
            }
            div.scale aria-hidden="true" {
                @if let Some(first) = columns.first() { span { (first.first) } }
                @if columns.len() > 1 && let Some(last) = columns.last() { span { (last.last) } }
            }
        }
    }
}

impl Column {
    fn label(&self) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{} to {}", self.first, self.last)
        }
    }
}

fn table(columns: &[Column]) -> Markup {
    html! {
        table {
            caption.aside { "Requests by day" }
            thead { tr { th scope="col" { "Day" } th.number scope="col" { "Requests" } th.number scope="col" { "Denied" } th.number scope="col" { "Denied of all" } } }
            tbody {
                @for column in columns.iter().filter(|column| column.calls.all() > 0) {
                    tr {
                        th scope="row" { (column.label()) }
                        (number(column.calls.all()))
                        (number(column.calls.denied))
                        td.number { (share(column.calls).unwrap_or_default()) }
                    }
                }
            }
        }
        @let quiet = columns.iter().filter(|column| column.calls.all() == 0).count();
        @if quiet > 0 { p.quiet { (counted(quiet as u64, "other day")) " without a request." } }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn days_are_grouped_into_a_bounded_number_of_columns() {
        let calls = |allowed| Calls { allowed, denied: 1 };
        for (last, count, each) in [
            (date(2026, 1, 1), 1, 1),
            (date(2026, 1, 30), 30, 1),
            (date(2026, 3, 3), 62, 1),
            (date(2026, 3, 4), 32, 2),
            (date(2026, 12, 31), 61, 6),
            (date(9999, 12, 31), 62, 46_975),
        ] {
            let first = date(2026, 1, 1);
            let mut days = BTreeMap::from([(first, calls(5))]);
            days.entry(last).or_default().add_all(calls(7));
            let columns = columns(&days);
            assert_eq!(columns.len(), count, "{last}");
            assert_eq!((columns[0].first, columns[count - 1].last), (first, last));
            assert_eq!(columns[0].first.until(columns[0].last).unwrap().get_days(), each - 1);
            assert_eq!(columns.iter().map(|column| column.calls.allowed).sum::<u64>(), 12);
            assert!(columns.windows(2).all(|pair| pair[0].last.tomorrow().unwrap() == pair[1].first));
        }
        assert_eq!(columns(&BTreeMap::new()), []);
    }

    #[test]
    fn nonzero_values_have_a_visible_bar() {
        for (part, max, expected) in
            [(0, 0, 0.0), (0, 5, 0.0), (5, 5, 100.0), (1, 4, 25.0), (1, u64::MAX, 0.6)]
        {
            assert!((width(part, max) - expected).abs() < 1e-9, "{part} {max}");
        }
    }
}
