//! Which of the hosts is the primary: found when a worker starts, looked for again while a queue does not reach
//! the database, and held by every connection that is made.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use chimeway::{
    queue::Health,
    store::{
        StoreError,
        server::{self, History},
    },
};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Database, DatabaseError, hosts};

/// How long each host may take to answer: all are asked at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much longer the others may take when one has said that it is the primary.
const OTHERS: Duration = Duration::from_millis(500);
/// How often the primary is looked for while a queue does not reach the database.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a server is not worked on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it is a replica")]
    Replica,
    #[error("it is read-only")]
    ReadOnly,
    #[error("it was the primary once: another server has been promoted since")]
    Older,
    #[error(transparent)]
    Failed(#[from] StoreError),
}

impl Unfit {
    /// As a pool's hook tells it.
    pub(crate) fn into_sqlx(self) -> sqlx::Error {
        match self {
            Self::Failed(StoreError::Database(error)) => error,
            other => sqlx::Error::Io(std::io::Error::other(other.to_string())),
        }
    }
}

/// The newest history that this process has worked on.
#[derive(Debug, Default)]
pub(crate) struct Newest(Mutex<Option<History>>);

impl Newest {
    /// Whether a server may be written to, and which history it writes where it tells.
    ///
    /// # Errors
    ///
    /// [`Unfit`].
    pub(crate) async fn examine(&self, conn: &mut PgConnection) -> Result<Option<History>, Unfit> {
        let standing = server::standing(conn).await?;
        if standing.in_recovery {
            return Err(Unfit::Replica);
        }
        if standing.read_only {
            return Err(Unfit::ReadOnly);
        }
        let history = match server::history(conn).await {
            Ok(history) => history,
            // Some do not let everybody see it.
            Err(error) if error.sqlstate().as_deref() == Some("42501") => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *newest {
            Some(newest)
                if newest.system == history.system && newest.timeline > history.timeline =>
            {
                Err(Unfit::Older)
            }
            _ => Ok(Some(history)),
        }
    }

    /// From here on nothing older is worked on.
    pub(crate) fn work_on(&self, history: Option<History>) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_older = |history: &History| {
            newest.is_some_and(|newest| {
                newest.system == history.system && newest.timeline > history.timeline
            })
        };
        if let Some(history) = history.filter(|history| !is_older(history)) {
            *newest = Some(history);
        }
    }
}

/// A host that may be written to.
struct Found {
    host: usize,
    conn: PgConnection,
    history: Option<History>,
}

impl Database {
    /// A connection to the primary; later ones go to the same host.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::Unreachable`] where none of the hosts may be written to now, [`DatabaseError::Rejected`] where
    /// the only one refuses us.
    pub async fn primary(&self) -> Result<PgConnection, DatabaseError> {
        let found = self.find().await?;
        self.shared.newest.work_on(found.history);
        self.go_to(found.host);
        Ok(found.conn)
    }

    /// Asks all hosts at once. Of several that may be written to, the one that was promoted last; else the one
    /// that was worked on before.
    async fn find(&self) -> Result<Found, DatabaseError> {
        let mut asked = JoinSet::new();
        for (host, options) in self.hosts.iter().enumerate() {
            let (newest, options) = (Arc::clone(&self.shared), options.clone());
            let pooled = self.pooled;
            asked.spawn(async move { (host, ask(&options, pooled, &newest.newest).await) });
        }
        let current = self.shared.current.load(Ordering::Acquire);
        let rank = |found: &Found| {
            let timeline = found.history.map_or(0, |history| history.timeline);
            (timeline, found.host == current, usize::MAX - found.host)
        };
        let mut best: Option<Found> = None;
        let mut refusals = vec![];
        let mut until = None;
        loop {
            let next = match until {
                None => Ok(asked.join_next().await),
                Some(until) => tokio::time::timeout_at(until, asked.join_next()).await,
            };
            match next {
                Ok(Some(Ok((host, Ok((conn, history)))))) => {
                    until.get_or_insert_with(|| Instant::now() + OTHERS);
                    let found = Found {
                        host,
                        conn,
                        history,
                    };
                    if best.as_ref().is_none_or(|best| rank(&found) > rank(best)) {
                        best = Some(found);
                    }
                }
                Ok(Some(Ok((host, Err(refusal))))) => refusals.push((host, refusal)),
                Ok(Some(Err(_))) => {}
                Ok(None) | Err(_) => break,
            }
        }
        best.ok_or_else(|| self.none_found(refusals))
    }

