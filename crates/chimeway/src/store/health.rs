//! What operators want to know of a database: what is due and how late it is, what was set aside, what
//! keeps PostgreSQL from cleaning up. Read by every scrape: counts stop at [`COUNTED`], so that a
//! million due rows cost no more than ten thousand.
//!
//! All of it works for a role that may do no more than a worker must; of other roles' sessions
//! PostgreSQL then shows the snapshot (`backend_xmin`), not since when their transaction is open.

use sqlx::PgConnection;

use super::StoreResult;

/// Counts stop here: this many, or more.
pub const COUNTED: i64 = 10_001;

/// One kind of due work.
#[derive(Debug, Clone)]
pub struct DueRow {
    /// Deliveries, signals, events, runs, owed results, or actions.
    pub kind: String,
    /// How many rows are due, up to [`COUNTED`].
    pub due: i64,
    /// How many seconds the oldest of them has been due.
    pub oldest_seconds: Option<f64>,
    /// In how many seconds the next row will be due that is not yet.
    pub next_seconds: Option<f64>,
}

/// What is due now, of every kind. What a worker holds is not due.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn due(conn: &mut PgConnection) -> StoreResult<Vec<DueRow>> {
    Ok(sqlx::query_as!(
        DueRow,
        r#"-- health::due
with clock as materialized (select chimeway.clock() as now)
select kind as "kind!", due as "due!",
    extract(epoch from now - oldest)::float8 as oldest_seconds,
    extract(epoch from next - now)::float8 as next_seconds
from (
    select 1 as place, 'deliveries' as kind, now,
        (select count(*) from (
            select from chimeway.deliveries
            where next_attempt_at is not null and next_attempt_at <= now
                and status in ('pending', 'failed')
            order by next_attempt_at limit 10001
        ) due) as due,
        (
            select next_attempt_at from chimeway.deliveries
            where next_attempt_at is not null and next_attempt_at <= now
                and status in ('pending', 'failed')
            order by next_attempt_at limit 1
        ) as oldest,
        (
            select next_attempt_at from chimeway.deliveries
            where next_attempt_at is not null and next_attempt_at > now
                and status in ('pending', 'failed')
            order by next_attempt_at limit 1
        ) as next
    from clock
    union all
    select 2, 'signals', now,
        (select count(*) from (
            select from chimeway.signals
            where route_at is not null and route_at <= now
            order by route_at limit 10001
        ) due),
        (
            select route_at from chimeway.signals
            where route_at is not null and route_at <= now order by route_at limit 1
        ),
        (
            select route_at from chimeway.signals
            where route_at is not null and route_at > now order by route_at limit 1
        )
    from clock
    union all
    select 3, 'events', now,
        (select count(*) from (
            select from chimeway.events
            where expand_at is not null and expand_at <= now
            order by expand_at limit 10001
        ) due),
        (
            select expand_at from chimeway.events
            where expand_at is not null and expand_at <= now order by expand_at limit 1
        ),
        (
            select expand_at from chimeway.events
            where expand_at is not null and expand_at > now order by expand_at limit 1
        )
    from clock
    union all
    select 4, 'runs', now,
        (select count(*) from (
            select from chimeway.workflow_runs
            where wake_at is not null and wake_at <= now
            order by wake_at limit 10001
        ) due),
        (
            select wake_at from chimeway.workflow_runs
            where wake_at is not null and wake_at <= now order by wake_at limit 1
        ),
        (
            select wake_at from chimeway.workflow_runs
            where wake_at is not null and wake_at > now order by wake_at limit 1
        )
    from clock
    union all
    select 5, 'owed', now,
        (select count(*) from (
            select from chimeway.deliveries
            where progress_owed_at is not null and progress_owed_at <= now
            order by progress_owed_at limit 10001
        ) due),
        (
            select progress_owed_at from chimeway.deliveries
            where progress_owed_at is not null and progress_owed_at <= now
            order by progress_owed_at limit 1
        ),
        (
            select progress_owed_at from chimeway.deliveries
            where progress_owed_at is not null and progress_owed_at > now
            order by progress_owed_at limit 1
        )
    from clock
    union all
    select 6, 'actions', now,
        (select count(*) from (
            select from chimeway.workflow_runs
            where act_at is not null and act_at <= now
            order by act_at limit 10001
        ) due),
        (
            select act_at from chimeway.workflow_runs
            where act_at is not null and act_at <= now order by act_at limit 1
        ),
        (
            select act_at from chimeway.workflow_runs
            where act_at is not null and act_at > now order by act_at limit 1
        )
    from clock
) kinds
order by place"#
    )
    .fetch_all(conn)
    .await?)
}

