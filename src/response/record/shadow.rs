//! What shadow mode finds of a request.

use std::rc::Rc;

use super::RequestRecord;
use crate::policy::shadow::{Change, Side};
use crate::telemetry::metrics::RouteLabel;
use crate::tokens::lookup::CachedToken;

/// What would become of a request, other than what does.
pub struct ShadowResult {
    /// What.
    pub change: Change,
    /// By which map, the first of them.
    pub side: Side,
    /// By which rules, one of each map that would change it, as the log tells them.
    pub rule: String,
    /// Whose token it carries, where the enforced map did not ask.
    pub token: Option<Rc<CachedToken>>,
}

impl RequestRecord {
    /// Counts and notes what would become of the request, counted under `label`. Where the enforced map is in shadow
    /// mode, the candidate beside it may find the same once more.
    #[cold]
    pub fn note_shadow_change(
        &mut self,
        change: Change,
        side: Side,
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
