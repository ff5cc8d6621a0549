//! `identity_headers`: the fields that describe the token to the backend.

use std::fmt::Write as _;
use std::rc::Rc;

use http::{HeaderName, HeaderValue};

use super::ability::Abilities;
use super::refusal::Refusal;

/// `X-Token-Id`
pub const X_TOKEN_ID: HeaderName = HeaderName::from_static("x-token-id");
/// `X-Token-Name`
pub const X_TOKEN_NAME: HeaderName = HeaderName::from_static("x-token-name");
/// `X-Token-Abilities`
pub const X_TOKEN_ABILITIES: HeaderName = HeaderName::from_static("x-token-abilities");
/// `X-Workspace-Id`
pub const X_WORKSPACE_ID: HeaderName = HeaderName::from_static("x-workspace-id");

/// A field that describes the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdentityHeader {
    /// `X-Token-Id`
    Id,
    /// `X-Token-Name`
    Name,
    /// `X-Token-Abilities`, separated by single spaces.
    Abilities,
    /// `X-Workspace-Id`
    WorkspaceId,
}

/// The properties of a token, as introspection reports them.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// The id.
    pub id: &'a str,
    /// The name; `None` if unknown.
    pub name: Option<&'a str>,
    /// The abilities.
    pub abilities: &'a Abilities,
    /// The workspace; `None` if unknown.
    pub workspace_id: Option<&'a str>,
}

/// The fields that describe one token. Encoded once and cloned into its requests.
#[derive(Clone, Debug)]
pub struct Identity(Rc<[(HeaderName, HeaderValue)]>);

impl Identity {
    /// Encodes the `wanted` fields of a token. Unknown values are omitted; a token without abilities has an empty field.
    ///
    /// All bytes except visible ASCII other than `%` and `,` are percent-encoded. So different tokens have different
    /// values, nothing in a name ends the field or is trimmed, and PHP's `rawurldecode` restores the value.
    ///
    /// # Errors
    /// [`Refusal::InternalError`] if a value is invalid in a field. Encoded values never are.
    pub fn new(wanted: &[IdentityHeader], token: Described<'_>) -> Result<Self, Refusal> {
        let fields = wanted.iter().filter_map(|wanted| {
            Some(match wanted {
                IdentityHeader::Id => (X_TOKEN_ID, encode([token.id])),
                IdentityHeader::Name => (X_TOKEN_NAME, encode([token.name?])),
                // An empty ability allows nothing, and would not be visible between the spaces.
                IdentityHeader::Abilities => {
                    (X_TOKEN_ABILITIES, encode(token.abilities.names().filter(|name| !name.is_empty())))
                }
                IdentityHeader::WorkspaceId => (X_WORKSPACE_ID, encode([token.workspace_id?])),
            })
        });
        let fields = fields.map(|(name, value)| match HeaderValue::try_from(value) {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(Refusal::InternalError),
        });
        Ok(Self(fields.collect::<Result<_, _>>()?))
    }

    pub(super) fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.0
    }
}

/// Encodes words and separates them by spaces. Encoded words contain no space.
fn encode<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for (number, word) in words.into_iter().enumerate() {
        if number > 0 {
            text.push(' ');
        }
        for byte in word.bytes() {
            if byte.is_ascii_graphic() && !matches!(byte, b'%' | b',') {
                text.push(byte.into());
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    const ALL: [IdentityHeader; 4] =
        [IdentityHeader::Id, IdentityHeader::Name, IdentityHeader::Abilities, IdentityHeader::WorkspaceId];

    fn lines(wanted: &[IdentityHeader], token: Described<'_>) -> Vec<(String, String)> {
        let identity = Identity::new(wanted, token).unwrap();
        let fields: HeaderMap = identity.fields().iter().cloned().collect();
        fields
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
            .collect()
    }

    #[test]
    fn identity_fields_are_percent_encoded() {
        let abilities = Abilities::new(["rents:read", "items:read", "", "a b", "c,d", "*"]);
        let token = Described {
            id: "17",
            name: Some("Lager \"Süd\", 100 %\r\nX-Token-Id: 1"),
            abilities: &abilities,
            workspace_id: Some("9b2f-1"),
        };
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            own("x-token-id", "17"),
            own("x-token-name", "Lager%20\"S%C3%BCd\"%2C%20100%20%25%0D%0AX-Token-Id:%201"),
            own("x-token-abilities", "* a%20b c%2Cd items:read rents:read"),
            own("x-workspace-id", "9b2f-1"),
        ];
        assert_eq!(lines(&ALL, token), expected);
        assert_eq!(lines(&ALL[2..3], token), expected[2..3]);
        assert_eq!(lines(&[], token), []);
    }

    #[test]
    fn unknown_name_and_workspace_are_omitted() {
        let nothing = Abilities::default();
        let token = Described { id: "17", name: None, abilities: &nothing, workspace_id: None };
        let expected =
            [("x-token-id".to_owned(), "17".to_owned()), ("x-token-abilities".to_owned(), String::new())];
        assert_eq!(lines(&ALL, token), expected);
    }

    proptest! {
        #[test]
        fn decoding_restores_the_name(name in any::<String>()) {
            let nothing = Abilities::default();
            let token = Described { id: "", name: Some(&name), abilities: &nothing, workspace_id: None };
            let sent = lines(&[IdentityHeader::Name], token).remove(0).1;
            prop_assert!(sent.bytes().all(|byte| byte.is_ascii_graphic()), "{sent:?}");
            prop_assert_eq!(rawurldecode(&sent), name.as_bytes());
        }

        #[test]
        fn decoding_restores_the_abilities(names in prop::collection::btree_set("[ -~é\n]{1,6}", 0..5)) {
            let abilities = Abilities::new(names.iter().map(String::as_str));
            let token = Described { id: "", name: None, abilities: &abilities, workspace_id: None };
            let sent = lines(&[IdentityHeader::Abilities], token).remove(0).1;
            let read: Vec<Vec<u8>> = sent.split(' ').filter(|it| !it.is_empty()).map(rawurldecode).collect();
            let expected: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
            prop_assert_eq!(read, expected);
        }
    }

    fn rawurldecode(text: &str) -> Vec<u8> {
        let mut bytes = text.bytes();
        std::iter::from_fn(|| {
            Some(match bytes.next()? {
                b'%' => {
                    let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                byte => byte,
            })
        })
        .collect()
    }
}
