use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn line(request_id: &str) -> AccessLine<'_> {
    AccessLine { request_id: request_id.as_bytes(), ..AccessLine::minimal() }
}

fn batch() -> (LineQueue, Rc<LineBatch>) {
    let queue = LineQueue::detached();
    (queue.clone(), Rc::new(LineBatch::new(queue, LogFormat::Json)))
}

/// The request ids of the lines in the queue.
fn queued(queue: &LineQueue) -> Vec<String> {
    let id = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["request_id"].as_str().unwrap().to_owned()
    };
    queue.queued().lines().map(id).collect()
}

#[tokio::test(start_paused = true)]
async fn batch_is_queued_100_ms_after_its_first_line() {
    let (queue, batch) = batch();
    let check = async {
        for round in ["a", "b"] {
            let before = queued(&queue);
            batch.append(NOW, &line(round));
            tokio::time::sleep(Duration::from_millis(60)).await;
            batch.append(NOW, &line("later"));
            tokio::time::sleep(Duration::from_millis(39)).await;
            assert_eq!(queued(&queue), before);
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert_eq!(queued(&queue), [before, vec![round.to_owned(), "later".to_owned()]].concat());
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    };
    tokio::select! {
        () = Rc::clone(&batch).run() => unreachable!("the timer runs as long as the worker"),
        () = check => {}
    }
}

#[test]
fn batch_of_16_kib_is_queued_at_once() {
    let (queue, batch) = batch();
    let mut count = 0;
    while queued(&queue).is_empty() {
        count += 1;
        batch.append(NOW, &line(&count.to_string()));
    }
    let text = queue.queued();
    let length = text.len();
    assert!(length >= BATCH && length - text.lines().last().unwrap().len() <= BATCH, "{length} bytes");
    assert_eq!(queued(&queue), (1..=count).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(queue.queued_lines(), count);
}

#[test]
fn after_shutdown_every_line_is_queued_at_once() {
    let (queue, batch) = batch();
    batch.append(NOW, &line("before"));
    assert_eq!(queued(&queue), [""; 0]);
    batch.end();
    assert_eq!(queued(&queue), ["before"]);
    batch.append(NOW, &line("after"));
    assert_eq!(queued(&queue), ["before", "after"]);
}

#[test]
fn dropped_batch_is_queued() {
    let (queue, batch) = batch();
    batch.append(NOW, &line("last"));
    drop(batch);
    assert_eq!(queued(&queue), ["last"]);
}

#[test]
fn lines_of_a_batch_dropped_by_a_full_queue_are_counted() {
    let (queue, batch) = batch();
    while queue.dropped() == 0 {
        queue.push(b"{\"request_id\":\"other\"}\n");
    }
    let before = queue.dropped();
    for _ in 0..7 {
        batch.append(NOW, &line("lost"));
    }
    assert_eq!(queue.dropped(), before);
    batch.end();
    assert_eq!(queue.dropped(), before + 7);
    assert!(!queue.queued().contains("lost"));
}

#[test]
fn panic_within_a_line_removes_that_line() {
    struct Panics;

    impl Display for Panics {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("formatting a detail may panic");
        }
    }

    let (queue, batch) = batch();
    batch.append(NOW, &line("before"));
    let broken = AccessLine { detail: Some(&Panics), ..line("broken") };
    assert!(catch_unwind(AssertUnwindSafe(|| batch.append(NOW, &broken))).is_err());
    batch.append(NOW, &line("after"));
    assert!(catch_unwind(AssertUnwindSafe(|| batch.append(NOW, &broken))).is_err());
    drop(batch);
    assert_eq!(queued(&queue), ["before", "after"]);
    assert_eq!(queue.queued_lines(), 2);
}
