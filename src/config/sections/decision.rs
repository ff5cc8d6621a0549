//! `decision`: the decision listener.

use schemars::json_schema;

use super::address::Network;
use super::listen::{ListenTls, compile_certificates};
use crate::config::language::{
    Decode, Decoder, Diagnostic, FROM_ENVIRONMENT, Node, OneOrMore, Span, Spanned, leaf_schema, section,
    words,
};
use crate::config::settings::{self, AnswerStyle, ListenAddress};
use crate::policy::described::{DescriptionStyle, is_path_prefix};

section! {
    /// The decision listener. A proxy describes each request, and gets the decision on it instead of a response of the
    /// backend. Envoy can also ask by gRPC, `envoy.service.auth.v3.Authorization`, over HTTP/2.
    Decision {
        /// Address to listen on: an IP address with a port (0 picks a free one), or `unix:/path`. Default: the listener
        /// is off.
        address: Option<Spanned<ListenAddress>>,
        /// Networks of the trusted proxies. All other peers get 403; the peers of a Unix socket need no entry.
        /// X-Forwarded-For of these proxies is trusted.
        trusted_proxies: Vec<Network> = [],
        /// As `listen.tls`.
        tls: Option<OneOrMore<ListenTls>>,
        /// How a proxy describes a request over HTTP. `forwarded`: by X-Forwarded-Method, -Uri, -Host and -Proto, or by
        /// X-Original-Method and X-Original-URI. `path_prefix`: by the method of its own request and the target below
        /// `path_prefix`.
        style: StyleName = "forwarded",
        /// With `style: path_prefix`: the prefix that the proxy puts before the path of a request.
        path_prefix: Spanned<PathPrefix> = "/decision",
        /// Where an answer over HTTP has the status of the decision. `status`: it is the status of the answer. `header`:
        /// in X-Decision-Status, and the answer always has status 200, for proxies that change statuses.
        answer: AnswerStyle = "status",
    }
}

impl Decision {
    /// Whether the listener is on.
    pub(crate) const fn has_address(&self) -> bool {
        self.address.is_some()
    }
}

/// `decision.style`
#[derive(Clone, Copy, Debug)]
enum StyleName {
    Forwarded,
    PathPrefix,
}

words!(StyleName { "forwarded" => Self::Forwarded, "path_prefix" => Self::PathPrefix });
words!(AnswerStyle { "status" => Self::Status, "header" => Self::Header });

/// `decision.path_prefix`
#[derive(Clone, Debug)]
struct PathPrefix(Box<str>);

impl Decode for PathPrefix {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const PREFIX: &str = "a path such as `/decision`";
        let text = decoder.string(node, PREFIX)?;
        if is_path_prefix(&text) {
            return Some(Self(text.as_ref().into()));
        }
        let hint = "write `/` and one or more segments of letters, digits, `-`, `.`, `_` and `~`, without a `/` at \
                    the end, and no part of the path of Envoy's gRPC service";
        decoder.mismatch_with(node, "invalid path prefix", PREFIX, Some(hint.to_owned()))
    }
}

leaf_schema!(
    PathPrefix,
    json_schema!({"type": "string", "pattern": format!(r"^(/[A-Za-z0-9._~-]+)+$|{FROM_ENVIRONMENT}")})
);

pub(crate) fn compile(raw: Decision, decoder: &mut Decoder<'_>) -> settings::Decision {
    if let Some(Spanned { value: ListenAddress::Tcp(_), span }) = raw.address
        && raw.trusted_proxies.is_empty()
    {
        decoder.record(
            Diagnostic::error("requires `decision.trusted_proxies`")
                .key("decision.address")
                .at(span, "no proxy is trusted")
                .hint("list the networks of the proxies, such as `trusted_proxies: [127.0.0.0/8]`"),
        );
    }
    let is_forwarded = matches!(raw.style, StyleName::Forwarded);
    if is_forwarded && raw.path_prefix.span != Span::default() {
        decoder.record(
            Diagnostic::warning("has no effect")
                .key("decision.path_prefix")
                .at(raw.path_prefix.span, "used only with `style: path_prefix`")
                .hint("with `style: forwarded`, fields describe the path, and the path of the proxy's own request is ignored"),
        );
    }
    let address = raw.address.map(|address| address.value);
    let tls = raw.tls.as_ref().zip(address.as_ref());
    settings::Decision {
        tls: tls.map_or_else(Box::default, |(tls, address)| {
            compile_certificates(tls, address, "decision", decoder)
        }),
        address,
        trusted_proxies: raw.trusted_proxies.into_iter().map(|network| network.0).collect(),
        style: match raw.style {
            StyleName::Forwarded => DescriptionStyle::Forwarded,
            StyleName::PathPrefix => DescriptionStyle::PathPrefix(raw.path_prefix.value.0),
        },
        answer: raw.answer,
    }
}
