//! The shadow decision on a request.

use std::rc::Rc;

use super::RequestRecord;
use crate::policy::shadow::{Change, MapRole};
use crate::telemetry::metrics::RouteLabel;
use crate::tokens::lookup::CachedToken;

/// A shadow decision that differs from the enforced one.
pub struct ShadowResult {
    /// The difference.
    pub change: Change,
    /// The first map that decides differently.
    pub side: MapRole,
    /// The rules that decide differently, one per map, as in the log.
    pub rule: String,
    /// The verdict of its token, if the enforced map did not require one.
    pub token: Option<Rc<CachedToken>>,
}

impl RequestRecord {
    /// Counts and records a shadow decision under `label`. If the enforced map is in shadow mode, the candidate may
    /// decide the same once more.
    #[cold]
    pub fn note_shadow_change(
        &mut self,
        change: Change,
        side: MapRole,
        label: RouteLabel,
        rule: String,
        token: Option<Rc<CachedToken>>,
    ) {
        self.recorder.metrics.shadow(change, side, label, &self.method);
        self.shadow = Some(Box::new(match self.shadow.take() {
            Some(before) => ShadowResult { rule: format!("{}; {rule}", before.rule), ..*before },
            None => ShadowResult { change, side, rule, token },
        }));
    }
}
