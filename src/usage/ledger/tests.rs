use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Instant, UNIX_EPOCH};

use http::Method;
use proptest::prelude::*;

use super::*;
use crate::policy::ability::Requirement;
use crate::policy::map::{MapBuilder, Unmapped};
use crate::usage::batch::key;
use crate::usage::read::{LedgerQuery, Unwritten, date};
use crate::usage::report::TokenUsage;
use crate::usage::source::Source;

const TODAY: Day = 20_000;
const ROOMY: Bounds = Bounds { since: TODAY - 90, max_size: 1 << 30 };

/// Rules, and the numbers of those for GET and HEAD of `/a`.
fn rules() -> (Arc<Rules>, [u32; 2]) {
    let rules = Arc::<Rules>::default();
    let mut builder = MapBuilder::new(Unmapped::Deny);
    builder.route("/a", [(Method::GET, Requirement::from_word("a").unwrap(), None)]).unwrap();
    let numbers = rules.register(&builder.build());
    let number = |method| numbers.number(Some(0), &method).unwrap();
    let numbers = [number(Method::GET), number(Method::HEAD)];
    (rules, numbers)
}

fn pending_of(notes: &[(&str, Day, u32, u64)]) -> Pending {
    let mut pending = Pending::default();
    for (id, day, key, count) in notes {
        pending.insert_count(id, *day, *key, *count);
    }
    pending
}

fn read_tokens(source: &Source, query: &LedgerQuery, unwritten: Option<&Unwritten>) -> Vec<TokenUsage> {
    let mut tokens = Vec::new();
    let snapshot = source.snapshot().unwrap();
    let visit = |token| {
        tokens.push(token);
        ControlFlow::Continue(())
    };
    snapshot.tokens(query, unwritten, visit).unwrap();
    tokens
}

/// `id: day=count …`, for each token.
fn lines(tokens: &[TokenUsage]) -> Vec<String> {
    let days = |token: &TokenUsage| -> Vec<String> {
        token.days.iter().map(|(day, it)| format!("{day}={}", it.allowed + it.denied)).collect()
    };
    tokens.iter().map(|token| format!("{}: {}", token.id, days(token).join(" "))).collect()
}

#[test]
fn written_and_pending_usage_are_merged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("below/usage.redb");
    let (rules, [get, head]) = rules();
    let allowed = key(get, CountedOutcome::Allowed);
    let written =
        pending_of(&[("10", TODAY - 1, allowed, 2), ("9", TODAY, allowed, 1), ("b", TODAY, allowed, 1)]);
    let id = {
        let mut ledger = Ledger::open(&path).unwrap();
        let written = ledger.write(&written, &rules, ROOMY).unwrap();
        assert_eq!((written.tokens, written.dropped, written.days_dropped), (3, 0, 0));
        Source::of(&ledger).snapshot().unwrap().id().unwrap().to_owned()
    };
    // Another process, whose rules have other numbers.
    let (_, others) = (Rules::default(), key(head, CountedOutcome::Denied));
    let mut ledger = Ledger::open(&path).unwrap();
    let source = Source::of(&ledger);
    assert_eq!(source.snapshot().unwrap().id(), Some(&*id));
    let pending = pending_of(&[("10", TODAY, others, 5), ("11", TODAY, allowed, 7), ("a", TODAY, others, 1)]);
    let unwritten = Unwritten { pending: Arc::new(pending.clone()), rules: Arc::clone(&rules) };
    let [today, yesterday] = [TODAY, TODAY - 1].map(date);
    let expected = [
        format!("9: {today}=1"),
        format!("10: {yesterday}=2 {today}=5"),
        format!("11: {today}=7"),
        format!("a: {today}=1"),
        format!("b: {today}=1"),
    ];
    assert_eq!(lines(&read_tokens(&source, &LedgerQuery::default(), Some(&unwritten))), expected);
    ledger.write(&pending, &rules, ROOMY).unwrap();
    let all = read_tokens(&source, &LedgerQuery::default(), None);
    assert_eq!(lines(&all), expected);
    let rows: Vec<_> = all[1].usage.iter().map(|row| (row.verdict, row.count, &*row.requirement)).collect();
    use crate::usage::report::Verdict::{Allowed, Denied};
    assert_eq!(rows, [(Allowed, 2, "a"), (Denied, 5, "a")]);
    assert_eq!(all[1].usage[1].methods, BTreeMap::from([("HEAD".to_owned(), 5)]));

    for (query, expected) in [
        (
            LedgerQuery { since: Some(TODAY), token: Some("10".into()), today: None },
            vec![format!("10: {today}=5")],
        ),
        (
            LedgerQuery { since: Some(TODAY + 1), token: Some("10".into()), today: None },
            vec!["10: ".to_owned()],
        ),
        (LedgerQuery { since: None, token: Some("12".into()), today: None }, vec![]),
    ] {
        assert_eq!(lines(&read_tokens(&source, &query, None)), expected, "{query:?}");
    }
}

