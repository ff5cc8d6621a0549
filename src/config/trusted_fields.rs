//! `listen.trusted_fields`: names of fields, and why some cannot be trusted.

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::decode::{Decode, Decoder, Spanned};
use super::report::Mistake;
use super::tree::Node;
use super::values::{FROM_ENVIRONMENT, leaf_schema};
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
            // A token as well (RFC 9110 section 5.6.2), but whoever writes it means a pattern.
            Ok(name) if !name.as_str().contains('*') => Some(Self(name)),
            _ => {
                let hint = text.contains('*').then(|| "list each field by its name".to_owned());
                decoder.mismatch_with(node, "not a field's name", NAME, hint);
                None
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

/// Compiles the key; mistakes are recorded. `trusted_proxies`: whether there are any.
pub(super) fn compile(
    written: Vec<Spanned<TrustedField>>,
    trusted_proxies: bool,
    decoder: &mut Decoder<'_>,
) -> TrustedFields {
    if let Some(first) = written.first().filter(|_| !trusted_proxies) {
        decoder.mistakes.push(
            Mistake::warning("has no effect")
                .of(KEY)
                .at(first.span, "no peer may set the field")
                .hint("name the proxies that set it in `listen.trusted_proxies`"),
        );
    }
    let mut names: Vec<Spanned<TrustedField>> = Vec::new();
    for field in written {
        let span = field.span;
        match TrustedFields::check(&field.value.0) {
            Ok(()) => {}
            Err(Unfit::Forwarding) => {
                let label = Unfit::Forwarding.to_string();
                decoder.mistakes.push(Mistake::warning("has no effect").of(KEY).at(span, label));
                continue;
            }
            Err(unfit) => {
                let mistake = Mistake::error("not a field that identifies a caller").of(KEY);
                decoder.mistakes.push(mistake.at(span, unfit.to_string()));
                continue;
            }
        }
        match names.iter().find(|it| TrustedFields::are_alike(&it.value.0, &field.value.0)) {
            Some(first) => decoder.mistakes.push(
                Mistake::error("listed twice")
                    .of(KEY)
                    .at(span, "backends that fold names take both for one")
                    .see(first.span, "listed here first"),
            ),
            None => names.push(field),
        }
    }
    TrustedFields::new(names.into_iter().map(|field| field.value.0))
}
