//! The connections of a process that runs workers, as the program `chimeway` has them; a host that embeds
//! [`Workers`](chimeway::flow::workers::Workers) may have them too, or pools of its own.
//!
//! ```no_run
//! # use chimeway::{Chimeway, flow::workers::Workers};
//! # use chimeway_database::{Database, DatabaseError};
//! # async fn run() -> Result<(), DatabaseError> {
//! let database = Database::new("postgres://app@db1:5432,db2:5432/app")?;
//! let workers = Workers::new(Chimeway::builder().build(), database.pool(10));
//! let ended = tokio_util::sync::CancellationToken::new();
//! tokio::spawn(database.follow(workers.health(), ended.clone()));
//! workers.run(std::future::pending()).await;
//! # Ok(())
//! # }
//! ```
//!
//! What they promise:
//!
//! - **Only a primary is worked on.** Whoever is in recovery or read-only is refused, and so is a primary of an
//!   older timeline than one that this process has worked on: it was the primary once.
//! - **Several hosts.** The URL may name replicas too. When the primary is lost, the pools go where the next one is,
//!   within seconds of its promotion.
//! - **Nothing waits for ever**: connecting, taking a connection out of a pool, and bringing it back.
//! - **A pooler in transaction mode** may be between ([`Database::pooled`]).

mod error;
mod hosts;
mod primary;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chimeway::store::{StoreError, error::Fault};
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{Instant, timeout};

pub use error::DatabaseError;
use primary::Newest;

/// How long a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request from outside waits for a connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection may be idle before it is asked, ahead of its next use, whether it lives: a network may
/// have forgotten it. A worker's are hardly ever.
const IDLE: Duration = Duration::from_secs(5);
/// How long it may take to answer that.
const ANSWER: Duration = Duration::from_secs(2);

/// A database that has not been connected to yet; cheap to clone, and clones work on the same host.
#[derive(Clone)]
pub struct Database {
    hosts: Arc<[PgConnectOptions]>,
    /// It is reached through a pooler in transaction mode.
    pooled: bool,
    shared: Arc<Shared>,
}

/// What the connections of a process have in common.
#[derive(Default)]
struct Shared {
    /// Which of the hosts is worked on.
    current: AtomicUsize,
    /// When another host was left for it.
    left: Mutex<Option<Instant>>,
    newest: Newest,
    /// Those that are to go where the primary is.
    pools: Mutex<Vec<PgPool>>,
}

impl Shared {
    /// Whether a connection of that age was made to the host before this one.
    fn has_left(&self, age: Duration) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.is_some_and(|left| left.elapsed() <= age)
    }
}

impl Database {
    /// Reads the URL: `postgres://user:password@host:5432/database`, with several hosts as
    /// `host1:5432,host2:5432`, or as several URLs, with commas between them.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::BadUrl`].
    pub fn new(url: &str) -> Result<Self, DatabaseError> {
        Ok(Self {
            hosts: hosts::read(url)?.into(),
            pooled: false,
            shared: Arc::default(),
        })
    }

    /// Says whether it is reached through a pooler in transaction mode, such as PgBouncer; false. Connections
    /// then keep no prepared statement, so everything is to be done in explicit transactions that begin with
    /// `deallocate all`: see [`ChimewayBuilder::pooled`](chimeway::flow::ChimewayBuilder::pooled).
    #[must_use]
    pub fn pooled(mut self, pooled: bool) -> Self {
        self.pooled = pooled;
        if pooled {
            self.hosts = hosts::without_prepared_statements(&self.hosts);
        }
        self
    }

