//! From the ledger to what is told: token by token, so that memory stays bounded.

use std::collections::{BTreeMap, HashMap};
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use prost::Message;
use redb::{Range, ReadOnlyTable, ReadTransaction, ReadableTable, StorageError, TableDefinition};

use super::addresses::Addresses;
use super::batch::Outcome;
use super::ledger::{ABOUT, LedgerError, SIZES, TOKENS, day_table, number_of, read_rules};
use super::overview::TokenName;
use super::pending::{Day, Pending, PendingToken};
use super::question::Question;
use super::record::{DayRecord, TokenRecord, token_id, token_key};
use super::report::{TokenUsage, UsageRow, Verdict};
use super::rules::{Rule, Rules};
use crate::policy::ability::Abilities;

type Bytes = &'static [u8];

/// What is asked of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The first day that is told of; none: all that is kept.
    pub since: Option<Day>,
    /// The token that is told of; none: all of them.
    pub token: Option<Box<str>>,
    /// The day of the report. Later days, which a wrong clock has dated, count as this one; `None` if there are none.
    pub today: Option<Day>,
}

impl Query {
    /// What `question` asks for, `now`.
    pub fn of(question: &Question, now: Timestamp) -> Self {
        let today = TimeZone::UTC.to_datetime(now).date();
        let since = question.since.map(|since| day_of(since.first_day(today)));
        Self { since, token: question.token.as_deref().map(Into::into), today: Some(day_of(today)) }
    }

    /// The day under which a day is told: clocks differ by a day at most.
    fn told_day(&self, day: Day) -> Day {
        self.today.filter(|today| day > today.saturating_add(1)).unwrap_or(day)
    }

    /// When something was seen, in milliseconds since 1970, if a wrong clock has seen it in the future.
    fn told_time(&self, at: i64) -> i64 {
        const DAY: i64 = 24 * 60 * 60 * 1000;
        let today = self.today.map(|today| i64::from(today) * DAY);
        today.filter(|today| at.saturating_sub(*today) >= 2 * DAY).unwrap_or(at)
    }
}

/// Tells of the tokens that only memory knows.
pub(super) fn unwritten_tokens(
    query: &Query,
    unwritten: Option<&Unwritten>,
    mut tell: impl FnMut(TokenUsage) -> ControlFlow<()>,
) {
    let asked = |id: &str| query.token.as_deref().is_none_or(|asked| asked == id);
    for (id, _) in unwritten.iter().flat_map(|it| it.pending.tokens()).filter(|(id, _)| asked(id)) {
        if let Some(token) = Tally::new(None, query).finish(id, &HashMap::new(), unwritten)
            && tell(token).is_break()
        {
            return;
        }
    }
}

/// The ledger at one moment.
pub struct Snapshot {
    transaction: ReadTransaction,
    id: Option<String>,
    rules: HashMap<u32, Arc<Rule>>,
    days: Vec<Day>,
}

/// What is not on disk yet, with the rules of this process.
#[derive(Clone, Debug)]
pub struct Unwritten {
    /// What was counted.
    pub pending: Arc<Pending>,
    /// What its rules' numbers mean.
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