#[test]
fn expired_days_and_tokens_are_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (rules, [get, _]) = rules();
    let mut ledger = Ledger::open(&directory.path().join("usage.redb")).unwrap();
    let allowed = key(get, CountedOutcome::Allowed);
    for day in TODAY - 5..TODAY {
        let id = (day + 5 - TODAY).to_string();
        ledger.write(&pending_of(&[(&id, day, allowed, 1), ("9", day, allowed, 1)]), &rules, ROOMY).unwrap();
    }
    // Usage of an expired day is dropped, too.
    let late = pending_of(&[("9", TODAY - 4, allowed, 1)]);
    let written = ledger.write(&late, &rules, Bounds { since: TODAY - 2, ..ROOMY }).unwrap();
    assert_eq!(written.tokens, 3);
    let [one, two] = [TODAY - 2, TODAY - 1].map(date);
    let expected = [format!("3: {one}=1"), format!("4: {two}=1"), format!("9: {one}=1 {two}=1")];
    assert_eq!(lines(&read_tokens(&Source::of(&ledger), &LedgerQuery::default(), None)), expected);
}

#[test]
fn oldest_days_are_dropped_and_the_size_is_bounded() {
    const MAX: u64 = 64 * 1024;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("usage.redb");
    let (rules, [get, _]) = rules();
    let mut ledger = Ledger::open(&path).unwrap();
    let bounds = Bounds { since: TODAY - 90, max_size: MAX };
    let allowed = key(get, CountedOutcome::Allowed);
    let ids: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let mut dropped = 0;
    for day in TODAY - 40..TODAY {
        let notes: Vec<_> = ids.iter().map(|id| (&**id, day, allowed, 1)).collect();
        let written = ledger.write(&pending_of(&notes), &rules, bounds).unwrap();
        assert!(written.size <= MAX + 1024, "{written:?}");
        assert_eq!(written.dropped, 0);
        dropped += written.days_dropped;
    }
    assert!(dropped > 20, "{dropped}");
    let tokens = read_tokens(&Source::of(&ledger), &LedgerQuery::default(), None);
    let days = tokens[7].days.len();
    assert!(tokens.iter().all(|token| token.days.len() == days && days == 40 - dropped));

    // More tokens on one day than the ledger holds.
    let ids: Vec<String> = (1000..3000).map(|number| number.to_string()).collect();
    let notes: Vec<_> = ids.iter().map(|id| (&**id, TODAY, allowed, 2)).collect();
    let written = ledger.write(&pending_of(&notes), &rules, bounds).unwrap();
    assert!(written.size <= MAX + 1024 && written.dropped > 0, "{written:?}");
    let length = fs::metadata(&path).unwrap().len();
    assert!(length < 8 * MAX, "{length}");
}

#[test]
fn ledger_of_another_format_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("usage.redb");
    drop(Ledger::open(&path).unwrap());
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(ABOUT).unwrap().insert(&b"format"[..], &b"2"[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(Ledger::open(&path), Err(LedgerError::Format(format)) if format == "2"));
}

#[test]
fn second_process_cannot_open_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("usage.redb");
    let ledger = Ledger::open(&path).unwrap();
    assert!(matches!(Ledger::open(&path), Err(LedgerError::InUse { .. })));
    assert!(matches!(Source::open(&path), Err(LedgerError::InUse { .. })));
    drop(ledger);
    assert!(Source::open(&path).is_ok());
}

