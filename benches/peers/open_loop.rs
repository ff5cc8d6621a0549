//! A client that sends requests at a fixed rate, without waiting for earlier responses.
//!
//! The requests are spread evenly over time and over connections. Each has a due time; if its connection still waits for
//! the answer before, the request is sent afterwards, and its latency counts from its due time. A slow answer thus
//! delays what it would delay for independent clients: without this, a client that waits measures few slow requests
//! (coordinated omission). A request whose connection is free counts from when it is sent, so that the client's own timer
//! is not measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// How long after the end overdue requests are still sent.
const GRACE: Duration = Duration::from_millis(100);

/// Requests to send, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule<'a> {
    pub(crate) address: SocketAddr,
    /// One request without a body, as bytes.
    pub(crate) request: &'a [u8],
    /// Requests per second over all connections.
    pub(crate) rate: f64,
    pub(crate) connections: u32,
    pub(crate) duration: Duration,
}

/// Latencies of a schedule's requests, and the requests without one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    /// In microseconds, ascending.
    sorted: Vec<u64>,
    /// Requests with a response other than 200, or none.
    pub(crate) errors: u64,
    /// Requests that were due but not sent before the end, because responses to earlier ones were missing.
    pub(crate) unsent: u64,
}

impl Latencies {
    pub(crate) fn answered(&self) -> u64 {
        self.sorted.len() as u64
    }

    /// The latency in microseconds that this share of the requests does not exceed.
    pub(crate) fn percentile(&self, percent: f64) -> u64 {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get((last as f64 * percent / 100.0).ceil() as usize).copied().unwrap_or(0)
    }

    fn add(&mut self, other: Self) {
        self.sorted.extend(other.sorted);
        self.errors += other.errors;
        self.unsent += other.unsent;
    }
}

/// Sends all requests of a schedule, with a thread per connection.
pub(crate) fn drive(schedule: &Schedule<'_>) -> Result<Latencies> {
    let streams = (0..schedule.connections)
        .map(|_| {
            let stream = TcpStream::connect(schedule.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(stream)
        })
        .collect::<io::Result<Vec<_>>>()?;
    // All threads have started by then.
    let start = Instant::now() + Duration::from_millis(50);
    let mut all = Latencies::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(streams)
            .map(|(number, stream)| scope.spawn(move || send(schedule, start, number, stream)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(latencies) => all.add(latencies),
                Err(_) => all.errors += 1,
            }
        }
    });
    all.sorted.sort_unstable();
    Ok(all)
}

/// The requests of one connection.
fn send(schedule: &Schedule<'_>, start: Instant, number: u32, mut stream: TcpStream) -> Latencies {
    let mut latencies = Latencies::default();
    let mut answer = Vec::new();
    for turn in 0_u32.. {
        let place = f64::from(number) + f64::from(turn) * f64::from(schedule.connections);
        let due = Duration::from_secs_f64(place / schedule.rate);
        if due >= schedule.duration {
            break;
        }
        let mut sent = start + due;
        let now = Instant::now();
        if now > start + schedule.duration + GRACE {
            latencies.unsent += 1;
            continue;
        }
        if let Some(wait) = sent.checked_duration_since(now) {
            thread::sleep(wait);
            sent = Instant::now();
        }
        match exchange(&mut stream, schedule.request, &mut answer) {
            Ok(200) => latencies.sorted.push(sent.elapsed().as_micros() as u64),
            Ok(_) => latencies.errors += 1,
            Err(_) => {
                latencies.errors += 1;
                break;
            }
        }
    }
    latencies
}

/// Sends a request, and returns the status of the complete response.
fn exchange(stream: &mut TcpStream, request: &[u8], answer: &mut Vec<u8>) -> io::Result<u16> {
    stream.write_all(request)?;
    answer.clear();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..length]);
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        if let httparse::Status::Complete(head) = response.parse(answer).map_err(io::Error::other)? {
            let body = response
                .headers
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case("content-length"))
                .and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok())
                .ok_or_else(|| io::Error::other("a response without Content-Length"))?;
            if answer.len() >= head + body {
                return Ok(response.code.unwrap_or_default());
            }
        }
    }
}
