//! What an access line says, and how it is written.

use std::cell::OnceCell;
use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::fields::RequestFields;
use super::{timestamp, value};
use crate::config::settings::{Destination, LogFormat};
use crate::policy::ability::{Abilities, Requirement};
use crate::policy::mask::may_hold_token;
use crate::policy::refusal::Reason;
use crate::policy::shadow::Change;
use crate::telemetry::metrics::LookupResult;

/// The longest `user_agent`, in bytes; a longer one is cut.
const LONGEST_USER_AGENT: usize = 128;
/// The longest `host`, in bytes: a DNS name of 253 with a port.
const LONGEST_HOST: usize = 260;
/// The longest `token_id`, `token_name` and `client_subject`, in bytes.
const LONGEST_NAME: usize = 256;
/// The longest `required`, in bytes.
const LONGEST_REQUIREMENT: usize = 512;
/// The most abilities in `missing`.
const MOST_MISSING: usize = 16;
/// What stands for a value that may hold a token.
const HIDDEN: &str = "(hidden: it may hold a token)";

/// What is known of a request when it ends. Never a token, a raw path or a query.
#[derive(Clone, Copy)]
pub struct AccessLine<'a> {
    /// `X-Request-Id`
    pub request_id: &'a [u8],
    /// The `X-Request-Id` that an untrusted client sent.
    pub client_request_id: Option<&'a [u8]>,
    /// The client of the connection.
    pub client: Client<'a>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`; `None` if the gateway rejected the message before it read the version.
    pub protocol: Option<&'static str>,
    /// The version of TLS, such as `1.3`; `None` without TLS.
    pub tls_version: Option<&'static str>,
    /// The Host field or `:authority`, and the User-Agent field; `None` if the gateway rejected the message before it
    /// read them.
    pub request: Option<&'a RequestFields>,
    /// The method; `other` for one that is not served, which could be any text, a token too.
    pub method: &'a str,
    /// The route's template, `unmapped` or `none`: the same word as in metrics.
    pub route: &'a str,
    /// The masked path of a request that no route matches.
    pub path: Option<&'a str>,
    /// The answer's status; if the client left before the answer, 499.
    pub status: u16,
    /// Why the request ended as it did.
    pub reason: Reason,
    /// The rule that denied the request, or would have in shadow mode.
    pub denied_by: Option<DeniedBy<'a>>,
    /// The particular cause: the place of the rule, or the request's fault.
    pub detail: Option<&'a dyn Display>,
    /// The request's token, if its verdict is known.
    pub token: Option<LoggedToken<'a>>,
    /// How the token cache answered; `None` if the gateway did not look the token up.
    pub cache: Option<LookupResult>,
    /// From the request's head to the end of its answer.
    pub duration: Duration,
    /// Of that, waiting for a verdict; zero if it did not wait.
    pub introspection_duration: Duration,
    /// Of that, from the first attempt to reach the backend to the head of its answer; zero if it was not tried.
    pub upstream_duration: Duration,
    /// Where the request was sent; `None` if no connection was made.
    pub upstream: Option<Upstream<'a>>,
    /// The status of the backend's answer.
    pub upstream_status: Option<u16>,
    /// Bytes of the request's body that the gateway forwarded; through a tunnel, bytes from the client.
    pub bytes_in: u64,
    /// Bytes of the answer's body that the gateway handed to the connection; through a tunnel, bytes to the client.
    pub bytes_out: u64,
    /// What shadow mode would have changed.
    pub shadow: Option<Change>,
    /// By which rule.
    pub shadow_rule: Option<&'a str>,
}

/// The requirement that a request did not satisfy.
#[derive(Clone, Copy)]
pub struct DeniedBy<'a> {
    /// As the map has it.
    pub requirement: &'a Requirement,
    /// The token's abilities.
    pub abilities: Option<&'a Abilities>,
}

/// Where a request was sent.
#[derive(Clone, Copy)]
pub struct Upstream<'a> {
    /// The address that was connected to; `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// As configured.
    pub destination: &'a Destination,
}

