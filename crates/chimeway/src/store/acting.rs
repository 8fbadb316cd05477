//! Runs whose step carries out actions, each in a transaction of its own.

use std::time::Duration;

use serde_json::Value;
use sqlx::PgConnection;

use super::{StoreResult, deliveries::interval, error::ensure_affected, json::Kept};
use crate::ids::RunId;

/// Runs whose actions are due, earliest first: neither locked nor looked at.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn due(conn: &mut PgConnection, limit: i64) -> StoreResult<Vec<RunId>> {
    Ok(sqlx::query_scalar!(
        r#"-- acting::due
select id as "id: RunId"
from chimeway.workflow_runs
where act_at is not null and act_at <= (select chimeway.now())
order by act_at
limit $1"#,
        limit,
    )
    .fetch_all(conn)
    .await?)
}

/// What the actions of a run are given.
#[derive(Debug, Clone)]
pub struct Given {
    /// Which run.
    pub run: RunId,
    /// The run's values.
    pub context: Kept,
    /// What its trigger gave; `None` where the event is gone.
    pub params: Option<Kept>,
    /// How many workflows stand before it in a chain.
    pub depth: i32,
    /// How often another session was in the way of its actions.
    pub tries: i32,
}

/// What the actions of these runs are given.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn given(conn: &mut PgConnection, runs: &[RunId]) -> StoreResult<Vec<Given>> {
    if runs.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        Given,
        r#"-- acting::given
select r.id as "run: RunId", r.context as "context: Kept", e.params as "params?: Kept",
    coalesce(e.depth, 0) as "depth!", r.tries
from chimeway.workflow_runs r
left join chimeway.notifications n on n.id = r.notification_id
left join chimeway.events e on e.id = coalesce(r.event_id, n.event_id)
where r.id = any($1)
order by r.id"#,
        runs as _,
    )
    .fetch_all(conn)
    .await?)
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
select set_config('lock_timeout', $1, true), set_config('chimeway.depth', $2, true),
    set_config('enable_seqscan', 'on', true), set_config('plan_cache_mode', 'auto', true)"#,
        format!("{milliseconds}ms"),
        depth.to_string(),
    )
    .execute(conn)
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
select set_config('lock_timeout', '0', true), set_config('chimeway.depth', '', true),
    set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)"#,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Another session was in the way: these runs' actions are tried again after a while.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn defer(conn: &mut PgConnection, runs: &[RunId], delay: Duration) -> StoreResult<()> {
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
set act_at = chimeway.now() + $2::interval, tries = r.tries + 1
from free
where r.id = free.id"#,
        runs as _,
        interval(delay),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes the values of locked runs, whole.
///
/// # Errors
///
/// [`StoreError::RowsAffected`](super::StoreError::RowsAffected) if a run is not there.
pub async fn set_contexts(conn: &mut PgConnection, contexts: &[(RunId, Value)]) -> StoreResult<()> {
    if contexts.is_empty() {
        return Ok(());
    }
    let written = sqlx::query!(
        r#"-- acting::set_contexts
update chimeway.workflow_runs r
set context = u.context
from unnest($1::uuid[], $2::jsonb[]) as u (id, context)
where r.id = u.id and case when r.ended_at is null then true else false end"#,
        &contexts.iter().map(|(run, _)| run.0).collect::<Vec<_>>(),
        &contexts.iter().map(|(_, context)| context.clone()).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?
    .rows_affected();
    ensure_affected("acting::set_contexts", contexts.len(), written)
}
