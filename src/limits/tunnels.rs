//! `limits.tunnels` and `limits.tunnels_per_token`: the number of open tunnels.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::counter::{CountGuard, Counter};
use super::exceeded;
use super::table::Table;
use crate::config::settings::Limits;
use crate::policy::client::ClientNetwork;
use crate::policy::refusal::{Exceeded, Limit};

/// Counts the open tunnels of all workers. They are counted without a limit, too, so that a reload that sets a limit
/// knows them.
#[derive(Debug)]
pub struct TunnelCounts {
    all: Arc<Counter>,
    holders: Table<Holder, Arc<Counter>>,
}

/// The holder of a tunnel.
#[derive(Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A token with this introspected id.
    Token(Box<str>),
    /// A client without a token.
    Address(ClientNetwork),
}

/// Counts as a tunnel until it is dropped.
#[derive(Debug)]
pub struct TunnelGuard {
    _all: CountGuard,
    /// `None` if the holder is unknown: a client of a Unix socket without a token.
    _holder: Option<CountGuard>,
}

impl Default for TunnelCounts {
    fn default() -> Self {
        // As many holders as tunnels at most, and `limits.connections` bounds those.
        Self { all: Arc::default(), holders: Table::new(usize::MAX) }
    }
}

impl TunnelCounts {
    /// Counts a tunnel of `holder`.
    ///
    /// # Errors
    /// [`Exceeded`] if `limits` allow no further one.
    pub fn open(&self, holder: Option<Holder>, limits: &Limits) -> Result<TunnelGuard, Exceeded> {
        let all = admit(&self.all, Limit::Tunnels, limits.tunnels)?;
        let holder = holder.map(|holder| {
            // Only a tunnel holds the counter of its holder.
            let is_idle = |counter: &Arc<Counter>| Arc::strong_count(counter) == 1;
            let counter = self.holders.with(holder, Arc::default, is_idle, Arc::clone);
            admit(&counter, Limit::TunnelsPerToken, limits.tunnels_per_token)
        });
        Ok(TunnelGuard { _all: all, _holder: holder.transpose()? })
    }
}

fn admit(counter: &Arc<Counter>, limit: Limit, max: Option<NonZeroU32>) -> Result<CountGuard, Exceeded> {
    let max = max.unwrap_or(NonZeroU32::MAX);
    counter.admit(max).ok_or_else(|| exceeded(limit, max, Duration::ZERO, SystemTime::now()))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config;

    fn limits(tunnels: u32, tunnels_per_token: u32) -> Limits {
        let yaml = format!(
            "backend: {{url: 'http://127.0.0.1:9'}}\nintrospection: {{url: 'http://127.0.0.1:9/'}}\n\
             limits: {{tunnels: {tunnels}, tunnels_per_token: {tunnels_per_token}}}\nabilities: {{}}\n"
        );
        config::load_text("gateway.yaml", yaml).unwrap().settings.limits
    }

    fn token(id: &str) -> Option<Holder> {
        Some(Holder::Token(id.into()))
    }

    fn address(text: &str) -> Option<Holder> {
        Some(Holder::Address(text.parse::<IpAddr>().unwrap().into()))
    }

    #[test]
    fn tunnels_are_limited_in_total_and_per_holder() {
        let (counts, limits) = (TunnelCounts::default(), limits(5, 2));
        let open = |holder| counts.open(holder, &limits);
        let held: Vec<_> = [token("1"), token("1"), address("2001:db8::1"), address("2001:db8::2")]
            .map(|holder| open(holder).unwrap())
            .into();
        for (holder, limit, allowed) in
            [(token("1"), Limit::TunnelsPerToken, 2), (address("2001:db8::3"), Limit::TunnelsPerToken, 2)]
        {
            let refused = open(holder).unwrap_err();
            assert_eq!((refused.limit, refused.allowed, refused.retry_after), (limit, allowed, 1));
        }
        let unknown = open(None).unwrap();
        for holder in [token("2"), None] {
            assert_eq!(open(holder).unwrap_err().limit, Limit::Tunnels);
        }
        drop(unknown);
        drop(open(token("2")).unwrap());
        drop(held);
        assert_eq!((counts.all.count(), open(token("1")).is_ok()), (0, true));
    }

    #[test]
    fn tunnels_without_a_limit_count_for_a_later_one() {
        let counts = TunnelCounts::default();
        let held: Vec<_> = (0..3).map(|_| counts.open(token("1"), &limits(0, 0)).unwrap()).collect();
        assert_eq!(counts.open(token("1"), &limits(0, 3)).unwrap_err().limit, Limit::TunnelsPerToken);
        assert_eq!(counts.open(token("2"), &limits(3, 3)).unwrap_err().limit, Limit::Tunnels);
        assert_eq!(held.len(), 3);
        drop(held);
        let limits = limits(0, 3);
        for id in 0..10_000 {
            counts.open(token(&id.to_string()), &limits).unwrap();
        }
        assert!(counts.holders.len() <= 16 * 64, "{}", counts.holders.len());
    }
}
