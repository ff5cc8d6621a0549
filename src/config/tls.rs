//! The `tls` sections, compiled: which certificates are shown, asked for and believed.

use http::HeaderValue;

use super::decode::Decoder;
use super::report::Mistake;
use super::{settings, written};

/// The certificates of `listen.tls`, and whether what goes with them is there for a reason.
pub(super) fn compile_listen(
    listen: &written::Listen,
    decoder: &mut Decoder<'_>,
) -> Box<[settings::ListenTls]> {
    let Some(tls) = &listen.tls else {
        let only = |key: &'static str, span| {
            Mistake::error("only beside `listen.tls`").of(key).at(span, "nothing is served by https")
        };
        if let Some(address) = &listen.redirect_address {
            decoder.mistakes.push(only("listen.redirect_address", address.span));
        }
        if !listen.hsts.value.0.is_zero() {
            decoder.mistakes.push(only("listen.hsts", listen.hsts.span));
        }
        return Box::default();
    };
    if let (settings::ListenAddress::Unix(_), Some(first)) = (&listen.address, tls.0.first()) {
        decoder.mistakes.push(
            Mistake::error("not over a Unix socket")
                .of("listen.tls")
                .at(first.certificate.span, "nobody would be shown it, nor have to show one")
                .hint("`listen.address` with an IP address and a port has TLS"),
        );
    }
    for (number, entry) in tls.0.iter().enumerate() {
        let is_same = |other: &&written::ListenTls| other.certificate.value.0 == entry.certificate.value.0;
        if let Some(first) = tls.0.iter().take(number).find(is_same) {
            decoder.mistakes.push(
                Mistake::error("the same certificate again")
                    .of(format!("listen.tls[{number}].certificate"))
                    .at(entry.certificate.span, "nobody would meet this one")
                    .see(first.certificate.span, "the first one"),
            );
        }
    }
    let authority = |entry: &written::ListenTls| entry.client_ca.as_ref().map(|file| file.value.0.clone());
    let first = tls.0.first().and_then(authority);
    if let Some(other) = tls.0.iter().find(|entry| authority(entry) != first) {
        let span = other.client_ca.as_ref().map_or(other.certificate.span, |file| file.span);
        decoder.mistakes.push(
            Mistake::error("another `client_ca` than that of the first certificate")
                .of("listen.tls")
                .at(span, "a client chooses by the name that it asks for which of them it meets")
                .hint("give every certificate the same `client_ca`, or none"),
        );
    }
    let entry = |entry: &written::ListenTls| settings::ListenTls {
        certificate: entry.certificate.value.0.clone(),
        private_key: entry.private_key.value.0.clone(),
        client_ca: authority(entry),
    };
    tls.0.iter().map(entry).collect()
}

/// RFC 6797 section 6.1. Not for subdomains: of those this listener knows nothing.
pub(super) fn strict_transport_security(listen: &written::Listen) -> Option<HeaderValue> {
    let seconds = listen.hsts.value.0.as_secs();
    (seconds > 0).then(|| HeaderValue::try_from(format!("max-age={seconds}")).ok()).flatten()
}

/// The `tls` of `section`.
pub(super) fn compile_client(
    tls: written::ClientTls,
    section: &str,
    decoder: &mut Decoder<'_>,
) -> settings::ClientTls {
    let (identity, alone) = match (tls.certificate, tls.private_key) {
        (Some(certificate), Some(private_key)) => {
            let (certificate, private_key) = (certificate.value.0, private_key.value.0);
            (Some(settings::ClientCertificate { certificate, private_key }), None)
        }
        (Some(certificate), None) => (None, Some((certificate.span, "certificate", "private_key"))),
        (None, Some(private_key)) => (None, Some((private_key.span, "private_key", "certificate"))),
        (None, None) => (None, None),
    };
    if let Some((span, key, missing)) = alone {
        decoder.mistakes.push(
            Mistake::error("half of a client certificate")
                .of(format!("{section}.tls.{key}"))
                .at(span, format!("expected `{missing}` beside it")),
        );
    }
    let accept_any = tls.danger_accept_any_certificate;
    if accept_any.value.0 {
        decoder.mistakes.push(
            Mistake::warning("the server's certificate is not verified")
                .of(format!("{section}.tls.danger_accept_any_certificate"))
                .at(
                    accept_any.span,
                    "whoever is between reads every token, and answers in the server's place",
                )
                .hint("`ca_file` names whom to believe"),
        );
    }
    settings::ClientTls {
        roots: tls.roots,
        ca_file: tls.ca_file.map(|file| file.0),
        identity,
        minimum_version: tls.minimum_version,
        server_name: tls.server_name.map(|name| name.0),
        danger_accept_any_certificate: accept_any.value.0,
    }
}
