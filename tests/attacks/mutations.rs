//! The attacks of the tables, combined and damaged at random.
//!
//! The outcome is unknown, but every request that arrives has to pass the judge, and each complete request gets exactly
//! one response.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{READER, start};
use crate::support::Answer;

/// Bytes that parsers are sensitive to.
const PIECES: [&[u8]; 48] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b" ",
    b"\t",
    b"\0",
    b":",
    b",",
    b";",
    b"%",
    b"%2F",
    b"%2e",
    b"%00",
    b"%25",
    b"/",
    b"//",
    b"\\",
    b"/../",
    b"?",
    b"#",
    b"\xc3\xa9",
    b"\xff",
    b"0",
    b"0\r\n\r\n",
    b"1",
    b"ffffffff",
    b"-",
    b"+",
    b"HTTP/1.0",
    b" HTTP/1.1\r\n",
    b"GET /api/v2/items HTTP/1.1\r\nHost: a\r\n",
    b"DELETE /api/v2/items/5 HTTP/1.1\r\nHost: a\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: keep-alive\r\n",
    b"Authorization: Bearer 1|Secret0Reader\r\n",
    b"Authorization: Bearer 3|Secret0User\r\n",
    b"Cookie: session=evil\r\n",
    b"X-HTTP-Method-Override: DELETE\r\n",
    b"X-Forwarded-For: evil\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: Upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
];

/// One or several damaged attacks.
fn mutation(corpus: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = random.choice(corpus).cloned().unwrap_or_default();
    if random.u8(..) < 80 {
        // The beginning of one attack and the end of another.
        let other = random.choice(corpus).cloned().unwrap_or_default();
        bytes.truncate(random.usize(..=bytes.len()));
        bytes.extend_from_slice(&other[random.usize(..=other.len())..]);
    }
    if random.u8(..) < 80 {
        bytes.extend_from_slice(&random.choice(corpus).cloned().unwrap_or_default());
    }
    for _ in 0..random.usize(..4) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..4)).min(bytes.len());
        let piece = random.choice(PIECES).unwrap_or_default();
        match random.u8(..5) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..end, piece.iter().copied())),
            2 => drop(bytes.splice(at..at, piece.iter().copied())),
            3 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.u8(..8)),
            // At a line end, where it is most likely to be parsed as a field.
            _ => {
                let rest =
                    bytes[at..].windows(2).position(|two| two == b"\r\n").map_or(at, |end| at + end + 2);
                drop(bytes.splice(rest..rest, piece.iter().copied()));
            }
        }
    }
    bytes
}

/// The gateway soon disconnects clients that do not complete a request.
const SHORT: &str =
    "limits: {header_timeout: 300ms, idle_timeout: 300ms, body_idle_timeout: 300ms}\nlog: {access: false}\n";

/// Runs mutations until `end` returns true. Returns their number and the number of requests that arrived.
fn run_mutations_until(seed: u64, end: impl Fn(usize) -> bool) -> (usize, usize) {
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let corpus: Vec<Vec<u8>> = super::tables()
        .into_iter()
        .flatten()
        .map(|case| case.sent)
        .filter(|sent| sent.len() < 2000)
        .collect();
    let env = start(SHORT);
    env.backend.answer(|_| Answer::with(200, &[], ""));
    let (mut count, mut all) = (0, 0);
    while !end(count) {
        let mut sent = mutation(&corpus, &mut random);
        // If the mutation is a complete request, it is the last one on the connection.
        sent.extend_from_slice(
            b"GET /up?last HTTP/1.1\r\nHost: stockaj.example\r\nConnection: close\r\n\r\n",
        );
        let context = format!("seed {seed}, number {count}: {}", sent.escape_ascii());
        let mut client = env.gateway.client();
        let size = random.usize(1..=sent.len().max(1));
        for piece in sent.chunks(size) {
            if client.try_send(piece).is_err() {
                break;
            }
        }
        let answers = client.read_until_close();
        let is_good = |at: &&[u8]| at.starts_with(b"HTTP/1.1 200 ") || at.starts_with(b"HTTP/1.0 200 ");
        let good = answers.windows(13).filter(is_good).count();
        let arrived = env.arrived_before(super::judge::judge_damaged, &context).len();
        assert_eq!(arrived, good, "{context}: {}", answers.escape_ascii());
        count += 1;
        all += arrived;
    }
    assert_eq!(env.gateway.get("/api/v2/items", Some(READER)).status, 200);
    (count, all)
}

#[test]
fn mutated_attacks_fail() {
    let (count, arrived) = run_mutations_until(fastrand::u64(..), |count| count >= 1500);
    println!("{count} mutations, of which {arrived} requests arrived");
    assert!(arrived > count / 20, "{arrived} of {count}: too damaged to be of use");
}

#[test]
#[ignore = "soak: ten minutes of mutated attacks"]
fn mutated_attacks_fail_for_ten_minutes() {
    let end = Instant::now() + Duration::from_secs(600);
    let (count, arrived) = run_mutations_until(fastrand::u64(..), |_| Instant::now() >= end);
    println!("{count} mutations, of which {arrived} requests arrived");
}