/// A damaged file is read or rejected. It neither hangs nor aborts the process.
#[test]
fn damaged_file_is_read_or_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("usage.redb");
    let (rules, [get, _]) = rules();
    let ids: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let notes: Vec<_> =
        ids.iter().map(|id| (&**id, TODAY - 1, key(get, CountedOutcome::Allowed), 1)).collect();
    let mut ledger = Ledger::open(&path).unwrap();
    ledger.write(&pending_of(&notes), &rules, ROOMY).unwrap();
    drop(ledger);
    let whole = fs::read(&path).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let (mut read, mut refused) = (0, 0);
    for round in 0..150 {
        let mut bytes = whole.clone();
        if round % 5 == 0 {
            bytes.truncate(random.usize(..bytes.len()));
        } else {
            for _ in 0..random.usize(1..20) {
                let index = random.usize(..bytes.len());
                bytes[index] = random.u8(..);
            }
        }
        fs::write(&path, &bytes).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| -> Result<(), LedgerError> {
            let mut ledger = Ledger::open(&path)?;
            Source::of(&ledger)
                .snapshot()?
                .tokens(&LedgerQuery::default(), None, |_| ControlFlow::Continue(()))?;
            ledger.write(&pending_of(&notes), &rules, ROOMY).map(drop)
        }));
        match result {
            Ok(Ok(())) => read += 1,
            Ok(Err(_)) | Err(_) => refused += 1,
        }
    }
    assert!(read > 0 && refused > 0, "{read} {refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any sequence of counts, writes and restarts has the sums of a simple model.
    #[test]
    fn sums_survive_writes_and_restarts(
        rounds in prop::collection::vec(
            (any::<bool>(), prop::collection::vec((0_u8..6, 0_u32..4, 0_usize..2, 0_u8..4, 1_u64..9), 0..12)),
            1..6,
        ),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("usage.redb");
        let (rules, numbers) = rules();
        let mut ledger = Some(Ledger::open(&path).unwrap());
        let mut model = BTreeMap::<(String, Day), [u64; 2]>::new();
        for (again, notes) in rounds {
            let mut pending = Pending::default();
            for (token, day, rule, outcome, count) in notes {
                let (id, day) = (token.to_string(), TODAY - day);
                let key = key(numbers[rule], CountedOutcome::from_key(outcome.into()));
                pending.insert_count(&id, day, key, count);
                let is_denied = matches!(CountedOutcome::from_key(outcome.into()), CountedOutcome::Denied | CountedOutcome::DeniedShadowed);
                model.entry((id, day)).or_default()[usize::from(is_denied)] += count;
            }
            if again {
                drop(ledger.take());
                ledger = Some(Ledger::open(&path).unwrap());
            }
            ledger.as_mut().unwrap().write(&pending, &rules, ROOMY).unwrap();
        }
        let mut sums = BTreeMap::new();
        for token in read_tokens(&Source::of(&ledger.unwrap()), &LedgerQuery::default(), None) {
            let by_row: u64 = token.usage.iter().map(|row| row.count).sum();
            let by_day: u64 = token.days.values().map(|day| day.allowed + day.denied).sum();
            prop_assert_eq!(by_row, by_day);
            for (day, usage) in &token.days {
                sums.insert((token.id.clone(), *day), [usage.allowed, usage.denied]);
            }
        }
        let model: BTreeMap<_, _> = model.into_iter().map(|((id, day), sum)| ((id, date(day)), sum)).collect();
        prop_assert_eq!(sums, model);
    }
}

#[test]
fn days_beyond_the_calendar_become_the_last_day() {
    for (day, expected) in
        [(0, "1970-01-01"), (TODAY, "2024-10-04"), (2_932_896, "9999-12-31"), (Day::MAX, "9999-12-31")]
    {
        assert_eq!(date(day).to_string(), expected);
    }
}

/// The start of a day by the system clock.
fn moment(day: Day, monotonic: Instant) -> Moment {
    Moment { wall: UNIX_EPOCH + Duration::from_secs(u64::from(day) * 24 * 60 * 60), monotonic }
}

/// Writes as the gateway does, with a retention of 90 days.
fn write(ledger: &mut Ledger, pending: &Pending, rules: &Rules, now: Moment) -> RetentionTime {
    let time = ledger.time(now, Duration::from_secs(10)).unwrap();
    let since = Day::try_from(time.now / MILLISECONDS_A_DAY).unwrap() - 90;
    ledger.write(pending, rules, Bounds { since, ..ROOMY }).unwrap();
    time
}

