//! `tls` of sections with outgoing connections: client certificates and trusted authorities.

use schemars::json_schema;

use crate::config::language::{
    Decode, Decoder, Diagnostic, Node, OnOff, ReadableFile, Spanned, leaf_schema, section, words,
};
use crate::config::settings::{self, Roots, TlsVersion};

section! {
    /// TLS of outgoing connections.
    ClientTls {
        /// Trusted certificate authorities: Mozilla's, compiled in (`bundled`), or the operating system's (`platform`).
        roots: Roots = "bundled",
        /// PEM file with certificate authorities, which replaces `roots`.
        ca_file: Option<ReadableFile>,
        /// PEM file with the client certificate chain, leaf first, for servers that request one.
        certificate: Option<Spanned<ReadableFile>>,
        /// PEM file with the private key of `certificate`.
        private_key: Option<Spanned<ReadableFile>>,
        /// Name that the server's certificate must be valid for. Default: the host of the URL.
        server_name: Option<ServerName>,
        /// Oldest accepted TLS version: `1.2` or `1.3`.
        minimum_version: TlsVersion = "1.2",
        /// Disables certificate verification: anyone on the path can read every token. Never use it in production.
        danger_accept_any_certificate: Spanned<OnOff> = false,
    }
}

words!(Roots { "bundled" => Self::Bundled, "platform" => Self::Platform });
words!(TlsVersion { "1.2" => Self::Tls12, "1.3" => Self::Tls13 });

/// The subject of a certificate: a DNS name or an IP address.
#[derive(Clone, Debug)]
pub(crate) struct ServerName(pub(crate) Box<str>);

impl Decode for ServerName {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const NAME: &str = "a DNS name or an IP address";
        let text = decoder.string(node, NAME)?;
        if rustls_pki_types::ServerName::try_from(&*text).is_err() {
            return decoder.mismatch(node, "invalid certificate name", NAME);
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
            Diagnostic::error("incomplete client certificate")
                .key(format!("{section}.tls.{key}"))
                .at(span, format!("`{missing}` is missing")),
        );
    }
    let accept_any = raw.danger_accept_any_certificate;
    if accept_any.value.0 {
        decoder.record(
            Diagnostic::warning("the server's certificate is not verified")
                .key(format!("{section}.tls.danger_accept_any_certificate"))
                .at(
                    accept_any.span,
                    "anyone between the gateway and the server can read every token and forge responses",
                )
                .hint("use `ca_file` to trust a private certificate authority"),
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
