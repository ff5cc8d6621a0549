//! `webhook`: signed events from Stockaj.

use secrecy::SecretString;

use crate::config::language::{
    Credential, CredentialFile, Decoder, Diagnostic, OneOrMore, Spanned, Text, section,
};
use crate::config::settings::{self, JsonPointer};

section! {
    /// Webhooks of Stockaj, signed with HMAC-SHA256 of the body.
    Webhook {
        /// Signing secret, at least 16 bytes long. Take it from the environment: `${WEBHOOK_SECRET}`. A list has
        /// several valid secrets, for rotation.
        secret: Option<OneOrMore<Credential>>,
        /// File with the signing secret, or a list of files.
        secret_file: Option<OneOrMore<CredentialFile>>,
        /// Values of X-Stockaj-Event that invalidate the token. Other events are accepted and ignored.
        events: OneOrMore<Text> = ["token.updated", "token.deleted"],
        /// JSON Pointer to the token id in the body.
        id: JsonPointer = "/data/id",
    }
    exclusive { secret, secret_file }
}

/// Returns `None` if it recorded an error.
pub(crate) fn compile(
    Spanned { value: raw, span }: Spanned<Webhook>,
    decoder: &mut Decoder<'_>,
) -> Option<settings::Webhook> {
    let secrets: Box<[SecretString]> = match (raw.secret, raw.secret_file) {
        (Some(secrets), _) => secrets.0.into_iter().map(|secret| secret.0).collect(),
        (None, Some(files)) => files.0.into_iter().map(|file| file.0).collect(),
        (None, None) => {
            let error = Diagnostic::error("missing key `secret_file`").key("webhook");
            return decoder.reject(error.at(span, "expected `secret_file` or `secret`"));
        }
    };
    let events = raw.events.0.into_iter().map(|event| event.0).collect();
    Some(settings::Webhook { secrets, events, id: raw.id })
}
