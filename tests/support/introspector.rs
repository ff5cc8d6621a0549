//! A scripted introspector: configurable tokens, counted calls, and every kind of outage.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::certificate::Authority;
use super::client::PATIENCE;
use super::upstream::{Answer, Request, Upstream};

/// The introspector's verdict on a token.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// An active token.
    Active {
        /// The token's id; defaults to the part before `|`.
        id: Option<Value>,
        /// The token's name.
        name: String,
        /// The token's abilities.
        abilities: Vec<String>,
        /// The expiry, as the field `expires_at` or `exp` and its value.
        expires_at: Value,
        /// The networks that it may be used from, as the field `allowed_from`; `None` without the field.
        allowed_from: Option<Value>,
    },
    /// Any other response.
    Answer(Answer),
}

impl Verdict {
    /// An active token without an expiry.
    pub fn active(abilities: &[&str]) -> Self {
        Self::Active {
            id: None,
            name: "test".to_owned(),
            abilities: abilities.iter().map(|ability| (*ability).to_owned()).collect(),
            expires_at: Value::Null,
            allowed_from: None,
        }
    }

    /// Sets the networks that it may be used from.
    pub fn restricted_to(mut self, networks: impl Into<Value>) -> Self {
        if let Self::Active { allowed_from, .. } = &mut self {
            *allowed_from = Some(networks.into());
        }
        self
    }

    /// An active token with an expiry.
    pub fn expiring(mut self, at: impl Into<Value>) -> Self {
        if let Self::Active { expires_at, .. } = &mut self {
            *expires_at = at.into();
        }
        self
    }

    /// Sets the id and the name.
    pub fn named(mut self, new_id: impl Into<Value>, new_name: &str) -> Self {
        if let Self::Active { id, name, .. } = &mut self {
            *id = Some(new_id.into());
            *name = new_name.to_owned();
        }
        self
    }
}

/// The style of the introspection requests.
#[derive(Clone, Debug)]
enum Style {
    Bearer,
    Rfc7662 { client_id: String, client_secret: String },
}

#[derive(Default)]
struct State {
    verdicts: HashMap<String, Verdict>,
    calls: HashMap<String, usize>,
    running: usize,
    most_running: usize,
    delay: Duration,
    outage: Option<Answer>,
}

/// The scripted introspector. Tokens without a verdict are inactive.
pub struct Introspector {
    server: Upstream,
    style: Style,
    lines: String,
    state: Arc<Mutex<State>>,
}

impl Introspector {
    /// Listens for bearer-style requests.
    pub fn start() -> Self {
        Self::new(Upstream::start(), Style::Bearer)
    }

    /// Listens for bearer-style requests with TLS.
    pub fn start_tls(authority: &Authority) -> Self {
        Self::new(Upstream::start_tls(authority), Style::Bearer)
    }

    /// Listens for RFC 7662 requests from a client with these credentials.
    pub fn start_rfc7662(client_id: &str, client_secret: &str) -> Self {
        let style =
            Style::Rfc7662 { client_id: client_id.to_owned(), client_secret: client_secret.to_owned() };
        Self::new(Upstream::start(), style)
    }

