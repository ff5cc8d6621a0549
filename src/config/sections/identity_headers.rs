//! `identity_headers`: fields that tell the backend about a token.

use crate::config::language::{Decoder, Diagnostic, Spanned, words};
use crate::config::settings::ResponsePointers;
use crate::policy::identity::IdentityHeader;

words!(IdentityHeader {
    "id" => Self::Id, "name" => Self::Name, "abilities" => Self::Abilities,
    "workspace_id" => Self::WorkspaceId,
});

/// Sorts and deduplicates the headers, and rejects those that introspection has no value for.
pub(crate) fn compile(
    raw: Vec<Spanned<IdentityHeader>>,
    response: &ResponsePointers,
    decoder: &mut Decoder<'_>,
) -> Box<[IdentityHeader]> {
    for header in &raw {
        if header.value == IdentityHeader::WorkspaceId && response.workspace_id.is_none() {
            decoder.record(
                Diagnostic::error("no value for this field")
                    .key("identity_headers")
                    .at(
                        header.span,
                        "`introspection.response` does not say where the introspector returns it",
                    )
                    .hint("set `introspection.response.workspace_id`"),
            );
        }
    }
    let mut headers: Vec<IdentityHeader> = raw.into_iter().map(|header| header.value).collect();
    headers.sort_unstable();
    headers.dedup();
    headers.into()
}
