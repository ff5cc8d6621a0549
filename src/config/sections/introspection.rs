//! `introspection`: the introspector and its response.

use schemars::json_schema;
use secrecy::SecretString;

use super::address::Url;
use super::client_tls::{self, ClientTls};
use crate::config::language::{
    Decode, Decoder, Diagnostic, FROM_ENVIRONMENT, Node, OneOrMore, Secret, SecretFile, Span, Spanned, Text,
    Timeout, Whole, leaf_schema, section, words,
};
use crate::config::settings::{self, IntrospectionStyle, JsonPointer, ResponsePointers};
use crate::policy::expected_claims::ExpectedClaims;

section! {
    /// The introspector, which validates tokens.
    Introspection {
        /// URL of the introspection endpoint.
        url: Url,
        /// `bearer`: GET with the token to introspect. `rfc7662`: POST with the gateway's client credentials.
        style: Spanned<Style> = "bearer",
        /// Client id for `rfc7662`.
        client_id: Option<Spanned<Text>>,
        /// Client secret for `rfc7662`. Take it from the environment: `${CLIENT_SECRET}`.
        client_secret: Option<Spanned<Secret>>,
        /// File with the client secret.
        client_secret_file: Option<Spanned<SecretFile>>,
        /// TLS of connections to the introspector, if `url` is https.
        tls: ClientTls,
        /// Longest time of one introspection, including the wait for a free slot of `max_concurrent`.
        timeout: Timeout = "2s",
        /// Largest number of concurrent introspections.
        max_concurrent: Whole<1, 100_000> = 32,
        /// Where the introspector's response has its values, as JSON Pointers (RFC 6901). `rfc7662` has its own
        /// defaults: /scope /exp /jti /client_id.
        response: Response,
        /// Claims that the introspector must report of a token, for `rfc7662`. A token with other claims, or without
        /// one of these, counts as inactive. Without `aud`, tokens for other services of the same issuer are accepted.
        expect: Option<Spanned<Expect>>,
    }
    exclusive { client_secret, client_secret_file }
}

section! {
    /// Where the introspector's response has its values, as JSON Pointers (RFC 6901).
    Response {
        /// The abilities: a list of strings, or one space-separated string. Default: `/data/abilities`, or `/scope` for
        /// `rfc7662`.
        abilities: Option<JsonPointer>,
        /// The expiry of the token. Default: `/data/expires_at`, or `/exp` for `rfc7662`.
        expires_at: Option<JsonPointer>,
        /// The token id. Default: `/data/id`, or `/jti` for `rfc7662`.
        id: Option<JsonPointer>,
        /// The token name. Default: `/data/name`, or `/client_id` for `rfc7662`.
        name: Option<JsonPointer>,
        /// Whether the token belongs to a user or an instance. No default.
        context: Option<JsonPointer>,
        /// The creation time of the token. No default.
        created_at: Option<JsonPointer>,
        /// The workspace of the token. No default.
        workspace_id: Option<JsonPointer>,
        /// The networks that requests of the token must come from: a list of addresses and networks such as `10.0.0.0/8`.
        /// An empty list refuses every request; null and no value allow every address. No default.
        allowed_from: Option<JsonPointer>,
    }
}

section! {
    /// Claims that the introspector must report of a token (RFC 7662 section 2.2).
    Expect {
        /// Audience: the value or one of the values of `aud` must be this, or one of these.
        aud: Option<OneOrMore<Text>>,
        /// Issuer: the value of `iss`.
        iss: Option<Text>,
        /// Type of the token, such as `Bearer`: the value of `token_type`, in upper or lower case.
        token_type: Option<Text>,
        /// Client: the value of `client_id` must be one of these.
        client_id: Vec<Text> = [],
    }
}

/// `introspection.style`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Bearer,
    Rfc7662,
}

words!(Style { "bearer" => Self::Bearer, "rfc7662" => Self::Rfc7662 });

pub(crate) fn compile(raw: Introspection, decoder: &mut Decoder<'_>) -> settings::Introspection {
    let secret = raw.client_secret.map(|secret| (secret.value.0, secret.span, "client_secret"));
    let file = raw.client_secret_file.map(|file| (file.value.0, file.span, "client_secret_file"));
    settings::Introspection {
        response: compile_response(raw.response, raw.style.value),
        expect: compile_expect(raw.expect, &raw.style, decoder),
        style: compile_style(raw.style.value, raw.client_id, secret.or(file), decoder),
        destination: raw.url.destination,
        authority: raw.url.authority,
        target: raw.url.target,
        tls: client_tls::compile(raw.tls, "introspection", decoder),
        timeout: raw.timeout.0,
        max_concurrent: raw.max_concurrent.count(),
    }
}

