//! Runs whose step carries out actions, each in a transaction of its own.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreResult, due::Floor};
use crate::ids::RunId;

/// A run whose actions are due.
#[derive(Debug, Clone, Copy)]
pub struct DueActions {
    /// Which run.
    pub run: RunId,
    /// Since when they are due.
    pub due_at: DateTime<Utc>,
    /// Tries with which worker processes died.
    pub crashes: i32,
}

/// Runs whose actions are due, earliest first, without those that another session holds: they would only
/// stand before the others. Each is locked again by the transaction that carries its actions out.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn due(
    conn: &mut PgConnection,
    floor: Floor,
    limit: i64,
) -> StoreResult<Vec<DueActions>> {
    Ok(sqlx::query_as!(
        DueActions,
        r#"-- acting::due
select id as "run: RunId", act_at as "due_at!", crashes
from chimeway.workflow_runs
where act_at is not null and act_at >= coalesce($2, timestamptz '-infinity')
    and act_at <= (select chimeway.now())
order by act_at
limit $1
for no key update skip locked"#,
        limit,
        floor,
    )
    .fetch_all(conn)
    .await?)
}

/// Where a run stands whose actions are to be carried out.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Which run.
    pub run: RunId,
    /// How many workflows stand before it in a chain in which each started the next.
    pub depth: i32,
    /// How often another session was in the way of its actions.
    pub tries: i32,
    /// After what time sessions of this server look for a deadlock.
    pub deadlock_timeout: Duration,
}

/// Where these runs stand.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn standing(conn: &mut PgConnection, runs: &[RunId]) -> StoreResult<Vec<Standing>> {
    if runs.is_empty() {
        return Ok(vec![]);
    }
    let rows = sqlx::query!(
        r#"-- acting::standing
select r.id as "run!: RunId", coalesce(e.depth, 0) as "depth!", r.tries as "tries!",
    (extract(epoch from current_setting('deadlock_timeout')::interval) * 1000)::bigint as "deadlock_timeout!"
from chimeway.workflow_runs r
left join chimeway.notifications n on n.id = r.notification_id
left join chimeway.events e on e.id = coalesce(r.event_id, n.event_id)
where r.id = any($1)
order by r.id"#,
        runs as _,
    )
    .fetch_all(conn)
    .await?;
    let standing = rows.into_iter().map(|row| Standing {
        run: row.run,
        depth: row.depth,
        tries: row.tries,
        deadlock_timeout: Duration::from_millis(u64::try_from(row.deadlock_timeout).unwrap_or(0)),
    });
    Ok(standing.collect())
}

/// What this transaction may wait for, and how deep in a chain of workflows it writes: for as long as a
/// host's tables are written in it. Their triggers are planned as the host's own statements are.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn enter_host(
    conn: &mut PgConnection,
    longest_wait: Duration,
    depth: i32,
) -> StoreResult<()> {
    let milliseconds = longest_wait.as_millis().max(1);
    sqlx::query!(
        r#"-- acting::enter_host
select set_config('lock_timeout', $1, true) as wait, set_config('chimeway.depth', $2, true) as depth,
    set_config('enable_seqscan', 'on', true) as scans, set_config('plan_cache_mode', 'auto', true) as plans"#,
        format!("{milliseconds}ms"),
        depth.to_string(),
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// As it was before [`enter_host`].
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn leave_host(conn: &mut PgConnection) -> StoreResult<()> {
    sqlx::query!(
        r#"-- acting::leave_host
select set_config('lock_timeout', '0', true) as wait, set_config('chimeway.depth', '', true) as depth,
    set_config('enable_seqscan', 'off', true) as scans,
    set_config('plan_cache_mode', 'force_generic_plan', true) as plans"#,
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// Another session was in the way: these runs' actions are tried again, first after a quarter of a second,
/// then ever less often, every five minutes at least. `jitter` spreads the tries, in `0.5..1.0`.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn defer(conn: &mut PgConnection, runs: &[RunId], jitter: f64) -> StoreResult<()> {
    if runs.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- acting::defer
with free as materialized (
    select id from chimeway.workflow_runs
    where id = any($1) and act_at is not null
    order by id
    for no key update skip locked
)
update chimeway.workflow_runs r
set act_at = chimeway.now()
        + least(interval '250 milliseconds' * power(2, least(r.tries, 20)), interval '5 minutes') * $2::float8,
    tries = r.tries + 1
from free
where r.id = free.id"#,
        runs as _,
        jitter,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Something other than another session was in the way: the third time a run is set aside. Returns how
/// many were.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn fail(conn: &mut PgConnection, runs: &[RunId], reason: &str) -> StoreResult<usize> {
    if runs.is_empty() {
        return Ok(0);
    }
    let set_aside = sqlx::query_scalar!(
        r#"-- acting::fail
update chimeway.workflow_runs
set tries = tries + 1,
    act_at = case when tries < 2 then chimeway.now() + interval '1 second' * (tries + 1) end,
    quarantine_reason = case when tries < 2 then null else $2 end
where id = any($1) and act_at is not null
returning quarantine_reason is not null as "aside!""#,
        runs as _,
        reason,
    )
    .fetch_all(conn)
    .await?;
    Ok(set_aside.into_iter().filter(|aside| *aside).count())
}
