//! What tokens do: counted by each core, kept in a ledger on disk, and told as a report with findings.

pub mod add;
pub mod addresses;
pub mod findings;
pub mod overview;
pub mod page;
pub mod question;
pub mod report;
