//! The backend's response, validated before the client gets it.

use http::header::CONNECTION;
use http::{HeaderValue, Response, StatusCode, Version};

use super::body::Upload;
use crate::client::pool::Lease;
use crate::policy::headers;
use crate::policy::refusal::Refusal;
use crate::policy::upgrade::Handshake;

/// The head of the backend's response, and the connection of its body.
pub struct UpstreamResponse {
    /// The head.
    pub head: Response<()>,
    /// The connection; to be returned to the pool at the end of the body.
    pub lease: Lease,
}

impl UpstreamResponse {
    /// Validates the head and removes its hop-by-hop fields. `handshake` is that of the request.
    ///
    /// # Errors
    /// [`Refusal::BackendBroken`] if two parsers could read the response differently, or if it is a 101 that does not
    /// answer the handshake. The log has the reason.
    pub fn validate(&mut self, handshake: Option<&Handshake>) -> Result<(), Refusal> {
        let status = self.head.status();
        let fields = self.head.headers_mut();
        let accepted = match (status, handshake) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(handshake)) => {
                handshake.check(fields).map(|()| Some(handshake))
            }
            (StatusCode::SWITCHING_PROTOCOLS, None) => Err("101 without an upgrade request"),
            _ => Ok(None),
        };
        let prepared = accepted.and_then(|accepted| {
            headers::prepare_response(status, fields)?;
            if let Some(handshake) = accepted {
                handshake.confirm(fields);
            }
            Ok(())
        });
        prepared.map_err(|why| {
            tracing::warn!(why, "the backend's response is ambiguous");
            Refusal::BackendBroken
        })
    }

    /// Closes both connections after the response if the backend has responded before it requested the body: the client
    /// may or may not send it. `version` is that of the request.
    pub fn settle_upload(&mut self, upload: Option<&Upload>, version: Version) {
        if upload.is_some_and(Upload::mark_answered) {
            self.lease.close_afterwards();
            if version == Version::HTTP_11 {
                self.head.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
    }
}
