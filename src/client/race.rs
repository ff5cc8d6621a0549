//! Connection attempts to several addresses by "Happy Eyeballs" (RFC 8305 section 5).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::error::FailedAttempt;
use super::resolve::{Family, LateAnswer};

/// How long an attempt runs alone before the next one begins (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// An attempt that succeeded.
#[derive(Debug)]
pub(super) struct WonRace<S> {
    pub(super) stream: S,
    pub(super) address: SocketAddr,
    /// The families of earlier attempts, which failed or did not finish.
    pub(super) beaten: Vec<Family>,
}

/// Alternates the addresses of two families, starting with `first`.
pub(super) fn interleave(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut all = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let before = all.len();
        all.extend(first.next());
        all.extend(second.next());
        if all.len() == before {
            return all;
        }
    }
}

/// Connects to the first of `addresses` that accepts. An attempt starts when the previous one has failed or has run for
/// [`ATTEMPT_DELAY`], or earlier if the time until `deadline` would not suffice for all. Earlier attempts continue. The
/// addresses of `late` are inserted as the next ones when they arrive. Unfinished attempts are dropped at the end,
/// which closes them.
pub(super) async fn race<S, F>(
    addresses: Vec<IpAddr>,
    port: u16,
    mut late: Option<LateAnswer>,
    deadline: Instant,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<WonRace<S>, Vec<FailedAttempt>>
where
    F: Future<Output = io::Result<S>> + Send,
{
    let mut waiting: VecDeque<IpAddr> = addresses.into();
    let mut running: Vec<RunningAttempt<'_, S>> = Vec::new();
    let mut beaten = Vec::new();
    let mut failed = Vec::new();
    let mut next_at = Instant::now();
    loop {
        let now = Instant::now();
        if now >= next_at
            && let Some(address) = waiting.pop_front()
        {
            let address = SocketAddr::new(address, port);
            beaten.push(Family::of(&address.ip()));
            running.push(RunningAttempt { address, attempt: Box::pin(connect(address)) });
            let share = deadline.saturating_duration_since(now) / (waiting.len() as u32 + 1);
            next_at = now + ATTEMPT_DELAY.min(share);
        }
        if running.is_empty() && waiting.is_empty() {
            // A family that was late before is not waited for, so that a backend that refuses connections is reported
            // immediately.
            late = late.filter(|late| !late.is_repeated);
            if late.is_none() {
                return Err(failed);
            }
        }
        let is_last_chance = running.is_empty() && waiting.is_empty();
        tokio::select! {
            biased;
            (index, result) = poll_fn(|context| poll_any(&mut running, context)) => {
                let RunningAttempt { address, .. } = running.swap_remove(index);
                match result {
                    Ok(stream) => {
                        let own = Family::of(&address.ip());
                        beaten.retain(|family| *family != own);
                        return Ok(WonRace { stream, address, beaten });
                    }
                    Err(error) => failed.push(FailedAttempt { address, error }),
                }
                // The next attempt starts immediately; after the last address a late response still gets its delay.
                if !waiting.is_empty() {
                    next_at = Instant::now();
                }
            }
            more = late_addresses(&mut late) => {
                late = None;
                for address in more.into_iter().rev() {
                    waiting.push_front(address);
                }
                if is_last_chance {
                    next_at = Instant::now();
                }
            }
            () = sleep_until(next_at.min(deadline)), if !waiting.is_empty() || is_last_chance => {
                if is_last_chance {
                    return Err(failed);
                }
                if Instant::now() >= deadline {
                    return Err(timed_out(failed, &running, &waiting, port));
                }
            }
            () = sleep_until(deadline) => return Err(timed_out(failed, &running, &waiting, port)),
        }
    }
}

struct RunningAttempt<'a, S> {
    address: SocketAddr,
    attempt: Pin<Box<dyn Future<Output = io::Result<S>> + Send + 'a>>,
}

fn poll_any<S>(
    running: &mut [RunningAttempt<'_, S>],
    context: &mut Context<'_>,
) -> Poll<(usize, io::Result<S>)> {
    for (index, RunningAttempt { attempt, .. }) in running.iter_mut().enumerate() {
        if let Poll::Ready(result) = attempt.as_mut().poll(context) {
            return Poll::Ready((index, result));
        }
    }
    Poll::Pending
}

/// The late addresses when they arrive; never completes if none are expected.
async fn late_addresses(late: &mut Option<LateAnswer>) -> Vec<IpAddr> {
    match late {
        Some(late) => late.addresses().await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

fn timed_out<S>(
    mut failed: Vec<FailedAttempt>,
    running: &[RunningAttempt<'_, S>],
    waiting: &VecDeque<IpAddr>,
    port: u16,
) -> Vec<FailedAttempt> {
    let waiting = waiting.iter().map(|address| SocketAddr::new(*address, port));
    let unfinished = running.iter().map(|RunningAttempt { address, .. }| *address).chain(waiting);
    failed.extend(unfinished.map(|address| FailedAttempt { address, error: io::ErrorKind::TimedOut.into() }));
    failed
}

#[cfg(test)]
mod tests;
