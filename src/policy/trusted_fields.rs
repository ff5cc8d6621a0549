//! `listen.trusted_fields`: the identity fields that trusted proxies may set.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::field_class::{FieldClass, classify, classify_field, fold_alike, folded, is_kept};
use super::refusal::Refusal;

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The identity fields that trusted proxies may set in addition to the forwarding fields.
///
/// Listing a name declares it an identity field. So the gateway drops a listed field from every untrusted peer, also if
/// its own table lacks the name. It drops other spellings that a backend would read as the field from all peers.
#[derive(Clone, Debug, Default)]
pub struct TrustedFields(Option<Arc<[HeaderName]>>);

/// Why a field cannot be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The field concerns a connection, or frames or describes the body.
    #[error("it concerns the connection or frames the message")]
    Framing,
    /// The gateway sets or removes the field.
    #[error("the gateway itself sets or removes it")]
    Own,
    /// The field passes from trusted proxies without being listed.
    #[error("it passes from trusted proxies without being listed")]
    Forwarding,
    /// Clients send the field.
    #[error("ordinary clients send it, and a listed field is dropped from all but trusted proxies")]
    Ordinary,
}

impl TrustedFields {
    /// The listed fields.
    pub fn new(names: impl IntoIterator<Item = HeaderName>) -> Self {
        let names: Arc<[HeaderName]> = names.into_iter().collect();
        Self(Some(names).filter(|names| !names.is_empty()))
    }

    /// Checks that a field can be listed.
    ///
    /// # Errors
    /// [`Unfit`], for a name whose trust would break requests or change nothing.
    pub fn check(name: &HeaderName) -> Result<(), Unfit> {
        let name = &*folded(name.as_str());
        match classify(name) {
            FieldClass::HopByHop => Err(Unfit::Framing),
            _ if name.starts_with("content-") || name == "trailer" => Err(Unfit::Framing),
            FieldClass::NeverSent => Err(Unfit::Own),
            FieldClass::Forwarding => Err(Unfit::Forwarding),
            FieldClass::Claim => Ok(()),
            FieldClass::Passes if name == "via" => Err(Unfit::Own),
            FieldClass::Passes if is_ordinary(name) => Err(Unfit::Ordinary),
            FieldClass::Passes => Ok(()),
        }
    }

    /// Refuses several lines of a listed field or of `X-Real-IP`, with which a trusted proxy identifies the client.
    ///
    /// A proxy that adds its line to the client's own sends two, and a backend may read the client's. The check is one
    /// comparison unless some field has several lines.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] if one of these fields has several lines.
    pub fn check_lines(&self, fields: &HeaderMap) -> Result<(), Refusal> {
        if fields.len() == fields.keys_len() { Ok(()) } else { self.check_each(fields) }
    }

    #[cold]
    fn check_each(&self, fields: &HeaderMap) -> Result<(), Refusal> {
        let is_repeated = |name: &HeaderName| fields.get_all(name).iter().nth(1).is_some();
        if is_repeated(&X_REAL_IP) {
            return Err(Refusal::BadRequest("several X-Real-IP fields: which address the client has"));
        }
        match self.0.iter().flat_map(|listed| listed.iter()).any(is_repeated) {
            true => Err(Refusal::BadRequest("several lines of a field of listen.trusted_fields")),
            false => Ok(()),
        }
    }

    /// Whether a backend may read both names as one field.
    pub fn are_alike(one: &HeaderName, other: &HeaderName) -> bool {
        fold_alike(one.as_str(), other.as_str())
    }

    /// Classifies a field. A listed one is treated as a forwarding field.
    #[inline]
    pub(super) fn classify(&self, name: &HeaderName) -> FieldClass {
        match &self.0 {
            None => classify_field(name),
            Some(listed) => classify_with_listed(listed, name.as_str()),
        }
    }

    /// Whether `Connection` cannot remove the field.
    pub(super) fn keep(&self, name: &str) -> bool {
        is_kept(name) || self.0.as_ref().is_some_and(|listed| listed.iter().any(|it| it == name))
    }
}

