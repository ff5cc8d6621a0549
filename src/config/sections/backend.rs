//! `backend`: where permitted requests go.

use super::address::BaseUrl;
use super::client_tls::{self, ClientTls};
use crate::config::language::{
    ANY, Decoder, Diagnostic, OnOff, Period, Spanned, Timeout, Whole, section, words,
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
        /// Largest number of connections to the backend; 0: unlimited.
        max_connections: Whole<0, ANY> = 0,
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
        max_connections: raw.max_connections.positive_count(),
    }
}
