use std::sync::mpsc::{Sender, channel};

use super::*;

/// The written bytes, and the number of bytes that the output accepts before it fails; `None` accepts everything.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(Vec<u8>, Option<usize>)>>);

impl Disk {
    fn with_room(room: usize) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), Some(room)))))
    }

    fn set_room(&self, room: Option<usize>) {
        self.0.lock().unwrap().1 = room;
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
    }

    fn wait_for(&self, text: &str) {
        wait_until(|| self.text() == text, || format!("{:?} is not {text:?}", self.text()));
    }
}

fn wait_until(condition: impl Fn() -> bool, message: impl Fn() -> String) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "{}", message());
        thread::sleep(Duration::from_millis(2));
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (written, room) = &mut *self.0.lock().unwrap();
        let length = room.map_or(bytes.len(), |room| bytes.len().min(room));
        if length == 0 {
            return Err(ErrorKind::StorageFull.into());
        }
        written.extend_from_slice(&bytes[..length]);
        *room = room.map(|room| room - length);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that reads nothing until it is released, then everything.
struct Stuck(Receiver<()>, Disk);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stuck() -> (Sender<()>, Disk, LineQueue, Writer) {
    let (release, stuck) = channel();
    let disk = Disk::default();
    let (queue, writer) = start(Stuck(stuck, disk.clone()));
    (release, disk, queue, writer)
}

#[test]
fn stuck_reader_drops_lines_and_delays_nothing() {
    let (release, disk, queue, writer) = stuck();
    let start = Instant::now();
    let count = 2 * QUEUED_LINES as u64;
    for number in 0..count {
        queue.push(format!("line {number} {}\n", "x".repeat(100)).as_bytes());
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(queue.dropped() > 0);
    drop(release);
    drop(writer);
    let written = newlines(disk.text().as_bytes()) as u64;
    assert_eq!(written + queue.dropped(), count, "every line is written or counted");
}

#[test]
fn audit_line_overtakes_a_flood_of_other_lines() {
    let (release, disk, queue, writer) = stuck();
    let flood = |what: &str| {
        for number in 0..QUEUED_LINES + 2000 {
            queue.push(format!("{what} {number} {}\n", "x".repeat(100)).as_bytes());
        }
    };
    flood("before");
    let slot = queue.audit_log().reserve(AuditPriority::Change).unwrap();
    queue.push_audit(b"revoke\n");
    drop(slot);
    flood("after");
    drop(release);
    drop(writer);
    let text = disk.text();
    let before = text.split_once("revoke\n").expect("the audit line is written").0;
    assert!(before.len() <= 2 * BATCH, "{} bytes were written before it", before.len());
}

#[test]
fn action_without_room_for_its_audit_line_is_refused() {
    use AuditPriority::{Change, Read, Webhook};
    let log = AuditLog::detached();
    let mut slots = Vec::new();
    for (priority, places) in [(Read, AUDIT_LINES / 2), (Webhook, AUDIT_LINES / 4 * 3), (Change, AUDIT_LINES)]
    {
        while let Ok(slot) = log.reserve(priority) {
            slots.push(slot);
        }
        assert_eq!(slots.len(), places, "{priority:?}");
        assert_eq!(log.reserve(priority).unwrap_err(), AuditLogFull);
    }
    // A used slot stays taken until its line is written; an unused one is free again.
    log.0.push_audit(b"revoke\n");
    drop(slots.pop());
    assert_eq!(log.reserve(Change).unwrap_err(), AuditLogFull);
    drop(slots.pop());
    assert!(log.reserve(Change).is_ok());
    assert_eq!(log.0.dropped(), 0);
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let disk = Disk::with_room(0);
    let (queue, writer) = start(disk.clone());
    for _ in 0..3 {
        queue.push(b"lost\n");
    }
    wait_until(|| queue.dropped() == 3, || format!("{} lines were counted", queue.dropped()));
    disk.set_room(Some("written\nhalf".len()));
    queue.push(b"written\n");
    disk.wait_for("written\n");
    queue.push(b"half a line\n");
    wait_until(|| queue.dropped() == 4, || format!("{} lines were counted", queue.dropped()));
    disk.set_room(None);
    queue.push(b"next\n");
    drop(writer);
    // The written part of a line does not run into the next line.
    assert_eq!(disk.text(), "written\nhalf\nnext\n");
    assert_eq!(queue.dropped(), 4);
}

#[test]
fn audit_lines_that_cannot_be_written_are_kept_and_written_later() {
    let disk = Disk::with_room("one\nt".len());
    let (queue, writer) = start(disk.clone());
    queue.push_audit(b"one\n");
    disk.wait_for("one\n");
    queue.push_audit(b"two\n");
    disk.wait_for("one\nt");
    queue.push_audit(b"three\n");
    disk.set_room(None);
    drop(writer);
    assert_eq!(disk.text(), "one\nt\ntwo\nthree\n");
    assert_eq!(queue.dropped(), 0);
}

#[test]
fn audit_lines_that_are_never_written_are_counted() {
    let (queue, writer) = start(Disk::with_room(0));
    queue.push_audit(b"one\n");
    queue.push_audit(b"two\n");
    drop(writer);
    assert_eq!(queue.dropped(), 2);
}

#[test]
fn queue_is_bounded_by_lines_however_they_are_pushed() {
    const TOGETHER: usize = 40;
    let queue = LineQueue::detached();
    let lines = "line\n".repeat(TOGETHER);
    let mut pushed = 0;
    while queue.dropped() == 0 {
        queue.push_all(lines.as_bytes(), TOGETHER);
        pushed += TOGETHER;
    }
    assert_eq!(queue.dropped(), TOGETHER as u64, "all lines of a push are dropped");
    assert_eq!(queue.queued_lines(), pushed - TOGETHER);
    assert!(queue.queued_lines() <= QUEUED_LINES && queue.queued_lines() + TOGETHER > QUEUED_LINES);
}

#[test]
fn queue_is_bounded_by_bytes() {
    let queue = LineQueue::detached();
    let line = "x".repeat(QUEUED_BYTES / 10);
    while queue.dropped() == 0 {
        queue.push(line.as_bytes());
    }
    assert_eq!((queue.queued_lines(), queue.dropped()), (10, 1));
    queue.push(b"short\n");
    assert_eq!((queue.queued_lines(), queue.dropped()), (11, 1));
}

#[test]
fn lines_after_shutdown_are_counted() {
    let disk = Disk::default();
    let (queue, writer) = start(disk.clone());
    queue.push_all(b"one\ntwo\n", 2);
    drop(writer);
    assert_eq!(disk.text(), "one\ntwo\n");
    queue.push_all(b"three\nfour\n", 2);
    queue.push_audit(b"five\n");
    assert_eq!(queue.dropped(), 3);
}

#[test]
fn idle_thread_uses_no_processor_time() {
    let (queue, _writer) = start(Disk::default());
    queue.push(b"line\n");
    let is_waiting = || queue.0.queues().is_writer_waiting;
    wait_until(is_waiting, || "the thread does not wait".to_owned());
    // Only a notification ends the wait: the writer does not poll.
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        assert!(is_waiting());
        thread::sleep(Duration::from_millis(5));
    }
}