#[test]
fn clock_jump_ahead_does_not_empty_the_ledger() {
    const LATER: Day = TODAY + 20 * 365;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("usage.redb");
    let (rules, [get, _]) = rules();
    let (now, get) = (Instant::now(), key(get, CountedOutcome::Allowed));
    let mut ledger = Ledger::open(&path).unwrap();
    write(
        &mut ledger,
        &pending_of(&[("1", TODAY - 89, get, 1), ("2", TODAY, get, 2)]),
        &rules,
        moment(TODAY, now),
    );

    // Jumps while it runs, with requests, then restarts: all data is kept.
    let second = Duration::from_secs(1);
    let time = write(&mut ledger, &pending_of(&[("2", LATER, get, 4)]), &rules, moment(LATER, now + second));
    assert!(time.jump.is_some_and(|jump| jump > Duration::from_secs(19 * 365 * 24 * 60 * 60)));
    drop(ledger);
    let mut ledger = Ledger::open(&path).unwrap();
    assert!(write(&mut ledger, &Pending::default(), &rules, moment(LATER, now)).jump.is_some());
    drop(ledger);
    let mut ledger = Ledger::open(&path).unwrap();
    assert_eq!(write(&mut ledger, &Pending::default(), &rules, moment(TODAY, now)).jump, None);
    let source = Source::of(&ledger);
    let (first, today) = (date(TODAY - 89), date(TODAY));
    let expected = [format!("1: {first}=1"), format!("2: {today}=2 {}=4", date(LATER))];
    assert_eq!(lines(&read_tokens(&source, &LedgerQuery::default(), None)), expected);
    // A report of today counts requests that a wrong clock has dated as today's.
    let query = LedgerQuery { today: Some(TODAY), ..LedgerQuery::default() };
    let tokens = read_tokens(&source, &query, None);
    assert_eq!(lines(&tokens), [format!("1: {first}=1"), format!("2: {today}=6")]);
    assert_eq!(
        tokens[1].last_seen.map(|at| at.as_millisecond()),
        Some(i64::from(TODAY) * MILLISECONDS_A_DAY)
    );

    // The token that was used in the future is dropped in time.
    for day in (TODAY + 1)..(TODAY + 93) {
        let later = Duration::from_secs(u64::from(day - TODAY) * 24 * 60 * 60);
        let time = ledger.time(moment(day, now + later), Duration::from_secs(24 * 60 * 60)).unwrap();
        assert_eq!(time.jump, None, "{day}");
        let since = Day::try_from(time.now / MILLISECONDS_A_DAY).unwrap() - 90;
        ledger.write(&Pending::default(), &rules, Bounds { since, ..ROOMY }).unwrap();
    }
    assert_eq!(lines(&read_tokens(&Source::of(&ledger), &LedgerQuery::default(), None)), [] as [String; 0]);
}

#[test]
fn clock_jump_back_drops_no_token() {
    const EARLIER: Day = TODAY - 5 * 365;
    let (rules, [get, _]) = rules();
    let (now, get) = (Instant::now(), key(get, CountedOutcome::Allowed));
    // The token may be used or not while the clock is wrong.
    for pending in [Pending::default(), pending_of(&[("1", EARLIER, get, 4)])] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("usage.redb");
        let mut ledger = Ledger::open(&path).unwrap();
        write(&mut ledger, &pending_of(&[("1", TODAY, get, 2)]), &rules, moment(TODAY, now));
        for (day, pending) in [(EARLIER, &pending), (TODAY, &Pending::default())] {
            drop(ledger);
            ledger = Ledger::open(&path).unwrap();
            assert_eq!(write(&mut ledger, pending, &rules, moment(day, now)).jump, None);
        }
        let tokens = read_tokens(&Source::of(&ledger), &LedgerQuery::default(), None);
        assert_eq!(lines(&tokens), [format!("1: {}=2", date(TODAY))]);
        let seen = tokens[0].last_seen.map(|at| at.as_millisecond() / MILLISECONDS_A_DAY);
        assert_eq!(seen, Some(i64::from(TODAY)));
    }
}

#[test]
fn gateway_stopped_for_months_drops_old_days_after_running_for_a_day() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("usage.redb");
    let (rules, [get, _]) = rules();
    let now = Instant::now();
    let mut ledger = Ledger::open(&path).unwrap();
    let pending = pending_of(&[("1", TODAY, key(get, CountedOutcome::Allowed), 1)]);
    write(&mut ledger, &pending, &rules, moment(TODAY, now));
    drop(ledger);
    let mut ledger = Ledger::open(&path).unwrap();
    let count = |ledger: &Ledger| read_tokens(&Source::of(ledger), &LedgerQuery::default(), None).len();
    for hour in 0..=24_u64 {
        assert_eq!(count(&ledger), 1, "{hour}");
        let hours = Duration::from_secs(hour * 60 * 60);
        let start = moment(TODAY + 200, now);
        let now = Moment { wall: start.wall + hours, monotonic: now + hours };
        assert_eq!(write(&mut ledger, &Pending::default(), &rules, now).jump.is_some(), hour < 24, "{hour}");
    }
    assert_eq!(count(&ledger), 0);
}