    /// Adds these tokens with these abilities.
    pub fn with_tokens<'a>(tokens: impl IntoIterator<Item = (&'a str, &'a [&'a str])>) -> Self {
        let introspector = Self::start();
        for (token, abilities) in tokens {
            introspector.set_verdict(token, Verdict::active(abilities));
        }
        introspector
    }

    fn new(server: Upstream, style: Style) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (script_state, script_style) = (Arc::clone(&state), style.clone());
        server.answer(move |request| answer(&script_state, &script_style, request));
        Self { server, style, lines: String::new(), state }
    }

    /// Adds lines to the `introspection` section.
    pub fn with_lines(mut self, lines: &str) -> Self {
        self.lines.push_str(lines);
        self
    }

    /// The `introspection` section that names this introspector.
    pub fn yaml(&self) -> String {
        let credentials = match &self.style {
            Style::Bearer => String::new(),
            Style::Rfc7662 { client_id, client_secret } => {
                format!("  style: rfc7662\n  client_id: {client_id}\n  client_secret: {client_secret}\n")
            }
        };
        let (url, tls, lines) = (self.server.url(), self.server.client_tls(), &self.lines);
        format!("introspection:\n  url: {url}/api/v2/token\n{credentials}{tls}{lines}")
    }

    /// Sets the verdict for `token`.
    pub fn set_verdict(&self, token: &str, verdict: Verdict) {
        self.state.lock().unwrap().verdicts.insert(token.to_owned(), verdict);
    }

    /// Makes `token` inactive.
    pub fn deactivate(&self, token: &str) {
        self.state.lock().unwrap().verdicts.remove(token);
    }

    /// Delays every response from now on.
    pub fn delay(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    /// Responds with `answer` to every call from now on.
    pub fn fail_with(&self, answer: Answer) {
        self.state.lock().unwrap().outage = Some(answer);
    }

    /// Undoes [`Introspector::fail_with`].
    pub fn recover(&self) {
        self.state.lock().unwrap().outage = None;
    }

    /// Refuses connections from now on.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Listens again after refusing connections.
    pub fn resume(&mut self) {
        self.server.resume();
    }

    /// The number of calls so far.
    pub fn calls(&self) -> usize {
        self.state.lock().unwrap().calls.values().sum()
    }

    /// The number of calls for `token` so far.
    pub fn calls_for(&self, token: &str) -> usize {
        self.state.lock().unwrap().calls.get(token).copied().unwrap_or_default()
    }

    /// Waits until that many calls have begun.
    pub fn wait_for_calls(&self, count: usize) {
        let end = Instant::now() + PATIENCE;
        while self.calls() < count {
            assert!(Instant::now() < end, "{} calls instead of {count}", self.calls());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The highest number of concurrent calls.
    pub fn most_concurrent(&self) -> usize {
        self.state.lock().unwrap().most_running
    }

    /// The recorded calls.
    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }

    /// The underlying server.
    pub fn server(&self) -> &Upstream {
        &self.server
    }
}

fn answer(state: &Mutex<State>, style: &Style, request: &Request) -> Answer {
    let token = match style {
        Style::Bearer => request.bearer().unwrap_or_default().to_owned(),
        Style::Rfc7662 { .. } => form_value(request.text(), "token").unwrap_or_default(),
    };
    let (answer, delay) = {
        let mut state = state.lock().unwrap();
        *state.calls.entry(token.clone()).or_default() += 1;
        state.running += 1;
        state.most_running = state.most_running.max(state.running);
        (decide(&state, style, request, &token), state.delay)
    };
    // The response is computed before the delay, so later changes of the verdict do not affect it.
    thread::sleep(delay);
    state.lock().unwrap().running -= 1;
    answer
}

fn decide(state: &State, style: &Style, request: &Request, token: &str) -> Answer {
    if let Some(outage) = &state.outage {
        return outage.clone();
    }
    if !is_valid_call(style, request) {
        return Answer::message(400, "The introspector was not asked as it should be.");
    }
    match (state.verdicts.get(token), style) {
        (Some(Verdict::Answer(answer)), _) => answer.clone(),
        (Some(Verdict::Active { id, name, abilities, expires_at, allowed_from }), style) => {
            let id = id.clone().unwrap_or_else(|| token.split('|').next().into());
            let mut answer = match style {
                Style::Bearer => {
                    json!({"id": id, "name": name, "abilities": abilities, "expires_at": expires_at})
                }
                Style::Rfc7662 { .. } => json!({
                    "active": true, "jti": id, "client_id": name, "scope": abilities.join(" "), "exp": expires_at,
                }),
            };
            if let Some(networks) = allowed_from {
                answer["allowed_from"] = networks.clone();
            }
            Answer::json(
                200,
                &match style {
                    Style::Bearer => json!({ "data": answer }),
                    Style::Rfc7662 { .. } => answer,
                },
            )
        }
        (None, Style::Bearer) => Answer::message(401, "Unauthenticated."),
        (None, Style::Rfc7662 { .. }) => Answer::json(200, &json!({"active": false})),
    }
}

fn is_valid_call(style: &Style, request: &Request) -> bool {
    let as_json = request.field("accept") == Some("application/json");
    as_json
        && match style {
            Style::Bearer => {
                request.method == "GET" && request.target == "/api/v2/token" && request.bearer().is_some()
            }
            Style::Rfc7662 { client_id, client_secret } => {
                let credentials = BASE64_STANDARD.encode(format!("{client_id}:{client_secret}"));
                request.method == "POST"
                    && request.field("content-type") == Some("application/x-www-form-urlencoded")
                    && request.field("authorization") == Some(&format!("Basic {credentials}"))
            }
        }
}

/// The decoded value of a name in a form-encoded body.
fn form_value(form: &str, name: &str) -> Option<String> {
    let value = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}
