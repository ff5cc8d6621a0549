//! Who is calling: what introspection says about a token.

pub mod introspection;
pub mod verdict;

pub use verdict::Verdict;
