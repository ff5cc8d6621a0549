//! The ledger, to be read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase};

use super::ledger::{CACHE, Ledger, LedgerError, at};
use super::read::Snapshot;

/// A ledger to read, whoever writes it.
#[derive(Clone)]
pub enum Source {
    /// Of this process.
    Shared(Arc<Database>),
    /// Of nobody: no gateway runs.
    Alone(Arc<ReadOnlyDatabase>),
}

impl Source {
    /// Opens the ledger of a gateway that does not run.
    ///
    /// # Errors
    /// [`LedgerError::InUse`] where one does; else where the file cannot be read, or is none of ours.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        match Builder::new().set_cache_size(CACHE).open_read_only(path) {
            Ok(database) => Ok(Self::Alone(Arc::new(database))),
            // The gateway was killed: what is needed to mend the file only its owner may do.
            Err(DatabaseError::RepairAborted) => Ok(Self::of(&Ledger::open(path)?)),
            Err(error) => Err(at(path, error)),
        }
    }

    /// What may be read while `ledger` goes on being written.
    pub fn of(ledger: &Ledger) -> Self {
        Self::Shared(ledger.database())
    }

    /// The ledger as it is now, whatever is written meanwhile.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        let transaction = match self {
            Self::Shared(database) => database.begin_read()?,
            Self::Alone(database) => database.begin_read()?,
        };
        Snapshot::new(transaction)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Source")
    }
}
