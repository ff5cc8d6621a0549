//! The fields with which a proxy forwards a request that the gateway has allowed.

use http::header::{AUTHORIZATION, COOKIE, HeaderName};
use http::{HeaderMap, HeaderValue, Method};

use super::decision::Permit;
use super::field_class::FieldClass;
use super::headers::{
    Credentials, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_HTTP_METHOD_OVERRIDE, X_REQUEST_ID, method_field,
};
use super::joined_lines::joined_line;
use super::trusted_fields::TrustedFields;

/// `X-Canonical-Path`: the path that was decided on.
pub const X_CANONICAL_PATH: HeaderName = HeaderName::from_static("x-canonical-path");
/// `X-Decision-Status`: the status of the decision, with `decision.answer: header`.
pub const X_DECISION_STATUS: HeaderName = HeaderName::from_static("x-decision-status");
/// `X-Envoy-Auth-Headers-To-Remove`: the names that Envoy removes from the request.
pub const X_ENVOY_AUTH_HEADERS_TO_REMOVE: HeaderName =
    HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// A described request that is permitted.
#[derive(Clone, Copy, Debug)]
pub struct GrantedRequest<'a> {
    /// Its fields.
    pub fields: &'a HeaderMap,
    /// Its method.
    pub method: &'a Method,
    /// The method of the decision, which a POST may override.
    pub decided: &'a Method,
    /// Whether a trusted proxy sent it to the proxy that describes it.
    pub trusted: bool,
    /// The identity fields that trusted proxies may set.
    pub trusted_fields: &'a TrustedFields,
}

impl GrantedRequest<'_> {
    /// Whether a field other than credentials may reach the backend. A proxy that describes a request has already set
    /// three forwarding fields itself.
    fn passes(&self, name: &HeaderName) -> bool {
        match self.trusted_fields.classify(name) {
            FieldClass::Passes => true,
            // The proxy handles the others, such as Connection and TE.
            FieldClass::HopByHop => !name.as_str().starts_with("proxy-"),
            FieldClass::Forwarding => {
                self.trusted || [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID].contains(name)
            }
            FieldClass::Claim | FieldClass::NeverSent => false,
        }
    }
}

/// The fields of a request that another program forwards.
#[derive(Debug, Default)]
pub struct Grant {
    /// The fields that replace those of the client.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// The credentials that pass as the client sent them. A proxy that copies Authorization and Cookie from the answer
    /// would otherwise lose them.
    pub kept: Vec<(HeaderName, HeaderValue)>,
    /// The fields of the client that must not reach the backend, sorted. None of them is set.
    pub removed: Vec<HeaderName>,
}

impl Grant {
    /// The fields for a permitted request. Consumes the permit, as forwarding would.
    pub fn new(_permit: Permit, request: &GrantedRequest<'_>, credentials: &Credentials) -> Self {
        let GrantedRequest { fields, method, decided, .. } = *request;
        let mut grant = Self::default();
        let (passes_authorization, passes_cookie) = credentials.pass();
        if let Credentials::Token { authorization, identity, .. } = credentials {
            grant.set.push((AUTHORIZATION, authorization.clone()));
            grant.set.extend(identity.iter().flat_map(|identity| identity.fields()).cloned());
        }
        // As in a request that the gateway itself forwards.
        if *method == Method::POST {
            grant.set.push((X_HTTP_METHOD_OVERRIDE, method_field(decided)));
        }
        for name in fields.keys() {
            let passes = match *name {
                AUTHORIZATION => passes_authorization,
                COOKIE => passes_cookie,
                _ => request.passes(name),
            };
            let is_set = grant.set.iter().any(|(set, _)| set == name);
            if !passes && !is_set {
                grant.removed.push(name.clone());
            } else if passes && matches!(*name, AUTHORIZATION | COOKIE) {
                let joined = joined_line(fields, name).map(|(_, joined)| joined);
                if let Some(value) = joined.or_else(|| fields.get(name).cloned()) {
                    grant.kept.push((name.clone(), value));
                }
            }
        }
        grant.removed.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        grant
    }

    /// The value of [`X_ENVOY_AUTH_HEADERS_TO_REMOVE`]; `None` if no field is removed.
    pub fn removed_names(&self) -> Option<HeaderValue> {
        let names: Vec<&str> = self.removed.iter().map(HeaderName::as_str).collect();
        HeaderValue::try_from(names.join(",")).ok().filter(|_| !names.is_empty())
    }
}

#[cfg(test)]
mod tests;