impl Display for Upstream<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.destination) {
            (Some(address), Destination::Tcp { port, .. }) => SocketAddr::new(address, *port).fmt(formatter),
            (None, Destination::Tcp { host, port, .. }) => write!(formatter, "{host}:{port}"),
            (_, Destination::Unix(path)) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl fmt::Debug for AccessLine<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AccessLine")
            .field("request_id", &self.request_id)
            .field("status", &self.status)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// The name of a field, as each format writes it.
struct Key {
    json: &'static str,
    text: &'static str,
}

macro_rules! fields {
    ($($constant:ident = $name:literal,)+) => {
        $(const $constant: Key = Key { json: concat!(",\"", $name, "\":"), text: concat!(" ", $name, "=") };)+

        /// The names of all fields, in the order in which a line has them.
        pub const FIELDS: &[&str] = &["timestamp", "level", "message", $($name,)+];
    };
}

fields! {
    REQUEST_ID = "request_id",
    CLIENT_REQUEST_ID = "client_request_id",
    CLIENT = "client",
    CLIENT_SUBJECT = "client_subject",
    PROTOCOL = "protocol",
    TLS_VERSION = "tls_version",
    HOST = "host",
    USER_AGENT = "user_agent",
    METHOD = "method",
    ROUTE = "route",
    PATH = "path",
    STATUS = "status",
    REASON = "reason",
    REQUIRED = "required",
    MISSING = "missing",
    DETAIL = "detail",
    TOKEN_ID = "token_id",
    TOKEN_NAME = "token_name",
    CACHE = "cache",
    DURATION = "duration_ms",
    INTROSPECTION_DURATION = "introspection_duration_ms",
    UPSTREAM_DURATION = "upstream_duration_ms",
    UPSTREAM_ADDRESS = "upstream_address",
    UPSTREAM_STATUS = "upstream_status",
    BYTES_IN = "bytes_in",
    BYTES_OUT = "bytes_out",
    SHADOW = "shadow",
    SHADOW_RULE = "shadow_rule",
}

/// Appends a line, with the newline that ends it.
pub(super) fn write_line(
    buffer: &mut Vec<u8>,
    timestamp: &[u8; timestamp::LENGTH],
    line: &AccessLine<'_>,
    format: LogFormat,
    addresses: &mut LastUpstream,
) {
    // A usual line, so that its pieces seldom have to make room.
    buffer.reserve(1024);
    match format {
        LogFormat::Json => {
            buffer.extend_from_slice(b"{\"timestamp\":\"");
            buffer.extend_from_slice(timestamp);
            buffer.extend_from_slice(br#"","level":"INFO","message":"request""#);
            Fields::<true> { buffer }.write(line, addresses);
            buffer.extend_from_slice(b"}\n");
        }
        LogFormat::Text => {
            buffer.extend_from_slice(timestamp);
            buffer.extend_from_slice(b"  INFO request");
            Fields::<false> { buffer }.write(line, addresses);
            buffer.push(b'\n');
        }
    }
}

/// The address that the last line named as its upstream, encoded. Most lines of a core name the same.
#[derive(Debug, Default)]
pub(super) struct LastUpstream {
    address: Option<(IpAddr, u16)>,
    encoded: Vec<u8>,
}

impl LastUpstream {
    fn encode(&mut self, address: IpAddr, port: u16) -> &[u8] {
        if self.address != Some((address, port)) {
            self.address = Some((address, port));
            self.encoded.clear();
            value::socket_address(&mut self.encoded, address, port);
        }
        &self.encoded
    }
}

/// A token as an access line names it.
#[derive(Clone, Copy)]
pub struct LoggedToken<'a> {
    /// As introspected.
    pub id: &'a str,
    /// As introspected.
    pub name: Option<&'a str>,
    /// What the token's first line wrote.
    pub fields: &'a OnceCell<TokenFields>,
}

/// The fields `token_id` and `token_name` in the log's format, bounded and escaped.
#[derive(Debug)]
pub struct TokenFields(Box<[u8]>);

/// The client of a connection.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// The client's address that a trusted proxy named, if it is not the peer's.
    pub forwarded: Option<IpAddr>,
    /// The peer's address; `None` for a Unix socket.
    pub peer: Option<IpAddr>,
    /// The subject of the client's certificate.
    pub subject: Option<&'a str>,
    /// What the connection's first line wrote of the peer.
    pub fields: &'a OnceCell<Box<[u8]>>,
}