    /// The ledger's own random id.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(super) fn knows(&self, id: &str) -> Result<bool, LedgerError> {
        Ok(self.transaction.open_table(TOKENS)?.get(token_key(id).as_slice())?.is_some())
    }

    /// Adds the first `most` tokens by key.
    pub(super) fn names(
        &self,
        names: &mut BTreeMap<Vec<u8>, TokenName>,
        most: usize,
    ) -> Result<(), LedgerError> {
        for entry in self.transaction.open_table(TOKENS)?.iter()?.take(most) {
            let (key, record) = entry?;
            if let (Some(id), Ok(token)) = (token_id(key.value()), TokenRecord::decode(record.value())) {
                names.insert(key.value().to_vec(), TokenName::of(&id, token.name.as_deref()));
            }
        }
        Ok(())
    }

    /// Tells of each token that the query asks for and that did something since its first day, or is known from before,
    /// numeric ids first and in their order, until `tell` breaks.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub fn tokens(
        &self,
        query: &Query,
        unwritten: Option<&Unwritten>,
        mut tell: impl FnMut(TokenUsage) -> ControlFlow<()>,
    ) -> Result<(), LedgerError> {
        let days = self.days.iter().copied().filter(|day| *day >= query.since.unwrap_or(1).max(1));
        if let Some(id) = &query.token {
            if let Some(token) = self.token(id, days, query, unwritten)? {
                let _ = tell(token);
            }
            return Ok(());
        }
        let mut cursors = Vec::new();
        for day in days {
            cursors.push(Cursor::new(&self.transaction, day)?);
        }
        // Those that only memory knows, in the same order.
        let mut new = unwritten.iter().flat_map(|unwritten| unwritten.pending.tokens()).peekable();
        let mut tell_new = |key: Option<&[u8]>, tell: &mut dyn FnMut(TokenUsage) -> ControlFlow<()>| {
            let is_before = |(id, _): &(&str, _)| key.is_none_or(|key| token_key(id).as_slice() < key);
            while let Some((id, _)) = new.next_if(is_before) {
                if let Some(token) = Tally::new(None, query).finish(id, &self.rules, unwritten)
                    && tell(token).is_break()
                {
                    return ControlFlow::Break(());
                }
            }
            // This one is told with what is on disk.
            new.next_if(|(id, _)| key == Some(&token_key(id)));
            ControlFlow::Continue(())
        };
        for entry in self.transaction.open_table(TOKENS)?.iter()? {
            let (key, record) = entry?;
            let (key, Some(id)) = (key.value(), token_id(key.value())) else { continue };
            if tell_new(Some(key), &mut tell).is_break() {
                return Ok(());
            }
            let mut tally = Tally::new(TokenRecord::decode(record.value()).ok(), query);
            for cursor in &mut cursors {
                if let Some(record) = cursor.of(key)? {
                    tally.add(cursor.day, record);
                }
            }
            if let Some(token) = tally.finish(&id, &self.rules, unwritten)
                && tell(token).is_break()
            {
                return Ok(());
            }
        }
        let _ = tell_new(None, &mut tell);
        Ok(())
    }

    fn token(
        &self,
        id: &str,
        days: impl Iterator<Item = Day>,
        query: &Query,
        unwritten: Option<&Unwritten>,
    ) -> Result<Option<TokenUsage>, LedgerError> {
        let key = token_key(id);
        let record = self.transaction.open_table(TOKENS)?.get(key.as_slice())?;
        let mut tally = Tally::new(record.and_then(|record| TokenRecord::decode(record.value()).ok()), query);
        for day in days {
            let name = day_table(day);
            let table = self.transaction.open_table(TableDefinition::<Bytes, Bytes>::new(&name))?;
            if let Some(record) = table.get(key.as_slice())? {
                tally.add(day, DayRecord::decode(record.value()).unwrap_or_default());
            }
        }
        Ok(tally.finish(id, &self.rules, unwritten))
    }
}

/// A day's table, read in step with the tokens.
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

    /// The record of a token, which comes after all that were asked for before.
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

/// One token's sums.
struct Tally<'a> {
    about: Option<TokenRecord>,
    query: &'a Query,
    token: TokenUsage,
    addresses: Addresses,
    /// What is on disk, by the ledger's numbers of rules; in memory, by the rules themselves.
    by_number: HashMap<(u32, Verdict), Sums>,
    by_rule: HashMap<(Arc<Rule>, Verdict), Sums>,
}

#[derive(Default)]
struct Sums {
    days: BTreeMap<Date, u64>,
    shadow: u64,
}

impl Sums {
    fn add(&mut self, day: Date, outcome: Outcome, count: u64) {
        let sum = self.days.entry(day).or_default();
        *sum = sum.saturating_add(count);
        if outcome.is_shadowed() {
            self.shadow = self.shadow.saturating_add(count);
        }
    }
}

impl<'a> Tally<'a> {
    fn new(about: Option<TokenRecord>, query: &'a Query) -> Self {
        Self {
            about,
            query,
            token: TokenUsage::default(),
            addresses: Addresses::default(),
            by_number: HashMap::new(),
            by_rule: HashMap::new(),
        }
    }

    fn add(&mut self, day: Day, record: DayRecord) {
        let day = self.query.told_day(day);
        self.add_day(day, record.plain_http, &Addresses::from(record.addresses));
        for (key, count) in record.keys.iter().zip(&record.counts) {
            let outcome = Outcome::of(*key);
            self.add_to_day(day, outcome, *count);
            let sums = self.by_number.entry((key >> 2, outcome.verdict())).or_default();
            sums.add(date(day), outcome, *count);
        }
    }

