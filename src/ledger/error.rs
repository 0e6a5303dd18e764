use std::{io, path::PathBuf};

use crate::base::Fault;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The file cannot be made or opened.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{path} is in use by another gitstead", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A later Gitstead has written it.
    #[error("the ledger was written by a later version of gitstead (format {found}, this one knows {known})")]
    Version {
        /// What it says.
        found: u64,
        /// What we know.
        known: u64,
    },
    /// The database says no.
    #[error("{doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: Box<redb::Error>,
    },
    /// A record cannot be written as JSON or read from it.
    #[error("a record of the ledger is not as expected")]
    Record {
        /// Why.
        #[from]
        source: serde_json::Error,
    },
    /// Earlier changes could not be written; the log says why.
    #[error("the ledger cannot be written")]
    Broken,
}

impl LedgerError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            LedgerError::InUse { .. } => Fault::Busy,
            LedgerError::Record { .. } | LedgerError::Version { .. } => Fault::Corrupt,
            _ => Fault::Ours,
        }
    }

    pub(super) fn database<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |error| LedgerError::Database {
            doing,
            source: Box::new(error.into()),
        }
    }
}
