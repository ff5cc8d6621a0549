//! The spans of a request, by OpenTelemetry's semantic conventions for HTTP.
//!
//! They have neither path nor query, which may contain a secret, nor anything that clients claim about themselves. The
//! route's template stands for the path.

use std::time::Instant;

use super::RequestRecord;
use crate::policy::refusal::Reason;
use crate::policy::target::METHODS;
use crate::telemetry::spans::Trace;

impl RequestRecord {
    /// Sends the spans of the request and of its request to the backend, which both end `now`.
    pub(super) fn send_spans(&self, trace: &Trace, reason: Reason, now: Instant) {
        let settings = &self.settings;
        let template = self.route_number.and_then(|number| settings.abilities.route(number));
        let template = template.map(|route| route.template());
        let known = METHODS.contains(&self.method).then(|| self.method.as_str());
        let name = || match template {
            Some(template) => format!("{} {template}", known.unwrap_or("HTTP")),
            None => known.unwrap_or("HTTP").to_owned(),
        };
        let Some(mut span) = trace.request(name(), now) else { return };
        span.note("http.request.method", known.unwrap_or("_OTHER").to_owned());
        span.note("url.scheme", if self.downstream.encrypted { "https" } else { "http" });
        if let Some(template) = template {
            span.note("http.route", template.to_owned());
        }
        if let Some(client) = self.client {
            span.note("client.address", client.to_string());
        }
        let status = self.outcome.map(|(status, _)| status);
        if let Some(status) = status {
            span.note("http.response.status_code", status.as_u16());
        }
        span.note("stockaj_gateway.reason", reason.as_str());
        span.note("stockaj_gateway.request_id", self.request_id.to_str().unwrap_or("-").to_owned());
        if let Some(token) = &self.token {
            span.note("stockaj_gateway.token.id", token.verdict.id.to_string());
        }
        if !self.lookup.waited.is_zero() {
            span.note("stockaj_gateway.introspection.duration", self.lookup.waited);
        }
        let ended_well = matches!(reason, Reason::Allowed | Reason::Public);
        let broke_off = !ended_well && !self.is_refused;
        if broke_off || status.is_some_and(|status| status.is_server_error()) {
            match status {
                Some(status) if ended_well => span.fail(status.as_str().to_owned()),
                _ => span.fail(reason.as_str()),
            }
        }
        trace.send(span);
        let Some(mut span) = trace.backend(name(), now) else { return };
        span.note("http.request.method", known.unwrap_or("_OTHER").to_owned());
        span.note_server(&settings.backend.destination);
        if let Some(template) = template {
            span.note("url.template", template.to_owned());
        }
        match status.filter(|_| !self.is_refused) {
            Some(status) => {
                span.note("http.response.status_code", status.as_u16());
                if broke_off {
                    span.fail(reason.as_str());
                } else if status.is_client_error() || status.is_server_error() {
                    span.fail(status.as_str().to_owned());
                }
            }
            None => span.fail(reason.as_str()),
        }
        trace.send(span);
    }
}
