//! What tokens do: counted by each core, kept in a ledger on disk, and told as a report with findings.

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
pub mod question;
pub mod read;
mod record;
pub mod report;
pub mod retention;
pub mod rules;
#[cfg(test)]
mod simulation;
pub mod source;
pub mod tell;
pub mod writer;
