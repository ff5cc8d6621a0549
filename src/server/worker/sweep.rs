//! The periodic work of a worker: time limits of connections, drains, and metrics.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::state::{GRACE, Worker};
use crate::config::settings::{Limits, Settings};
use crate::downstream::Downstream;
use crate::downstream::state::{ConnectionPhase, Shutdown};
use crate::telemetry::metrics::ConnectionUse;

/// Longest pause of the sweep.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause of the sweep while requests are served, since their clients may leave.
const PAUSE_WHILE_SERVING: Duration = Duration::from_millis(250);

/// Shortest pause between two purges of the allocator.
const COLLECT_INTERVAL: Duration = Duration::from_secs(1);

/// The largest allocation that shares its page with others, in bytes (`MI_LARGE_MAX_OBJ_SIZE` of mimalloc).
const MAX_SHARED: usize = 512 * 1024;

impl Worker {
    /// Waits until all connections have ended, for at most `drain_timeout`.
    pub(super) async fn drain(&self, stop_now: &AtomicBool) {
        let timeout = self.gateway().settings().listen.drain_timeout;
        let (began, grace) = (Instant::now(), GRACE.min(timeout / 2));
        while self.load.load(Ordering::Relaxed) > 0 && began.elapsed() < timeout {
            if stop_now.load(Ordering::Relaxed) {
                break;
            }
            let now = Instant::now();
            self.shut_down_all(|state| match state.phase() {
                (ConnectionPhase::Idle, since) if now >= since.max(began) + grace => Shutdown::Graceful,
                _ => Shutdown::Announced,
            });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Enforces time limits with one timer for all connections of the worker.
    pub(super) async fn sweep(self: Rc<Self>) {
        let (mut longest, mut swept_at) = (MAX_PAUSE, Instant::now());
        let mut collected_at = Instant::now();
        loop {
            let pause = pause(self.gateway().settings());
            tokio::time::sleep(pause.min(longest)).await;
            let gateway = self.gateway();
            let limits = &gateway.settings().limits;
            let now = Instant::now();
            longest = MAX_PAUSE;
            if now.saturating_duration_since(collected_at) >= COLLECT_INTERVAL {
                collected_at = now;
                collect_memory();
            }
            self.connections.borrow_mut().retain(|downstream| match downstream.upgrade() {
                Some(downstream) => {
                    end_if_overdue(&downstream, limits, now);
                    if downstream.state.phase().0 == ConnectionPhase::Serving {
                        longest = PAUSE_WHILE_SERVING;
                    }
                    true
                }
                None => false,
            });
            if now.duration_since(swept_at) < pause {
                continue;
            }
            swept_at = now;
            gateway.backend().sweep(now);
            gateway.lookup().introspector().sweep(now);
            gateway.lookup().sweep();
            self.count_backend_connections();
            self.metrics.turn_window(now);
        }
    }

    fn count_backend_connections(&self) {
        let now = self.gateway().backend().stats();
        let before = self.counted.replace(now);
        let metrics = &self.metrics;
        let change = |now: usize, before: usize| now as i64 - before as i64;
        metrics.backend_connections(ConnectionUse::Active, change(now.active, before.active));
        metrics.backend_connections(ConnectionUse::Idle, change(now.idle, before.idle));
        metrics.queue_length(change(now.waiting, before.waiting));
    }
}

/// Makes the allocator return free memory to the operating system.
///
/// mimalloc purges memory a second after it was freed, but only when it frees a page, which an idle worker does not do.
/// An allocation beyond [`MAX_SHARED`] has its own page; nothing is written to it.
fn collect_memory() {
    drop(black_box(Vec::<u8>::with_capacity(2 * MAX_SHARED)));
}

/// Pause of the sweep: no time limit is late by more than a quarter.
fn pause(settings: &Settings) -> Duration {
    let Limits { header_timeout, idle_timeout, body_idle_timeout, .. } = settings.limits;
    let backend = settings.backend.timeout;
    let first_byte = settings.abilities.shortest_timeout().map_or(backend, |of_route| of_route.min(backend));
    let shortest = header_timeout.min(idle_timeout).min(body_idle_timeout).min(first_byte);
    (shortest / 4).clamp(Duration::from_millis(10), MAX_PAUSE)
}

fn end_if_overdue(downstream: &Downstream, limits: &Limits, now: Instant) {
    let state = &downstream.state;
    state.check_deadline(now);
    let (phase, since) = state.phase();
    let waited = now.saturating_duration_since(since);
    match phase {
        ConnectionPhase::Idle if waited >= limits.idle_timeout => state.request_shutdown(Shutdown::Graceful),
        ConnectionPhase::Head if waited >= limits.header_timeout => {
            state.request_shutdown(Shutdown::HeaderTimeout)
        }
        ConnectionPhase::Serving if state.client_has_left(now) => state.request_shutdown(Shutdown::Immediate),
        ConnectionPhase::Serving => state.watch_end(),
        ConnectionPhase::Idle | ConnectionPhase::Head => {}
    }
    if let Some(since) = state.blocked_since() {
        if now.saturating_duration_since(since) >= limits.body_idle_timeout {
            state.request_shutdown(Shutdown::Immediate);
        } else if downstream.is_stream() {
            // Other streams may have left it room to read ahead.
            state.wake();
        }
    }
    if let Some(since) = state.incomplete_since()
        && now.saturating_duration_since(since) >= limits.header_timeout
    {
        state.request_shutdown(Shutdown::HeaderTimeout);
    }
    downstream.for_each_stream(|stream| end_if_overdue(stream, limits, now));
}
