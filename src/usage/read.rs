//! Reads the ledger token by token, so that memory stays bounded.

use std::collections::{BTreeMap, HashMap};
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use prost::Message;
use redb::{Range, ReadOnlyTable, ReadTransaction, ReadableTable, StorageError, TableDefinition};

use super::addresses::AddressSketch;
use super::batch::CountedOutcome;
use super::ledger::{ABOUT, LedgerError, SIZES, TOKENS, day_table, number_of, read_rules};
use super::overview::TokenName;
use super::pending::{Day, Pending, PendingToken};
use super::query::ReportQuery;
use super::record::{DayRecord, TokenRecord, token_id, token_key};
use super::report::{RowKey, TokenUsage, UsageRow, Verdict};
use super::rules::{Rule, Rules};
use crate::policy::ability::Abilities;

type Bytes = &'static [u8];

/// Selects the days and tokens to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerQuery {
    /// The first day; `None` for all recorded days.
    pub since: Option<Day>,
    /// The id of a token; `None` for all tokens.
    pub token: Option<Box<str>>,
    /// The day of the report. Later days, dated by a wrong clock, count as this one. `None` keeps them.
    pub today: Option<Day>,
}

impl LedgerQuery {
    /// Converts a query at the time `now`.
    pub fn new(query: &ReportQuery, now: Timestamp) -> Self {
        let today = TimeZone::UTC.to_datetime(now).date();
        let since = query.since.map(|since| day_of(since.first_day(today)));
        Self { since, token: query.token.as_deref().map(Into::into), today: Some(day_of(today)) }
    }

    /// The day that usage of `day` is reported under. Clocks of replicas may differ by a day.
    fn report_day(&self, day: Day) -> Day {
        self.today.filter(|today| day > today.saturating_add(1)).unwrap_or(day)
    }

    /// A time in milliseconds since 1970. Times in the future, dated by a wrong clock, become today.
    fn report_time(&self, at: i64) -> i64 {
        const DAY: i64 = 24 * 60 * 60 * 1000;
        let today = self.today.map(|today| i64::from(today) * DAY);
        today.filter(|today| at.saturating_sub(*today) >= 2 * DAY).unwrap_or(at)
    }
}

/// Visits the tokens that are only in memory.
pub(super) fn unwritten_tokens(
    query: &LedgerQuery,
    unwritten: Option<&Unwritten>,
    mut visit: impl FnMut(TokenUsage) -> ControlFlow<()>,
) {
    let requested = |id: &str| query.token.as_deref().is_none_or(|requested| requested == id);
    for (id, _) in unwritten.iter().flat_map(|it| it.pending.tokens()).filter(|(id, _)| requested(id)) {
        if let Some(token) = Tally::new(None, query).finish(id, &HashMap::new(), unwritten)
            && visit(token).is_break()
        {
            return;
        }
    }
}

/// A consistent view of the ledger.
pub struct Snapshot {
    transaction: ReadTransaction,
    id: Option<String>,
    rules: HashMap<u32, Arc<Rule>>,
    days: Vec<Day>,
}

/// Usage that is not written yet.
#[derive(Clone, Debug)]
pub struct Unwritten {
    /// The counts.
    pub pending: Arc<Pending>,
    /// The rules of this process, which the counts refer to by number.
    pub rules: Arc<Rules>,
}

impl Snapshot {
    pub(super) fn new(transaction: ReadTransaction) -> Result<Self, LedgerError> {
        let id = transaction.open_table(ABOUT)?.get(&b"id"[..])?;
        let id = id.map(|id| String::from_utf8_lossy(id.value()).into_owned());
        let rules = read_rules(&transaction)?;
        let rules = rules.into_iter().map(|(number, rule)| (number, Arc::new(rule))).collect();
        let mut days = Vec::new();
        for entry in transaction.open_table(SIZES)?.iter()? {
            days.extend(number_of(entry?.0.value()));
        }
        Ok(Self { transaction, id, rules, days })
    }

