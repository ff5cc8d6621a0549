//! What is said of a panic: where, never what. A message may quote what the program worked on.

use std::io::{self, Write};
use std::panic::{self, Location};
use std::thread;

/// Has every panic of the process told by its place and thread alone: in the log, or on standard error as long as
/// there is no log.
pub fn tell_places_only() {
    panic::set_hook(Box::new(|panic| match panic.location() {
        Some(place) => tell(place),
        None => tell(Location::caller()),
    }));
}

fn tell(place: &Location<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("-");
    if tracing::dispatcher::has_been_set() {
        tracing::error!(%place, thread, "a panic: please report it");
    } else {
        let _ = writeln!(io::stderr(), "error: a panic at {place} in thread {thread}: please report it");
    }
}
