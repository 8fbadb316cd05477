//! What can go wrong with the database, sorted by what the caller does next.

use uuid::Uuid;

use super::refusal::without_values;

/// The result of every store function.
pub type StoreResult<T> = Result<T, StoreError>;

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or could not be reached; [`StoreError::fault`] sorts it. Holds no value
    /// of any row.
    #[error("the database refused a statement or could not be reached")]
    Database(#[source] sqlx::Error),
    /// A stored row does not decode: changed by hand, or written by a newer version.
    #[error("chimeway.{table} {row}: column `{column}` does not decode")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row.
        row: Uuid,
    },
    /// A set-based write touched another number of rows than it was given.
    #[error("{statement} wrote {written} rows of {given}")]
    RowsAffected {
        /// The function.
        statement: &'static str,
        /// Rows given.
        given: usize,
        /// Rows written.
        written: u64,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(without_values(error))
    }
}

/// What to do about a database error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection or the server went away, or has no room: come back when it does.
    Away,
    /// Another transaction was in the way: repeat the batch.
    Conflict,
    /// A row of the batch is not acceptable: find it.
    Data,
}

impl Fault {
    /// The same may go well the next time.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::Away | Self::Conflict)
    }
}

impl StoreError {
    /// What to do about it.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Database(error) => fault(error),
            Self::Inconsistent { .. } | Self::RowsAffected { .. } => Fault::Data,
        }
    }

    /// Whether a pooler in transaction mode is between, and nobody said so: a prepared statement is on another
    /// server's session than its next use.
    #[must_use]
    pub fn is_of_a_pooler(&self) -> bool {
        // Invalid statement name; duplicate prepared statement.
        matches!(self.sqlstate().as_deref(), Some("26000" | "42P05"))
    }

    /// The SQLSTATE, where the server gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Database(error) => sqlstate(error),
            Self::Inconsistent { .. } | Self::RowsAffected { .. } => None,
        }
    }
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .map(Into::into)
}

fn fault(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => Fault::Away,
        _ => match sqlstate(error).as_deref() {
            // Deadlock, serialization failure, lock not available.
            Some("40P01" | "40001" | "55P03") => Fault::Conflict,
            // Connection exceptions; shutdown, crash, starting up; no disk, no memory, too many connections; the
            // operating system's. No row is to blame.
            Some(code)
                if ["08", "53", "57P", "58"]
                    .iter()
                    .any(|class| code.starts_with(class)) =>
            {
                Fault::Away
            }
            // Read-only; a transaction that was idle, or open, for too long; prepared statements that a pooler
            // mixes up. Nothing of it is the fault of a row.
            Some("25006" | "25P03" | "25P04" | "26000" | "42P05") => Fault::Away,
            _ => Fault::Data,
        },
    }
}

/// Turns "wrote fewer rows than given" into an error.
pub(super) fn ensure_affected(
    statement: &'static str,
    given: usize,
    written: u64,
) -> StoreResult<()> {
    if usize::try_from(written).is_ok_and(|written| written == given) {
        Ok(())
    } else {
        Err(StoreError::RowsAffected {
            statement,
            given,
            written,
        })
    }
}
