//! Aggregates all tokens one by one, so that a page needs memory only for what it shows.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use jiff::civil::Date;

use super::query::ReportQuery;
use super::report::{Finding, FindingKind, Report, Severity, TokenUsage, Verdict};

/// The number of tokens per page of the list.
pub const PAGE_SIZE: usize = 200;
/// The most findings shown per kind.
pub const MAX_FINDINGS: usize = 50;
/// The most abilities shown per finding: several times as many as the guide has.
const MAX_ABILITIES: usize = 100;
/// The most abilities, and pairs of route and ability, that are counted separately. A map has fewer, but the
/// abilities in introspection responses are arbitrary.
const MAX_DISTINCT: usize = 500;
/// The most days that are counted separately. More than ten years of days come from a forged or damaged report.
const MAX_DAYS: usize = 3660;
/// The longest text from outside, in characters.
const MAX_CHARS: usize = 200;
/// The longest evidence and advice, in characters. Both may quote abilities.
const MAX_SENTENCE_CHARS: usize = 2000;

/// The aggregated usage of all tokens, in bounded memory.
#[derive(Debug, Default)]
pub struct Overview {
    /// The number of tokens.
    pub tokens: usize,
    /// The number of requests.
    pub calls: Calls,
    /// Requests by day.
    pub days: BTreeMap<Date, Calls>,
    /// Usage by ability.
    pub abilities: BTreeMap<String, AbilityLine>,
    /// Denied requests by route and missing ability.
    pub denials: BTreeMap<Denial, DenialLine>,
    /// Whether there were more abilities or pairs than [`MAX_DISTINCT`].
    pub is_truncated: bool,
    /// Findings by kind.
    pub findings: BTreeMap<FindingKind, FindingGroup>,
    /// The first `max` tokens by rank.
    rows: BTreeMap<Rank, TokenLine>,
    /// The number of tokens that are kept.
    max: usize,
    /// The index of the first token that is shown.
    first: usize,
}

/// Numbers of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Allowed by the map.
    pub allowed: u64,
    /// Denied by the map.
    pub denied: u64,
}

impl Calls {
    /// The total.
    pub const fn all(self) -> u64 {
        self.allowed.saturating_add(self.denied)
    }

    /// Adds `count` requests.
    pub const fn add(&mut self, verdict: Verdict, count: u64) {
        match verdict {
            Verdict::Allowed => self.allowed = self.allowed.saturating_add(count),
            Verdict::Denied => self.denied = self.denied.saturating_add(count),
        }
    }

    /// Adds both counts of `other`.
    pub const fn add_all(&mut self, other: Self) {
        self.add(Verdict::Allowed, other.allowed);
        self.add(Verdict::Denied, other.denied);
    }

    /// The requests of a token. A request that needed several abilities counts once, although each ability has a row.
    pub fn of(token: &TokenUsage) -> Self {
        let mut calls = Self::default();
        for day in token.days.values() {
            calls.add_all(Self { allowed: day.allowed, denied: day.denied });
        }
        // A report may omit the days.
        if token.days.is_empty() {
            let rows = token.usage.iter().filter(|row| !row.is_additional());
            rows.for_each(|row| calls.add(row.verdict, row.count));
        }
        calls
    }
}

/// The usage of one ability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AbilityLine {
    /// The requests that it allowed, and those denied because it was missing.
    pub calls: Calls,
    /// The number of tokens that have it by name.
    pub granted: u64,
    /// The number of tokens that used it.
    pub used: u64,
}

/// A group of denied requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Denial {
    /// The route template, or `unmapped`.
    pub route: String,
    /// The missing ability; `None` if no ability would have sufficed.
    pub ability: Option<String>,
}

/// The size of a group of denied requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DenialLine {
    /// The number of requests.
    pub count: u64,
    /// The number of tokens.
    pub tokens: u64,
}

/// The findings of one kind, at most one per token.
#[derive(Debug, Default)]
pub struct FindingGroup {
    /// The number of findings.
    pub count: usize,
    /// The first [`MAX_FINDINGS`] by severity, then in the order of insertion.
    pub first: BTreeMap<(Severity, usize), FindingLine>,
}

