//! Runs: the State Spine.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::{StoreResult, error::ensure_affected};
use crate::ids::{DefinitionId, EventId, NotificationId, RunId, Sequence, StepId, Visit};

/// A run to create.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its row.
    pub row: SavedRun,
    /// Whose it is.
    pub tenant: String,
    /// Its recipient.
    pub actor: String,
    /// The notification it is for.
    pub notification: NotificationId,
    /// The version it follows.
    pub definition: DefinitionId,
    /// The instant of the trigger.
    pub started_at: DateTime<Utc>,
}

/// What changes when a run moves.
#[derive(Debug, Clone)]
pub struct SavedRun {
    /// Which run.
    pub id: RunId,
    /// The step it is in.
    pub step: StepId,
    /// How many steps it has entered.
    pub visit: Visit,
    /// Its state.
    pub state: &'static str,
    /// Why it is where it is.
    pub status_reason: &'static str,
    /// Structural facts beside it.
    pub status_context: Value,
    /// When the wait ends by itself.
    pub suspended_until: Option<DateTime<Utc>>,
    /// When a worker is to look at it.
    pub wake_at: Option<DateTime<Utc>>,
    /// The signals that end the wait.
    pub pending_signals: Vec<String>,
    /// Why it ended.
    pub terminal_reason: Option<String>,
    /// The length of its history.
    pub sequence: Sequence,
    /// When its history grew.
    pub at: DateTime<Utc>,
}

/// Creates runs.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn insert(conn: &mut PgConnection, runs: &[NewRun]) -> StoreResult<()> {
    if runs.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- runs::insert
insert into chimeway.workflow_runs (
    id, notification_id, workflow_definition_id, current_step_id, started_at, last_transition_at,
    wake_at, visit, transition_count, tenant_id, actor_id, state, status_reason, status_context
)
select * from unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], $6::timestamptz[],
    $7::timestamptz[], $8::int[], $9::int[], $10::text[], $11::text[], $12::text[], $13::text[], $14::jsonb[]
)"#,
        &runs.iter().map(|run| run.row.id.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.notification.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.definition.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.row.step.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.started_at).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.row.at).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.row.wake_at).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.row.visit.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.row.sequence.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.tenant.clone()).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.actor.clone()).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.row.state).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.row.status_reason).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.row.status_context.clone()).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A run's row, as it is locked: not decoded yet, so that one bad row does not take its batch.
#[derive(Debug, Clone)]
pub struct RunRow {
    /// Which run.
    pub id: RunId,
    /// Its notification.
    pub notification_id: Option<NotificationId>,
    /// The version it follows.
    pub workflow_definition_id: DefinitionId,
    /// The step it is in.
    pub current_step_id: StepId,
    /// The instant of the trigger.
    pub started_at: DateTime<Utc>,
    /// When the wait ends.
    pub suspended_until: Option<DateTime<Utc>>,
    /// How many steps it has entered.
    pub visit: i32,
    /// The length of its history.
    pub transition_count: i32,
    /// Whose it is.
    pub tenant_id: String,
    /// Its recipient.
    pub actor_id: String,
    /// Its state.
    pub state: String,
    /// Why it is where it is.
    pub status_reason: String,
    /// Why it ended.
    pub terminal_reason: Option<String>,
    /// The signals that end the wait.
    pub pending_signals: Vec<String>,
    /// The database's now, when it was locked.
    pub now: DateTime<Utc>,
}

/// Locks those of the runs that are live and that no other session holds, and nothing else: what a
/// decision needs beside them is read by later statements, which see what committed meanwhile.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock(conn: &mut PgConnection, runs: &[RunId]) -> StoreResult<Vec<RunRow>> {
    if runs.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        RunRow,
        r#"-- runs::lock
select
    id as "id: RunId", notification_id as "notification_id: NotificationId",
    workflow_definition_id as "workflow_definition_id: DefinitionId",
    current_step_id as "current_step_id: StepId", started_at, suspended_until, visit,
    transition_count, tenant_id, actor_id, state, status_reason, terminal_reason, pending_signals,
    (select chimeway.now()) as "now!"
from chimeway.workflow_runs
where id = any($1) and ended_at is null
order by id
for no key update skip locked"#,
        runs as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Locks up to `limit` runs that are due, earliest first, among some where those are given; those another session holds are passed
