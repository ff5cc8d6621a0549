//! Read access to the ledger.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase};

use super::ledger::{CACHE_BYTES, Ledger, LedgerError, open_error};
use super::read::Snapshot;

/// An open ledger.
#[derive(Clone)]
pub enum Source {
    /// Opened for writing by this process.
    Shared(Arc<Database>),
    /// Opened for reading only, while no gateway runs.
    ReadOnly(Arc<ReadOnlyDatabase>),
}

impl Source {
    /// Opens the ledger while no gateway runs.
    ///
    /// # Errors
    /// [`LedgerError::InUse`] if a gateway runs. Other errors if the file cannot be read or is not a ledger.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        match Builder::new().set_cache_size(CACHE_BYTES).open_read_only(path) {
            Ok(database) => Ok(Self::ReadOnly(Arc::new(database))),
            // After a crash the file must be repaired, which requires write access.
            Err(DatabaseError::RepairAborted) => Ok(Self::of(&Ledger::open(path)?)),
            Err(error) => Err(open_error(path, error)),
        }
    }

    /// Shares a ledger that is being written.
    pub fn of(ledger: &Ledger) -> Self {
        Self::Shared(ledger.database())
    }

    /// A consistent view of the ledger, which later writes do not change.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        let transaction = match self {
            Self::Shared(database) => database.begin_read()?,
            Self::ReadOnly(database) => database.begin_read()?,
        };
        Snapshot::new(transaction)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Source")
    }
}
