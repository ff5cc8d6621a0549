//! `query`: the rules of a route for the parameters of its query.
//!
//! The parser reads a query as PHP's `parse_str` does, and rejects what another parser could read differently. A rule
//! applies to every occurrence of its parameter, since PHP uses the last one and others the first.

mod parameter;
mod rules;
#[cfg(test)]
mod tests;

pub use self::rules::{
    LocatedRequirement, NumberedRequirement, QueryCheck, QueryNeeds, QueryRules, RawCheck, RawParameter,
    RawValue, WrittenCheck,
};
