use proptest::prelude::*;

use super::*;

fn time(text: &str) -> SystemTime {
    let since = text.parse::<Timestamp>().unwrap().as_duration();
    SystemTime::UNIX_EPOCH + Duration::try_from(since).unwrap()
}

fn max(max: u32) -> NonZeroU32 {
    max.try_into().unwrap()
}

fn window(period: QuotaPeriod, text: &str) -> Window {
    Window::at(period, time(text))
}

fn take_all(counter: &QuotaCounter, window: Window, most: u32) -> usize {
    (0..).take_while(|_| counter.take(window, max(most)).is_ok()).count()
}

#[test]
fn windows_are_aligned_to_utc() {
    for (period, now, start, end) in [
        (QuotaPeriod::Hour, "2026-11-30T13:59:59.999Z", "2026-11-30T13:00:00Z", "2026-11-30T14:00:00Z"),
        (QuotaPeriod::Day, "2026-11-30T00:00:00Z", "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"),
        (QuotaPeriod::Day, "2026-11-30T23:59:59Z", "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"),
        (QuotaPeriod::Month, "2026-11-30T23:59:59Z", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        (QuotaPeriod::Month, "2026-12-01T00:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        (QuotaPeriod::Month, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
    ] {
        let found = window(period, now);
        let [start, end] = [start, end].map(|text| hours(time(text)));
        assert_eq!(found, Window { start, end }, "{period:?} at {now}");
        assert_eq!(
            time(now) + found.left(time(now)),
            SystemTime::UNIX_EPOCH + Duration::from_secs(end * HOUR)
        );
    }
    for period in [QuotaPeriod::Hour, QuotaPeriod::Day, QuotaPeriod::Month] {
        let early = Window::at(period, SystemTime::UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(early.start, 0);
        let late = Window::at(period, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40));
        assert!(late.end <= MAX_HOUR && late.end > late.start, "{late:?}");
    }
}

#[test]
fn quota_is_inclusive_and_begins_anew_with_each_window() {
    let counter = QuotaCounter::default();
    let hour = |hour: u64| Window { start: hour, end: hour + 1 };
    assert_eq!((take_all(&counter, hour(10), 3), counter.check(hour(10), max(3))), (3, Err(Exhausted)));
    assert_eq!(take_all(&counter, hour(10), 5), 2, "a raised quota");
    assert_eq!(take_all(&counter, hour(11), 3), 3);
    assert_eq!(counter.used(hour(11)), Used { start: 11, count: 3 });
}

#[test]
fn count_survives_clocks_that_disagree_and_changed_periods() {
    let (hour, day) = (Window { start: 34, end: 35 }, Window { start: 24, end: 48 });
    let used = |start| Used { start, count: 7 };
    for (before, window, count, what) in [
        (34, hour, 7, "the same window"),
        (33, hour, 0, "an earlier window"),
        (35, hour, 7, "another worker is in the next window"),
        (900, hour, 7, "the clock was set back"),
        (34, day, 7, "a longer window that contains it"),
        (24, hour, 0, "a shorter window after it began"),
        (23, day, 0, "a longer window after it"),
    ] {
        assert_eq!(used(before).within(window).count, count, "{what}");
    }
    assert_eq!(used(35).within(hour).start, 35, "stays in the next window");
    assert_eq!(used(900).within(hour).start, 34, "does not stay in the future");
}

#[test]
fn exhausted_quota_of_a_clock_that_was_ahead_ends_with_its_window() {
    let counter = QuotaCounter::default();
    let hour = |hour: u64| Window { start: hour, end: hour + 1 };
    assert_eq!(take_all(&counter, hour(900), 3), 3);
    assert_eq!(counter.check(hour(34), max(3)), Err(Exhausted), "the clock was corrected");
    assert_eq!(counter.check(hour(35), max(3)), Ok(()));
}

#[test]
fn counts_of_a_file_are_added_once() {
    let (counts, window) = (QuotaCounts::default(), Window { start: 24, end: 48 });
    let counter = counts.of("1", window);
    assert_eq!(take_all(&counter, window, 3), 3);
    let key = Sha256::digest("1").into();
    let row = |count| (key, Used { start: 24, count }.pack());
    let old = ([7; 32], Used { start: 23, count: 9 }.pack());
    counts.merge([row(10), old].into_iter(), window, true);
    assert_eq!((counter.used(window).count, counts.len()), (13, 1), "before and since the start");
    counts.merge([row(10)].into_iter(), window, false);
    assert_eq!(counter.used(window).count, 13, "the file is behind");
    counts.merge([row(20)].into_iter(), window, false);
    assert_eq!(counter.used(window).count, 20, "another file is ahead");
}

#[test]
fn only_changes_are_written() {
    let (counts, window) = (QuotaCounts::default(), Window { start: 24, end: 48 });
    let (one, other) = (counts.of("1", window), counts.of("2", window));
    one.take(window, max(9)).unwrap();
    let changes = counts.take_changes(false);
    assert_eq!(changes.changed.len(), 1, "an unused token has no row");
    assert_eq!(changes.changed[0].1, Used { start: 24, count: 1 }.pack());
    one.take(window, max(9)).unwrap();
    counts.mark_written(&changes);
    assert_eq!(counts.take_changes(false).changed.len(), 1, "changed meanwhile");
    counts.mark_written(&counts.take_changes(false));
    assert_eq!(counts.take_changes(false), Changes::default());
    assert_eq!(counts.take_changes(true).changed.len(), 1, "a new file");
    other.take(window, max(9)).unwrap();
    assert_eq!(counts.take_changes(false).changed.len(), 1);
}

#[test]
fn number_of_counts_is_bounded_and_the_highest_stay() {
    let (mut state, window) = (State::default(), Window { start: 24, end: 48 });
    let key = |number: u32| Sha256::digest(number.to_be_bytes()).into();
    let held = state.counter(key(0), window);
    for number in 1..1000 {
        let counter = state.counter(key(number), window);
        for _ in 0..=number % 10 {
            counter.take(window, max(100)).unwrap();
        }
    }
    state.sweep(window, 1000);
    assert_eq!((state.counters.len(), state.dropped.len()), (500, 500));
    let lowest =
        state.counters.values().filter(|it| Arc::strong_count(it) == 1).map(|it| it.used(window).count);
    assert_eq!(lowest.min(), Some(6));
    state.sweep(Window { start: 48, end: 72 }, 1000);
    assert_eq!(state.counters.len(), 1, "the next window: only what a verdict holds");
    drop(held);
    let (counts, next) = (QuotaCounts::default(), Window { start: 48, end: 72 });
    for number in 0..100_000 {
        let window = if number % 2 == 0 { window } else { next };
        drop(counts.of(&number.to_string(), window));
    }
    assert!(counts.len() <= 2 * MIN_CAPACITY, "{}", counts.len());
}

proptest! {
    /// Against a list of the times of all requests, with a clock that never goes back.
    #[test]
    fn quota_equals_a_naive_model(
        period in prop::sample::select(vec![QuotaPeriod::Hour, QuotaPeriod::Day, QuotaPeriod::Month]),
        most in 1_u32..20,
        pauses in prop::collection::vec(0_u64..400_000, 1..150),
    ) {
        let (counter, mut now) = (QuotaCounter::default(), time("2026-11-28T00:00:00Z"));
        let mut allowed: Vec<u64> = Vec::new();
        for pause in pauses {
            now += Duration::from_secs(if pause % 3 == 0 { pause } else { pause % 600 });
            let window = Window::at(period, now);
            let hour = hours(now);
            prop_assert!((window.start..window.end).contains(&hour));
            let count = allowed.iter().filter(|hour| **hour >= window.start).count();
            let expected = if count < most as usize { Ok(()) } else { Err(Exhausted) };
            prop_assert_eq!(counter.check(window, max(most)), expected);
            prop_assert_eq!(counter.take(window, max(most)), expected);
            allowed.extend(expected.is_ok().then_some(hour));
        }
    }

    #[test]
    fn packed_counts_are_unpacked(start in 0..=MAX_HOUR, count in 0..=MAX_COUNT) {
        let used = Used { start, count };
        prop_assert_eq!(Used::unpack(used.pack()), used);
        prop_assert!(used.plus(u64::MAX).count <= MAX_COUNT);
    }
}
