//! Sums the reports of several replicas.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use jiff::civil::Date;

use super::addresses::AddressSketch;
use super::report::{DayUsage, Report, RowKey, TokenUsage, UsageRow, compare_ids};

/// The most tokens in a sum.
const MAX_TOKENS: usize = 1_000_000;
/// The most rows, days or abilities of one token.
const MAX_ENTRIES: usize = 20_000;

/// A report cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// The sum already contains a ledger of the report.
    #[error("the sum already contains the ledger {0}")]
    Duplicate(String),
    /// The sum would have too many tokens.
    #[error("the reports have more than {MAX_TOKENS} tokens")]
    Tokens,
    /// The sum would have too many deprecated routes.
    #[error("the reports have more than {MAX_ENTRIES} deprecated routes")]
    DeprecatedRoutes,
    /// A token of the report has too many entries.
    #[error("the token {0} has more than {MAX_ENTRIES} rows, days or abilities")]
    Entries(String),
}

impl Report {
    /// Adds the report of another ledger for the same days. Counts are summed and saturate, addresses are merged, and
    /// the latest report of a token determines its description. Of a route that both reports deprecate, the end in this one
    /// stays. Findings are cleared: call [`Report::assess`] afterwards.
    ///
    /// # Errors
    /// [`AddError`]. The sum is unchanged then.
    pub fn add(&mut self, other: Self) -> Result<(), AddError> {
        if let Some(twice) = self.ledgers.intersection(&other.ledgers).next() {
            return Err(AddError::Duplicate(twice.clone()));
        }
        check_tokens(self.tokens.len().saturating_add(other.tokens.len()))?;
        if let Some(token) = other.tokens.iter().find(|token| is_beyond_bounds(token)) {
            return Err(AddError::Entries(token.id.clone()));
        }
        let own_routes = self.deprecated_routes.as_ref();
        let is_new = |route: &String| own_routes.is_none_or(|own| !own.contains_key(route));
        let new_routes =
            other.deprecated_routes.iter().flat_map(BTreeMap::keys).filter(|route| is_new(route));
        if own_routes.map_or(0, BTreeMap::len).saturating_add(new_routes.count()) > MAX_ENTRIES {
            return Err(AddError::DeprecatedRoutes);
        }
        self.ledgers.extend(other.ledgers);
        if let Some(routes) = other.deprecated_routes {
            let own = self.deprecated_routes.get_or_insert_default();
            for (route, end) in routes {
                own.entry(route).or_insert(end);
            }
        }
        // `None`, the longest period, is the minimum.
        self.since = self.since.min(other.since);
        self.findings.clear();
        let mut tokens: BTreeMap<String, TokenUsage> = BTreeMap::new();
        for token in std::mem::take(&mut self.tokens).into_iter().chain(other.tokens) {
            match tokens.entry(token.id.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(token)),
                Entry::Occupied(mut entry) => entry.get_mut().add(token),
            }
        }
        self.tokens = tokens.into_values().collect();
        self.tokens.sort_by(|one, other| compare_ids(&one.id, &other.id));
        Ok(())
    }
}

const fn check_tokens(count: usize) -> Result<(), AddError> {
    if count > MAX_TOKENS { Err(AddError::Tokens) } else { Ok(()) }
}

fn is_beyond_bounds(token: &TokenUsage) -> bool {
    let rows = token.usage.iter().map(|row| row.days.len().max(row.methods.len()));
    [token.usage.len(), token.days.len(), token.abilities.len()]
        .into_iter()
        .chain(rows)
        .any(|count| count > MAX_ENTRIES)
}

impl TokenUsage {
    /// Adds the usage of the same token in another ledger.
    fn add(&mut self, other: Self) {
        let Self { id: _, name, context, workspace_id, abilities, created_at, expires_at, .. } = other;
        if other.last_seen > self.last_seen {
            self.name = name;
            self.context = context;
            self.workspace_id = workspace_id;
            self.abilities = abilities;
            self.created_at = created_at;
            self.expires_at = expires_at;
        }
        self.first_seen = match (self.first_seen, other.first_seen) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        self.last_seen = self.last_seen.max(other.last_seen);
        for (day, usage) in other.days {
            self.days.entry(day).or_default().add(&usage);
        }
        let mut united = AddressSketch::default();
        self.days.values().for_each(|day| united.merge(&day.addresses));
        self.addresses = united.estimate().max(self.addresses).max(other.addresses);
        self.usage = add_rows(std::mem::take(&mut self.usage), other.usage);
    }
}

