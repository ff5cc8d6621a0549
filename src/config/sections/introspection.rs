//! `introspection`: the introspector and its response.

use schemars::json_schema;
use secrecy::SecretString;

use super::address::Url;
use super::client_tls::{self, ClientTls};
use crate::config::language::{
    Decode, Decoder, Diagnostic, FROM_ENVIRONMENT, Node, Secret, SecretFile, Span, Spanned, Text, Timeout,
    Whole, leaf_schema, section, words,
};
use crate::config::settings::{self, IntrospectionStyle, JsonPointer, ResponsePointers};

section! {
    /// Who knows the tokens.
    Introspection {
        /// Where tokens are asked about.
        url: Url,
        /// `bearer`: GET with the caller's own token. `rfc7662`: POST with client credentials.
        style: Style = "bearer",
        /// The client's name, for `rfc7662`.
        client_id: Option<Spanned<Text>>,
        /// The client's secret, from the environment: `${CLIENT_SECRET}`.
        client_secret: Option<Spanned<Secret>>,
        /// The file with the client's secret.
        client_secret_file: Option<Spanned<SecretFile>>,
        /// How https is spoken.
        tls: ClientTls,
        /// Of one call, and of the wait for its turn.
        timeout: Timeout = "2s",
        /// The most calls at once.
        max_concurrent: Whole<1, 100_000> = 32,
        /// Where in the answer things stand: JSON Pointers (RFC 6901). `rfc7662` has its own defaults:
        /// /scope /exp /jti /client_id.
        response: Response,
    }
    exclusive { client_secret, client_secret_file }
}

section! {
    /// Where in the introspector's answer things stand: JSON Pointers (RFC 6901).
    Response {
        /// The abilities: a list of strings, or one string. Default `/data/abilities`, or `/scope`.
        abilities: Option<JsonPointer>,
        /// When the token expires. Default `/data/expires_at`, or `/exp`.
        expires_at: Option<JsonPointer>,
        /// The token's id. Default `/data/id`, or `/jti`.
        id: Option<JsonPointer>,
        /// The token's name. Default `/data/name`, or `/client_id`.
        name: Option<JsonPointer>,
        /// Whether it is a user's or an instance's token.
        context: Option<JsonPointer>,
        /// When the token was made.
        created_at: Option<JsonPointer>,
        /// The workspace that it belongs to.
        workspace_id: Option<JsonPointer>,
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
        response: compile_response(raw.response, raw.style),
        style: compile_style(raw.style, raw.client_id, secret.or(file), decoder),
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
                    Diagnostic::error("a secret without a client")
                        .key(format!("introspection.{key}"))
                        .at(*span, "expected `client_id` beside it"),
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
                        .at(span, "used by `style: rfc7662` alone"),
                );
            }
            IntrospectionStyle::Bearer
        }
    }
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
    }
}

impl Decode for JsonPointer {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const POINTER: &str = "a JSON Pointer such as `/data/id`";
        let text = decoder.string(node, POINTER)?;
        parse_pointer(&text).or_else(|| {
            let hint = "RFC 6901: it begins with `/`; in a name `~` is `~0` and `/` is `~1`".to_owned();
            decoder.mismatch_with(node, "not a JSON Pointer", POINTER, Some(hint))
        })
    }
}

leaf_schema!(
    JsonPointer,
    json_schema!({"type": "string", "pattern": format!("^(/([^~/]|~[01])*)*$|{FROM_ENVIRONMENT}")})
);

/// Reads RFC 6901.
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