    /// Whether it is reached through a pooler in transaction mode.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// Whether all of its hosts are this machine: sockets and loopback addresses.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.hosts.iter().all(hosts::is_local)
    }

    /// Whether a server is refused that cannot show a certificate of its own.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.hosts.iter().all(hosts::verifies)
    }

    /// The same, for connections that leave nothing in the session of a server that is not theirs alone.
    #[must_use]
    pub fn without_prepared_statements(mut self) -> Self {
        self.hosts = hosts::without_prepared_statements(&self.hosts);
        self
    }

    /// Connects, within 10 s: to the primary where there are several hosts, to whatever it is where there is one.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::Unreachable`], [`DatabaseError::Rejected`].
    pub async fn connect(&self) -> Result<PgConnection, DatabaseError> {
        let [only] = &*self.hosts else {
            return self.primary().await;
        };
        match timeout(CONNECT_TIMEOUT, only.connect()).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(self.no_connection(error)),
            Err(_) => Err(self.silent()),
        }
    }

    /// That it did not answer in time.
    #[must_use]
    pub fn silent(&self) -> DatabaseError {
        DatabaseError::Unreachable {
            place: self.place(),
            reason: format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs()),
        }
    }

    /// A pool for workers, that connects when it is used, and to a primary only. Whoever waits for a connection
    /// gives up after 10 s.
    #[must_use]
    pub fn pool(&self, size: u32) -> PgPool {
        // A worker comes back from a lost connection by itself: no need to ask before each use.
        self.start(self.pool_options(size, CONNECT_TIMEOUT, IDLE))
    }

    /// A pool for requests from outside: it gives up after 3 s, and looks whether a connection is still alive, for
    /// nobody comes back to a request that failed by one that is not.
    #[must_use]
    pub fn request_pool(&self, size: u32) -> PgPool {
        let options = self.pool_options(size, REQUEST_TIMEOUT, Duration::ZERO);
        // A pool waits for ever until a connection that comes back says that it lives.
        let options = options.after_release(|conn, _| Box::pin(async { Ok(lives(conn).await) }));
        self.start(options)
    }

    fn pool_options(&self, size: u32, patience: Duration, idle: Duration) -> PgPoolOptions {
        let (admits, keeps) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let pooled = self.pooled;
        PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(patience)
            .test_before_acquire(false)
            .after_connect(move |conn, _| {
                let shared = Arc::clone(&admits);
                Box::pin(async move {
                    let history = primary::examine(conn, pooled, &shared.newest).await;
                    let history = history.map_err(primary::Unfit::into_sqlx)?;
                    shared.newest.work_on(history);
                    Ok(())
                })
            })
            .before_acquire(move |conn, of| {
                let left = keeps.has_left(of.age);
                Box::pin(async move { Ok(!left && (of.idle_for < idle || lives(conn).await)) })
            })
    }

    fn start(&self, options: PgPoolOptions) -> PgPool {
        // Held, so that nobody goes elsewhere meanwhile.
        let pools = self.shared.pools.lock();
        let mut pools = pools.unwrap_or_else(PoisonError::into_inner);
        let current = self.shared.current.load(Ordering::Acquire);
        let pool = options.connect_lazy_with(self.hosts[current].clone());
        if self.hosts.len() > 1 {
            pools.push(pool.clone());
        }
        pool
    }

    /// Where it is, for messages: all of its hosts.
    #[must_use]
    pub fn place(&self) -> String {
        let places = self.hosts.iter().map(hosts::place);
        places.collect::<Vec<_>>().join(", ")
    }

    fn no_connection(&self, error: sqlx::Error) -> DatabaseError {
        let place = self.place();
        match error {
            sqlx::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                DatabaseError::Unreachable {
                    place,
                    reason: "connection refused".into(),
                }
            }
            sqlx::Error::Database(error) => {
                let reason = error.message().to_owned();
                match StoreError::from(sqlx::Error::Database(error)).fault() {
                    Fault::Away => DatabaseError::Unreachable { place, reason },
                    Fault::Conflict | Fault::Data => DatabaseError::Rejected { place, reason },
                }
            }
            error => DatabaseError::Unreachable {
                place,
                reason: error.to_string(),
            },
        }
    }
}

/// Whether a connection answers.
async fn lives(conn: &mut PgConnection) -> bool {
    timeout(ANSWER, conn.ping())
        .await
        .is_ok_and(|it| it.is_ok())
}