/// `client_secret` is the secret with its place and the name of its key.
fn compile_style(
    style: Style,
    client_id: Option<Spanned<Text>>,
    client_secret: Option<(SecretString, Span, &str)>,
    decoder: &mut Decoder<'_>,
) -> IntrospectionStyle {
    match style {
        Style::Rfc7662 => {
            if let (None, Some((_, span, key))) = (&client_id, &client_secret) {
                decoder.record(
                    Diagnostic::error("client secret without client id")
                        .key(format!("introspection.{key}"))
                        .at(*span, "`client_id` is missing"),
                );
            }
            IntrospectionStyle::Rfc7662 {
                client_id: client_id.map(|id| id.value.0),
                client_secret: client_secret.map(|(secret, ..)| secret),
            }
        }
        Style::Bearer => {
            let client_id = client_id.map(|id| (id.span, "client_id"));
            let client_secret = client_secret.map(|(_, span, key)| (span, key));
            for (span, key) in client_id.into_iter().chain(client_secret) {
                decoder.record(
                    Diagnostic::warning("has no effect")
                        .key(format!("introspection.{key}"))
                        .at(span, "used only with `style: rfc7662`"),
                );
            }
            IntrospectionStyle::Bearer
        }
    }
}

fn compile_expect(
    raw: Option<Spanned<Expect>>,
    style: &Spanned<Style>,
    decoder: &mut Decoder<'_>,
) -> ExpectedClaims {
    const KEY: &str = "introspection.expect";
    let span = raw.as_ref().map_or(style.span, |raw| raw.span);
    let expected = raw.map(|Spanned { value: Expect { aud, iss, token_type, client_id }, .. }| {
        let texts = |texts: Vec<Text>| texts.into_iter().map(|text| text.0).collect();
        ExpectedClaims {
            audiences: texts(aud.map(|aud| aud.0).unwrap_or_default()),
            issuer: iss.map(|text| text.0),
            token_type: token_type.map(|text| text.0),
            client_ids: texts(client_id),
        }
    });
    let expected = expected.unwrap_or_default();
    match (style.value, expected.is_empty()) {
        (Style::Rfc7662, true) => decoder.record(
            Diagnostic::warning("no claim of a token is checked")
                .key(KEY)
                .at(span, "tokens that the introspector knows for other services are accepted")
                .hint(
                    "name the audience of this service, as the introspector reports it: `expect: {aud: https://api.example}`; \
                     if it reports none, `iss` or `client_id`",
                ),
        ),
        (Style::Bearer, false) => decoder.record(
            Diagnostic::error("claims of a response that has none")
                .key(KEY)
                .at(span, "only responses of `style: rfc7662` have these claims")
                .hint("remove it, or set `style: rfc7662`"),
        ),
        (Style::Rfc7662, false) | (Style::Bearer, true) => {}
    }
    expected
}

fn compile_response(raw: Response, style: Style) -> ResponsePointers {
    let default = |bearer: [&str; 2], rfc7662: &str| match style {
        Style::Bearer => JsonPointer(bearer.map(Into::into).into()),
        // RFC 7662 section 2.2
        Style::Rfc7662 => JsonPointer([rfc7662.into()].into()),
    };
    ResponsePointers {
        abilities: raw.abilities.unwrap_or_else(|| default(["data", "abilities"], "scope")),
        expires_at: raw.expires_at.unwrap_or_else(|| default(["data", "expires_at"], "exp")),
        id: raw.id.unwrap_or_else(|| default(["data", "id"], "jti")),
        name: raw.name.unwrap_or_else(|| default(["data", "name"], "client_id")),
        context: raw.context,
        created_at: raw.created_at,
        workspace_id: raw.workspace_id,
        allowed_from: raw.allowed_from,
    }
}

impl Decode for JsonPointer {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const POINTER: &str = "a JSON Pointer such as `/data/id`";
        let text = decoder.string(node, POINTER)?;
        parse_pointer(&text).or_else(|| {
            let hint = "start it with `/`; write `~` as `~0` and `/` as `~1` in names (RFC 6901)".to_owned();
            decoder.mismatch_with(node, "invalid JSON Pointer", POINTER, Some(hint))
        })
    }
}

leaf_schema!(
    JsonPointer,
    json_schema!({"type": "string", "pattern": format!("^(/([^~/]|~[01])*)*$|{FROM_ENVIRONMENT}")})
);

/// Parses a JSON Pointer (RFC 6901).
pub(crate) fn parse_pointer(text: &str) -> Option<JsonPointer> {
    if text.is_empty() {
        return Some(JsonPointer([].into()));
    }
    let tokens = text.strip_prefix('/')?.split('/').map(|token| {
        let stray = token.replace("~0", "").replace("~1", "").contains('~');
        (!stray).then(|| token.replace("~1", "/").replace("~0", "~").into())
    });
    Some(JsonPointer(tokens.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pointers_are_unescaped_and_stray_tildes_are_errors() {
        let table = [
            ("", Some(vec![])),
            ("/", Some(vec![""])),
            ("/data/id", Some(vec!["data", "id"])),
            ("/a~1b/~0~01", Some(vec!["a/b", "~~1"])),
            ("data", None),
            ("/a~", None),
            ("/a~2", None),
        ];
        for (text, expected) in table {
            let found = parse_pointer(text);
            let found: Option<Vec<&str>> =
                found.as_ref().map(|it| it.0.iter().map(|token| &**token).collect());
            assert_eq!(found, expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_a_pointer_never_panics(text in "[/~01a]{0,12}|\\PC{0,30}") {
            let _ = parse_pointer(&text);
        }
    }
}
