//! Who is calling: the verdict of introspection, and how long it is believed.
//!
//! [`introspection`] turns a token into a question and an answer into a [`Verdict`], and [`introspector`]
//! asks it; [`cache`] is what all cores share; [`lookup`] is one core's way to a verdict. Who revokes one goes to the
//! [`revoker`].

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
