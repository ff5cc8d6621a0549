//! `denials`: fields of a response that rejects a token for a missing ability.

use http::{HeaderValue, Uri};
use schemars::json_schema;

use crate::config::language::{Decode, Decoder, FROM_ENVIRONMENT, Node, Switch, leaf_schema, section};
use crate::policy::denials;

section! {
    /// What a caller is told whose token lacks an ability, beside the 403 of every answer.
    Denials {
        /// Whether `X-Required-Ability` names the abilities: `a, b` where all of them are required, `a | b` where any is.
        required_ability: Switch = false,
        /// The URL of a page that helps, for `Link: <…>; rel="help"`.
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
            _ => decoder.mismatch(node, "not a URL", URL),
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
