//! What operators want to know of a database: what is due and how late it is, what was set aside, what
//! keeps PostgreSQL from cleaning up. Read by every scrape: counts stop at [`COUNTED`], so that a
//! million due rows cost no more than ten thousand.
//!
//! All of it works for a role that may do no more than a worker must; of other roles' sessions
//! PostgreSQL then shows the snapshot (`backend_xmin`), not since when their transaction is open.

use serde::Serialize;
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
    /// How many transactions old the oldest snapshot or transaction is that holds back the cleaning: of a session, a
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
            -- A session that has written and is idle has no snapshot, but its transaction holds vacuum back as well.
            select held.xmin
            from pg_catalog.pg_stat_activity
            cross join lateral unnest(array[backend_xmin, backend_xid]) as held (xmin)
            where pid <> pg_backend_pid() and held.xmin is not null
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

/// How one channel does: of the newest tries of all channels, those that went over it.
#[derive(Debug, Clone, Serialize)]
pub struct ChannelTries {
    /// Its name.
    pub channel: String,
    /// Deliveries that workers hold at the moment, among the 10,001 that have been due longest.
    pub in_flight: i64,
    /// Tries over this channel: the sum of the next five.
    pub tries: i64,
    /// It took the message.
    pub succeeded: i64,
    /// It could not, and another try follows while there are some left.
    pub temporary: i64,
    /// It never will.
    pub permanent: i64,
    /// There is no such address.
    pub bounced: i64,
    /// The worker vanished: the message may have been sent.
    pub unknown: i64,
    /// The median of what it took to answer, in seconds.
    pub median_seconds: Option<f64>,
}

/// The channels that have something in flight or were used by one of the newest tries: those of the deliveries that
/// were planned last, up to so many.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn channels(conn: &mut PgConnection, newest: i64) -> StoreResult<Vec<ChannelTries>> {
    Ok(sqlx::query_as!(
        ChannelTries,
        r#"-- health::channels
with newest as materialized (
    -- Deliveries have time-ordered ids.
    select delivery_id, outcome, error_class, finished_at - started_at as took
    from chimeway.delivery_attempts
    order by delivery_id desc, attempt_number desc
    limit $1
), tried as (
    select d.channel,
        count(*) as tries,
        count(*) filter (where n.outcome = 'succeeded') as succeeded,
        count(*) filter (where n.error_class = 'temporary') as temporary,
        count(*) filter (where n.error_class = 'permanent') as permanent,
        count(*) filter (where n.error_class = 'bounced') as bounced,
        count(*) filter (where n.outcome = 'unknown') as unknown,
        percentile_cont(0.5) within group (order by extract(epoch from n.took)::float8)
            filter (where n.outcome <> 'unknown') as median_seconds
    from newest n
    cross join lateral (select channel from chimeway.deliveries d where d.id = n.delivery_id offset 0) d
    group by d.channel
), held as (
    select channel, count(*) as in_flight
    from (
        select channel, status, lease_until from chimeway.deliveries
        where next_attempt_at is not null and next_attempt_at <= (select chimeway.clock())
        order by next_attempt_at limit 10001
    ) due
    where status = 'dispatched' and lease_until > (select chimeway.clock())
    group by channel
)
select channel as "channel!", coalesce(in_flight, 0) as "in_flight!", coalesce(tries, 0) as "tries!",
    coalesce(succeeded, 0) as "succeeded!", coalesce(temporary, 0) as "temporary!",
    coalesce(permanent, 0) as "permanent!", coalesce(bounced, 0) as "bounced!", coalesce(unknown, 0) as "unknown!",
    median_seconds
from tried full join held using (channel)
order by channel"#,
        newest,
    )
    .fetch_all(conn)
    .await?)
}
