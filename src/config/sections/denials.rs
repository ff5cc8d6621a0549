//! `denials`: fields of a response that rejects a token for a missing ability.

use http::{HeaderValue, Uri};
use schemars::json_schema;

use crate::config::language::{Decode, Decoder, FROM_ENVIRONMENT, Node, OnOff, leaf_schema, section};
use crate::policy::denials;

section! {
    /// Additional header fields of a 403 response for a missing ability.
    Denials {
        /// Whether to send `X-Required-Ability` with the required abilities: `a, b` for all of them, `a | b` for any.
        required_ability: OnOff = false,
        /// URL of a help page, sent as `Link: <…>; rel="help"`.
        link: Option<HelpUrl>,
    }
}

/// The URL of a help page, as the value of `Link` (RFC 8288).
#[derive(Debug)]
struct HelpUrl(HeaderValue);

const URL: &str = "a URL such as `https://help.example/tokens`";

impl Decode for HelpUrl {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.string(node, URL)?;
        let is_web = |url: &Uri| matches!(url.scheme_str(), Some("https" | "http"));
        let is_quoted = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"\\".contains(&byte));
        match text.parse::<Uri>() {
            Ok(url) if is_web(&url) && is_quoted => {
                HeaderValue::try_from(format!("<{text}>; rel=\"help\"")).ok().map(Self)
            }
            _ => decoder.mismatch(node, "invalid URL", URL),
        }
    }
}

leaf_schema!(
    HelpUrl,
    json_schema!({"type": "string", "pattern": format!(r#"^https?://[!#-;=?-\[\]-~]+$|{FROM_ENVIRONMENT}"#)})
);

pub(crate) fn compile(raw: Denials) -> denials::Denials {
    denials::Denials { required_ability: raw.required_ability.0, link: raw.link.map(|link| link.0) }
}
