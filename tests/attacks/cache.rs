//! Verdicts that must not be used: of another token, outdated, or for another route.

use std::thread;
use std::time::Duration;

use super::{NOBODY, PAST, READER, UNKNOWN, USER, WRITER, start};
use crate::support::{Answer, Verdict, echo};

/// A step of an attack.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Sends a request with a token and expects this status.
    Ask(&'static str, &'static str, u16),
    /// Gives the token these abilities.
    Grant(&'static str, &'static [&'static str]),
    /// Makes the token active for this number of milliseconds.
    GrantFor(&'static str, i64),
    /// Makes the token inactive.
    Revoke(&'static str),
    /// Expects exactly this number of introspections of a token since the start.
    Asked(&'static str, usize),
    /// Makes the introspector respond to everything with this status.
    Outage(u16),
    Recovery,
    /// Makes the backend respond to everything with this status; 0 restores the default.
    Backend(u16),
    /// Waits for this number of milliseconds.
    Wait(u64),
}
use Step::{Ask, Asked, Backend, Grant, GrantFor, Outage, Recovery, Revoke, Wait};

const GET: &str = "GET /api/v2/items";
const POST: &str = "POST /api/v2/items";
const DELETE: &str = "DELETE /api/v2/items/5";

/// The `cache` section of all attacks. The waits below exceed its times by a margin.
const CACHE: &str = "cache: {ttl: 600ms, negative_ttl: 300ms}";
const PAST_TTL: Step = Wait(800);
const PAST_NEGATIVE_TTL: Step = Wait(400);

/// Name and steps.
pub(super) const SEQUENCES: [(&str, &[Step]); 24] = [
    (
        "one token's verdict is not another's",
        &[Ask(USER, DELETE, 200), Ask(READER, DELETE, 403), Ask(READER, GET, 200), Ask(USER, DELETE, 200)],
    ),
    (
        "a weak token's verdict does not hold down a strong one",
        &[Ask(READER, DELETE, 403), Ask(USER, DELETE, 200)],
    ),
    (
        "a decision is not cached, a verdict is",
        &[
            Ask(READER, GET, 200),
            Ask(READER, DELETE, 403),
            Ask(READER, POST, 403),
            Ask(READER, GET, 200),
            Asked(READER, 1),
        ],
    ),
    (
        "a refusal is not cached as a decision",
        &[Ask(READER, DELETE, 403), Ask(READER, GET, 200), Asked(READER, 1)],
    ),
    (
        "an unknown token beside a known one",
        &[Ask(UNKNOWN, GET, 401), Ask(READER, GET, 200), Ask(UNKNOWN, GET, 401), Asked(UNKNOWN, 1)],
    ),
    (
        "the same id with another secret",
        &[Ask(USER, DELETE, 200), Ask("3|Secret0Guess", DELETE, 401), Ask(USER, DELETE, 200)],
    ),
    ("the same secret with another id", &[Ask(USER, DELETE, 200), Ask("1|Secret0User", DELETE, 401)]),
    ("the same secret without an id", &[Ask(USER, DELETE, 200), Ask("Secret0User", DELETE, 401)]),
    ("the same token in other letters", &[Ask(USER, DELETE, 200), Ask("3|SECRET0USER", DELETE, 401)]),
    (
        "a token that begins like another",
        &[Ask(USER, DELETE, 200), Ask("3|Secret0User0", DELETE, 401), Ask("3|Secret0Use", DELETE, 401)],
    ),
    (
        "another spelling of one token has a verdict of its own",
        &[
            Grant("03|Secret0User", &["items:read"]),
            Ask(USER, DELETE, 200),
            Ask("03|Secret0User", DELETE, 403),
            Ask("03|Secret0User", GET, 200),
        ],
    ),
    ("no abilities are not all of them", &[Ask(NOBODY, GET, 403), Ask(NOBODY, "GET /api/v2/me", 200)]),
    (
        "a verdict is forgotten in time",
        &[Ask(READER, GET, 200), Revoke(READER), PAST_TTL, Ask(READER, GET, 401)],
    ),
    (
        "abilities that were taken are gone in time",
        &[
            Ask(WRITER, POST, 200),
            Grant(WRITER, &["items:read"]),
            PAST_TTL,
            Ask(WRITER, POST, 403),
            Ask(WRITER, GET, 200),
        ],
    ),
    (
        "an inactive verdict is forgotten in time",
        &[Ask(UNKNOWN, GET, 401), Grant(UNKNOWN, &["items:read"]), PAST_NEGATIVE_TTL, Ask(UNKNOWN, GET, 200)],
    ),
    ("a token that has expired already", &[Ask(PAST, GET, 401), Ask(PAST, GET, 401)]),
    (
        "a token that expires before its verdict would",
        &[GrantFor(READER, 300), Ask(READER, GET, 200), Wait(400), Ask(READER, GET, 401)],
    ),
    (
        "a 401 of the backend ends a verdict",
        &[
            Ask(USER, DELETE, 200),
            Revoke(USER),
            Backend(401),
            Ask(USER, DELETE, 401),
            Backend(0),
            Ask(USER, DELETE, 401),
            Asked(USER, 2),
        ],
    ),
    (
        "a 401 of the backend ends no other verdict",
        &[
            Ask(READER, GET, 200),
            Ask(USER, GET, 200),
            Backend(401),
            Ask(USER, GET, 401),
            Backend(0),
            Ask(READER, GET, 200),
            Asked(READER, 1),
        ],
    ),
    (
        "a 403 of the backend ends nothing",
        &[
            Ask(USER, DELETE, 200),
            Backend(403),
            Ask(USER, DELETE, 403),
            Backend(0),
            Ask(USER, DELETE, 200),
            Asked(USER, 1),
        ],
    ),
    (
        "an outage lets nobody in",
        &[
            Outage(500),
            Ask(USER, DELETE, 503),
            Ask(UNKNOWN, GET, 503),
            Recovery,
            Ask(USER, DELETE, 200),
            Ask(UNKNOWN, GET, 401),
        ],
    ),
    ("an outage is not cached", &[Outage(500), Ask(USER, DELETE, 503), Recovery, Ask(USER, DELETE, 200)]),
    (
        "an outage after the verdict's end lets nobody in",
        &[
            Ask(USER, DELETE, 200),
            Outage(503),
            PAST_TTL,
            Ask(USER, DELETE, 503),
            Recovery,
            Ask(USER, DELETE, 200),
        ],
    ),
    (
        "a redirect to the login is no verdict",
        &[Outage(302), Ask(USER, DELETE, 503), Recovery, Ask(USER, DELETE, 200)],
    ),
];

#[test]
fn cached_verdict_serves_neither_another_token_nor_a_revoked_one() {
    thread::scope(|scope| {
        for half in SEQUENCES.chunks(SEQUENCES.len().div_ceil(4)) {
            scope.spawn(move || half.iter().for_each(|(name, steps)| run_sequence(name, steps)));
        }
    });
}

fn run_sequence(name: &str, steps: &[Step]) {
    let env = start(CACHE);
    let mut client = env.gateway.client();
    let mut expected: Vec<String> = vec![];
    let mut backend = 0;
    for (number, step) in steps.iter().enumerate() {
        let context = format!("`{name}`, step {number}: {step:?}");
        match *step {
            Ask(token, request, status) => {
                client.send(super::by(token, request, "Content-Length: 0\r\n"));
                let response = client.response();
                assert_eq!(response.status, status, "{context}: {}", response.text());
                if status == 200 || status == backend {
                    expected.push(request.to_owned());
                }
            }
            Grant(token, abilities) => env.introspector.set_verdict(token, Verdict::active(abilities)),
            GrantFor(token, milliseconds) => {
                let at = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(milliseconds);
                let verdict = Verdict::active(&["items:read"]).expiring(at.to_string());
                env.introspector.set_verdict(token, verdict);
            }
            Revoke(token) => env.introspector.deactivate(token),
            Asked(token, calls) => assert_eq!(env.introspector.calls_for(token), calls, "{context}"),
            Outage(status) => {
                env.introspector.fail_with(Answer::with(status, &[("Location", "/login")], "{}"));
            }
            Recovery => env.introspector.recover(),
            Backend(status) => {
                backend = status;
                env.backend.answer(move |request| match status {
                    0 => echo(request),
                    status => Answer::message(status, "The backend's own."),
                });
            }
            Wait(milliseconds) => thread::sleep(Duration::from_millis(milliseconds)),
        }
    }
    let arrived: Vec<_> =
        env.backend.requests().iter().map(|it| format!("{} {}", it.method, it.target)).collect();
    assert_eq!(arrived, expected, "`{name}`");
    for line in env.gateway.logs() {
        assert!(!line.contains(super::PART_OF_EVERY_TOKEN), "a token in the log: {line}");
    }
}
