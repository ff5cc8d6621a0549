//! `listen.trusted_fields`: the identity fields that trusted proxies may set.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::fate::{Fate, fate, fate_of_field, fold_alike, folded, is_kept};
use super::headers::X_REAL_IP;
use super::refusal::Refusal;

/// The fields that trusted proxies may set besides the forwarding fields.
///
/// To list a name is to declare that it says who is calling. So a listed field is dropped from every peer that is not
/// trusted, whether or not the gateway knows the name, and another spelling that a backend would take for it is
/// dropped from all peers.
#[derive(Clone, Debug, Default)]
pub struct TrustedFields(Option<Arc<[HeaderName]>>);

/// Why a field cannot be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Concerns a connection, or frames or describes the body.
    #[error("it concerns the connection or frames the message")]
    Framing,
    /// Set or removed by the gateway.
    #[error("the gateway itself sets or removes it")]
    Own,
    /// Passes from trusted proxies as it is.
    #[error("it passes from trusted proxies without being listed")]
    Forwarding,
    /// A field that clients send.
    #[error("ordinary clients send it, and a listed field is dropped from all but trusted proxies")]
    Ordinary,
}

impl TrustedFields {
    /// Those of these names.
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
        match fate(name) {
            Fate::HopByHop => Err(Unfit::Framing),
            _ if name.starts_with("content-") || name == "trailer" => Err(Unfit::Framing),
            Fate::NeverSent => Err(Unfit::Own),
            Fate::Forwarding => Err(Unfit::Forwarding),
            Fate::Claim => Ok(()),
            Fate::Passes if name == "via" => Err(Unfit::Own),
            Fate::Passes if is_ordinary(name) => Err(Unfit::Ordinary),
            Fate::Passes => Ok(()),
        }
    }

    /// Refuses several lines of a field by which a trusted proxy names the caller: a listed one, or `X-Real-IP`.
    ///
    /// A proxy that adds its line to the client's own sends two, and a backend may read the client's.
    /// Costs a comparison unless some field has several lines.
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
            true => {
                Err(Refusal::BadRequest("several lines of a field of listen.trusted_fields: who is calling"))
            }
            false => Ok(()),
        }
    }

    /// Whether a backend takes both names for one field.
    pub fn are_alike(one: &HeaderName, other: &HeaderName) -> bool {
        fold_alike(one.as_str(), other.as_str())
    }

    /// What becomes of a field of this name: a listed one passes like a forwarding field.
    #[inline]
    pub(super) fn fate(&self, name: &HeaderName) -> Fate {
        match &self.0 {
            None => fate_of_field(name),
            Some(listed) => fate_beside(listed, name.as_str()),
        }
    }

    /// Whether `Connection` cannot name the field away.
    pub(super) fn keep(&self, name: &str) -> bool {
        is_kept(name) || self.0.as_ref().is_some_and(|listed| listed.iter().any(|it| it == name))
    }
}

fn fate_beside(listed: &[HeaderName], name: &str) -> Fate {
    match listed.iter().find(|it| fold_alike(it.as_str(), name)) {
        Some(it) if it == name => Fate::Forwarding,
        Some(_) => Fate::NeverSent,
        None => fate(name),
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
    fn fields_that_cannot_be_listed() {
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
    fn a_listed_field_passes_in_its_own_spelling_only() {
        let listed = TrustedFields::new(["remote-user", "x-our-own", "oidc_claim_email"].map(name));
        for (name, expected) in [
            ("remote-user", Fate::Forwarding),
            ("remote_user", Fate::NeverSent),
            ("remote.user", Fate::NeverSent),
            ("remote-groups", Fate::Claim),
            ("x-our-own", Fate::Forwarding),
            ("x.our-own", Fate::NeverSent),
            ("x-our-owns", Fate::Passes),
            ("oidc_claim_email", Fate::Forwarding),
            ("oidc-claim-email", Fate::NeverSent),
            ("oidc_claim_name", Fate::NeverSent),
            ("accept", Fate::Passes),
            ("connection", Fate::HopByHop),
        ] {
            assert_eq!(listed.fate(&HeaderName::from_static(name)), expected, "{name}");
        }
        assert!(listed.keep("x-our-own") && !listed.keep("x-our-other") && listed.keep("remote-groups"));
        let none = TrustedFields::new([]);
        let own = HeaderName::from_static("x-our-own");
        assert!(none.0.is_none() && none.fate(&own) == Fate::Passes && !none.keep("x-our-own"));
    }
}