impl FindingGroup {
    /// The highest severity; `None` if there is no finding.
    pub fn severity(&self) -> Option<Severity> {
        self.first.keys().next().map(|(severity, _)| *severity)
    }
}

/// A finding in a list, with truncated texts.
#[derive(Clone, Debug)]
pub struct FindingLine {
    /// The token.
    pub token: TokenName,
    /// The first [`MAX_ABILITIES`] abilities.
    pub abilities: Vec<String>,
    /// The number of further abilities.
    pub more: usize,
    /// The start of the condition.
    pub since: Option<Timestamp>,
    /// What was observed.
    pub evidence: String,
    /// What to do.
    pub advice: String,
}

/// The id and name of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenName {
    /// The id, truncated.
    pub id: String,
    /// Whether the id is complete.
    pub is_complete: bool,
    /// The name, truncated.
    pub name: Option<String>,
}

/// A token in the list.
#[derive(Clone, Debug, Default)]
pub struct TokenLine {
    /// The id and name.
    pub token: TokenName,
    /// `user` or `instance`, truncated.
    pub context: Option<String>,
    /// Whether the token has every ability (`*`).
    pub has_wildcard: bool,
    /// The number of abilities that it has by name.
    pub granted: usize,
    /// The number of abilities that it used.
    pub used: usize,
    /// The number of requests.
    pub calls: Calls,
    /// The approximate number of client addresses.
    pub addresses: u64,
    /// The latest request.
    pub last_seen: Option<Timestamp>,
    /// The number of findings by severity, high first.
    pub findings: [usize; 3],
}

/// Orders by findings of the highest severity, then by requests, then by insertion.
type Rank = (Reverse<[usize; 3]>, Reverse<u64>, usize);

impl Overview {
    /// Creates an empty overview that shows the page of `query`.
    pub fn new(query: &ReportQuery) -> Self {
        let first = query.page.saturating_mul(PAGE_SIZE);
        Self { first, max: first.saturating_add(PAGE_SIZE), ..Self::default() }
    }

    /// Aggregates a complete report.
    pub fn of(report: &Report, query: &ReportQuery) -> Self {
        let mut findings = HashMap::<&str, Vec<Finding>>::new();
        for finding in &report.findings {
            findings.entry(&finding.token).or_default().push(finding.clone());
        }
        let mut overview = Self::new(query);
        for token in &report.tokens {
            overview.add(token, findings.get(&*token.id).map_or(&[], Vec::as_slice));
        }
        overview
    }

    /// Adds a token and its findings.
    pub fn add(&mut self, token: &TokenUsage, findings: &[Finding]) {
        let line = TokenLine::of(token, findings);
        self.tokens += 1;
        self.calls.add_all(line.calls);
        for (date, day) in &token.days {
            let calls = Calls { allowed: day.allowed, denied: day.denied };
            // Days beyond the maximum still count in the total.
            if let Some(sum) = entry_within(&mut self.days, *date, MAX_DAYS) {
                sum.add_all(calls);
            }
        }
        self.add_abilities(token);
        self.add_denials(token);
        for finding in findings {
            let group = self.findings.entry(finding.kind).or_default();
            group.first.insert((finding.severity, group.count), FindingLine::of(finding));
            group.count += 1;
            if group.first.len() > MAX_FINDINGS {
                group.first.pop_last();
            }
        }
        let rank = (Reverse(line.findings), Reverse(line.calls.all()), self.tokens);
        self.rows.insert(rank, line);
        if self.rows.len() > self.max {
            self.rows.pop_last();
        }
    }

    fn add_abilities(&mut self, token: &TokenUsage) {
        let mut used = BTreeMap::<&str, Calls>::new();
        for row in &token.usage {
            if let Some(ability) = &row.ability {
                used.entry(ability).or_default().add(row.verdict, row.count);
            }
        }
        let named = token.abilities.iter().map(String::as_str).filter(|name| *name != "*");
        let granted: BTreeSet<&str> = named.collect();
        let names: BTreeSet<&str> = granted.iter().chain(used.keys()).copied().collect();
        for name in names {
            let calls = used.get(name).copied().unwrap_or_default();
            match entry_within(&mut self.abilities, truncate(name), MAX_DISTINCT) {
                Some(line) => {
                    line.calls.add_all(calls);
                    line.granted += u64::from(granted.contains(name));
                    line.used += u64::from(calls.allowed > 0);
                }
                None => self.is_truncated = true,
            }
        }
    }

