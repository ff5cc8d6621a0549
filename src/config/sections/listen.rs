//! `listen`: the proxy listener.

use http::HeaderValue;

use super::address::Network;
use super::trusted_fields::{self, TrustedField};
use crate::config::language::{
    Decoder, Diagnostic, OnOff, OneOrMore, Period, ReadableFile, Spanned, section,
};
use crate::config::settings::{self, ListenAddress};

section! {
    /// The proxy listener.
    Listen {
        /// Address to listen on: an IP address with a port (0 picks a free one), or `unix:/path`.
        address: ListenAddress = "0.0.0.0:8080",
        /// One certificate or several. A client gets the first that is valid for the server name it requests, or else
        /// the first of all. Without certificates the listener serves plain HTTP.
        tls: Option<OneOrMore<ListenTls>>,
        /// Second address, which redirects plain HTTP to https with status 308.
        redirect_address: Option<Spanned<ListenAddress>>,
        /// `max-age` of Strict-Transport-Security, for which browsers use https only; 0: the field is not sent.
        hsts: Spanned<Period> = "0s",
        /// Networks of proxies whose X-Forwarded-For, Forwarded, X-Real-IP, X-Request-Id and similar fields are
        /// trusted. Any host in these networks can claim any client address.
        trusted_proxies: Vec<Network> = [],
        /// Identity fields such as `Remote-User` that trusted proxies may set. The gateway removes all other identity
        /// fields.
        trusted_fields: Vec<Spanned<TrustedField>> = [],
        /// Whether connections of trusted proxies and Unix socket peers start with a PROXY protocol header (v1 or v2),
        /// which has the client address.
        proxy_protocol: Spanned<OnOff> = false,
        /// Whether clients may use HTTP/2 without TLS, with prior knowledge.
        h2c: OnOff = false,
        /// Time from SIGTERM to closing the listener.
        drain_delay: Period = "0s",
        /// Longest time for requests in flight after the listener is closed.
        drain_timeout: Period = "30s",
    }
}

section! {
    /// A certificate and its key. The gateway reads the files again when they change.
    ListenTls {
        /// PEM file with the certificate chain, leaf first.
        certificate: Spanned<ReadableFile>,
        /// PEM file with the private key.
        private_key: Spanned<ReadableFile>,
        /// PEM file with certificate authorities. Clients must present a certificate issued by one of them.
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
                .at(raw.proxy_protocol.span, "only trusted proxies send a PROXY header")
                .hint("list their networks in `listen.trusted_proxies`"),
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
            Diagnostic::error("requires `listen.tls`").key(key).at(span, "the listener does not serve https")
        };
        if let Some(address) = &raw.redirect_address {
            decoder.record(only("listen.redirect_address", address.span));
        }
        if !raw.hsts.value.0.is_zero() {
            decoder.record(only("listen.hsts", raw.hsts.span));
        }
        return Box::default();
    };
    compile_certificates(tls, &raw.address, "listen", decoder)
}

/// Compiles the `tls` of the `section` with this `address`.
pub(super) fn compile_certificates(
    tls: &OneOrMore<ListenTls>,
    address: &ListenAddress,
    section: &str,
    decoder: &mut Decoder<'_>,
) -> Box<[settings::ListenTls]> {
    if let (ListenAddress::Unix(_), Some(first)) = (address, tls.0.first()) {
        decoder.record(
            Diagnostic::error("TLS on a Unix socket")
                .key(format!("{section}.tls"))
                .at(first.certificate.span, "a Unix socket does not use certificates")
                .hint(format!("use an IP address and a port in `{section}.address`")),
        );
    }
    for (number, entry) in tls.0.iter().enumerate() {
        let is_same = |other: &&ListenTls| other.certificate.value.0 == entry.certificate.value.0;
        if let Some(first) = tls.0.iter().take(number).find(is_same) {
            decoder.record(
                Diagnostic::error("duplicate certificate")
                    .key(format!("{section}.tls[{number}].certificate"))
                    .at(entry.certificate.span, "never used")
                    .related(first.certificate.span, "first used here"),
            );
        }
    }
    let authority = |entry: &ListenTls| entry.client_ca.as_ref().map(|file| file.value.0.clone());
    let first = tls.0.first().and_then(authority);
    if let Some(other) = tls.0.iter().find(|entry| authority(entry) != first) {
        let span = other.client_ca.as_ref().map_or(other.certificate.span, |file| file.span);
        decoder.record(
            Diagnostic::error("different `client_ca`")
                .key(format!("{section}.tls"))
                .at(span, "a client could choose the `client_ca` by the server name it requests")
                .hint("use the same `client_ca` for every certificate, or for none"),
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