/// over and stay due.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_due(
    conn: &mut PgConnection,
    among: Option<&[RunId]>,
    limit: i64,
) -> StoreResult<Vec<RunRow>> {
    Ok(sqlx::query_as!(
        RunRow,
        r#"-- runs::lock_due
select
    id as "id: RunId", notification_id as "notification_id: NotificationId",
    workflow_definition_id as "workflow_definition_id: DefinitionId",
    current_step_id as "current_step_id: StepId", started_at, suspended_until, visit,
    transition_count, tenant_id, actor_id, state, status_reason, terminal_reason, pending_signals,
    (select chimeway.now()) as "now!"
from chimeway.workflow_runs
where wake_at is not null and wake_at <= (select chimeway.now())
    and ($2::uuid[] is null or id = any($2))
order by wake_at
limit $1
for no key update skip locked"#,
        limit,
        among as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Writes where locked runs are now.
///
/// # Errors
///
/// [`StoreError::RowsAffected`](super::StoreError::RowsAffected) if a run is not there.
pub async fn save(conn: &mut PgConnection, runs: &[SavedRun]) -> StoreResult<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let written = sqlx::query!(
        r#"-- runs::save
update chimeway.workflow_runs r
set current_step_id = u.step_id,
    visit = u.visit,
    state = u.state,
    status_reason = u.status_reason,
    status_context = u.status_context,
    suspended_until = u.suspended_until,
    wake_at = u.wake_at,
    pending_signals = array(select jsonb_array_elements_text(u.pending_signals)),
    terminal_reason = u.terminal_reason,
    ended_at = case when u.terminal_reason is not null then u.at end,
    transition_count = u.transition_count,
    last_transition_at = u.at,
    tries = 0
from unnest(
    $1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::jsonb[], $7::timestamptz[],
    $8::timestamptz[], $9::jsonb[], $10::text[], $11::int[], $12::timestamptz[]
) as u (
    id, step_id, visit, state, status_reason, status_context, suspended_until,
    wake_at, pending_signals, terminal_reason, transition_count, at
)
where r.id = u.id and r.ended_at is null"#,
        &runs.iter().map(|run| run.id.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.step.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.visit.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.state).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.status_reason).collect::<Vec<_>>() as _,
        &runs
            .iter()
            .map(|run| run.status_context.clone())
            .collect::<Vec<_>>(),
        &runs
            .iter()
            .map(|run| run.suspended_until)
            .collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.wake_at).collect::<Vec<_>>() as _,
        &runs
            .iter()
            .map(|run| Value::from(run.pending_signals.clone()))
            .collect::<Vec<_>>(),
        &runs
            .iter()
            .map(|run| run.terminal_reason.clone())
            .collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.sequence.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.at).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?
    .rows_affected();
    ensure_affected("runs::save", runs.len(), written)
}

/// Which of these runs have ended.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn ended(conn: &mut PgConnection, runs: &[RunId]) -> StoreResult<Vec<RunId>> {
    if runs.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_scalar!(
        r#"-- runs::ended
select id as "id: RunId" from chimeway.workflow_runs where id = any($1) and ended_at is not null"#,
        runs as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Counts a failed try to decide these runs; the third one sets a run aside.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn fail(conn: &mut PgConnection, runs: &[RunId], reason: &str) -> StoreResult<()> {
    if runs.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- runs::fail
update chimeway.workflow_runs
set tries = tries + 1,
    wake_at = case when tries < 2 then chimeway.now() + interval '1 second' * (tries + 1) end,
    quarantine_reason = case when tries < 2 then null else $2 end
where id = any($1) and ended_at is null"#,
        runs as _,
        reason,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A run in a list.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RunSummary {
    /// Which run.
    pub id: RunId,
    /// Whose it is.
    pub tenant_id: String,
    /// Its workflow.
    pub workflow: String,
    /// The version it follows.
    pub version: i32,
    /// Its recipient.
    pub recipient: String,
    /// The event that started it.
    pub event_id: Option<EventId>,
    /// Its state.
    pub state: String,
    /// Why it is where it is.
    pub status_reason: String,
    /// The step it is in.
    pub current_step_name: Option<String>,
    /// When its wait ends.
    pub suspended_until: Option<DateTime<Utc>>,
    /// Why it ended.
    pub terminal_reason: Option<String>,
    /// The instant of the trigger.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Which runs to list; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Whose.
    pub tenant: Option<String>,
    /// In which state.
    pub state: Option<String>,
    /// Of which workflow.
    pub workflow: Option<String>,
    /// For which recipient.
    pub recipient: Option<String>,
    /// Of which event.
    pub event: Option<EventId>,
}

/// Runs, newest first.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn list(
    conn: &mut PgConnection,
    filter: &RunFilter,
    limit: i64,
) -> StoreResult<Vec<RunSummary>> {
    Ok(sqlx::query_as!(
        RunSummary,
        r#"-- runs::list
select
    r.id as "id: RunId", r.tenant_id, d.workflow_key as "workflow", d.workflow_version as "version",
    r.actor_id as "recipient", n.event_id as "event_id?: EventId", r.state, r.status_reason,
    s.step_key as "current_step_name?", r.suspended_until, r.terminal_reason, r.started_at, r.ended_at
from chimeway.workflow_runs r
join chimeway.workflow_definitions d on d.id = r.workflow_definition_id
left join chimeway.workflow_steps s on s.id = r.current_step_id
left join chimeway.notifications n on n.id = r.notification_id
where ($1::text is null or r.tenant_id = $1)
    and ($2::text is null or r.state = $2)
    and ($3::text is null or d.workflow_key = $3)
    and ($4::text is null or r.actor_id = $4)
    and ($5::uuid is null or r.notification_id in (
        select e.id from chimeway.notifications e where e.event_id = $5
    ))
order by r.id desc
limit $6"#,
        filter.tenant,
        filter.state,
        filter.workflow,
        filter.recipient,
        filter.event.map(|id| id.0),
        limit,
    )
    .fetch_all(conn)
    .await?)
}

/// Where one tenant's run is and why, as facts; `None` where that tenant has no such run.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn explain(
    conn: &mut PgConnection,
    tenant: &str,
    run: RunId,
) -> StoreResult<Option<Value>> {
    Ok(sqlx::query_scalar!(
        r#"-- runs::explain
select chimeway.explain($1, $2)"#,
        tenant,
        run.0,
    )
    .fetch_one(conn)
    .await?)
}
