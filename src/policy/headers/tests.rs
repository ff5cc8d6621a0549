mod identity;
mod request;
mod response;

use super::*;
use crate::policy::ability::Abilities;
use crate::policy::identity::{Described, IdentityHeader};
use crate::policy::test_fields::fields;

fn lines(fields: &HeaderMap) -> Vec<(String, String)> {
    let mut lines: Vec<_> = fields
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
        .collect();
    lines.sort();
    lines
}

/// The fields that the gateway sets on a GET from 192.0.2.1 for `Host: app`, in order.
const SET: [(&str, &str); 6] = [
    ("host", "app"),
    ("via", "1.1 stockaj-gateway"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-host", "app"),
    ("x-forwarded-proto", "http"),
    ("x-request-id", "r1"),
];

struct Case {
    trusted: bool,
    trusted_fields: &'static [&'static str],
    method: Method,
    /// `None` for the method of the request line.
    decided: Option<Method>,
    credentials: Credentials,
    host: Option<HeaderValue>,
}

const PUBLIC: Case = Case {
    trusted: false,
    trusted_fields: &[],
    method: Method::GET,
    decided: None,
    credentials: Credentials::AsSent,
    host: None,
};

fn token(value: &str) -> Credentials {
    let authorization = HeaderValue::from_str(value).unwrap();
    Credentials::Token { authorization, identity: None, cookies: false }
}

/// Token 17 of workspace 3, whose name is hostile.
fn identity(wanted: &[IdentityHeader]) -> Identity {
    let abilities = Abilities::new(["rents:read", "items:read"]);
    let token = Described { id: "17", name: Some("a\r\nb"), abilities: &abilities, workspace_id: Some("3") };
    Identity::new(wanted, token).unwrap()
}

const IDENTITY: [(IdentityHeader, &str, &str); 4] = [
    (IdentityHeader::Id, "x-token-id", "17"),
    (IdentityHeader::Name, "x-token-name", "a%0D%0Ab"),
    (IdentityHeader::Abilities, "x-token-abilities", "items:read rents:read"),
    (IdentityHeader::WorkspaceId, "x-workspace-id", "3"),
];

impl Case {
    fn prepare(self, sent: &[(&str, &str)]) -> Vec<(String, String)> {
        self.prepare_and_tell(sent).0
    }

    fn prepare_and_tell(self, sent: &[(&str, &str)]) -> (Vec<(String, String)>, Dropped) {
        let mut fields = fields(sent);
        fields.append(HOST, HeaderValue::from_static("app"));
        let dropped = self.prepare_fields(&mut fields).unwrap();
        (lines(&fields), dropped)
    }

    fn prepare_fields(self, fields: &mut HeaderMap) -> Result<Dropped, Refusal> {
        let trusted_fields = TrustedFields::new(self.trusted_fields.iter().map(|name| name.parse().unwrap()));
        let forwarding = Forwarding {
            method: &self.method,
            decided: self.decided.as_ref().unwrap_or(&self.method),
            version: Version::HTTP_11,
            client: &HeaderValue::from_static("192.0.2.1"),
            encrypted: false,
            trusted: self.trusted,
            trusted_fields: &trusted_fields,
            request_id: &HeaderValue::from_static("r1"),
            host: self.host.as_ref(),
            credentials: self.credentials,
            trace: None,
            chunked: false,
            expects_continue: false,
            upgrades: false,
        };
        let mut written = HeaderMap::new();
        let dropped = UpstreamFields::new(fields, forwarding)?.write(&mut written);
        *fields = written;
        Ok(dropped)
    }
}

/// [`SET`] with these lines in place of those with the same name.
fn set_and(others: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut expected: Vec<_> = SET
        .iter()
        .filter(|(name, _)| !others.iter().any(|(other, _)| other == name))
        .chain(others)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    expected.sort();
    expected
}
