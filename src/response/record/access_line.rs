//! The access line of a request.

use std::fmt::Display;
use std::time::Instant;

use http::{HeaderValue, StatusCode, Version};

use super::RequestRecord;
use crate::downstream::ClientListener;
use crate::policy::network::WrongNetwork;
use crate::policy::query::{LocatedRequirement, NumberedRequirement};
use crate::policy::refusal::{Cause, Reason};
use crate::policy::shadow::{Change, MapRole};
use crate::policy::source_location::SourceLocation;
use crate::policy::target::METHODS;
use crate::telemetry::access::{AccessLine, Client, DeniedBy, LoggedCause, LoggedToken, Upstream};
use crate::telemetry::metrics::RouteLabel;

impl RequestRecord {
    #[cold]
    fn logged_cause(&self, cause: Cause) -> LoggedCause<'_> {
        match cause {
            Cause::Limit(limit) => LoggedCause::Limit(limit),
            Cause::Claim(claim) => LoggedCause::Claim(self.settings.introspection.expect.describe(claim)),
        }
    }

    /// Writes the access line, also for a request that shadow mode forwards or a candidate map would decide otherwise.
    pub(super) fn write_access_line(&self, status: StatusCode, reason: Reason, now: Instant) {
        let map = &self.settings.abilities;
        let route = self.route_number.and_then(|number| map.route(number));
        let shadow = self.shadow.as_deref();
        let token = self.any_token();
        let is_denied = matches!(reason, Reason::MissingAbility | Reason::Denied | Reason::QueryDenied);
        let would_be_denied =
            shadow.is_some_and(|it| (it.side, it.change) == (MapRole::Enforced, Change::WouldDeny));
        let rule = route.filter(|_| is_denied || would_be_denied).and_then(|route| route.rule(&self.method));
        let parameter =
            self.denied_parameter.and_then(|number| route?.options().query.as_ref()?.requirement(number));
        let requirement = parameter.map(|it| &it.requirement).or_else(|| rule.map(|rule| &rule.requirement));
        let has_required = rule.is_some() && self.wrong_network.is_none();
        let denied_by = requirement.filter(|_| has_required).map(|requirement| DeniedBy {
            requirement,
            abilities: token.map(|token| &token.verdict.abilities),
        });
        let wrong_network = self.wrong_network.filter(|_| reason == Reason::WrongNetwork);
        let detail = Detail {
            parameter: parameter.filter(|_| is_denied).map(NumberedRequirement::located),
            wrong_network: wrong_network.map(|rule| WrongNetwork {
                client: self.client_address(),
                rule,
                route: route.and_then(|route| route.options().from.as_deref()),
                token: token.and_then(|token| token.verdict.allowed_from.as_ref()),
            }),
            text: self.detail,
            place: rule.and_then(|rule| rule.place.as_ref()).filter(|_| is_denied),
        };
        let destination = &self.settings.backend.destination;
        let line = AccessLine {
            request_id: self.request_id.as_bytes(),
            client_request_id: self.client_request_id.as_ref().map(HeaderValue::as_bytes),
            listener: match self.downstream.listener {
                ClientListener::Proxy => None,
                ClientListener::Decision => Some("decision"),
            },
            client: self.logged_client(),
            protocol: self.version.map(protocol),
            tls_version: self.downstream.tls_version,
            request: self.fields.as_deref(),
            method: if METHODS.contains(&self.method) { self.method.as_str() } else { "other" },
            route: match (route, self.route) {
                (Some(route), _) => route.template(),
                (None, RouteLabel::None) => "none",
                (None, RouteLabel::Unmapped | RouteLabel::Route(_)) => "unmapped",
            },
            path: self.uncovered.as_ref().and_then(|it| it.path.as_deref()),
            status: status.as_u16(),
            reason,
            cause: self.cause.map(|cause| self.logged_cause(cause)),
            denied_by,
            detail: detail.most_specific(),
            token: token.map(|token| LoggedToken {
                id: &token.verdict.id,
                name: token.verdict.name.as_deref(),
                fields: &token.logged,
            }),
            cache: self.lookup.cache,
            duration: now.duration_since(self.started),
            introspection_duration: self.lookup.waited,
            upstream_duration: self.backend,
            upstream: self.upstream.map(|address| Upstream { address, destination }),
            upstream_status: self.upstream_status.map(|status| status.as_u16()),
            bytes_in: self.bytes_in + self.upload.as_ref().map_or(0, |upload| upload.forwarded()),
            bytes_out: self.bytes_out,
            shadow: shadow.map(|shadow| shadow.change),
            shadow_rule: shadow.map(|shadow| &*shadow.rule),
        };
        self.recorder.access.write(now, &line);
        if line.shadow.is_some() {
            self.recorder.access.report_shadow(&line);
        }
    }

    fn logged_client(&self) -> Client<'_> {
        Client {
            forwarded: self.client.filter(|_| self.client != self.downstream.address),
            peer: self.downstream.address,
            subject: self.downstream.subject.as_deref(),
            fields: &self.downstream.connection().unwrap_or(&self.downstream).logged,
        }
    }
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// Details of a refusal beside its reason.
struct Detail<'a> {
    /// The rule of the query parameter that denies the request.
    parameter: Option<LocatedRequirement<'a>>,
    wrong_network: Option<WrongNetwork<'a>>,
    text: Option<&'static str>,
    /// The place of the route's requirement.
    place: Option<&'a SourceLocation>,
}

impl Detail<'_> {
    /// The text of the access line. A rule is more specific than the text about a closed tunnel.
    fn most_specific(&self) -> Option<&dyn Display> {
        let Self { parameter, wrong_network, text, place } = self;
        (parameter.as_ref().map(|it| it as &dyn Display))
            .or_else(|| wrong_network.as_ref().map(|it| it as &dyn Display))
            .or_else(|| text.as_ref().map(|it| it as &dyn Display))
            .or_else(|| place.as_ref().map(|it| it as &dyn Display))
    }
}
