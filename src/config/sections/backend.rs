//! `backend`: where permitted requests go.

use super::address::BaseUrl;
use super::client_tls::{self, ClientTls};
use crate::config::language::{
    ANY, Decoder, Diagnostic, Period, Spanned, Switch, Timeout, Whole, section, words,
};
use crate::config::settings::{self, BackendHost};
use crate::policy::method::MethodOverride;

section! {
    /// Where permitted requests go.
    Backend {
        /// http or https with an optional path prefix, or `unix:/path`.
        url: BaseUrl,
        /// The Host that the backend sees: the client's (`preserve`), or the URL's (`backend`).
        host: BackendHost = "preserve",
        /// A POST with X-HTTP-Method-Override is decided as a POST (`pin`), or as the PUT, PATCH or DELETE that
        /// the field names (`honour`).
        method_override: MethodOverride = "pin",
        /// Whether cookies pass on routes that ask for a token; a session may do more there than the token.
        cookies: Spanned<Switch> = false,
        /// How https is spoken.
        tls: ClientTls,
        /// Whether HTTP/2 is spoken: over TLS where the backend chooses it, else HTTP/1.1; without TLS the backend must
        /// know it.
        http2: Switch = false,
        /// For name resolution, TCP and TLS together.
        connect_timeout: Timeout = "2s",
        /// From the end of the request's body to the first byte of the answer.
        timeout: Timeout = "30s",
        /// How long an idle connection is kept. It must be shorter than the backend's own keep-alive time: Node.js and
        /// Apache close after 5 s. `Keep-Alive: timeout=N` in a response lowers it to one second less than N.
        idle_timeout: Period = "4s",
        /// The most connections, over all cores; 0: no bound.
        max_connections: Whole<0, ANY> = 0,
    }
}

words!(BackendHost { "preserve" => Self::Preserve, "backend" => Self::Backend });
words!(MethodOverride { "pin" => Self::Pin, "honour" => Self::Honour });

pub(crate) fn compile(raw: Backend, decoder: &mut Decoder<'_>) -> settings::Backend {
    if raw.cookies.value.0 {
        decoder.record(
            Diagnostic::warning("cookies beside a token")
                .key("backend.cookies")
                .at(raw.cookies.span, "a session is asked before the token, and may do all its user may")
                .hint("Sanctum tries the session first: what the token lacks, a cookie can add"),
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
