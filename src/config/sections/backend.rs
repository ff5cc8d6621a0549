//! `backend`: where permitted requests go.

use std::num::NonZeroUsize;

use super::address::BaseUrl;
use super::client_tls::{self, ClientTls};
use crate::config::language::{
    ANY, Decoder, Diagnostic, OnOff, Period, Ratio, Spanned, Timeout, Whole, section, words,
};
use crate::config::settings::{self, BackendHost};
use crate::policy::method::MethodOverride;

section! {
    /// The backend, which receives permitted requests.
    Backend {
        /// Base URL of the backend: http or https with an optional path prefix, or `unix:/path`.
        url: BaseUrl,
        /// The Host field that the backend receives: the client's (`preserve`) or the authority of `url` (`backend`).
        host: BackendHost = "preserve",
        /// The method that is authorised for a POST with X-HTTP-Method-Override: POST (`pin`), or the field's PUT,
        /// PATCH or DELETE (`honour`).
        method_override: MethodOverride = "pin",
        /// Whether to forward cookies on routes that require a token. A session may grant more than the token.
        cookies: Spanned<OnOff> = false,
        /// TLS of connections to the backend, if `url` is https.
        tls: ClientTls,
        /// Whether to use HTTP/2. Over TLS it is negotiated by ALPN, with HTTP/1.1 as fallback; without TLS the backend
        /// must support HTTP/2 with prior knowledge.
        http2: OnOff = false,
        /// Longest time for name resolution, TCP and TLS handshake together.
        connect_timeout: Timeout = "2s",
        /// Longest time from the end of the request body to the first byte of the response.
        timeout: Timeout = "30s",
        /// How long an idle connection is kept. It must be shorter than the backend's keep-alive timeout, which is 5 s
        /// in Node.js and Apache. `Keep-Alive: timeout=N` in a response lowers it to N - 1 seconds.
        idle_timeout: Period = "4s",
        /// Largest number of connections to the backend; 0: unlimited. Further requests wait, and a free connection goes to
        /// the caller (the token; on public routes the client's address or IPv6 /64) that uses the fewest.
        max_connections: Whole<0, ANY> = 0,
        /// The part of `max_connections` that a caller keeps while others wait, from 0 to 1, but at least one connection.
        /// Of what it has beyond that, exchanges are ended whose client stalls for a second. Also the part that all
        /// tunnels together may use.
        max_share: Ratio = 0.5,
        /// Longest wait for one of `max_connections`; null: that of `connect_timeout`.
        queue_timeout: Option<Timeout>,
    }
}

words!(BackendHost { "preserve" => Self::Preserve, "backend" => Self::Backend });
words!(MethodOverride { "pin" => Self::Pin, "honour" => Self::Honour });

pub(crate) fn compile(raw: Backend, decoder: &mut Decoder<'_>) -> settings::Backend {
    if raw.cookies.value.0 {
        decoder.record(
            Diagnostic::warning("cookies are forwarded beside tokens")
                .key("backend.cookies")
                .at(raw.cookies.span, "a session cookie may grant more than the token's abilities")
                .hint("Sanctum tries the session before the token; remove `cookies` unless the backend needs it"),
        );
    }
    settings::Backend {
        destination: raw.url.destination,
        authority: raw.url.authority,
        path_prefix: raw.url.path_prefix,
        host: raw.host,
        method_override: raw.method_override,
        cookies: raw.cookies.value.0,
        tls: client_tls::compile(raw.tls, "backend", decoder),
        http2: raw.http2.0,
        connect_timeout: raw.connect_timeout.0,
        timeout: raw.timeout.0,
        idle_timeout: raw.idle_timeout.0,
        max_connections: NonZeroUsize::new(raw.max_connections.count()),
        max_share: raw.max_share.0,
        queue_timeout: raw.queue_timeout.map_or(raw.connect_timeout.0, |timeout| timeout.0),
    }
}
