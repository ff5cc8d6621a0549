//! Floods of guessed tokens from one address, over HTTP/1.1 and HTTP/2, with `limits.failures_per_address`.

use std::thread;
use std::time::{Duration, Instant};

use super::{PART_OF_EVERY_TOKEN, READER, start};
use crate::support::TestEnv;
use crate::support::http2::{Frame, Http2Client};

const ITEMS: &str = "/api/v2/items";
/// The limit, and guessed tokens of each flood.
const LIMIT: usize = 5;
const GUESSES: usize = 1000;
/// Each introspection takes a while, so that the flood is in parallel.
const DELAY: Duration = Duration::from_millis(40);

fn target() -> TestEnv {
    let env = start(
        "limits: {failures_per_address: 5}\nlisten:\n  h2c: true\ncache: {ttl: 1h, negative_ttl: 1h}\n",
    );
    assert_eq!(env.status(ITEMS, READER), 200);
    env.introspector.delay(DELAY);
    env
}

/// Asserts that the flood that began at `began` caused no more introspections than the limit allows.
fn assert_introspections(env: &TestEnv, began: Instant) {
    // One of them is the reader's.
    let calls = env.introspector.calls() - 1;
    let most = LIMIT + began.elapsed().as_millis() as usize * LIMIT / 1000 + 1;
    assert!((LIMIT..=most).contains(&calls), "{calls} introspections, {LIMIT} to {most} are allowed");
    assert!(most < GUESSES / 4, "too slow for a meaningful result");
    let logged = env.gateway.logs();
    assert!(logged.iter().all(|line| !line.contains(PART_OF_EVERY_TOKEN)));
}

#[test]
fn thousand_guessed_tokens_cause_few_introspections_and_delay_no_known_token() {
    let env = target();
    let began = Instant::now();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let flood: Vec<_> = (0..8)
            .map(|thread| {
                let env = &env;
                scope.spawn(move || {
                    let mut client = env.gateway.client();
                    let guess = |number| format!("{thread}{number}|{PART_OF_EVERY_TOKEN}Guess");
                    let statuses = (0..GUESSES / 8).map(|number| {
                        let fields = [
                            ("Authorization", &*format!("Bearer {}", guess(number))),
                            ("X-Forwarded-For", &format!("198.51.{thread}.{}", number % 250)),
                        ];
                        client.request("GET", ITEMS, &fields, b"").status
                    });
                    statuses.collect::<Vec<_>>()
                })
            })
            .collect();
        let mut client = env.gateway.client();
        while !flood.iter().all(thread::ScopedJoinHandle::is_finished) {
            assert_eq!(client.get(ITEMS, Some(READER)).status, 200);
        }
        flood.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| matches!(status, 401 | 429)), "{statuses:?}");
    assert_introspections(&env, began);
    assert!(env.backend.requests().iter().all(|request| request.bearer() == Some(READER)));
}

#[test]
fn thousand_guessed_tokens_over_http2_cause_few_introspections_and_delay_no_known_token() {
    let env = target();
    let began = Instant::now();
    let mut client = Http2Client::connect(env.gateway.address());
    for round in 0..GUESSES / 50 {
        let streams: Vec<u32> = (0..50)
            .map(|number| {
                let token = format!("Bearer {round}{number}|{PART_OF_EVERY_TOKEN}Guess");
                client.ask("GET", ITEMS, &[("authorization", &token)])
            })
            .collect();
        assert_eq!(client.get(ITEMS, Some(READER)).status, 200);
        for stream in streams {
            let status = client.outcome(stream).answer().status;
            assert!(matches!(status, 401 | 429), "{status}");
        }
    }
    assert_introspections(&env, began);
}

/// A client that resets its streams at once has still caused their introspections.
#[test]
fn abandoned_guesses_count() {
    const CANCEL: u32 = 8;
    let env = target();
    let began = Instant::now();
    for connection in 0..20 {
        let mut client = Http2Client::connect(env.gateway.address());
        for number in 0..20 {
            let token = format!("Bearer {connection}{number}|{PART_OF_EVERY_TOKEN}Guess");
            let stream = client.ask("GET", ITEMS, &[("authorization", &token)]);
            // After the gateway has begun to introspect.
            if number % 10 == 0 {
                assert_eq!(client.get(ITEMS, Some(READER)).status, 200);
            }
            client.send(&Frame::reset(stream, CANCEL));
        }
    }
    for number in 0..20 {
        let mut client = env.gateway.client();
        client.send(super::by(&format!("{number}|{PART_OF_EVERY_TOKEN}Gone"), "GET /api/v2/items", ""));
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(2 * DELAY);
    assert_introspections(&env, began);
    assert_eq!(env.status(ITEMS, READER), 200);
}