    /// The random id of the ledger.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(super) fn has_token(&self, id: &str) -> Result<bool, LedgerError> {
        Ok(self.transaction.open_table(TOKENS)?.get(token_key(id).as_slice())?.is_some())
    }

    /// Adds the first `max` tokens in the order of their keys.
    pub(super) fn names(
        &self,
        names: &mut BTreeMap<Vec<u8>, TokenName>,
        max: usize,
    ) -> Result<(), LedgerError> {
        for entry in self.transaction.open_table(TOKENS)?.iter()?.take(max) {
            let (key, record) = entry?;
            if let (Some(id), Ok(token)) = (token_id(key.value()), TokenRecord::decode(record.value())) {
                names.insert(key.value().to_vec(), TokenName::of(&id, token.name.as_deref()));
            }
        }
        Ok(())
    }

    /// Visits each token of the query in the order of the ledger (numeric ids first) until `visit` breaks. Tokens
    /// without requests in the period are included.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read.
    pub fn tokens(
        &self,
        query: &LedgerQuery,
        unwritten: Option<&Unwritten>,
        mut visit: impl FnMut(TokenUsage) -> ControlFlow<()>,
    ) -> Result<(), LedgerError> {
        let days = self.days.iter().copied().filter(|day| *day >= query.since.unwrap_or(1).max(1));
        if let Some(id) = &query.token {
            if let Some(token) = self.token(id, days, query, unwritten)? {
                let _ = visit(token);
            }
            return Ok(());
        }
        let mut cursors = Vec::new();
        for day in days {
            cursors.push(Cursor::new(&self.transaction, day)?);
        }
        // Tokens that are only in memory, in the same order.
        let mut new = unwritten.iter().flat_map(|unwritten| unwritten.pending.tokens()).peekable();
        let mut visit_new = |key: Option<&[u8]>, visit: &mut dyn FnMut(TokenUsage) -> ControlFlow<()>| {
            let is_before = |(id, _): &(&str, _)| key.is_none_or(|key| token_key(id).as_slice() < key);
            while let Some((id, _)) = new.next_if(is_before) {
                if let Some(token) = Tally::new(None, query).finish(id, &self.rules, unwritten)
                    && visit(token).is_break()
                {
                    return ControlFlow::Break(());
                }
            }
            // Skips a token that is also on disk: its counts are merged.
            new.next_if(|(id, _)| key == Some(&token_key(id)));
            ControlFlow::Continue(())
        };
        for entry in self.transaction.open_table(TOKENS)?.iter()? {
            let (key, record) = entry?;
            let (key, Some(id)) = (key.value(), token_id(key.value())) else { continue };
            if visit_new(Some(key), &mut visit).is_break() {
                return Ok(());
            }
            let mut tally = Tally::new(TokenRecord::decode(record.value()).ok(), query);
            for cursor in &mut cursors {
                if let Some(record) = cursor.of(key)? {
                    tally.add(cursor.day, record, &self.rules);
                }
            }
            if let Some(token) = tally.finish(&id, &self.rules, unwritten)
                && visit(token).is_break()
            {
                return Ok(());
            }
        }
        let _ = visit_new(None, &mut visit);
        Ok(())
    }

    fn token(
        &self,
        id: &str,
        days: impl Iterator<Item = Day>,
        query: &LedgerQuery,
        unwritten: Option<&Unwritten>,
    ) -> Result<Option<TokenUsage>, LedgerError> {
        let key = token_key(id);
        let record = self.transaction.open_table(TOKENS)?.get(key.as_slice())?;
        let mut tally = Tally::new(record.and_then(|record| TokenRecord::decode(record.value()).ok()), query);
        for day in days {
            let name = day_table(day);
            let table = self.transaction.open_table(TableDefinition::<Bytes, Bytes>::new(&name))?;
            if let Some(record) = table.get(key.as_slice())? {
                tally.add(day, DayRecord::decode(record.value()).unwrap_or_default(), &self.rules);
            }
        }
        Ok(tally.finish(id, &self.rules, unwritten))
    }
}

/// Reads the table of a day in step with the tokens.
struct Cursor {
    day: Day,
    rows: Peekable<Range<'static, Bytes, Bytes>>,
}

impl Cursor {
    fn new(transaction: &ReadTransaction, day: Day) -> Result<Self, LedgerError> {
        let name = day_table(day);
        let table: ReadOnlyTable<Bytes, Bytes> = transaction.open_table(TableDefinition::new(&name))?;
        Ok(Self { day, rows: table.range::<&[u8]>(..)?.peekable() })
    }

