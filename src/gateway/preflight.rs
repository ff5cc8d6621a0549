//! CORS preflights: answered or forwarded without credentials.

use http::HeaderValue;

use super::Gateway;
use super::context::{ReadRequest, RequestContext};
use super::respond::Outcome;
use crate::policy::cors::{self, Preflight};
use crate::policy::decision::Permit;
use crate::policy::headers::Credentials;
use crate::policy::refusal::{Reason, Refusal};
use crate::response::record::RequestRecord;

impl Gateway {
    /// Serves a preflight for the method `requested`.
    pub(super) async fn serve_preflight(
        &self,
        request: &ReadRequest<'_>,
        requested: &HeaderValue,
        context: &mut RequestContext<'_>,
    ) -> Result<Outcome<'_>, Refusal> {
        let permit = self.permit_preflight(request, requested, &mut context.record)?;
        match self.settings.cors.preflight {
            Preflight::Answer => Ok(Outcome::Preflight(requested.clone())),
            Preflight::Forward => {
                let options = self.settings.abilities.options_of(context.record.route_number);
                self.forward(permit, request, Credentials::None, options, context).await?;
                Ok(Outcome::Upstream(Reason::Public, self.settings.abilities.options_of(None)))
            }
        }
    }

    /// The permit of a preflight for the method `requested`.
    pub(super) fn permit_preflight(
        &self,
        request: &ReadRequest<'_>,
        requested: &HeaderValue,
        record: &mut RequestRecord,
    ) -> Result<Permit, Refusal> {
        if request.has_body {
            return Err(Refusal::BadRequest("CORS preflight with a body"));
        }
        self.decide_preflight(request, requested, record)
    }

    /// Decides on a preflight by the request that it announces, without credentials.
    fn decide_preflight(
        &self,
        request: &ReadRequest<'_>,
        requested: &HeaderValue,
        record: &mut RequestRecord,
    ) -> Result<Permit, Refusal> {
        let target = &request.target;
        let (abilities, overriding) = (&self.settings.abilities, self.settings.backend.method_override);
        let (found, permit) =
            cors::decide(abilities, &target.path, request.route_inputs(), requested, overriding);
        self.record_route(&found, target, record);
        let permit = match &self.settings.shadow {
            None => permit,
            Some(shadow) => {
                self.decide_preflight_in_shadow(shadow, request, requested, record, &found, permit)
            }
        };
        if let Some(uncovered) = &mut record.uncovered {
            // After a preflight that is forwarded, its request counts.
            uncovered.method = cors::supported_method(&target.path, requested).filter(|_| permit.is_err());
        }
        permit
    }
}
