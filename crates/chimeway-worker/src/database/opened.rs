//! The connection of a command: as it is, or through a pooler in transaction mode, where everything that the
//! command does is one transaction.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use chimeway::store::{schema, settings};
use sqlx::{PgConnection, Postgres, Transaction};
use tokio::sync;

use super::{Database, check, open};
use crate::error::CliError;

type Shared = Arc<sync::Mutex<Transaction<'static, Postgres>>>;

/// The transactions of a command through a pooler: they end when the command does.
#[derive(Clone, Default)]
pub(crate) struct Unfinished(Arc<Mutex<Vec<Shared>>>);

impl Unfinished {
    /// Commits what the command did, also where it ended with an error: what it had committed before is so.
    ///
    /// # Errors
    ///
    /// [`CliError::Store`] if the database is away: nothing was done.
    pub(crate) async fn commit(&self) -> Result<(), CliError> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for tx in all.into_iter().filter_map(Arc::into_inner) {
            tx.into_inner().commit().await?;
        }
        Ok(())
    }
}

/// A connection to a database whose schema is the one that this program knows.
pub(crate) enum Opened {
    Direct(PgConnection),
    Within(sync::OwnedMutexGuard<Transaction<'static, Postgres>>),
}

/// Connects for a command. What it begins through a pooler is committed by `unfinished`, and what it begins
/// within that is a savepoint.
///
/// # Errors
///
/// As [`open`].
pub(crate) async fn opened(
    database: &Database,
    unfinished: &Unfinished,
) -> Result<Opened, CliError> {
    if !database.is_pooled() {
        return Ok(Opened::Direct(open(database).await?));
    }
    // To see that it is there, and to say why where it is not.
    drop(database.connect().await?);
    let pool = database.request_pool(1);
    let mut tx = pool.begin_with(settings::BEGIN_PLAIN_POOLED).await?;
    check(schema::state(&mut tx).await?)?;
    let tx = Arc::new(sync::Mutex::new(tx));
    let mut all = unfinished.0.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(Arc::clone(&tx));
    let guard = tx.try_lock_owned();
    guard
        .map(Opened::Within)
        .map_err(|error| CliError::Refused(error.to_string()))
}

impl Deref for Opened {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Direct(conn) => conn,
            Self::Within(tx) => tx,
        }
    }
}

impl DerefMut for Opened {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Direct(conn) => conn,
            Self::Within(tx) => tx,
        }
    }
}