    fn add_pending(&mut self, pending: &PendingToken, rules: &Rules) {
        let since = self.query.since.unwrap_or_default();
        for (day, counts) in pending.days.range(since..) {
            let day = &self.query.told_day(*day);
            self.add_day(*day, counts.plain_http, &counts.addresses);
            for (key, count) in &counts.by_key {
                if let Some(rule) = rules.get(key >> 2) {
                    let outcome = Outcome::of(*key);
                    self.add_to_day(*day, outcome, *count);
                    let sums = self.by_rule.entry((rule, outcome.verdict())).or_default();
                    sums.add(date(*day), outcome, *count);
                }
            }
        }
    }

    fn add_day(&mut self, day: Day, plain_http: u64, addresses: &Addresses) {
        self.addresses.add(addresses);
        let usage = self.token.days.entry(date(day)).or_default();
        usage.plain_http = usage.plain_http.saturating_add(plain_http);
        usage.addresses.add(addresses);
    }

    fn add_to_day(&mut self, day: Day, outcome: Outcome, count: u64) {
        let usage = self.token.days.entry(date(day)).or_default();
        let sum = match outcome.verdict() {
            Verdict::Allowed => &mut usage.allowed,
            Verdict::Denied => &mut usage.denied,
        };
        *sum = sum.saturating_add(count);
    }

    /// None: nothing is known of this token.
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
        let about = match (self.about.take(), pending) {
            (about, Some((pending, _))) => pending.record(about.as_ref()),
            (Some(about), None) => about,
            (None, None) => return None,
        };
        let time = |at: i64| Timestamp::from_millisecond(at).ok();
        let mut token = self.token;
        token.id = id.to_owned();
        token.name = about.name;
        token.context = about.context;
        token.workspace_id = about.workspace_id;
        token.created_at = about.created_at.and_then(time);
        token.expires_at = about.expires_at.and_then(time);
        token.first_seen = time(self.query.told_time(about.first_seen));
        token.last_seen = time(self.query.told_time(about.last_seen));
        token.addresses = self.addresses.estimate();
        let abilities = Abilities::new(about.abilities.iter().map(String::as_str));
        token.abilities = about.abilities;
        let on_disk = self
            .by_number
            .into_iter()
            .filter_map(|((number, verdict), sums)| Some((Arc::clone(rules.get(&number)?), verdict, sums)));
        let in_memory = self.by_rule.into_iter().map(|((rule, verdict), sums)| (rule, verdict, sums));
        token.usage = rows(on_disk.chain(in_memory), &abilities);
        Some(token)
    }
}

/// Rows by ability, route, verdict and requirement, whatever the method.
fn rows(by_rule: impl Iterator<Item = (Arc<Rule>, Verdict, Sums)>, abilities: &Abilities) -> Vec<UsageRow> {
    let mut rows: BTreeMap<(Option<String>, String, Verdict, String), UsageRow> = BTreeMap::new();
    for (rule, verdict, sums) in by_rule {
        let count = sums.days.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        for ability in stand_for(&rule, verdict, abilities) {
            let (route, requirement) = (rule.route.to_string(), rule.requirement.to_string());
            let key = (ability.clone(), route.clone(), verdict, requirement.clone());
            let row = rows.entry(key).or_insert_with(|| UsageRow {
                ability,
                route,
                verdict,
                count: 0,
                methods: BTreeMap::new(),
                days: BTreeMap::new(),
                requirement,
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

/// The abilities that a rule's requests of a token stand for: those that allowed them, or that were missing.
fn stand_for(rule: &Rule, verdict: Verdict, abilities: &Abilities) -> Vec<Option<String>> {
    let names = rule.abilities.iter().map(|name| &**name);
    let chosen: Vec<&str> = match verdict {
        _ if rule.is_any => {
            names.clone().find(|name| abilities.can(name)).or(names.clone().next()).into_iter().collect()
        }
        Verdict::Allowed => names.clone().collect(),
        Verdict::Denied => names.clone().filter(|name| !abilities.can(name)).collect(),
    };
    match chosen.is_empty() {
        // The token has been given them since.
        true if !rule.abilities.is_empty() => names.map(|name| Some(name.to_owned())).collect(),
        true => vec![None],
        false => chosen.into_iter().map(|name| Some(name.to_owned())).collect(),
    }
}

/// The first of all days.
const FIRST: Date = jiff::civil::date(1970, 1, 1);
/// The number of the last of them, 9999-12-31. A damaged file has later ones.
const LAST: Day = 2_932_896;

/// The number of a day; that of the first for all before it.
fn day_of(date: Date) -> Day {
    FIRST.duration_until(date).as_hours().max(0) as Day / 24
}

/// A day as people write it.
pub fn date(day: Day) -> Date {
    FIRST.saturating_add(i64::from(day.min(LAST)).days())
}
