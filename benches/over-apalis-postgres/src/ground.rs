//! The server that is measured: a private one with the settings of `chimeway bench`, and what it counts.

use apalis_postgres::PostgresStorage;
use chimeway::{Chimeway, channels::Log, store::schema};
use chimeway_cluster::{Cluster, ClusterError, Durability};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::{Fallible, rows};

const DATABASE: &str = "over_apalis_postgres";
/// As `chimeway bench` has them.
const SETTINGS: [(&str, &str); 3] = [
    ("shared_buffers", "512MB"),
    ("max_wal_size", "4GB"),
    ("shared_preload_libraries", "pg_stat_statements"),
];

/// Starts a server that keeps what it commits.
pub(crate) fn start() -> Result<(Cluster, String), ClusterError> {
    let builder = Cluster::builder()
        .durability(Durability::Full)
        .database(DATABASE);
    let builder = SETTINGS.iter().fold(builder, |builder, (name, value)| {
        builder.setting(*name, *value)
    });
    let cluster = builder.start()?;
    let url = cluster.url(DATABASE);
    Ok((cluster, url))
}

/// Both schemas, and the definition that runs name.
pub(crate) async fn prepare(url: &str) -> Fallible<()> {
    let mut conn = PgConnection::connect(url).await?;
    sqlx::raw_sql("create extension pg_stat_statements")
        .execute(&mut conn)
        .await?;
    schema::migrate(&mut conn).await?;
    conn.close().await?;
    let pool = PgPool::connect(url).await?;
    PostgresStorage::setup(&pool).await?;
    // What carries the mail does not matter to the definition.
    let chimeway = Chimeway::builder().channel("email", Log::new())?.build();
    chimeway.apply(&pool, &rows::document()).await?;
    pool.close().await;
    Ok(())
}

/// What the server has counted, of this database: so far, or since and for each journey.
pub(crate) struct Counters {
    pub(crate) statements: f64,
    pub(crate) commits: f64,
    pub(crate) row_writes: f64,
    pub(crate) wal_bytes: f64,
}

impl Counters {
    pub(crate) async fn read(conn: &mut PgConnection) -> Fallible<Self> {
        // Sessions tell what they have counted when they end, and at times before.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        // Neither what looks whether all have ended, nor what begins and ends a transaction.
        let (statements, commits, row_writes, wal_bytes) = sqlx::query_as(
            "select (select coalesce(sum(calls), 0)::float8 from pg_stat_statements
                 where dbid = d.datid and query not like '%bench::%'
                     and query !~* '^(begin|commit|rollback|listen|set)'),
                 d.xact_commit::float8,
                 (select sum(n_tup_ins + n_tup_upd + n_tup_del)::float8 from pg_stat_user_tables),
                 pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8
             from pg_stat_database d where d.datname = current_database()",
        )
        .fetch_one(conn)
        .await?;
        Ok(Self {
            statements,
            commits,
            row_writes,
            wal_bytes,
        })
    }

    pub(crate) fn since(&self, before: &Self, journeys: usize) -> Self {
        let less = |of: fn(&Self) -> f64| (of(self) - of(before)) / journeys.max(1) as f64;
        Self {
            statements: less(|it| it.statements),
            commits: less(|it| it.commits),
            row_writes: less(|it| it.row_writes),
            wal_bytes: less(|it| it.wal_bytes),
        }
    }
}
