//! What a caller is told who lacks an ability.

use http::{HeaderValue, Uri};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::decode::{Decode, Decoder};
use super::tree::Node;
use super::values::{FROM_ENVIRONMENT, leaf_schema};
use super::written;
use crate::policy::denials::Denials;

/// The URL of a page for people: the value of `Link` that names it (RFC 8288).
#[derive(Debug)]
pub(super) struct HelpUrl(HeaderValue);

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
            _ => {
                decoder.mismatch(node, "not a URL", URL);
                None
            }
        }
    }
}

leaf_schema!(
    HelpUrl,
    json_schema!({"type": "string", "pattern": format!(r#"^https?://[!#-;=?-\[\]-~]+$|{FROM_ENVIRONMENT}"#)})
);

pub(super) fn compile(written: written::Denials) -> Denials {
    Denials { required_ability: written.required_ability.0, link: written.link.map(|link| link.0) }
}
