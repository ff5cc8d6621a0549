//! Encodes access lines as JSON or text.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use super::line::{AccessLine, Client, DeniedBy, LoggedCause, LoggedToken, TokenFields, Upstream};
use super::{timestamp, value};
use crate::config::settings::{Destination, LogFormat};
use crate::policy::mask::{may_hold_token, may_host_hold_secret};
use crate::policy::shadow::Change;
use crate::telemetry::metrics::LookupResult;

/// The longest `user_agent`, in bytes. Longer ones are truncated.
const MAX_USER_AGENT: usize = 128;
/// The longest `host`, in bytes: a DNS name of 253 with a port.
const MAX_HOST: usize = 260;
/// The longest `token_id`, `token_name` and `client_subject`, in bytes.
const MAX_NAME: usize = 256;
/// The longest `required`, in bytes.
const MAX_REQUIREMENT: usize = 512;
/// The most abilities in `missing`.
const MAX_MISSING: usize = 16;
/// Replaces a value that may contain a token.
const HIDDEN: &str = "(hidden: it may hold a token)";

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
    LISTENER = "listener",
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
    LIMIT = "limit",
    CLAIM = "claim",
    EXPECTED = "expected",
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
    // The usual length of a line, so that the buffer rarely grows within one.
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

/// The encoded upstream address of the last line. Most lines of a worker have the same one.
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

/// Appends encoded fields to a buffer.
pub(super) struct Fields<'a, const JSON: bool> {
    pub(super) buffer: &'a mut Vec<u8>,
}

impl<const JSON: bool> Fields<'_, JSON> {
    fn write(&mut self, line: &AccessLine<'_>, addresses: &mut LastUpstream) {
        self.key(&REQUEST_ID);
        value::bounded_bytes(self.buffer, line.request_id, MAX_NAME);
        self.bytes(&CLIENT_REQUEST_ID, line.client_request_id, MAX_NAME);
        self.word(&LISTENER, line.listener);
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
        if let Some(cause) = line.cause {
            self.cause(cause);
        }
        self.denied_by(line.denied_by);
        self.display(&DETAIL, line.detail, MAX_REQUIREMENT);
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

    #[cold]
    fn cause(&mut self, cause: LoggedCause<'_>) {
        match cause {
            LoggedCause::Limit(limit) => self.word(&LIMIT, Some(limit.as_str())),
            LoggedCause::Claim(expected) => {
                self.word(&CLAIM, Some(expected.claim.as_str()));
                self.display(&EXPECTED, Some(&expected), MAX_REQUIREMENT);
            }
        }
    }

    // Inlined, so that a key is copied by a few moves instead of a call of memcpy.
    #[inline(always)]
    fn key(&mut self, key: &Key) {
        self.buffer.extend_from_slice(if JSON { key.json } else { key.text }.as_bytes());
    }

    /// A value from the gateway, which needs no escapes.
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

    /// Appends fields that the client chooses and most of its requests repeat.
    pub(super) fn request(&mut self, host: Option<&[u8]>, user_agent: Option<&[u8]>) {
        self.bytes_unless(may_host_hold_secret, &HOST, host, MAX_HOST);
        self.bytes(&USER_AGENT, user_agent, MAX_USER_AGENT);
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
        self.text(&CLIENT_SUBJECT, subject, MAX_NAME);
    }

    #[inline(always)]
    fn text(&mut self, key: &Key, text: Option<&str>, most: usize) {
        let Some(text) = text else { return };
        self.key(key);
        value::bounded_text(self.buffer, text, most);
    }

    /// Appends the token's fields. They are escaped for the token's first line on this worker and copied afterwards.
    #[inline(always)]
    fn token(&mut self, token: Option<LoggedToken<'_>>) {
        let Some(LoggedToken { id, name, fields }) = token else { return };
        let TokenFields(fields) = fields.get_or_init(|| {
            let mut buffer = Vec::new();
            let mut fields = Fields::<JSON> { buffer: &mut buffer };
            fields.text(&TOKEN_ID, Some(id), MAX_NAME);
            fields.text(&TOKEN_NAME, name, MAX_NAME);
            TokenFields(buffer.into())
        });
        self.buffer.extend_from_slice(fields);
    }

    /// Appends a value that the client chose.
    #[inline(always)]
    fn bytes(&mut self, key: &Key, bytes: Option<&[u8]>, most: usize) {
        self.bytes_unless(may_hold_token, key, bytes, most);
    }

    #[inline(always)]
    fn bytes_unless(&mut self, is_secret: fn(&[u8]) -> bool, key: &Key, bytes: Option<&[u8]>, most: usize) {
        let Some(bytes) = bytes else { return };
        self.key(key);
        if is_secret(bytes) {
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
            _ => value::bounded_display(self.buffer, &upstream, MAX_NAME),
        }
    }

    fn denied_by(&mut self, denied_by: Option<DeniedBy<'_>>) {
        let Some(DeniedBy { requirement, abilities }) = denied_by else { return };
        self.display(&REQUIRED, Some(requirement), MAX_REQUIREMENT);
        let Some(abilities) = abilities else { return };
        let mut missing = requirement.missing(abilities).peekable();
        if missing.peek().is_none() {
            return;
        }
        self.key(&MISSING);
        self.buffer.push(b'[');
        for (index, ability) in missing.take(MAX_MISSING).enumerate() {
            if index > 0 {
                self.buffer.push(b',');
            }
            value::text(self.buffer, ability);
        }
        self.buffer.push(b']');
    }
}

#[cfg(test)]
mod tests;
