//! What a server says of itself: whether it may be written to.

use sqlx::PgConnection;

use super::StoreResult;

/// Where a server stands among its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// It replays what another server writes.
    pub in_recovery: bool,
    /// It was told to write nothing.
    pub read_only: bool,
}

/// Asks a server whether it may be written to.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn standing(conn: &mut PgConnection) -> StoreResult<Standing> {
    Ok(sqlx::query_as!(
        Standing,
        r#"-- server::standing
select pg_is_in_recovery() as "in_recovery!",
       current_setting('default_transaction_read_only')::boolean as "read_only!""#
    )
    .fetch_one(conn)
    .await?)
}

/// Which history a server writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The cluster: the same for a primary and its replicas.
    pub system: i64,
    /// One more after each promotion. Of two servers that both take themselves for the primary, the one with the
    /// lower number was it once.
    pub timeline: i32,
}

/// Asks a primary which history it writes.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database), on a server in recovery too.
pub async fn history(conn: &mut PgConnection) -> StoreResult<History> {
    Ok(sqlx::query_as!(
        History,
        r#"-- server::history
select system_identifier as "system!",
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer as "timeline!"
from pg_control_system()"#
    )
    .fetch_one(conn)
    .await?)
}

/// Which process of the server works for this connection. Through a pooler in transaction mode it is another one
/// for each transaction.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn backend(conn: &mut PgConnection) -> StoreResult<i32> {
    Ok(sqlx::query_scalar!(
        r#"-- server::backend
select pg_backend_pid() as "pid!""#
    )
    .fetch_one(conn)
    .await?)
}