impl DayUsage {
    fn add(&mut self, other: &Self) {
        add(&mut self.allowed, other.allowed);
        add(&mut self.denied, other.denied);
        add(&mut self.plain_http, other.plain_http);
        add(&mut self.wrong_network, other.wrong_network);
        self.addresses.merge(&other.addresses);
    }
}

fn add_rows(one: Vec<UsageRow>, other: Vec<UsageRow>) -> Vec<UsageRow> {
    let mut rows: BTreeMap<RowKey, UsageRow> = BTreeMap::new();
    for row in one.into_iter().chain(other) {
        let key = row.key();
        match rows.entry(key) {
            Entry::Vacant(entry) => drop(entry.insert(row)),
            Entry::Occupied(mut entry) => {
                let sum = entry.get_mut();
                add(&mut sum.count, row.count);
                add(&mut sum.shadow, row.shadow);
                add_each::<Date>(&mut sum.days, row.days);
                add_each::<String>(&mut sum.methods, row.methods);
            }
        }
    }
    rows.into_values().collect()
}

fn add_each<K: Ord>(sums: &mut BTreeMap<K, u64>, others: BTreeMap<K, u64>) {
    for (key, count) in others {
        add(sums.entry(key).or_default(), count);
    }
}

const fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use jiff::{Timestamp, ToSpan};
    use proptest::prelude::*;

    use super::*;
    use crate::config::settings::FindingRules;
    use crate::usage::findings::tests::{good_token, row};
    use crate::usage::report::DeprecatedRoute;

    fn report(ledger: &str, tokens: Vec<TokenUsage>) -> Report {
        Report { ledgers: [ledger.to_owned()].into(), tokens, ..Report::default() }
    }

    fn seen(last_seen: &str, token: TokenUsage) -> TokenUsage {
        TokenUsage { last_seen: Some(last_seen.parse().unwrap()), ..token }
    }

    #[test]
    fn ledger_cannot_be_added_twice() {
        let mut sum = report("a", vec![good_token()]);
        sum.add(report("b", vec![good_token()])).unwrap();
        let before = sum.clone();
        for twice in [report("a", vec![good_token()]), before.clone()] {
            assert_eq!(sum.add(twice), Err(AddError::Duplicate("a".to_owned())));
            assert_eq!(sum, before);
        }
        assert_eq!(sum.ledgers.len(), 2);
        let doubled = &sum.tokens[0];
        assert_eq!(
            (doubled.usage.len(), doubled.usage[0].count, doubled.usage[0].methods["GET"]),
            (1, 18, 18)
        );
        assert_eq!(doubled.usage[0].days.values().sum::<u64>(), 18);
        assert_eq!(doubled.days.values().map(|day| day.allowed).sum::<u64>(), 18);
    }

    #[test]
    fn latest_report_determines_the_description_of_a_token() {
        let earlier = seen("2026-11-27T00:00:00Z", good_token());
        let later = TokenUsage {
            name: Some("later".to_owned()),
            abilities: vec!["rents:read".to_owned()],
            expires_at: None,
            first_seen: None,
            ..seen("2026-11-28T00:00:00Z", good_token())
        };
        for (one, other) in [(&earlier, &later), (&later, &earlier)] {
            let mut sum = report("a", vec![one.clone()]);
            sum.add(report("b", vec![other.clone()])).unwrap();
            let token = &sum.tokens[0];
            assert_eq!((&token.name, &token.abilities), (&later.name, &later.abilities));
            assert_eq!((token.expires_at, token.last_seen), (None, later.last_seen));
            assert_eq!(token.first_seen, earlier.first_seen);
        }
    }

    #[test]
    fn sum_covers_the_longest_period() {
        let day = |text: &str| Some(text.parse().unwrap());
        for (one, other, sum) in [
            (day("2026-11-02"), day("2026-11-01"), day("2026-11-01")),
            (day("2026-11-02"), None, None),
            (None, None, None),
        ] {
            let mut report = Report { since: one, ..report("a", vec![]) };
            report.add(Report { since: other, ..self::report("b", vec![]) }).unwrap();
            assert_eq!(report.since, sum);
        }
    }

    #[test]
    fn deprecated_routes_of_both_reports_count_once() {
        let deprecating = |ledger: &str, from: usize, count: usize| {
            let routes =
                (from..from + count).map(|number| (format!("/{number}"), DeprecatedRoute::default()));
            Report { deprecated_routes: Some(routes.collect()), ..report(ledger, vec![]) }
        };
        let mut sum = deprecating("a", 0, MAX_ENTRIES);
        sum.add(deprecating("b", 0, MAX_ENTRIES)).unwrap();
        let before = sum.clone();
        assert_eq!(sum.add(deprecating("c", MAX_ENTRIES, 1)), Err(AddError::DeprecatedRoutes));
        assert_eq!(sum, before);
        assert!(AddError::DeprecatedRoutes.to_string().starts_with("the reports have"));
    }

    #[test]
    fn malformed_reports_saturate_or_are_rejected() {
        let full = TokenUsage { usage: vec![row(Some("items:read"), "/items", i64::MIN)], ..good_token() };
        let mut full = TokenUsage { addresses: u64::MAX, ..full };
        full.usage[0].count = u64::MAX;
        let day = full.days.values_mut().next().unwrap();
        (day.allowed, day.denied, day.plain_http) = (u64::MAX, u64::MAX, u64::MAX);
        day.wrong_network = u64::MAX;
        // The same token appears twice in one report.
        let mut sum = report("a", vec![full.clone(), full.clone()]);
        sum.add(report("b", vec![full.clone(), full])).unwrap();
        assert_eq!((sum.tokens.len(), sum.tokens[0].usage[0].count), (1, u64::MAX));
        sum.assess(&FindingRules::default(), Timestamp::MAX);
        assert!(!sum.findings.is_empty());

        let before = sum.clone();
        let mut many = good_token();
        many.abilities = vec![String::new(); MAX_ENTRIES + 1];
        assert_eq!(sum.add(report("c", vec![many])), Err(AddError::Entries("17".to_owned())));
        let mut many = good_token();
        many.usage[0].days =
            (0..=MAX_ENTRIES).map(|day| (Date::ZERO.saturating_add((day as i64).days()), 1)).collect();
        assert_eq!(sum.add(report("c", vec![many])), Err(AddError::Entries("17".to_owned())));
        assert_eq!(sum, before);
        assert_eq!((check_tokens(MAX_TOKENS), check_tokens(MAX_TOKENS + 1)), (Ok(()), Err(AddError::Tokens)));
    }

    /// One request: token, day, route, whether it is denied, address, whether it came over plain HTTP.
    type Event = (u8, i8, u8, bool, u8, bool);

    /// The report of a ledger after these requests.
    fn report_of(ledger: &str, events: &[Event]) -> Report {
        let mut report = report(ledger, vec![]);
        for &(id, day, route, denied, address, plain) in events {
            let date: Date = jiff::civil::date(2026, 11, 1).saturating_add(i64::from(day).days());
            let seen: Timestamp = format!("{date}T12:00:00Z").parse().unwrap();
            let one = u64::from(!denied);
            let mut usage =
                DayUsage { allowed: one, denied: 1 - one, plain_http: plain.into(), ..DayUsage::default() };
            usage.wrong_network = u64::from(denied && plain);
            usage.addresses.insert(Ipv4Addr::new(192, 0, 2, address).into());
            let ability = format!("a{}:read", route % 3);
            let mut row = row(Some(&ability), &format!("/{route}"), if denied { -1 } else { 1 });
            row.days = [(date, 1)].into();
            let token = TokenUsage {
                id: id.to_string(),
                abilities: ["a0:read", "a1:read", "a2:read", "a3:read"].map(str::to_owned).into(),
                usage: vec![row],
                days: [(date, usage)].into(),
                addresses: 1,
                first_seen: Some(seen),
                last_seen: Some(seen),
                expires_at: None,
                ..good_token()
            };
            let one = Report { tokens: vec![token], ..Report::default() };
            report.add(one).unwrap();
        }
        report
    }

    proptest! {
        #[test]
        fn sum_of_two_replicas_equals_the_report_of_one(
            events in prop::collection::vec((0_u8..4, 0_i8..25, 0_u8..4, any::<bool>(), 0_u8..40, prop::bool::weighted(0.05)), 0..80),
            split in any::<prop::sample::Index>(),
        ) {
            let (one, other) = events.split_at(if events.is_empty() { 0 } else { split.index(events.len()) });
            let rules = FindingRules { addresses: Some(3), denials: Some(3), ..FindingRules::default() };
            let now = "2026-12-12T00:00:00Z".parse().unwrap();
            let mut all = report_of("a", &events);
            all.ledgers.insert("b".to_owned());
            let mut sum = report_of("a", one);
            sum.add(report_of("b", other)).unwrap();
            all.assess(&rules, now);
            sum.assess(&rules, now);
            prop_assert_eq!(&sum.findings, &all.findings);
            prop_assert_eq!(sum, all);
        }
    }
}
