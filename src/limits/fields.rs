//! `rate_limit.fields: ietf`: the fields RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-10.

use std::fmt::{self, Write as _};
use std::num::NonZeroU32;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::refusal::Limit;

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// One limit of a request: an item in each of the two fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct PolicyItem<'a> {
    pub(super) limit: Limit,
    /// The ability of `by_ability`.
    pub(super) ability: Option<&'a str>,
    /// `q`
    pub(super) allowed: NonZeroU32,
    /// `w`; `None` for requests in flight, which have no window.
    pub(super) window: Option<Duration>,
    /// `r`
    pub(super) remaining: u64,
    /// `t`: until there is one more; `None` if unknown, or if none is missing.
    pub(super) reset: Option<Duration>,
}

/// The two fields, as Lists of Structured Fields (RFC 9651).
#[derive(Debug, Default)]
pub struct RateLimitFields {
    policy: String,
    state: String,
}

impl RateLimitFields {
    pub(super) fn push(&mut self, item: &PolicyItem<'_>) {
        // Writing to a string cannot fail.
        let _ = self.write(item);
    }

    fn write(&mut self, item: &PolicyItem<'_>) -> fmt::Result {
        let Self { policy, state } = self;
        for list in [&mut *policy, &mut *state] {
            if !list.is_empty() {
                list.push_str(", ");
            }
            write!(list, "\"{}", item.limit.as_str())?;
            // An ability of a rule is visible ASCII without `"` and `\`.
            if let Some(ability) = item.ability {
                write!(list, ":{ability}")?;
            }
            list.push('"');
        }
        write!(policy, ";q={}", item.allowed)?;
        match item.window {
            Some(window) => write!(policy, ";w={}", seconds(window))?,
            None => policy.push_str(";qu=\"concurrent-requests\""),
        }
        write!(state, ";r={}", item.remaining)?;
        match item.reset {
            Some(reset) => write!(state, ";t={}", seconds(reset)),
            None => Ok(()),
        }
    }

    /// Appends the fields. Those of the backend's own limits stay.
    pub fn append(self, fields: &mut HeaderMap) {
        for (name, list) in [(RATELIMIT_POLICY, self.policy), (RATELIMIT, self.state)] {
            if let Ok(value) = HeaderValue::try_from(list) {
                fields.append(name, value);
            }
        }
    }
}

/// Whole seconds, rounded up; at least 1.
fn seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_lists_of_structured_fields() {
        let item = |limit, ability, allowed: u32, window: Option<u64>, remaining, reset| PolicyItem {
            limit,
            ability,
            allowed: allowed.try_into().unwrap(),
            window: window.map(Duration::from_millis),
            remaining,
            reset: Option::<u64>::map(reset, Duration::from_millis),
        };
        let mut fields = RateLimitFields::default();
        fields.push(&item(Limit::Quota, None, 1000, Some(86_400_000), 999, Some(3_600_000)));
        fields.push(&item(Limit::ByAbility, Some("items:create"), 5, Some(1000), 0, Some(200)));
        fields.push(&item(Limit::RequestsPerSecond, None, 100, Some(2000), 100, None));
        fields.push(&item(Limit::InFlight, None, 8, None, 7, None));
        let mut map = HeaderMap::new();
        map.insert(RATELIMIT, HeaderValue::from_static("\"of-the-backend\";r=1"));
        fields.append(&mut map);
        let policy = r#""quota";q=1000;w=86400, "by_ability:items:create";q=5;w=1, "requests_per_second";q=100;w=2, "in_flight";q=8;qu="concurrent-requests""#;
        assert_eq!(map[RATELIMIT_POLICY], policy);
        let state: Vec<_> = map.get_all(RATELIMIT).iter().collect();
        let own = r#""quota";r=999;t=3600, "by_ability:items:create";r=0;t=1, "requests_per_second";r=100, "in_flight";r=7"#;
        assert_eq!(state, [r#""of-the-backend";r=1"#, own]);
    }
}