    fn none_found(&self, mut refusals: Vec<(usize, Refusal)>) -> DatabaseError {
        refusals.sort_by_key(|(host, _)| *host);
        if self.hosts.len() > 1 {
            let reasons = refusals.iter().map(|(host, refusal)| {
                format!("{}: {}", hosts::place(&self.hosts[*host]), refusal.reason())
            });
            let reasons = reasons.collect::<Vec<_>>().join(", ");
            return DatabaseError::Unreachable {
                place: self.place(),
                reason: format!("none is a primary ({reasons})"),
            };
        }
        match refusals.pop() {
            Some((_, Refusal::Connect(error))) => self.no_connection(error),
            Some((_, Refusal::Unfit(Unfit::Failed(error)))) => DatabaseError::Store(error),
            Some((_, refusal)) => DatabaseError::Unreachable {
                place: self.place(),
                reason: refusal.reason(),
            },
            None => DatabaseError::Unreachable {
                place: self.place(),
                reason: "it was not asked".into(),
            },
        }
    }

    /// Where there are several hosts: looks for the primary whenever a queue does not reach the database, and
    /// has the pools go there. Until told to stop.
    pub async fn follow(self, health: Arc<Health>, stop: CancellationToken) {
        if self.hosts.len() < 2 {
            return;
        }
        let mut told = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = stop.cancelled() => return,
            }
            if health.is_ready() {
                told = false;
                continue;
            }
            match self.find().await {
                Ok(found) => {
                    self.shared.newest.work_on(found.history);
                    self.go_to(found.host);
                    let _ = timeout(OTHERS, found.conn.close()).await;
                }
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(%error, "looking for the primary: {error}");
                }
                Err(_) => {}
            }
        }
    }

    /// Has every pool connect there from now on, and give up what it has elsewhere.
    fn go_to(&self, host: usize) {
        if self.shared.current.swap(host, Ordering::AcqRel) == host {
            return;
        }
        *self
            .shared
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let pools = self
            .shared
            .pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for pool in pools.iter() {
            pool.set_connect_options(self.hosts[host].clone());
        }
        let place = hosts::place(&self.hosts[host]);
        tracing::info!(%place, "PostgreSQL at {place} is the primary");
    }
}

/// Why a host was left out.
enum Refusal {
    Connect(sqlx::Error),
    Unfit(Unfit),
    Silent,
}

impl Refusal {
    fn reason(&self) -> String {
        match self {
            Self::Connect(sqlx::Error::Io(error))
                if error.kind() == std::io::ErrorKind::ConnectionRefused =>
            {
                "connection refused".to_owned()
            }
            Self::Connect(sqlx::Error::Database(error)) => error.message().to_owned(),
            Self::Connect(error) => error.to_string(),
            Self::Unfit(unfit) => unfit.to_string(),
            Self::Silent => format!("no answer within {} seconds", PATIENCE.as_secs()),
        }
    }
}

async fn ask(
    options: &PgConnectOptions,
    pooled: bool,
    newest: &Newest,
) -> Result<(PgConnection, Option<History>), Refusal> {
    let asking = async {
        let mut conn = options.connect().await.map_err(Refusal::Connect)?;
        let history = examine(&mut conn, pooled, newest)
            .await
            .map_err(Refusal::Unfit)?;
        Ok((conn, history))
    };
    timeout(PATIENCE, asking)
        .await
        .unwrap_or(Err(Refusal::Silent))
}

/// As [`Newest::examine`], through a pooler too.
pub(crate) async fn examine(
    conn: &mut PgConnection,
    pooled: bool,
    newest: &Newest,
) -> Result<Option<History>, Unfit> {
    if !pooled {
        return newest.examine(conn).await;
    }
    let begun = conn.begin_with(chimeway::store::settings::BEGIN_PLAIN_POOLED);
    let mut tx = begun.await.map_err(StoreError::from)?;
    let history = newest.examine(&mut tx).await?;
    tx.rollback().await.map_err(StoreError::from)?;
    Ok(history)
}