fn classify_with_listed(listed: &[HeaderName], name: &str) -> FieldClass {
    match listed.iter().find(|it| fold_alike(it.as_str(), name)) {
        Some(it) if it == name => FieldClass::Forwarding,
        Some(_) => FieldClass::NeverSent,
        None => classify(name),
    }
}

/// Whether clients send the field with ordinary requests: fields of HTTP, of browsers, and of traces.
fn is_ordinary(name: &str) -> bool {
    const PREFIXES: [&str; 6] = ["accept", "access-control-", "cache-", "if-", "sec-", "trace"];
    const NAMES: [&str; 15] = [
        "authorization",
        "cookie",
        "date",
        "dnt",
        "from",
        "host",
        "max-forwards",
        "origin",
        "pragma",
        "prefer",
        "priority",
        "range",
        "referer",
        "upgrade-insecure-requests",
        "user-agent",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> HeaderName {
        HeaderName::from_bytes(name.as_bytes()).unwrap()
    }

    #[test]
    fn only_identity_fields_can_be_listed() {
        for (unfit, names) in [
            (
                Unfit::Framing,
                &[
                    "Connection",
                    "Transfer-Encoding",
                    "TE",
                    "Upgrade",
                    "Keep-Alive",
                    "Expect",
                    "Content-Length",
                ][..],
            ),
            (
                Unfit::Framing,
                &["Content-Type", "Content_Length", "Transfer.Encoding", "Proxy-Connection", "Trailer"],
            ),
            (
                Unfit::Own,
                &["X-Token-Id", "x-token-NAME", "X_Token_Abilities", "X.Workspace.Id", "Via", "Proxy"],
            ),
            (
                Unfit::Own,
                &["X-HTTP-Method-Override", "X-Original-URL", "X-Forwarded-Prefix", "PHP-Auth-User"],
            ),
            (
                Unfit::Forwarding,
                &["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Request-Id", "X-Forwarded-Proto"],
            ),
            (
                Unfit::Ordinary,
                &["Authorization", "Host", "Cookie", "Origin", "Accept", "User-Agent", "If-Match"],
            ),
            (
                Unfit::Ordinary,
                &["Access-Control-Request-Method", "Traceparent", "Range", "Sec-WebSocket-Key"],
            ),
        ] {
            for it in names {
                assert_eq!(TrustedFields::check(&name(it)), Err(unfit), "{it}");
            }
        }
        for it in
            ["Remote-User", "OIDC_CLAIM_email", "X-Forwarded-User", "CF-Connecting-IP", "X-Our-Own", "Tenant"]
        {
            assert_eq!(TrustedFields::check(&name(it)), Ok(()), "{it}");
        }
    }

    #[test]
    fn listed_field_passes_in_its_own_spelling_only() {
        let listed = TrustedFields::new(["remote-user", "x-our-own", "oidc_claim_email"].map(name));
        for (name, expected) in [
            ("remote-user", FieldClass::Forwarding),
            ("remote_user", FieldClass::NeverSent),
            ("remote.user", FieldClass::NeverSent),
            ("remote-groups", FieldClass::Claim),
            ("x-our-own", FieldClass::Forwarding),
            ("x.our-own", FieldClass::NeverSent),
            ("x-our-owns", FieldClass::Passes),
            ("oidc_claim_email", FieldClass::Forwarding),
            ("oidc-claim-email", FieldClass::NeverSent),
            ("oidc_claim_name", FieldClass::NeverSent),
            ("accept", FieldClass::Passes),
            ("connection", FieldClass::HopByHop),
        ] {
            assert_eq!(listed.classify(&HeaderName::from_static(name)), expected, "{name}");
        }
        assert!(listed.keep("x-our-own") && !listed.keep("x-our-other") && listed.keep("remote-groups"));
        let none = TrustedFields::new([]);
        let own = HeaderName::from_static("x-our-own");
        assert!(none.0.is_none() && none.classify(&own) == FieldClass::Passes && !none.keep("x-our-own"));
    }
}
