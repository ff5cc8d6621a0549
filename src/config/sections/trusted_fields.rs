//! `listen.trusted_fields`: identity fields from trusted proxies.

use http::HeaderName;
use schemars::json_schema;

use crate::config::language::{Decode, Decoder, Diagnostic, FROM_ENVIRONMENT, Node, Spanned, leaf_schema};
use crate::policy::trusted_fields::{TrustedFields, Unfit};

const KEY: &str = "listen.trusted_fields";

/// The name of a field.
#[derive(Clone, Debug)]
pub(super) struct TrustedField(HeaderName);

impl Decode for TrustedField {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const NAME: &str = "the name of a header field such as `Remote-User`";
        let text = decoder.string(node, NAME)?;
        match HeaderName::from_bytes(text.as_bytes()) {
            // `*` is valid in a name (RFC 9110 section 5.6.2), but is meant as a pattern.
            Ok(name) if !name.as_str().contains('*') => Some(Self(name)),
            _ => {
                let hint = text.contains('*').then(|| "list each field by its name".to_owned());
                decoder.mismatch_with(node, "invalid field name", NAME, hint)
            }
        }
    }
}

leaf_schema!(
    TrustedField,
    json_schema!({"type": "string", "pattern": format!(
        r"^[!#$%&'+.^_`|~0-9A-Za-z-]+$|{FROM_ENVIRONMENT}"
    )})
);

/// `has_proxies`: whether there are trusted proxies.
pub(super) fn compile(
    raw: &[Spanned<TrustedField>],
    has_proxies: bool,
    decoder: &mut Decoder<'_>,
) -> TrustedFields {
    if let Some(first) = raw.first().filter(|_| !has_proxies) {
        decoder.record(
            Diagnostic::warning("has no effect")
                .key(KEY)
                .at(first.span, "there are no trusted proxies that could set the field")
                .hint("list the networks of the proxies in `listen.trusted_proxies`"),
        );
    }
    let mut names: Vec<&Spanned<TrustedField>> = Vec::new();
    for field in raw {
        let span = field.span;
        match TrustedFields::check(&field.value.0) {
            Ok(()) => {}
            Err(Unfit::Forwarding) => {
                let label = Unfit::Forwarding.to_string();
                decoder.record(Diagnostic::warning("has no effect").key(KEY).at(span, label));
                continue;
            }
            Err(unfit) => {
                let error = Diagnostic::error("not an identity field").key(KEY);
                decoder.record(error.at(span, unfit.to_string()));
                continue;
            }
        }
        match names.iter().find(|it| TrustedFields::are_alike(&it.value.0, &field.value.0)) {
            Some(first) => decoder.record(
                Diagnostic::error("duplicate field")
                    .key(KEY)
                    .at(span, "some backends do not distinguish the two names")
                    .related(first.span, "first listed here"),
            ),
            None => names.push(field),
        }
    }
    TrustedFields::new(names.into_iter().map(|field| field.value.0.clone()))
}
