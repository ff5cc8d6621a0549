//! `introspection`.

use std::fmt;
use std::time::Duration;

use http::{HeaderValue, Method, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{ClientTls, Destination};
use crate::policy::expected_claims::ExpectedClaims;

/// The style of introspection requests.
#[derive(Debug)]
pub enum IntrospectionStyle {
    /// GET with the token of the caller.
    Bearer,
    /// RFC 7662: POST `token=…`, with HTTP Basic client credentials if configured.
    Rfc7662 {
        /// `client_id`
        client_id: Option<Box<str>>,
        /// `client_secret` or `client_secret_file`
        client_secret: Option<SecretString>,
    },
}

impl IntrospectionStyle {
    /// The method of the request.
    pub const fn method(&self) -> Method {
        match self {
            Self::Bearer => Method::GET,
            Self::Rfc7662 { .. } => Method::POST,
        }
    }
}

/// A JSON Pointer (RFC 6901) as its unescaped reference tokens. If empty, it points to the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(pub Box<[Box<str>]>);

impl JsonPointer {
    /// The value that it points to in `document` (RFC 6901 section 4).
    pub fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, token| match value {
            Value::Object(members) => members.get(&**token),
            Value::Array(items) => index(token).and_then(|index| items.get(index)),
            _ => None,
        })
    }
}

/// Parses a decimal number without a sign or leading zeros.
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    plain.then(|| token.parse().ok()).flatten()
}

/// In the syntax of `gateway.yaml`.
impl fmt::Display for JsonPointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|token| write!(formatter, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

/// Compares the exposed secrets.
impl PartialEq for IntrospectionStyle {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bearer, Self::Bearer) => true,
            (
                Self::Rfc7662 { client_id, client_secret },
                Self::Rfc7662 { client_id: other_id, client_secret: other_secret },
            ) => {
                client_id == other_id
                    && client_secret.as_ref().map(SecretString::expose_secret)
                        == other_secret.as_ref().map(SecretString::expose_secret)
            }
            _ => false,
        }
    }
}

/// Pointers into the response of the introspector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponsePointers {
    /// `abilities`
    pub abilities: JsonPointer,
    /// `expires_at`
    pub expires_at: JsonPointer,
    /// `id`
    pub id: JsonPointer,
    /// `name`
    pub name: JsonPointer,
    /// `context`: user or instance
    pub context: Option<JsonPointer>,
    /// `created_at`
    pub created_at: Option<JsonPointer>,
    /// `workspace_id`
    pub workspace_id: Option<JsonPointer>,
    /// `allowed_from`
    pub allowed_from: Option<JsonPointer>,
}

/// `introspection`
#[derive(Debug)]
pub struct Introspection {
    /// From `introspection.url`.
    pub destination: Destination,
    /// The authority of `introspection.url`, for `Host`.
    pub authority: HeaderValue,
    /// The path and query of `introspection.url`.
    pub target: Uri,
    /// `introspection.style`
    pub style: IntrospectionStyle,
    /// `introspection.tls`
    pub tls: ClientTls,
    /// `introspection.timeout`: of a request, and of the wait for a permit.
    pub timeout: Duration,
    /// `introspection.max_concurrent`, at least 1.
    pub max_concurrent: usize,
    /// `introspection.response`
    pub response: ResponsePointers,
    /// `introspection.expect`; empty for `bearer`.
    pub expect: ExpectedClaims,
}
