//! `listen`: the proxy's own listener.

use http::HeaderValue;

use super::address::Network;
use super::trusted_fields::{self, TrustedField};
use crate::config::language::{
    Decoder, Diagnostic, OneOrMore, Period, ReadableFile, Spanned, Switch, section,
};
use crate::config::settings::{self, ListenAddress};

section! {
    /// The proxy's own listener.
    Listen {
        /// An IP address with a port (0: any free one), or `unix:/path`.
        address: ListenAddress = "0.0.0.0:8080",
        /// The certificate to serve, or several: each client meets the first that is for the name it asks for, or
        /// the first of all. Without it plain HTTP is served.
        tls: Option<OneOrMore<ListenTls>>,
        /// A second address, where plain HTTP is answered 308 to https.
        redirect_address: Option<Spanned<ListenAddress>>,
        /// Tells browsers for how long to come by https only (Strict-Transport-Security); 0: does not.
        hsts: Spanned<Period> = "0s",
        /// Networks whose forwarding header fields are trusted: X-Forwarded-For and the like, Forwarded, X-Real-IP and
        /// X-Request-Id.
        trusted_proxies: Vec<Network> = [],
        /// Fields about the caller that trusted proxies may set as well, such as `Remote-User`. All others of their
        /// kind are dropped.
        trusted_fields: Vec<Spanned<TrustedField>> = [],
        /// Whether trusted proxies, and whoever connects to a Unix socket, begin each connection with a header of
        /// the PROXY protocol (v1 or v2), which tells whose connection it is.
        proxy_protocol: Spanned<Switch> = false,
        /// Whether clients may speak HTTP/2 without TLS, if they know beforehand that they may.
        h2c: Switch = false,
        /// From SIGTERM to closing the listener.
        drain_delay: Period = "0s",
        /// How long requests in flight may take after that.
        drain_timeout: Period = "30s",
    }
}

section! {
    /// A certificate and its key; read again when the files change.
    ListenTls {
        /// The certificate chain in PEM, leaf first.
        certificate: Spanned<ReadableFile>,
        /// The private key in PEM.
        private_key: Spanned<ReadableFile>,
        /// Clients must show a certificate of one of these authorities, in PEM.
        client_ca: Option<Spanned<ReadableFile>>,
    }
}

pub(crate) fn compile(raw: Listen, decoder: &mut Decoder<'_>) -> settings::Listen {
    let is_tcp = matches!(raw.address, ListenAddress::Tcp(_));
    let has_proxies = !raw.trusted_proxies.is_empty();
    if raw.proxy_protocol.value.0 && is_tcp && !has_proxies {
        decoder.record(
            Diagnostic::warning("has no effect")
                .key("listen.proxy_protocol")
                .at(raw.proxy_protocol.span, "only trusted proxies are asked for a PROXY header")
                .hint("name their networks in `listen.trusted_proxies`"),
        );
    }
    settings::Listen {
        trusted_fields: trusted_fields::compile(&raw.trusted_fields, has_proxies, decoder),
        tls: compile_tls(&raw, decoder),
        hsts: strict_transport_security(&raw),
        address: raw.address,
        redirect_address: raw.redirect_address.map(|address| address.value),
        h2c: raw.h2c.0,
        trusted_proxies: raw.trusted_proxies.into_iter().map(|network| network.0).collect(),
        proxy_protocol: raw.proxy_protocol.value.0,
        drain_delay: raw.drain_delay.0,
        drain_timeout: raw.drain_timeout.0,
    }
}

/// Compiles `listen.tls`, and rejects the keys that need it if it is absent.
fn compile_tls(raw: &Listen, decoder: &mut Decoder<'_>) -> Box<[settings::ListenTls]> {
    let Some(tls) = &raw.tls else {
        let only = |key: &'static str, span| {
            Diagnostic::error("only beside `listen.tls`").key(key).at(span, "nothing is served by https")
        };
        if let Some(address) = &raw.redirect_address {
            decoder.record(only("listen.redirect_address", address.span));
        }
        if !raw.hsts.value.0.is_zero() {
            decoder.record(only("listen.hsts", raw.hsts.span));
        }
        return Box::default();
    };
    if let (ListenAddress::Unix(_), Some(first)) = (&raw.address, tls.0.first()) {
        decoder.record(
            Diagnostic::error("not over a Unix socket")
                .key("listen.tls")
                .at(first.certificate.span, "nobody would be shown it, nor have to show one")
                .hint("`listen.address` with an IP address and a port has TLS"),
        );
    }
    for (number, entry) in tls.0.iter().enumerate() {
        let is_same = |other: &&ListenTls| other.certificate.value.0 == entry.certificate.value.0;
        if let Some(first) = tls.0.iter().take(number).find(is_same) {
            decoder.record(
                Diagnostic::error("the same certificate again")
                    .key(format!("listen.tls[{number}].certificate"))
                    .at(entry.certificate.span, "nobody would meet this one")
                    .related(first.certificate.span, "the first one"),
            );
        }
    }
    let authority = |entry: &ListenTls| entry.client_ca.as_ref().map(|file| file.value.0.clone());
    let first = tls.0.first().and_then(authority);
    if let Some(other) = tls.0.iter().find(|entry| authority(entry) != first) {
        let span = other.client_ca.as_ref().map_or(other.certificate.span, |file| file.span);
        decoder.record(
            Diagnostic::error("another `client_ca` than that of the first certificate")
                .key("listen.tls")
                .at(span, "a client chooses by the name that it asks for which of them it meets")
                .hint("give every certificate the same `client_ca`, or none"),
        );
    }
    let entry = |entry: &ListenTls| settings::ListenTls {
        certificate: entry.certificate.value.0.clone(),
        private_key: entry.private_key.value.0.clone(),
        client_ca: authority(entry),
    };
    tls.0.iter().map(entry).collect()
}

/// The value of Strict-Transport-Security (RFC 6797 section 6.1); `None` if off. Without `includeSubDomains`, as other
/// hosts may serve subdomains.
fn strict_transport_security(raw: &Listen) -> Option<HeaderValue> {
    let seconds = raw.hsts.value.0.as_secs();
    (seconds > 0).then(|| HeaderValue::try_from(format!("max-age={seconds}")).ok()).flatten()
}
