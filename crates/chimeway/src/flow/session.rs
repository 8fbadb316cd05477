//! The one way in which a worker comes to a connection: for a bounded time, and never back into the pool when
//! the time was over.
//!
//! A network that silently stops forwarding ends no read and no write by itself: TCP waits for a quarter of an
//! hour where something was sent, and for ever where nothing was. So whoever works on a connection does it by a
//! deadline; what was not answered by then is taken for lost, its connection is closed, and the work is repeated
//! or left to the rows, which are still due. It costs one timer for each transaction, and nothing for a statement.

use std::{future::Future, io, time::Duration};

use sqlx::{Connection as _, PgPool, Postgres, Transaction, pool::PoolConnection};
use tokio::{runtime::Handle, time::Instant};

use super::Core;
use crate::store::{StoreError, StoreResult, settings};

/// How long a connection that comes back may take to show that it lives.
const RETURN: Duration = Duration::from_secs(5);

/// A pool, and how its connections are worked on; cheap to clone.
#[derive(Clone)]
pub(crate) struct Sessions {
    pool: PgPool,
    longest: Duration,
    pooled: bool,
}

impl Core {
    /// How this process works on a pool's connections.
    pub(crate) fn sessions(&self, pool: &PgPool) -> Sessions {
        Sessions {
            pool: pool.clone(),
            longest: self.timing.transaction,
            pooled: self.pooled,
        }
    }
}

impl Sessions {
    /// A piece of work: its deadline counts from here.
    pub(crate) fn bounded(&self) -> Bounded<'_> {
        Bounded {
            sessions: self,
            until: Instant::now() + self.longest,
        }
    }
}

/// A piece of work with its deadline: one transaction, or a few that belong together.
#[derive(Clone, Copy)]
pub(crate) struct Bounded<'a> {
    sessions: &'a Sessions,
    until: Instant,
}

impl Bounded<'_> {
    /// Does it, until the deadline.
    ///
    /// # Errors
    ///
    /// Those of the work; one that says that the database is away where it was not done in time. Whether it was
    /// committed is then not known, as when a connection is lost.
    pub(crate) async fn run<T, E: From<StoreError>>(
        self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        // On the heap: the states of a whole transaction are many, and who awaits it is awaited itself.
        match tokio::time::timeout_at(self.until, Box::pin(work)).await {
            Ok(done) => done,
            Err(_) => Err(too_late().into()),
        }
    }

    /// A connection, for this work only.
    ///
    /// # Errors
    ///
    /// Only if the database is away.
    pub(crate) async fn session(self) -> StoreResult<Session> {
        Ok(Session {
            conn: Some(self.sessions.pool.acquire().await?),
            until: self.until,
            longest: self.sessions.longest,
            pooled: self.sessions.pooled,
        })
    }
}

fn too_late() -> StoreError {
    let error = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    StoreError::from(sqlx::Error::Io(error))
}

/// A connection on which one piece of work is done.
pub(crate) struct Session {
    /// Always there but while it is dropped.
    conn: Option<PoolConnection<Postgres>>,
    until: Instant,
    longest: Duration,
    pooled: bool,
}

impl Session {
    /// Begins a transaction of a worker's. Dropping it rolls it back.
    ///
    /// # Errors
    ///
    /// Only if the database is away.
    pub(crate) async fn begin(&mut self) -> StoreResult<Transaction<'_, Postgres>> {
        let begin = match self.pooled {
            true => settings::BEGIN_POOLED,
            false => settings::BEGIN,
        };
        self.begin_with(begin).await
    }

    /// Begins a transaction of retention's.
    ///
    /// # Errors
    ///
    /// Only if the database is away.
    pub(crate) async fn begin_pruning(&mut self) -> StoreResult<Transaction<'_, Postgres>> {
        let begin = match self.pooled {
            true => settings::BEGIN_PRUNING_POOLED,
            false => settings::BEGIN_PRUNING,
        };
        self.begin_with(begin).await
    }

    /// Begins a short transaction that is planned as the database says.
    ///
    /// # Errors
    ///
    /// Only if the database is away.
    pub(crate) async fn begin_plain(&mut self) -> StoreResult<Transaction<'_, Postgres>> {
        let begin = match self.pooled {
            true => settings::BEGIN_PLAIN_POOLED,
            false => settings::BEGIN_PLAIN,
        };
        self.begin_with(begin).await
    }

    /// To read one thing, with a worker's plans; dropping it ends it.
    ///
    /// # Errors
    ///
    /// Only if the database is away.
    pub(crate) async fn read(&mut self) -> StoreResult<Transaction<'_, Postgres>> {
        self.begin().await
    }

    async fn begin_with(&mut self, begin: &'static str) -> StoreResult<Transaction<'_, Postgres>> {
        let begin = settings::begin_for(begin, self.longest);
        Ok(self.conn()?.begin_with(begin).await?)
    }

    fn conn(&mut self) -> StoreResult<&mut PoolConnection<Postgres>> {
        self.conn
            .as_mut()
            .ok_or_else(|| StoreError::from(sqlx::Error::PoolClosed))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else {
            return;
        };
        if Instant::now() >= self.until {
            // Cut off in the middle of something: what it would say next is not ours to know.
            conn.close_on_drop();
            return;
        }
        // The pool asks whether it lives, and would wait for that answer for ever.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(RETURN, conn.return_to_pool()));
        }
    }
}
