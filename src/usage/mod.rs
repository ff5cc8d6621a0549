//! Usage of tokens: counted by each worker, written to a ledger on disk, and reported with findings.

pub mod add;
pub mod addresses;
pub mod batch;
pub mod count;
pub mod findings;
pub mod ledger;
pub mod message;
pub mod overview;
pub mod page;
pub mod pending;
pub mod query;
pub mod quota;
pub mod read;
mod record;
pub mod report;
pub mod report_stream;
pub mod retention;
pub mod rules;
#[cfg(test)]
mod simulation;
pub mod source;
pub mod writer;
