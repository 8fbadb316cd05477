//! Why the database cannot be worked on. No message holds a password.

use chimeway::store::{StoreError, error::Fault};

/// Why the database cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL cannot be read.
    #[error("the database URL cannot be used: {0}")]
    BadUrl(String),
    /// Nobody answers there, or none who may be written to: waiting may help.
    #[error("cannot reach PostgreSQL at {place}: {reason}")]
    Unreachable {
        /// Host and port, of all hosts.
        place: String,
        /// What was found there.
        reason: String,
    },
    /// It answers and will not have us.
    #[error("PostgreSQL at {place} refused the connection: {reason}")]
    Rejected {
        /// Host and port.
        place: String,
        /// What it said.
        reason: String,
    },
    /// It answers, and refused a statement.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DatabaseError {
    /// Whether waiting may help.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Store(error) => error.fault() == Fault::Away,
            Self::BadUrl(_) | Self::Rejected { .. } => false,
        }
    }
}
