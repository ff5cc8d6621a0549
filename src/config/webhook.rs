//! `webhook`: what Stockaj's webhooks are signed with, and which of them matter.

use secrecy::SecretString;

use super::decode::{Decoder, Spanned};
use super::report::Mistake;
use super::{settings, written};

/// None: a mistake was recorded.
pub(super) fn compile(
    written: Spanned<written::Webhook>,
    decoder: &mut Decoder<'_>,
) -> Option<settings::Webhook> {
    let Spanned { value: written::Webhook { secret, secret_file, events, id }, span } = written;
    let secrets: Box<[SecretString]> = match (secret, secret_file) {
        (Some(secrets), _) => secrets.0.into_iter().map(|secret| secret.0).collect(),
        (None, Some(files)) => files.0.into_iter().map(|file| file.0).collect(),
        (None, None) => {
            let mistake = Mistake::error("missing key `secret_file`").of("webhook");
            decoder.mistakes.push(mistake.at(span, "needs `secret_file` or `secret`"));
            return None;
        }
    };
    let events = events.0.into_iter().map(|event| event.0).collect();
    Some(settings::Webhook { secrets, events, id })
}
