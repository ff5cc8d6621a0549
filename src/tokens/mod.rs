//! Authentication: introspection of tokens, and the cache of its verdicts.
//!
//! [`introspection`] builds the request for a token and parses the response into a [`Verdict`], and [`introspector`]
//! performs it. All workers share the [`cache`]; each worker uses it through [`lookup`]. The [`revoker`] invalidates
//! verdicts, and the [`blocker`] changes the [`blocklist`], which refuses tokens whatever introspection says.

pub mod blocker;
pub mod blocklist;
pub mod cache;
pub mod clock;
pub mod hash;
pub mod introspection;
pub mod introspection_limiter;
pub mod introspector;
pub mod lookup;
pub mod revocation;
pub mod revoker;
pub mod verdict;

pub use verdict::Verdict;
