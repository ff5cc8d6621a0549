//! Fields that clients choose and most of their requests repeat, encoded once.

use std::cell::RefCell;
use std::rc::Rc;

use super::encoder::Fields;
use super::line::RequestFields;
use crate::config::settings::LogFormat;
use crate::policy::mask::{may_hold_token, may_host_hold_secret};

/// The number of encoded pairs of `host` and `user_agent` per worker; a power of two.
const SLOTS: usize = 128;
/// The longest Host and User-Agent together that are cached, in bytes.
const MAX_KEPT: usize = 512;

/// The recent pairs of Host and User-Agent on a worker. Most requests repeat one of a few.
#[derive(Debug, Default)]
pub(super) struct RequestFieldsCache {
    /// Empty until the first request.
    slots: RefCell<Vec<Option<Rc<RequestFields>>>>,
    buffer: RefCell<Vec<u8>>,
}

impl RequestFieldsCache {
    /// The fields of a request with these values. Long values, and those that may contain a token, are not cached.
    pub(super) fn get(
        &self,
        format: LogFormat,
        host: Option<&[u8]>,
        user_agent: Option<&[u8]>,
    ) -> Rc<RequestFields> {
        let mut slots = self.slots.borrow_mut();
        if slots.is_empty() {
            slots.resize(SLOTS, None);
        }
        let slot = slots.get_mut(slot(host, user_agent));
        if let Some(Some(kept)) = &slot
            && kept.sent() == (host, user_agent)
        {
            return Rc::clone(kept);
        }
        let fields = encode(format, host, user_agent, &mut self.buffer.borrow_mut());
        let (is_short, fields) = (fields.encoded <= MAX_KEPT, Rc::new(fields));
        if is_short
            && !host.is_some_and(may_host_hold_secret)
            && !user_agent.is_some_and(may_hold_token)
            && let Some(slot) = slot
        {
            *slot = Some(Rc::clone(&fields));
        }
        fields
    }
}

/// Encodes the fields in `buffer`.
pub(super) fn encode(
    format: LogFormat,
    host: Option<&[u8]>,
    user_agent: Option<&[u8]>,
    buffer: &mut Vec<u8>,
) -> RequestFields {
    buffer.clear();
    buffer.extend_from_slice(host.unwrap_or_default());
    buffer.extend_from_slice(user_agent.unwrap_or_default());
    let encoded = buffer.len();
    match format {
        LogFormat::Json => Fields::<true> { buffer }.request(host, user_agent),
        LogFormat::Text => Fields::<false> { buffer }.request(host, user_agent),
    }
    let length = <[u8]>::len;
    RequestFields {
        host: host.map(length),
        user_agent: user_agent.map(length),
        bytes: (**buffer).into(),
        encoded,
    }
}

/// The slot of a pair. Pairs with the same slot replace each other.
fn slot(host: Option<&[u8]>, user_agent: Option<&[u8]>) -> usize {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = 0;
    for value in [host, user_agent].into_iter().flatten() {
        let mut mix = |word: u64| hash = (u64::rotate_left(hash, 5) ^ word).wrapping_mul(FACTOR);
        mix(value.len() as u64);
        let (words, rest) = value.as_chunks::<8>();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| mix(u64::from(*byte)));
    }
    (hash >> 32) as usize & (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_fields_are_encoded_once() {
        let cache = RequestFieldsCache::default();
        let get = |host: Option<&'static str>, user_agent: Option<&'static str>| {
            cache.get(LogFormat::Json, host.map(str::as_bytes), user_agent.map(str::as_bytes))
        };
        for (host, user_agent, encoded) in [
            (Some("a.example"), Some("curl/8"), r#","host":"a.example","user_agent":"curl/8""#),
            (Some("a.examplec"), Some("url/8"), r#","host":"a.examplec","user_agent":"url/8""#),
            (Some("a.example"), None, r#","host":"a.example""#),
            (None, Some("a.example"), r#","user_agent":"a.example""#),
            (Some(""), None, r#","host":"""#),
            (None, Some(""), r#","user_agent":"""#),
            (None, None, ""),
        ] {
            let first = get(host, user_agent);
            assert_eq!(std::str::from_utf8(first.encoded()).unwrap(), encoded);
            assert!(Rc::ptr_eq(&first, &get(host, user_agent)), "{encoded}");
        }
    }

    #[test]
    fn long_fields_and_tokens_are_not_cached() {
        let cache = RequestFieldsCache::default();
        let long = "x".repeat(MAX_KEPT + 1);
        for user_agent in [&long, "17|Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq"] {
            let get = || cache.get(LogFormat::Json, None, Some(user_agent.as_bytes()));
            let first = get();
            assert!(!Rc::ptr_eq(&first, &get()));
            assert_eq!(first.encoded(), get().encoded());
        }
        // A short token that no run of letters shows, and a password.
        for host in ["3%7CSecret0User@a.example", "user:password@a.example", "@"] {
            let first = cache.get(LogFormat::Json, Some(host.as_bytes()), None);
            let encoded = std::str::from_utf8(first.encoded()).unwrap();
            assert_eq!(encoded, r#","host":"(hidden: it may hold a token)""#, "{host}");
        }
        assert!(cache.slots.borrow().iter().all(Option::is_none));
    }

    #[test]
    fn values_are_spread_over_the_slots() {
        let agents: Vec<String> = (0..64).map(|number| format!("Mozilla/5.0 Chrome/{number}.0")).collect();
        let slots: std::collections::HashSet<_> =
            agents.iter().map(|agent| slot(Some(b"app.example"), Some(agent.as_bytes()))).collect();
        assert!(slots.len() > 32, "{}", slots.len());
    }
}