    /// The record of the token with `key`. Keys must be passed in ascending order.
    fn of(&mut self, key: &[u8]) -> Result<Option<DayRecord>, StorageError> {
        let past = |row: &Result<_, StorageError>| match row {
            Ok((known, _)) => redb::AccessGuard::<'_, Bytes>::value(known) <= key,
            Err(_) => true,
        };
        let mut found = None;
        while let Some(row) = self.rows.next_if(past) {
            let (known, record) = row?;
            if known.value() == key {
                found = DayRecord::decode(record.value()).ok();
            }
        }
        Ok(found)
    }
}

/// The sums of one token.
struct Tally<'a> {
    record: Option<TokenRecord>,
    query: &'a LedgerQuery,
    token: TokenUsage,
    addresses: AddressSketch,
    /// Counts on disk by the rule numbers of the ledger; counts in memory by rule.
    by_number: HashMap<(u32, Verdict), Sums>,
    by_rule: HashMap<(Arc<Rule>, Verdict), Sums>,
}

#[derive(Default)]
struct Sums {
    days: BTreeMap<Date, u64>,
    shadow: u64,
}

impl Sums {
    fn add(&mut self, day: Date, outcome: CountedOutcome, count: u64) {
        let sum = self.days.entry(day).or_default();
        *sum = sum.saturating_add(count);
        if outcome.is_shadowed() {
            self.shadow = self.shadow.saturating_add(count);
        }
    }
}

impl<'a> Tally<'a> {
    fn new(record: Option<TokenRecord>, query: &'a LedgerQuery) -> Self {
        Self {
            record,
            query,
            token: TokenUsage::default(),
            addresses: AddressSketch::default(),
            by_number: HashMap::new(),
            by_rule: HashMap::new(),
        }
    }

    fn add(&mut self, day: Day, record: DayRecord, rules: &HashMap<u32, Arc<Rule>>) {
        let day = self.query.report_day(day);
        let addresses = AddressSketch::from(record.addresses);
        self.add_day(day, (record.plain_http, record.wrong_network), &addresses);
        for (key, count) in record.keys.iter().zip(&record.counts) {
            let outcome = CountedOutcome::from_key(*key);
            if !rules.get(&(key >> 2)).is_some_and(|rule| rule.is_additional(outcome.verdict())) {
                self.add_to_day(day, outcome, *count);
            }
            let sums = self.by_number.entry((key >> 2, outcome.verdict())).or_default();
            sums.add(date(day), outcome, *count);
        }
    }

    fn add_pending(&mut self, pending: &PendingToken, rules: &Rules) {
        let since = self.query.since.unwrap_or_default();
        for (day, counts) in pending.days.range(since..) {
            let day = &self.query.report_day(*day);
            self.add_day(*day, (counts.plain_http, counts.wrong_network), &counts.addresses);
            for (key, count) in &counts.by_key {
                if let Some(rule) = rules.get(key >> 2) {
                    let outcome = CountedOutcome::from_key(*key);
                    if !rule.is_additional(outcome.verdict()) {
                        self.add_to_day(*day, outcome, *count);
                    }
                    let sums = self.by_rule.entry((rule, outcome.verdict())).or_default();
                    sums.add(date(*day), outcome, *count);
                }
            }
        }
    }

    fn add_day(&mut self, day: Day, (plain_http, wrong_network): (u64, u64), addresses: &AddressSketch) {
        self.addresses.merge(addresses);
        let usage = self.token.days.entry(date(day)).or_default();
        usage.plain_http = usage.plain_http.saturating_add(plain_http);
        usage.wrong_network = usage.wrong_network.saturating_add(wrong_network);
        usage.addresses.merge(addresses);
    }

    fn add_to_day(&mut self, day: Day, outcome: CountedOutcome, count: u64) {
        let usage = self.token.days.entry(date(day)).or_default();
        let sum = match outcome.verdict() {
            Verdict::Allowed => &mut usage.allowed,
            Verdict::Denied => &mut usage.denied,
        };
        *sum = sum.saturating_add(count);
    }