#[cfg(test)]
impl Client<'_> {
    /// Of a Unix socket.
    pub(super) fn unknown() -> Self {
        let fields = Box::leak(Box::default());
        Self { forwarded: None, peer: None, subject: None, fields }
    }
}

pub(super) struct Fields<'a, const JSON: bool> {
    pub(super) buffer: &'a mut Vec<u8>,
}

impl<const JSON: bool> Fields<'_, JSON> {
    fn write(&mut self, line: &AccessLine<'_>, addresses: &mut LastUpstream) {
        self.key(&REQUEST_ID);
        value::bounded_bytes(self.buffer, line.request_id, LONGEST_NAME);
        self.bytes(&CLIENT_REQUEST_ID, line.client_request_id, LONGEST_NAME);
        self.client(line.client);
        self.word(&PROTOCOL, line.protocol);
        self.word(&TLS_VERSION, line.tls_version);
        if let Some(fields) = line.request {
            self.buffer.extend_from_slice(fields.encoded());
        }
        self.word(&METHOD, Some(line.method));
        self.text(&ROUTE, Some(line.route), usize::MAX);
        self.word(&PATH, line.path);
        self.number(&STATUS, Some(u64::from(line.status)));
        self.word(&REASON, Some(line.reason.as_str()));
        self.denied_by(line.denied_by);
        self.display(&DETAIL, line.detail, LONGEST_REQUIREMENT);
        self.token(line.token);
        self.word(&CACHE, line.cache.map(LookupResult::as_str));
        let waited = |duration: Duration| Some(duration).filter(|duration| !duration.is_zero());
        self.duration(&DURATION, Some(line.duration));
        self.duration(&INTROSPECTION_DURATION, waited(line.introspection_duration));
        self.duration(&UPSTREAM_DURATION, waited(line.upstream_duration));
        self.upstream(line.upstream, addresses);
        self.number(&UPSTREAM_STATUS, line.upstream_status.map(u64::from));
        self.number(&BYTES_IN, Some(line.bytes_in));
        self.number(&BYTES_OUT, Some(line.bytes_out));
        self.word(&SHADOW, line.shadow.map(Change::as_str));
        self.text(&SHADOW_RULE, line.shadow_rule, usize::MAX);
    }

    // Inlined, so that a key is copied by a few moves instead of a call of memcpy.
    #[inline(always)]
    fn key(&mut self, key: &Key) {
        self.buffer.extend_from_slice(if JSON { key.json } else { key.text }.as_bytes());
    }

    /// A value of the gateway's own making, which needs no escapes.
    #[inline(always)]
    fn word(&mut self, key: &Key, word: Option<&str>) {
        let Some(word) = word else { return };
        self.key(key);
        if JSON {
            value::plain(self.buffer, word.as_bytes());
        } else {
            self.buffer.extend_from_slice(word.as_bytes());
        }
    }

    /// What the client chose and most of its requests repeat.
    pub(super) fn request(&mut self, host: Option<&[u8]>, user_agent: Option<&[u8]>) {
        self.bytes(&HOST, host, LONGEST_HOST);
        self.bytes(&USER_AGENT, user_agent, LONGEST_USER_AGENT);
    }

    #[inline(always)]
    fn client(&mut self, client: Client<'_>) {
        match client {
            Client { forwarded: Some(address), subject, .. } => self.named_client(Some(address), subject),
            Client { forwarded: None, peer, subject, fields } => {
                let fields = fields.get_or_init(|| {
                    let mut buffer = Vec::new();
                    Fields::<JSON> { buffer: &mut buffer }.named_client(peer, subject);
                    buffer.into()
                });
                self.buffer.extend_from_slice(fields);
            }
        }
    }

    fn named_client(&mut self, address: Option<IpAddr>, subject: Option<&str>) {
        if let Some(address) = address {
            self.key(&CLIENT);
            let quote: &[u8] = if JSON { b"\"" } else { b"" };
            self.buffer.extend_from_slice(quote);
            value::address(self.buffer, address);
            self.buffer.extend_from_slice(quote);
        }
        self.text(&CLIENT_SUBJECT, subject, LONGEST_NAME);
    }

    #[inline(always)]
    fn text(&mut self, key: &Key, text: Option<&str>, most: usize) {
        let Some(text) = text else { return };
        self.key(key);
        value::bounded_text(self.buffer, text, most);
    }

    /// The token's fields. They are escaped for its first line on this core and copied to the next ones.
    #[inline(always)]
    fn token(&mut self, token: Option<LoggedToken<'_>>) {
        let Some(LoggedToken { id, name, fields }) = token else { return };
        let TokenFields(fields) = fields.get_or_init(|| {
            let mut buffer = Vec::new();
            let mut fields = Fields::<JSON> { buffer: &mut buffer };
            fields.text(&TOKEN_ID, Some(id), LONGEST_NAME);
            fields.text(&TOKEN_NAME, name, LONGEST_NAME);
            TokenFields(buffer.into())
        });
        self.buffer.extend_from_slice(fields);
    }

    /// A field's value that the client chose.
    #[inline(always)]
    fn bytes(&mut self, key: &Key, bytes: Option<&[u8]>, most: usize) {
        let Some(bytes) = bytes else { return };
        self.key(key);
        if may_hold_token(bytes) {
            value::text(self.buffer, HIDDEN);
        } else {
            value::bounded_bytes(self.buffer, bytes, most);
        }
    }

    #[inline(always)]
    fn display(&mut self, key: &Key, value: Option<&dyn Display>, most: usize) {
        let Some(value) = value else { return };
        self.key(key);
        value::bounded_display(self.buffer, value, most);
    }

    #[inline(always)]
    fn number(&mut self, key: &Key, number: Option<u64>) {
        let Some(number) = number else { return };
        self.key(key);
        value::number(self.buffer, number);
    }

    #[inline(always)]
    fn duration(&mut self, key: &Key, duration: Option<Duration>) {
        let Some(duration) = duration else { return };
        self.key(key);
        value::milliseconds(self.buffer, duration);
    }

    #[inline(always)]
    fn upstream(&mut self, upstream: Option<Upstream<'_>>, addresses: &mut LastUpstream) {
        let Some(upstream) = upstream else { return };
        self.key(&UPSTREAM_ADDRESS);
        match (upstream.address, upstream.destination) {
            (Some(address), Destination::Tcp { port, .. }) => {
                self.buffer.push(b'"');
                self.buffer.extend_from_slice(addresses.encode(address, *port));
                self.buffer.push(b'"');
            }
            _ => value::bounded_display(self.buffer, &upstream, LONGEST_NAME),
        }
    }

    fn denied_by(&mut self, denied_by: Option<DeniedBy<'_>>) {
        let Some(DeniedBy { requirement, abilities }) = denied_by else { return };
        self.display(&REQUIRED, Some(requirement), LONGEST_REQUIREMENT);
        let Some(abilities) = abilities else { return };
        let mut missing = requirement.missing(abilities).peekable();
        if missing.peek().is_none() {
            return;
        }
        self.key(&MISSING);
        self.buffer.push(b'[');
        for (index, ability) in missing.take(MOST_MISSING).enumerate() {
            if index > 0 {
                self.buffer.push(b',');
            }
            value::text(self.buffer, ability);
        }
        self.buffer.push(b']');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A line with every field but those of the request's head.
    fn full<'a>(
        requirement: &'a Requirement,
        abilities: &'a Abilities,
        destination: &'a Destination,
        token: LoggedToken<'a>,
    ) -> AccessLine<'a> {
        let client =
            Client { peer: Some([192, 0, 2, 7].into()), subject: Some("CN=scanner"), ..Client::unknown() };
        AccessLine {
            request_id: b"7f3a",
            client_request_id: Some(b"of-the-client"),
            client,
            protocol: Some("HTTP/1.1"),
            tls_version: Some("1.3"),
            request: None,
            method: "GET",
            route: "/api/v2/items/{id}",
            path: Some("/api/v2/items/{id}"),
            status: 403,
            reason: Reason::MissingAbility,
            denied_by: Some(DeniedBy { requirement, abilities: Some(abilities) }),
            detail: Some(&"gateway.yaml\n:3"),
            token: Some(token),
            cache: Some(LookupResult::Hit),
            duration: Duration::from_micros(1_234),
            introspection_duration: Duration::from_millis(1),
            upstream_duration: Duration::from_micros(20),
            upstream: Some(Upstream { address: Some(IpAddr::from([192, 0, 2, 9])), destination }),
            upstream_status: Some(200),
            bytes_in: 3,
            bytes_out: 44,
            shadow: Some(Change::WouldDeny),
            shadow_rule: Some("candidate \"a.yaml\":7:12"),
        }
    }

    fn tcp() -> Destination {
        Destination::Tcp { host: "app".into(), port: 8000, tls: false }
    }

    fn written(line: &AccessLine<'_>, format: LogFormat) -> String {
        let mut buffer = Vec::new();
        write_line(&mut buffer, b"2026-11-30T03:04:50.123456Z", line, format, &mut LastUpstream::default());
        String::from_utf8(buffer).unwrap()
    }

    fn request(format: LogFormat, host: &[u8], user_agent: &[u8]) -> RequestFields {
        RequestFields::encode(format, Some(host), Some(user_agent), &mut Vec::new())
    }

    /// A line with every field, and what the client says of itself.
    fn written_with_request(line: &AccessLine<'_>, format: LogFormat) -> String {
        let request = request(format, b"app.example:8443", b"curl/8.5 \"x\"\x1b[2J");
        written(&AccessLine { request: Some(&request), ..*line }, format)
    }

    fn token<'a>(id: &'a str, name: &'a str, fields: &'a OnceCell<TokenFields>) -> LoggedToken<'a> {
        LoggedToken { id, name: Some(name), fields }
    }

    /// A line with every field, of a token that has no line in a format yet.
    fn with_full(act: impl FnOnce(AccessLine<'_>)) {
        let requirement = Requirement::all(["items:read", "items:update"]).unwrap();
        let fields = OnceCell::new();
        let token = token("17", "scanner \"A\"\r\n\x1b[2J", &fields);
        act(full(&requirement, &Abilities::new(["items:read"]), &tcp(), token));
    }

    #[test]
    fn json_line_has_every_field() {
        with_full(|line| {
            let text = written_with_request(&line, LogFormat::Json);
            assert!(text.ends_with("}\n") && text.lines().count() == 1 && !text.contains('\x1b'), "{text}");
            let object: Value = serde_json::from_str(&text).unwrap();
            let expected = json!({
                "timestamp": "2026-11-30T03:04:50.123456Z",
                "level": "INFO",
                "message": "request",
                "request_id": "7f3a",
                "client_request_id": "of-the-client",
                "client": "192.0.2.7",
                "client_subject": "CN=scanner",
                "protocol": "HTTP/1.1",
                "tls_version": "1.3",
                "host": "app.example:8443",
                "user_agent": "curl/8.5 \"x\"\u{1b}[2J",
                "method": "GET",
                "route": "/api/v2/items/{id}",
                "path": "/api/v2/items/{id}",
                "status": 403,
                "reason": "missing_ability",
                "required": "{all: [items:read, items:update]}",
                "missing": ["items:update"],
                "detail": "gateway.yaml\n:3",
                "token_id": "17",
                "token_name": "scanner \"A\"\r\n\u{1b}[2J",
                "cache": "hit",
                "duration_ms": 1.234,
                "introspection_duration_ms": 1.0,
                "upstream_duration_ms": 0.02,
                "upstream_address": "192.0.2.9:8000",
                "upstream_status": 200,
                "bytes_in": 3,
                "bytes_out": 44,
                "shadow": "would_deny",
                "shadow_rule": "candidate \"a.yaml\":7:12",
            });
            assert_eq!(object, expected);
            let mut from = 0;
            for name in FIELDS {
                let at =
                    text[from..].find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} in {text}"));
                from += at;
            }
            assert_eq!(object.as_object().unwrap().len(), FIELDS.len());
        });
    }

    #[test]
    fn text_line_has_every_field() {
        with_full(|line| {
            let text = written_with_request(&line, LogFormat::Text);
            assert_eq!(
                text,
                "2026-11-30T03:04:50.123456Z  INFO request request_id=\"7f3a\" client_request_id=\"of-the-client\" \
                 client=192.0.2.7 client_subject=\"CN=scanner\" protocol=HTTP/1.1 tls_version=1.3 \
                 host=\"app.example:8443\" user_agent=\"curl/8.5 \\\"x\\\"\\u001b[2J\" method=GET \
                 route=\"/api/v2/items/{id}\" path=/api/v2/items/{id} status=403 reason=missing_ability \
                 required=\"{all: [items:read, items:update]}\" missing=[\"items:update\"] detail=\"gateway.yaml\\n:3\" \
                 token_id=\"17\" token_name=\"scanner \\\"A\\\"\\r\\n\\u001b[2J\" cache=hit duration_ms=1.234 \
                 introspection_duration_ms=1.000 upstream_duration_ms=0.020 upstream_address=\"192.0.2.9:8000\" \
                 upstream_status=200 bytes_in=3 bytes_out=44 shadow=would_deny \
                 shadow_rule=\"candidate \\\"a.yaml\\\":7:12\"\n"
            );
        });
    }

    #[test]
    fn unknown_values_are_omitted() {
        let line = AccessLine {
            request_id: b"7f3a",
            client_request_id: None,
            client: Client::unknown(),
            protocol: None,
            tls_version: None,
            request: None,
            method: "other",
            route: "none",
            path: None,
            status: 400,
            reason: Reason::BadRequest,
            denied_by: None,
            detail: None,
            token: None,
            cache: None,
            duration: Duration::ZERO,
            introspection_duration: Duration::ZERO,
            upstream_duration: Duration::ZERO,
            upstream: None,
            upstream_status: None,
            bytes_in: 0,
            bytes_out: 0,
            shadow: None,
            shadow_rule: None,
        };
        assert_eq!(
            written(&line, LogFormat::Json),
            "{\"timestamp\":\"2026-11-30T03:04:50.123456Z\",\"level\":\"INFO\",\"message\":\"request\",\
             \"request_id\":\"7f3a\",\"method\":\"other\",\"route\":\"none\",\"status\":400,\"reason\":\"bad_request\",\
             \"duration_ms\":0.000,\"bytes_in\":0,\"bytes_out\":0}\n"
        );
    }

    #[test]
    fn values_that_may_hold_a_token_are_hidden() {
        with_full(|line| {
            let token = b"17|Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq";
            let line = AccessLine { client_request_id: Some(&token[3..]), ..line };
            for format in [LogFormat::Json, LogFormat::Text] {
                let request = request(format, b"17|x.example", token);
                let line = AccessLine { request: Some(&request), ..line };
                let fields = OnceCell::new();
                let line = AccessLine { token: Some(self::token("17", "scanner", &fields)), ..line };
                let text = written(&line, format);
                assert!(!text.contains("Qz7m") && !text.contains("17|"), "{text}");
                assert_eq!(text.matches(HIDDEN).count(), 3, "{text}");
            }
        });
    }

    #[test]
    fn what_strangers_and_tokens_say_is_bounded() {
        let many: Vec<String> = (0..40).map(|number| format!("ability-number-{number:0100}")).collect();
        let requirement = Requirement::all(many.iter().map(String::as_str)).unwrap();
        let (long, destination) = ("é".repeat(5000), tcp());
        let (abilities, fields) = (Abilities::default(), OnceCell::new());
        let request = request(LogFormat::Json, long.as_bytes(), long.as_bytes());
        let line = AccessLine {
            request: Some(&request),
            client: Client { subject: Some(&long), ..Client::unknown() },
            ..full(&requirement, &abilities, &destination, token(&long, &long, &fields))
        };
        let text = written(&line, LogFormat::Json);
        let object: Value = serde_json::from_str(&text).unwrap();
        for (name, most) in [
            ("user_agent", LONGEST_USER_AGENT),
            ("host", LONGEST_HOST),
            ("token_name", LONGEST_NAME),
            ("required", LONGEST_REQUIREMENT),
        ] {
            let value = object[name].as_str().unwrap();
            assert!(value.len() <= most + 3 && value.ends_with('…'), "{name}: {value}");
        }
        assert_eq!(object["missing"].as_array().unwrap().len(), MOST_MISSING);
        assert!(text.len() < 6000, "{}", text.len());
    }

    #[test]
    fn missing_abilities_are_all_of_any_and_none_of_a_keyword() {
        let destination = tcp();
        for (requirement, held, required, missing) in [
            (Requirement::any(["a", "b"]), &["c"][..], "{any: [a, b]}", json!(["a", "b"])),
            (Requirement::all(["a", "b"]), &["c"], "{all: [a, b]}", json!(["a", "b"])),
            (Requirement::all(["a"]), &[], "a", json!(["a"])),
            (Ok(Requirement::deny()), &["a"], "deny", Value::Null),
        ] {
            let requirement = requirement.unwrap();
            let abilities = Abilities::new(held.iter().copied());
            let fields = OnceCell::new();
            let line = full(&requirement, &abilities, &destination, token("17", "scanner", &fields));
            let object: Value = serde_json::from_str(&written(&line, LogFormat::Json)).unwrap();
            assert_eq!((&object["required"], &object["missing"]), (&json!(required), &missing));
        }
    }

    #[test]
    fn addresses_are_written_as_they_display() {
        let (tcp, unix) = (tcp(), Destination::Unix("/run/app.sock".into()));
        for (address, destination, expected) in [
            (Some(IpAddr::from([127, 0, 0, 1])), &tcp, "127.0.0.1:8000"),
            (Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])), &tcp, "[::1]:8000"),
            (None, &tcp, "app:8000"),
            (None, &unix, "unix:/run/app.sock"),
        ] {
            let upstream = Upstream { address, destination };
            assert_eq!(upstream.to_string(), expected);
            with_full(|line| {
                let expected_client = address.map_or(Value::Null, |address| address.to_string().into());
                let peer = Client { peer: address, ..Client::unknown() };
                for client in [peer, Client { forwarded: address, ..Client::unknown() }] {
                    let line = AccessLine { upstream: Some(upstream), client, ..line };
                    let object: Value = serde_json::from_str(&written(&line, LogFormat::Json)).unwrap();
                    let found = (&object["upstream_address"], &object["client"]);
                    assert_eq!(found, (&json!(expected), &expected_client));
                }
            });
        }
    }

    #[test]
    fn fields_of_a_token_are_escaped_for_its_first_line_and_copied_to_the_next() {
        with_full(|line| {
            let first = written(&line, LogFormat::Json);
            let TokenFields(fields) =
                line.token.unwrap().fields.get().expect("the first line keeps the fields");
            assert_eq!(
                &**fields,
                br#","token_id":"17","token_name":"scanner \"A\"\r\n\u001b[2J""#,
                "{}",
                String::from_utf8_lossy(fields)
            );
            let other = LoggedToken { id: "not written again", ..line.token.unwrap() };
            assert_eq!(written(&AccessLine { token: Some(other), ..line }, LogFormat::Json), first);
        });
    }
    #[test]
    fn fields_of_a_connection_are_encoded_for_its_first_line_unless_a_proxy_names_the_client() {
        with_full(|line| {
            let first = written(&line, LogFormat::Json);
            let other = Client { peer: Some([192, 0, 2, 8].into()), ..line.client };
            assert_eq!(written(&AccessLine { client: other, ..line }, LogFormat::Json), first);
            let forwarded = Client { forwarded: Some([198, 51, 100, 1].into()), ..line.client };
            let text = written(&AccessLine { client: forwarded, ..line }, LogFormat::Json);
            let object: Value = serde_json::from_str(&text).unwrap();
            let found = (&object["client"], &object["client_subject"]);
            assert_eq!(found, (&json!("198.51.100.1"), &json!("CN=scanner")));
        });
    }

    #[test]
    fn last_upstream_is_not_taken_for_another() {
        let mut last = LastUpstream::default();
        for (address, port, expected) in [
            ("127.0.0.1", 80, "127.0.0.1:80"),
            ("127.0.0.1", 80, "127.0.0.1:80"),
            ("127.0.0.1", 81, "127.0.0.1:81"),
            ("::1", 81, "[::1]:81"),
        ] {
            assert_eq!(last.encode(address.parse().unwrap(), port), expected.as_bytes());
        }
    }
}
