//! `tls` of sections with connections out: certificates to show and to trust.

use schemars::json_schema;

use crate::config::language::{
    Decode, Decoder, Diagnostic, Node, ReadableFile, Spanned, Switch, leaf_schema, section, words,
};
use crate::config::settings::{self, Roots, TlsVersion};

section! {
    /// How https is spoken.
    ClientTls {
        /// Whose certificates are believed: Mozilla's, compiled in, or the operating system's.
        roots: Roots = "bundled",
        /// A PEM bundle that replaces the roots.
        ca_file: Option<ReadableFile>,
        /// The certificate chain in PEM, leaf first, that is shown to a server that asks for one.
        certificate: Option<Spanned<ReadableFile>>,
        /// The certificate's private key in PEM.
        private_key: Option<Spanned<ReadableFile>>,
        /// What the certificate must be for, where it is not the URL's host.
        server_name: Option<ServerName>,
        /// The oldest version of TLS that is spoken: `1.2` or `1.3`.
        minimum_version: TlsVersion = "1.2",
        /// Believes whoever answers, a stranger who reads every token included. Never in production.
        danger_accept_any_certificate: Spanned<Switch> = false,
    }
}

words!(Roots { "bundled" => Self::Bundled, "platform" => Self::Platform });
words!(TlsVersion { "1.2" => Self::Tls12, "1.3" => Self::Tls13 });

/// A subject of certificates: a DNS name or an IP address.
#[derive(Clone, Debug)]
pub(crate) struct ServerName(pub(crate) Box<str>);

impl Decode for ServerName {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const NAME: &str = "a DNS name or an IP address";
        let text = decoder.string(node, NAME)?;
        if rustls_pki_types::ServerName::try_from(&*text).is_err() {
            return decoder.mismatch(node, "not a name that a certificate can be for", NAME);
        }
        Some(Self(text.into()))
    }
}

leaf_schema!(ServerName, json_schema!({"type": "string", "minLength": 1}));

/// Compiles the `tls` of `section`.
pub(super) fn compile(raw: ClientTls, section: &str, decoder: &mut Decoder<'_>) -> settings::ClientTls {
    let (identity, alone) = match (raw.certificate, raw.private_key) {
        (Some(certificate), Some(private_key)) => {
            let (certificate, private_key) = (certificate.value.0, private_key.value.0);
            (Some(settings::ClientCertificate { certificate, private_key }), None)
        }
        (Some(certificate), None) => (None, Some((certificate.span, "certificate", "private_key"))),
        (None, Some(private_key)) => (None, Some((private_key.span, "private_key", "certificate"))),
        (None, None) => (None, None),
    };
    if let Some((span, key, missing)) = alone {
        decoder.record(
            Diagnostic::error("half of a client certificate")
                .key(format!("{section}.tls.{key}"))
                .at(span, format!("expected `{missing}` beside it")),
        );
    }
    let accept_any = raw.danger_accept_any_certificate;
    if accept_any.value.0 {
        decoder.record(
            Diagnostic::warning("the server's certificate is not verified")
                .key(format!("{section}.tls.danger_accept_any_certificate"))
                .at(
                    accept_any.span,
                    "whoever is between reads every token, and answers in the server's place",
                )
                .hint("`ca_file` names whom to believe"),
        );
    }
    settings::ClientTls {
        roots: raw.roots,
        ca_file: raw.ca_file.map(|file| file.0),
        identity,
        minimum_version: raw.minimum_version,
        server_name: raw.server_name.map(|name| name.0),
        danger_accept_any_certificate: accept_any.value.0,
    }
}