    /// Completes the token. Returns `None` if the token is unknown.
    fn finish(
        mut self,
        id: &str,
        rules: &HashMap<u32, Arc<Rule>>,
        unwritten: Option<&Unwritten>,
    ) -> Option<TokenUsage> {
        let pending = unwritten.and_then(|it| Some((it.pending.token(id)?, &it.rules)));
        if let Some((pending, rules)) = pending {
            self.add_pending(pending, rules);
        }
        let record = match (self.record.take(), pending) {
            (record, Some((pending, _))) => pending.record(record.as_ref()),
            (Some(record), None) => record,
            (None, None) => return None,
        };
        let time = |at: i64| Timestamp::from_millisecond(at).ok();
        let mut token = self.token;
        token.id = id.to_owned();
        token.name = record.name;
        token.context = record.context;
        token.workspace_id = record.workspace_id;
        token.created_at = record.created_at.and_then(time);
        token.expires_at = record.expires_at.and_then(time);
        token.first_seen = time(self.query.report_time(record.first_seen));
        token.last_seen = time(self.query.report_time(record.last_seen));
        token.addresses = self.addresses.estimate();
        let abilities = Abilities::new(record.abilities.iter().map(String::as_str));
        token.abilities = record.abilities;
        let on_disk = self
            .by_number
            .into_iter()
            .filter_map(|((number, verdict), sums)| Some((Arc::clone(rules.get(&number)?), verdict, sums)));
        let in_memory = self.by_rule.into_iter().map(|((rule, verdict), sums)| (rule, verdict, sums));
        token.usage = rows(on_disk.chain(in_memory), &abilities);
        Some(token)
    }
}

/// Groups by ability, route, verdict, requirement and parameter, across methods.
fn rows(by_rule: impl Iterator<Item = (Arc<Rule>, Verdict, Sums)>, abilities: &Abilities) -> Vec<UsageRow> {
    let mut rows: BTreeMap<RowKey, UsageRow> = BTreeMap::new();
    for (rule, verdict, sums) in by_rule {
        let count = sums.days.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        for ability in row_abilities(&rule, verdict, abilities) {
            let (route, requirement) = (rule.route.to_string(), rule.requirement.to_string());
            let parameter = rule.parameter.as_deref().map(str::to_owned);
            let key = (ability.clone(), route.clone(), verdict, requirement.clone(), parameter.clone());
            let row = rows.entry(key).or_insert_with(|| UsageRow {
                ability,
                route,
                verdict,
                count: 0,
                methods: BTreeMap::new(),
                days: BTreeMap::new(),
                requirement,
                parameter,
                shadow: 0,
            });
            row.count = row.count.saturating_add(count);
            row.shadow = row.shadow.saturating_add(sums.shadow);
            let by_method = row.methods.entry(rule.method.to_string()).or_default();
            *by_method = by_method.saturating_add(count);
            for (day, count) in &sums.days {
                let by_day = row.days.entry(*day).or_default();
                *by_day = by_day.saturating_add(*count);
            }
        }
    }
    rows.into_values().collect()
}

/// The abilities under which requests are reported: those that allowed them, or that were missing.
fn row_abilities(rule: &Rule, verdict: Verdict, abilities: &Abilities) -> Vec<Option<String>> {
    let names = rule.abilities.iter().map(|name| &**name);
    let chosen: Vec<&str> = match verdict {
        _ if rule.is_any => {
            names.clone().find(|name| abilities.can(name)).or(names.clone().next()).into_iter().collect()
        }
        Verdict::Allowed => names.clone().collect(),
        Verdict::Denied => names.clone().filter(|name| !abilities.can(name)).collect(),
    };
    match chosen.is_empty() {
        // The token has been granted them since.
        true if !rule.abilities.is_empty() => names.map(|name| Some(name.to_owned())).collect(),
        true => vec![None],
        false => chosen.into_iter().map(|name| Some(name.to_owned())).collect(),
    }
}

/// The first of all days.
const FIRST: Date = jiff::civil::date(1970, 1, 1);
/// The last day, 9999-12-31. A damaged file may have later ones.
const LAST: Day = 2_932_896;

/// The number of a day; 0 for days before 1970.
fn day_of(date: Date) -> Day {
    FIRST.duration_until(date).as_hours().max(0) as Day / 24
}

/// The date of a day number.
pub fn date(day: Day) -> Date {
    FIRST.saturating_add(i64::from(day.min(LAST)).days())
}
