//! All tokens together: folded one by one, so that a page of very many needs no more memory than it shows.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use jiff::civil::Date;

use super::question::Question;
use super::report::{Finding, FindingKind, Report, Severity, TokenUsage, Verdict};

/// Tokens in one part of the list.
pub const PART: usize = 200;
/// Findings of one kind that are shown.
pub const FINDINGS: usize = 50;
/// Abilities of one finding that are shown: several times as many as the guide has.
const ABILITIES: usize = 100;
/// Abilities, and pairs of route and ability, that are told apart. The map has fewer; what introspection calls an
/// ability is anybody's choice.
const DISTINCT: usize = 500;
/// Days that are told apart: more than ten years of them are somebody's invention.
const DAYS: usize = 3660;
/// The longest text of somebody's choice that is kept, in characters.
const LONGEST: usize = 200;
/// The longest evidence and advice, in characters: both may quote abilities.
const SENTENCE: usize = 2000;

/// What many tokens did, bounded.
#[derive(Debug, Default)]
pub struct Overview {
    /// How many tokens there are.
    pub tokens: usize,
    /// Their requests.
    pub calls: Calls,
    /// By day.
    pub days: BTreeMap<Date, Calls>,
    /// By ability.
    pub abilities: BTreeMap<String, AbilityLine>,
    /// What was denied.
    pub denials: BTreeMap<Denial, DenialLine>,
    /// Whether there were more abilities or pairs than are told apart.
    pub cut: bool,
    /// By kind.
    pub findings: BTreeMap<FindingKind, Group>,
    /// The first so many tokens, those with most to do about them, then those with most requests.
    rows: BTreeMap<Rank, TokenLine>,
    /// How many of them are kept.
    most: usize,
    /// Which of them are shown begins here.
    first: usize,
}

/// How many requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Allowed by the map.
    pub allowed: u64,
    /// Denied by it.
    pub denied: u64,
}

impl Calls {
    /// All of them.
    pub const fn all(self) -> u64 {
        self.allowed.saturating_add(self.denied)
    }

    /// So many more.
    pub const fn add(&mut self, verdict: Verdict, count: u64) {
        match verdict {
            Verdict::Allowed => self.allowed = self.allowed.saturating_add(count),
            Verdict::Denied => self.denied = self.denied.saturating_add(count),
        }
    }

    /// All of both.
    pub const fn add_all(&mut self, other: Self) {
        self.add(Verdict::Allowed, other.allowed);
        self.add(Verdict::Denied, other.denied);
    }

    /// The requests of a token. A request that several abilities stand for is one, although each has a row.
    pub fn of(token: &TokenUsage) -> Self {
        let mut calls = Self::default();
        for day in token.days.values() {
            calls.add_all(Self { allowed: day.allowed, denied: day.denied });
        }
        // A report may leave the days out.
        if token.days.is_empty() {
            token.usage.iter().for_each(|row| calls.add(row.verdict, row.count));
        }
        calls
    }
}

/// What there is to say of an ability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AbilityLine {
    /// Requests that it allowed, and that it was missing for.
    pub calls: Calls,
    /// How many tokens have it by name.
    pub granted: u64,
    /// How many tokens used it.
    pub used: u64,
}

/// Requests that are denied alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Denial {
    /// The route's template, or `unmapped`.
    pub route: String,
    /// What was missing; none where nothing would have helped.
    pub ability: Option<String>,
}

/// How often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DenialLine {
    /// Requests.
    pub count: u64,
    /// Tokens.
    pub tokens: u64,
}

/// Findings of one kind: one for each token that has it.
#[derive(Debug, Default)]
pub struct Group {
    /// All of them.
    pub count: usize,
    /// The first [`FINDINGS`], the most severe first, then as they came.
    pub first: BTreeMap<(Severity, usize), FindingLine>,
}

impl Group {
    /// The greatest severity; `None` if there is no finding.
    pub fn severity(&self) -> Option<Severity> {
        self.first.keys().next().map(|(severity, _)| *severity)
    }
}

/// A finding in a list: its texts cut.
#[derive(Clone, Debug)]
pub struct FindingLine {
    /// Whose it is.
    pub token: TokenName,
    /// The first [`ABILITIES`] that it is about.
    pub abilities: Vec<String>,
    /// How many more it is about.
    pub more: usize,
    /// Since when it is so.
    pub since: Option<Timestamp>,
    /// What was seen.
    pub evidence: String,
    /// What to do.
    pub advice: String,
}

/// What a token is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenName {
    /// Its id, cut.
    pub id: String,
    /// Whether that is all of it.
    pub whole: bool,
    /// Its name, cut.
    pub name: Option<String>,
}

/// A token in the list.
#[derive(Clone, Debug, Default)]
pub struct TokenLine {
    /// What it is called.
    pub token: TokenName,
    /// `user` or `instance`, cut.
    pub context: Option<String>,
    /// Whether it may do everything.
    pub everything: bool,
    /// How many abilities it has by name.
    pub granted: usize,
    /// How many abilities it used.
    pub used: usize,
    /// Its requests.
    pub calls: Calls,
    /// About how many addresses it came from.
    pub addresses: u64,
    /// Its latest request.
    pub last_seen: Option<Timestamp>,
    /// How many findings of each severity, high first.
    pub findings: [usize; 3],
}

