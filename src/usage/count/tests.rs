use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Instant, SystemTime};

use super::*;
use crate::policy::ability::Abilities;
use crate::usage::batch::{MOST_BYTES, MOST_COUNTERS, MOST_TOKENS, Outcome, key};

fn core(room: usize) -> (CoreUsage, Receiver<Message>, watch::Sender<Schedule>) {
    let (sender, receiver) = sync_channel(room);
    let (tell, schedule) = watch::channel(Schedule::default());
    (CoreUsage::new(0, sender, schedule), receiver, tell)
}

fn described(id: &str) -> Description {
    let (name, context, workspace_id, created_at, expires_at) = (None, None, None, None, None);
    let abilities = Abilities::default();
    Description { id: id.into(), name, context, workspace_id, abilities, created_at, expires_at }
}

fn request(rule: u32, outcome: Outcome) -> Request {
    Request { rule, outcome, client: Some([192, 0, 2, 1].into()), plain_http: true, now: Instant::now() }
}

fn batches(receiver: &Receiver<Message>) -> Vec<Batch> {
    let batch = |message| match message {
        Message::Batch(batch) => Some(*batch),
        _ => None,
    };
    receiver.try_iter().filter_map(batch).collect()
}

#[test]
fn a_token_is_described_once_a_batch() {
    let (core, receiver, _schedule) = core(8);
    let (slot, again) = (Cell::new(0), Cell::new(0));
    let described_times = Cell::new(0);
    let describe = || {
        described_times.set(described_times.get() + 1);
        described("7")
    };
    for rule in [3, 3, 4, 3] {
        core.count(&slot, &request(rule, Outcome::Allowed), describe);
    }
    core.count(&slot, &request(3, Outcome::Denied), describe);
    assert_eq!(described_times.get(), 1);
    // Another spelling of the same token, or a later verdict.
    core.count(&again, &request(4, Outcome::Allowed), describe);
    assert_eq!(described_times.get(), 2);
    core.hand_over();
    core.count(&slot, &request(3, Outcome::Allowed), describe);
    assert_eq!(described_times.get(), 3, "what was handed over is not counted into any more");
    core.hand_over();
    let batches = batches(&receiver);
    let counts = |batch: &Batch| batch.rows.iter().map(|row| row.counts.clone()).collect::<Vec<_>>();
    let [three, denied, four] =
        [(3, Outcome::Allowed), (3, Outcome::Denied), (4, Outcome::Allowed)].map(|(rule, it)| key(rule, it));
    assert_eq!(
        batches.iter().map(counts).collect::<Vec<_>>(),
        [vec![vec![(three, 3), (four, 2), (denied, 1)]], vec![vec![(three, 1)]]]
    );
    assert_eq!((batches[0].rows[0].plain_http, batches[0].rows[0].addresses.estimate()), (6, 1));
}

/// A core may be idle for days: a batch belongs to the day of its first request.
#[test]
fn a_batch_begins_with_its_first_request() {
    let (core, receiver, _schedule) = core(8);
    core.batch.borrow_mut().began.1 = SystemTime::UNIX_EPOCH;
    core.count(&Cell::new(0), &request(1, Outcome::Allowed), || described("7"));
    core.hand_over();
    let age = batches(&receiver)[0].began.1.elapsed().unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
}

#[test]
fn what_is_not_taken_goes_on_being_counted_within_bounds() {
    let (core, receiver, _schedule) = core(1);
    let slot = Cell::new(0);
    core.count(&slot, &request(1, Outcome::Allowed), || described("7"));
    core.hand_over();
    // There is no room for a second one.
    for _ in 0..2 {
        core.count(&slot, &request(1, Outcome::Allowed), || described("7"));
        core.hand_over();
    }
    let slots: Vec<Cell<u64>> = (0..MOST_TOKENS + 10).map(|_| Cell::new(0)).collect();
    for (number, slot) in slots.iter().enumerate() {
        core.count(slot, &request(1, Outcome::Allowed), || described(&format!("t{number}")));
    }
    let [first] = &batches(&receiver)[..] else { panic!("not one") };
    assert_eq!(first.rows[0].counts, [(key(1, Outcome::Allowed), 1)]);
    core.hand_over();
    let [second] = &batches(&receiver)[..] else { panic!("not one") };
    assert_eq!(second.rows[0].counts, [(key(1, Outcome::Allowed), 2)]);
    assert_eq!((second.rows.len(), second.dropped), (MOST_TOKENS, 11));
}

#[test]
fn what_is_left_is_handed_over_at_the_end() {
    let (core, receiver, _schedule) = core(8);
    core.count(&Cell::new(0), &request(1, Outcome::Allowed), || described("7"));
    drop(core);
    assert_eq!(batches(&receiver).len(), 1);
}

fn count_of(core: &CoreUsage, id: &str, ability: &str) {
    let abilities = Abilities::new([ability]);
    core.count(&Cell::new(0), &request(0, Outcome::Allowed), || Description { abilities, ..described(id) });
}

/// How many requests of a batch were counted and dropped, of how many tokens.
fn sums(batch: &Batch) -> (u64, u64, usize) {
    let counts = batch.rows.iter().flat_map(|row| &row.counts);
    (counts.map(|(_, count)| u64::from(*count)).sum(), batch.dropped, batch.rows.len())
}

#[test]
fn tokens_of_which_much_is_told_fill_a_batch_before_they_fill_the_memory() {
    let long = "a".repeat(64 * 1024);
    let (core, receiver, _schedule) = core(1);
    (0..1000).for_each(|number| count_of(&core, &number.to_string(), &long));
    let most = MOST_BYTES / long.len();
    assert_eq!(batches(&receiver).iter().map(sums).collect::<Vec<_>>(), [(most as u64, 0, most)]);
    // The next one waits until somebody takes it, and what has no room in it is told.
    assert_eq!(sums(&core.batch.borrow()), (most as u64, 1000 - 2 * most as u64, most));
}

#[test]
fn one_token_that_is_described_again_and_again_takes_the_room_of_one() {
    let long = "a".repeat(64 * 1024);
    let (core, _receiver, _schedule) = core(1);
    (0..1000).for_each(|_| count_of(&core, "17", &long));
    let batch = core.batch.borrow();
    assert_eq!(sums(&batch), (1000, 0, 1));
    assert!(batch.bytes < 2 * long.len(), "{}", batch.bytes);
}

#[test]
fn counters_that_are_not_handed_over_are_bounded() {
    let (core, _receiver, _schedule) = core(0);
    core.batch.borrow_mut().counters = MOST_COUNTERS - 1;
    (0..3).for_each(|number| count_of(&core, &number.to_string(), "a"));
    assert_eq!(sums(&core.batch.borrow()), (1, 2, 3));
}
