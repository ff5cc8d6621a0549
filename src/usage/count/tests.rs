use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Instant, SystemTime};

use super::*;
use crate::policy::ability::Abilities;
use crate::usage::batch::{CountedOutcome, MAX_BYTES, MAX_COUNTERS, MAX_TOKENS, key};

fn worker(queue_length: usize) -> (WorkerUsage, Receiver<Message>, watch::Sender<Schedule>) {
    let (sender, receiver) = sync_channel(queue_length);
    let (schedule_sender, schedule) = watch::channel(Schedule::default());
    (WorkerUsage::new(0, sender, schedule), receiver, schedule_sender)
}

fn described(id: &str) -> TokenDescription {
    let (name, context, workspace_id, created_at, expires_at) = (None, None, None, None, None);
    let abilities = Abilities::default();
    TokenDescription { id: id.into(), name, context, workspace_id, abilities, created_at, expires_at }
}

fn request(rule: u32, outcome: CountedOutcome) -> CountedRequest {
    CountedRequest {
        rule,
        outcome,
        client: Some([192, 0, 2, 1].into()),
        plain_http: true,
        wrong_network: outcome == CountedOutcome::Denied,
        now: Instant::now(),
    }
}

fn batches(receiver: &Receiver<Message>) -> Vec<Batch> {
    let batch = |message| match message {
        Message::Batch(batch) => Some(*batch),
        _ => None,
    };
    receiver.try_iter().filter_map(batch).collect()
}

#[test]
fn token_is_described_once_per_batch() {
    let (worker, receiver, _schedule) = worker(8);
    let (slot, again) = (Cell::new(0), Cell::new(0));
    let described_times = Cell::new(0);
    let describe = || {
        described_times.set(described_times.get() + 1);
        described("7")
    };
    for rule in [3, 3, 4, 3] {
        worker.count(&slot, &request(rule, CountedOutcome::Allowed), describe);
    }
    worker.count(&slot, &request(3, CountedOutcome::Denied), describe);
    assert_eq!(described_times.get(), 1);
    // Another spelling of the same token, or a newer verdict.
    worker.count(&again, &request(4, CountedOutcome::Allowed), describe);
    assert_eq!(described_times.get(), 2);
    worker.send_batch();
    worker.count(&slot, &request(3, CountedOutcome::Allowed), describe);
    assert_eq!(described_times.get(), 3, "a sent batch does not change any more");
    worker.send_batch();
    let batches = batches(&receiver);
    let counts = |batch: &Batch| batch.rows.iter().map(|row| row.counts.clone()).collect::<Vec<_>>();
    let [three, denied, four] =
        [(3, CountedOutcome::Allowed), (3, CountedOutcome::Denied), (4, CountedOutcome::Allowed)]
            .map(|(rule, it)| key(rule, it));
    assert_eq!(
        batches.iter().map(counts).collect::<Vec<_>>(),
        [vec![vec![(three, 3), (four, 2), (denied, 1)]], vec![vec![(three, 1)]]]
    );
    assert_eq!((batches[0].rows[0].plain_http, batches[0].rows[0].addresses.estimate()), (6, 1));
    assert_eq!(batches[0].rows[0].wrong_network, 1);
}

/// A worker may be idle for days, and a batch counts for the day of its first request.
#[test]
fn batch_starts_with_its_first_request() {
    let (worker, receiver, _schedule) = worker(8);
    worker.batch.borrow_mut().began.1 = SystemTime::UNIX_EPOCH;
    worker.count(&Cell::new(0), &request(1, CountedOutcome::Allowed), || described("7"));
    worker.send_batch();
    let age = batches(&receiver)[0].began.1.elapsed().unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
}

#[test]
fn full_queue_keeps_the_batch_within_bounds() {
    let (worker, receiver, _schedule) = worker(1);
    let slot = Cell::new(0);
    worker.count(&slot, &request(1, CountedOutcome::Allowed), || described("7"));
    worker.send_batch();
    // The queue has room for one batch.
    for _ in 0..2 {
        worker.count(&slot, &request(1, CountedOutcome::Allowed), || described("7"));
        worker.send_batch();
    }
    let slots: Vec<Cell<u64>> = (0..MAX_TOKENS + 10).map(|_| Cell::new(0)).collect();
    for (number, slot) in slots.iter().enumerate() {
        worker.count(slot, &request(1, CountedOutcome::Allowed), || described(&format!("t{number}")));
    }
    let [first] = &batches(&receiver)[..] else { panic!("expected one batch") };
    assert_eq!(first.rows[0].counts, [(key(1, CountedOutcome::Allowed), 1)]);
    worker.send_batch();
    let [second] = &batches(&receiver)[..] else { panic!("expected one batch") };
    assert_eq!(second.rows[0].counts, [(key(1, CountedOutcome::Allowed), 2)]);
    assert_eq!((second.rows.len(), second.dropped), (MAX_TOKENS, 11));
}

#[test]
fn last_batch_is_sent_when_the_worker_ends() {
    let (worker, receiver, _schedule) = worker(8);
    worker.count(&Cell::new(0), &request(1, CountedOutcome::Allowed), || described("7"));
    drop(worker);
    assert_eq!(batches(&receiver).len(), 1);
}

fn count_of(worker: &WorkerUsage, id: &str, ability: &str) {
    let abilities = Abilities::new([ability]);
    worker.count(&Cell::new(0), &request(0, CountedOutcome::Allowed), || TokenDescription {
        abilities,
        ..described(id)
    });
}

/// The number of counted requests, dropped requests and tokens of a batch.
fn sums(batch: &Batch) -> (u64, u64, usize) {
    let counts = batch.rows.iter().flat_map(|row| &row.counts);
    (counts.map(|(_, count)| u64::from(*count)).sum(), batch.dropped, batch.rows.len())
}

#[test]
fn batch_of_long_descriptions_is_bounded_in_bytes() {
    let long = "a".repeat(64 * 1024);
    let (worker, receiver, _schedule) = worker(1);
    (0..1000).for_each(|number| count_of(&worker, &number.to_string(), &long));
    let max = MAX_BYTES / long.len();
    assert_eq!(batches(&receiver).iter().map(sums).collect::<Vec<_>>(), [(max as u64, 0, max)]);
    // The second batch waits for room in the queue. Requests that do not fit count as dropped.
    assert_eq!(sums(&worker.batch.borrow()), (max as u64, 1000 - 2 * max as u64, max));
}

#[test]
fn repeated_description_of_a_token_counts_once() {
    let long = "a".repeat(64 * 1024);
    let (worker, _receiver, _schedule) = worker(1);
    (0..1000).for_each(|_| count_of(&worker, "17", &long));
    let batch = worker.batch.borrow();
    assert_eq!(sums(&batch), (1000, 0, 1));
    assert!(batch.bytes < 2 * long.len(), "{}", batch.bytes);
}

#[test]
fn counters_of_an_unsent_batch_are_bounded() {
    let (worker, _receiver, _schedule) = worker(0);
    worker.batch.borrow_mut().counters = MAX_COUNTERS - 1;
    (0..3).for_each(|number| count_of(&worker, &number.to_string(), "a"));
    assert_eq!(sums(&worker.batch.borrow()), (1, 2, 3));
}