/// What nothing moves until somebody or something mends it; counts up to [`COUNTED`].
#[derive(Debug, Clone, Copy, Default)]
pub struct LeftRow {
    /// Events that were set aside.
    pub events: i64,
    /// Live runs that were set aside.
    pub runs: i64,
    /// Signals that were set aside.
    pub signals: i64,
    /// Claims whose lease has ended and that nobody has closed yet, among the deliveries that have been
    /// due longest.
    pub expired_leases: i64,
}

/// What was set aside, and the leases that have ended.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn left(conn: &mut PgConnection) -> StoreResult<LeftRow> {
    Ok(sqlx::query_as!(
        LeftRow,
        r#"-- health::left
select
    (select count(*) from (
        select from chimeway.events where quarantine_reason is not null limit 10001
    ) aside) as "events!",
    (select count(*) from (
        select from chimeway.workflow_runs
        where quarantine_reason is not null and ended_at is null
        limit 10001
    ) aside) as "runs!",
    (select count(*) from (
        select from chimeway.signals where quarantine_reason is not null limit 10001
    ) aside) as "signals!",
    (select count(*) from (
        select status, lease_until from chimeway.deliveries
        where next_attempt_at is not null and next_attempt_at <= now
        order by next_attempt_at limit 10001
    ) held where status = 'dispatched' and lease_until <= now) as "expired_leases!"
from chimeway.clock() as now"#
    )
    .fetch_one(conn)
    .await?)
}

/// What keeps PostgreSQL from cleaning up, and how full the queue of NOTIFY is.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerRow {
    /// How many transactions old the oldest snapshot is that holds back the cleaning: of a session, a
    /// prepared transaction or a replication slot.
    pub xmin_age: i64,
    /// How many seconds the oldest open transaction of this database has been open, as far as it is
    /// shown to this role.
    pub oldest_transaction_seconds: f64,
    /// How full the queue of NOTIFY is, of all databases of the server, from 0 to 1. A full one refuses
    /// commits.
    pub notification_queue: f64,
}

/// What the server says of itself.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn server(conn: &mut PgConnection) -> StoreResult<ServerRow> {
    Ok(sqlx::query_as!(
        ServerRow,
        r#"-- health::server
select
    coalesce((
        select max(age(xmin)) from (
            select backend_xmin as xmin
            from pg_catalog.pg_stat_activity
            where pid <> pg_backend_pid() and backend_xmin is not null
                -- A walsender has no database, and holds back all of them.
                and (datname = current_database() or datname is null)
                and backend_type is distinct from 'autovacuum worker'
            union all
            select xmin from pg_catalog.pg_replication_slots where xmin is not null
            union all
            select transaction from pg_catalog.pg_prepared_xacts where database = current_database()
        ) holders
    ), 0)::bigint as "xmin_age!",
    coalesce((
        select extract(epoch from clock_timestamp() - min(since)) from (
            select xact_start as since
            from pg_catalog.pg_stat_activity
            where pid <> pg_backend_pid() and datname = current_database()
                and backend_type is distinct from 'autovacuum worker'
            union all
            select prepared from pg_catalog.pg_prepared_xacts where database = current_database()
        ) open
    ), 0)::float8 as "oldest_transaction_seconds!",
    pg_notification_queue_usage() as "notification_queue!""#
    )
    .fetch_one(conn)
    .await?)
}

/// A table that grows with what hosts do.
#[derive(Debug, Clone)]
pub struct TableRow {
    /// Its name, without the schema.
    pub name: String,
    /// How many rows it has, about.
    pub live: i64,
    /// How many row versions in it wait for vacuum, about.
    pub dead: i64,
}

/// What PostgreSQL counts of our tables, the one with the most dead rows first.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn tables(conn: &mut PgConnection) -> StoreResult<Vec<TableRow>> {
    Ok(sqlx::query_as!(
        TableRow,
        r#"-- health::tables
select relname as "name!", n_live_tup as "live!", n_dead_tup as "dead!"
from pg_catalog.pg_stat_user_tables
where schemaname = 'chimeway' and relname in (
    'events', 'notifications', 'recipients', 'preferences', 'workflow_runs', 'workflow_transitions',
    'signals', 'deliveries', 'delivery_attempts'
)
order by n_dead_tup desc, relname"#
    )
    .fetch_all(conn)
    .await?)
}