    fn add_denials(&mut self, token: &TokenUsage) {
        let denied = token.usage.iter().filter(|row| row.verdict == Verdict::Denied && row.count > 0);
        let mut kinds = BTreeMap::<Denial, u64>::new();
        for row in denied {
            let denial =
                Denial { route: truncate(&row.route), ability: row.ability.as_deref().map(truncate) };
            let count = kinds.entry(denial).or_default();
            *count = count.saturating_add(row.count);
        }
        for (denial, count) in kinds {
            match entry_within(&mut self.denials, denial, MAX_DISTINCT) {
                Some(line) => {
                    line.count = line.count.saturating_add(count);
                    line.tokens += 1;
                }
                None => self.is_truncated = true,
            }
        }
    }

    /// The kinds of findings, most severe first.
    pub fn groups(&self) -> Vec<(Severity, FindingKind, &FindingGroup)> {
        let groups = self.findings.iter();
        let mut groups: Vec<_> =
            groups.filter_map(|(kind, group)| Some((group.severity()?, *kind, group))).collect();
        groups.sort_by_key(|(severity, kind, _)| (*severity, *kind));
        groups
    }

    /// The tokens of the requested page.
    pub fn listed_tokens(&self) -> impl Iterator<Item = &TokenLine> {
        self.rows.values().skip(self.first)
    }

    /// The number of pages, at least 1.
    pub fn pages(&self) -> usize {
        self.tokens.div_ceil(PAGE_SIZE).max(1)
    }
}

impl TokenName {
    /// Truncates both texts.
    pub fn of(id: &str, name: Option<&str>) -> Self {
        let shown = truncate(id);
        Self { is_complete: shown == id, id: shown, name: name.map(truncate) }
    }
}

impl FindingLine {
    /// Truncates the texts of a finding.
    pub fn of(finding: &Finding) -> Self {
        Self {
            token: TokenName::of(&finding.token, finding.name.as_deref()),
            abilities: finding.abilities.iter().take(MAX_ABILITIES).map(|name| truncate(name)).collect(),
            more: finding.abilities.len().saturating_sub(MAX_ABILITIES),
            since: finding.since,
            evidence: truncate_to(&finding.evidence, MAX_SENTENCE_CHARS),
            advice: truncate_to(&finding.advice, MAX_SENTENCE_CHARS),
        }
    }
}

impl TokenLine {
    /// Summarises a token.
    pub fn of(token: &TokenUsage, findings: &[Finding]) -> Self {
        let of = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Self {
            token: TokenName::of(&token.id, token.name.as_deref()),
            context: token.context.as_deref().map(truncate),
            has_wildcard: token.abilities.iter().any(|name| name == "*"),
            granted: token.abilities.iter().filter(|name| *name != "*").count(),
            used: used_abilities(token).len(),
            calls: Calls::of(token),
            addresses: token.addresses,
            last_seen: token.last_seen,
            findings: [Severity::High, Severity::Medium, Severity::Low].map(of),
        }
    }
}

/// The abilities that allowed at least one request.
pub fn used_abilities(token: &TokenUsage) -> BTreeSet<&str> {
    let used = token.usage.iter().filter(|row| row.verdict == Verdict::Allowed && row.count > 0);
    used.filter_map(|row| row.ability.as_deref()).collect()
}

/// Truncates to [`MAX_CHARS`] characters, plus an ellipsis.
pub(super) fn truncate(text: &str) -> String {
    truncate_to(text, MAX_CHARS)
}

fn truncate_to(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The value of `key`; `None` if it is new and the map already has `max` entries.
fn entry_within<K: Ord, V: Default>(map: &mut BTreeMap<K, V>, key: K, max: usize) -> Option<&mut V> {
    let full = map.len() >= max;
    match map.entry(key) {
        Entry::Occupied(entry) => Some(entry.into_mut()),
        Entry::Vacant(entry) if !full => Some(entry.insert(V::default())),
        Entry::Vacant(_) => None,
    }
}