/// Most findings of the highest severity first, then most requests, then as they came.
type Rank = (Reverse<[usize; 3]>, Reverse<u64>, usize);

impl Overview {
    /// An empty one, that will show the part of the list that `question` asks for.
    pub fn new(question: &Question) -> Self {
        let first = question.page.saturating_mul(PART);
        Self { first, most: first.saturating_add(PART), ..Self::default() }
    }

    /// Of a whole report.
    pub fn of(report: &Report, question: &Question) -> Self {
        let mut findings = HashMap::<&str, Vec<Finding>>::new();
        for finding in &report.findings {
            findings.entry(&finding.token).or_default().push(finding.clone());
        }
        let mut overview = Self::new(question);
        for token in &report.tokens {
            overview.add(token, findings.get(&*token.id).map_or(&[], Vec::as_slice));
        }
        overview
    }

    /// Adds a token, with the findings about it.
    pub fn add(&mut self, token: &TokenUsage, findings: &[Finding]) {
        let line = TokenLine::of(token, findings);
        self.tokens += 1;
        self.calls.add_all(line.calls);
        for (date, day) in &token.days {
            let calls = Calls { allowed: day.allowed, denied: day.denied };
            // Not one that is told apart no longer: the total has it.
            if let Some(sum) = within(&mut self.days, *date, DAYS) {
                sum.add_all(calls);
            }
        }
        self.add_abilities(token);
        self.add_denials(token);
        for finding in findings {
            let group = self.findings.entry(finding.kind).or_default();
            group.first.insert((finding.severity, group.count), FindingLine::of(finding));
            group.count += 1;
            if group.first.len() > FINDINGS {
                group.first.pop_last();
            }
        }
        let rank = (Reverse(line.findings), Reverse(line.calls.all()), self.tokens);
        self.rows.insert(rank, line);
        if self.rows.len() > self.most {
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
            match within(&mut self.abilities, cut(name), DISTINCT) {
                Some(line) => {
                    line.calls.add_all(calls);
                    line.granted += u64::from(granted.contains(name));
                    line.used += u64::from(calls.allowed > 0);
                }
                None => self.cut = true,
            }
        }
    }

    fn add_denials(&mut self, token: &TokenUsage) {
        let denied = token.usage.iter().filter(|row| row.verdict == Verdict::Denied && row.count > 0);
        let mut kinds = BTreeMap::<Denial, u64>::new();
        for row in denied {
            let denial = Denial { route: cut(&row.route), ability: row.ability.as_deref().map(cut) };
            let count = kinds.entry(denial).or_default();
            *count = count.saturating_add(row.count);
        }
        for (denial, count) in kinds {
            match within(&mut self.denials, denial, DISTINCT) {
                Some(line) => {
                    line.count = line.count.saturating_add(count);
                    line.tokens += 1;
                }
                None => self.cut = true,
            }
        }
    }

    /// The kinds of findings, the most severe first.
    pub fn groups(&self) -> Vec<(Severity, FindingKind, &Group)> {
        let groups = self.findings.iter();
        let mut groups: Vec<_> =
            groups.filter_map(|(kind, group)| Some((group.severity()?, *kind, group))).collect();
        groups.sort_by_key(|(severity, kind, _)| (*severity, *kind));
        groups
    }

    /// The tokens of the part that was asked for.
    pub fn shown(&self) -> impl Iterator<Item = &TokenLine> {
        self.rows.values().skip(self.first)
    }

    /// How many parts the list has: one at least.
    pub fn parts(&self) -> usize {
        self.tokens.div_ceil(PART).max(1)
    }
}

impl TokenName {
    /// Of a token with this id and this name.
    pub fn of(id: &str, name: Option<&str>) -> Self {
        let shown = cut(id);
        Self { whole: shown == id, id: shown, name: name.map(cut) }
    }
}

impl FindingLine {
    /// A finding's line.
    pub fn of(finding: &Finding) -> Self {
        Self {
            token: TokenName::of(&finding.token, finding.name.as_deref()),
            abilities: finding.abilities.iter().take(ABILITIES).map(|name| cut(name)).collect(),
            more: finding.abilities.len().saturating_sub(ABILITIES),
            since: finding.since,
            evidence: cut_at(&finding.evidence, SENTENCE),
            advice: cut_at(&finding.advice, SENTENCE),
        }
    }
}

impl TokenLine {
    /// A token's line.
    pub fn of(token: &TokenUsage, findings: &[Finding]) -> Self {
        let of = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Self {
            token: TokenName::of(&token.id, token.name.as_deref()),
            context: token.context.as_deref().map(cut),
            everything: token.abilities.iter().any(|name| name == "*"),
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

/// At most [`LONGEST`] characters, and an ellipsis for the rest.
pub(super) fn cut(text: &str) -> String {
    cut_at(text, LONGEST)
}

fn cut_at(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The value for a key. None where there are `most` others already.
fn within<K: Ord, V: Default>(map: &mut BTreeMap<K, V>, key: K, most: usize) -> Option<&mut V> {
    let full = map.len() >= most;
    match map.entry(key) {
        Entry::Occupied(entry) => Some(entry.into_mut()),
        Entry::Vacant(entry) if !full => Some(entry.insert(V::default())),
        Entry::Vacant(_) => None,
    }
}
