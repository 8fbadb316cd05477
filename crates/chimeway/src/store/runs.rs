//! Runs: the State Spine.
//!
//! Where ids are given, that a run is live is said by a `case`: see [`lock`].

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgConnection, types::Json};

use super::{StoreResult, due::Floor, error::ensure_affected, events::Given};
use crate::ids::{DefinitionId, EventId, NotificationId, RunId, Sequence, StepId, Visit};

/// A run to create.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its row.
    pub row: SavedRun,
    /// Whose it is.
    pub tenant: String,
    /// Whose signals it listens to.
    pub actor: String,
    /// The notification it is for.
    pub notification: Option<NotificationId>,
    /// The record it is for.
    pub record: Option<ForRecord>,
    /// Values for its steps; a JSON object.
    pub context: Value,
    /// The version it follows.
    pub definition: DefinitionId,
    /// The instant of the trigger.
    pub started_at: DateTime<Utc>,
}

/// A record of the host that a run is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForRecord {
    /// The state change that started the run.
    pub event: EventId,
    /// What kind of record.
    pub entity: String,
    /// Which record.
    pub id: String,
}

impl ForRecord {
    /// The record whose state change an event is, if it is one.
    #[must_use]
    pub fn of(given: &Given) -> Option<Self> {
        Some(Self {
            event: given.event,
            entity: given.entity.clone()?,
            id: given.record_id.clone()?,
        })
    }
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
    pub status_reason: String,
    /// Structural facts beside it; `None` keeps what is stored.
    pub status_context: Option<Arc<Value>>,
    /// What its context holds; `None` keeps what is stored.
    pub context: Option<Value>,
    /// When the wait ends by itself.
    pub suspended_until: Option<DateTime<Utc>>,
    /// When a worker is to look at it.
    pub wake_at: Option<DateTime<Utc>>,
    /// When a worker is to carry out the actions of its step.
    pub act_at: Option<DateTime<Utc>>,
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
    let nothing = json!({});
    sqlx::query!(
        r#"-- runs::insert
insert into chimeway.workflow_runs (
    id, notification_id, workflow_definition_id, current_step_id, started_at, last_transition_at,
    wake_at, visit, transition_count, tenant_id, actor_id, state, status_reason, status_context,
    context, event_id, record_entity, record_id, act_at, terminal_reason, ended_at
)
select u.*, case when u.terminal_reason is not null then u.at end
from unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], $6::timestamptz[],
    $7::timestamptz[], $8::int[], $9::int[], $10::text[], $11::text[], $12::text[], $13::text[], $14::jsonb[],
    $15::jsonb[], $16::uuid[], $17::text[], $18::text[], $19::timestamptz[], $20::text[]
) as u (
    id, notification_id, definition_id, step_id, started_at, at, wake_at, visit, transition_count, tenant_id,
    actor_id, state, status_reason, status_context, context, event_id, entity, record_id, act_at, terminal_reason
)"#,
        &runs.iter().map(|run| run.row.id.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.notification.map(|id| id.0)).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.definition.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.row.step.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.started_at).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.row.at).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.row.wake_at).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.row.visit.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.row.sequence.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.tenant.as_str()).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.actor.as_str()).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.row.state).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.row.status_reason.as_str()).collect::<Vec<_>>() as _,
        &runs
            .iter()
            .map(|run| Json(run.row.status_context.as_deref().unwrap_or(&nothing)))
            .collect::<Vec<_>>() as _,
        &runs.iter().map(|run| Json(&run.context)).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| Some(run.record.as_ref()?.event.0)).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| Some(run.record.as_ref()?.entity.as_str())).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| Some(run.record.as_ref()?.id.as_str())).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.row.act_at).collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.row.terminal_reason.as_deref()).collect::<Vec<_>>() as _,
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
    /// Whose signals it listens to.
    pub actor_id: String,
    /// Its state.
    pub state: String,
    /// Why it is where it is.
    pub status_reason: String,
    /// Why it ended.
    pub terminal_reason: Option<String>,
    /// The signals that end the wait.
    pub pending_signals: Vec<String>,
    /// Somebody asked for its end.
    pub cancel_requested: bool,
    /// Its instant to be looked at.
    pub wake_at: Option<DateTime<Utc>>,
    /// The instant at which the actions of its step are to be carried out.
    pub act_at: Option<DateTime<Utc>>,
    /// Tries with which worker processes died.
    pub crashes: i32,
    /// That instant has come.
    pub due: bool,
    /// The database's now, when it was locked.
    pub now: DateTime<Utc>,
}

impl RunRow {
    /// Whether it has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.terminal_reason.is_some()
    }
}

/// Locks those of the runs that are live and that no other session holds, and nothing else: what a
/// decision needs beside them is read by later statements, which see what committed meanwhile.
///
/// That they are live is said so that no index is looked for by it: the one over all live runs would be
/// read whole, to find the few that are asked for.
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
    cancel_requested_at is not null as "cancel_requested!", wake_at, act_at, crashes,
    coalesce(wake_at <= (select chimeway.now()), false) as "due!", (select chimeway.now()) as "now!"
from chimeway.workflow_runs
where id = any($1) and case when ended_at is null then true else false end
order by id
for no key update skip locked"#,
        runs as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Locks these runs, live or not, waiting for sessions that hold them: for a caller's own transaction,
/// never for a worker's batch. Where a tenant is given, only those that are its: another's are neither
/// locked nor waited for.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_waiting(
    conn: &mut PgConnection,
    tenant: Option<&str>,
    runs: &[RunId],
) -> StoreResult<Vec<RunRow>> {
    if runs.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        RunRow,
        r#"-- runs::lock_waiting
select
    id as "id: RunId", notification_id as "notification_id: NotificationId",
    workflow_definition_id as "workflow_definition_id: DefinitionId",
    current_step_id as "current_step_id: StepId", started_at, suspended_until, visit,
    transition_count, tenant_id, actor_id, state, status_reason, terminal_reason, pending_signals,
    cancel_requested_at is not null as "cancel_requested!", wake_at, act_at, crashes,
    coalesce(wake_at <= chimeway.clock(), false) as "due!", chimeway.clock() as "now!"
from chimeway.workflow_runs
where id = any($1) and ($2::text is null or tenant_id = $2)
order by id
for no key update"#,
        runs as _,
        tenant,
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
    floor: Floor,
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
    cancel_requested_at is not null as "cancel_requested!", wake_at, act_at, crashes,
    coalesce(wake_at <= (select chimeway.now()), false) as "due!", (select chimeway.now()) as "now!"
from chimeway.workflow_runs
where wake_at is not null and wake_at >= coalesce($3, timestamptz '-infinity')
    and wake_at <= (select chimeway.now())
    and ($2::uuid[] is null or id = any($2))
order by wake_at
limit $1
for no key update skip locked"#,
        limit,
        among as _,
        floor,
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
    status_context = coalesce(u.status_context, r.status_context),
    context = coalesce(u.context, r.context),
    suspended_until = u.suspended_until,
    wake_at = u.wake_at,
    act_at = u.act_at,
    -- One to a line, which no name has in it: read three times as fast as JSON.
    pending_signals = string_to_array(u.pending_signals, e'\n'),
    terminal_reason = u.terminal_reason,
    ended_at = case when u.terminal_reason is not null then u.at end,
    transition_count = u.transition_count,
    last_transition_at = u.at,
    tries = 0,
    quarantine_reason = null
from unnest(
    $1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::jsonb[], $7::timestamptz[],
    $8::timestamptz[], $9::text[], $10::text[], $11::int[], $12::timestamptz[], $13::timestamptz[],
    $14::jsonb[]
) as u (
    id, step_id, visit, state, status_reason, status_context, suspended_until,
    wake_at, pending_signals, terminal_reason, transition_count, at, act_at, context
)
where r.id = u.id and case when r.ended_at is null then true else false end"#,
        &runs.iter().map(|run| run.id.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.step.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.visit.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.state).collect::<Vec<_>>() as _,
        &runs
            .iter()
            .map(|run| run.status_reason.as_str())
            .collect::<Vec<_>>() as _,
        &runs
            .iter()
            .map(|run| run.status_context.as_deref().map(Json))
            .collect::<Vec<_>>() as _,
        &runs
            .iter()
            .map(|run| run.suspended_until)
            .collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.wake_at).collect::<Vec<_>>() as _,
        &runs
            .iter()
            .map(|run| run.pending_signals.join("\n"))
            .collect::<Vec<_>>(),
        &runs
            .iter()
            .map(|run| run.terminal_reason.as_deref())
            .collect::<Vec<_>>() as _,
        &runs.iter().map(|run| run.sequence.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.at).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.act_at).collect::<Vec<_>>() as _,
        &runs
            .iter()
            .map(|run| run.context.as_ref().map(Json))
            .collect::<Vec<_>>() as _,
    )
    .execute(conn)
    .await?
    .rows_affected();
    ensure_affected("runs::save", runs.len(), written)
}

/// What the steps of a run may look into.
#[derive(Debug, Clone)]
pub struct FactsRow {
    /// Which run.
    pub id: RunId,
    /// What its context holds.
    pub context: Value,
    /// What its trigger was given.
    pub params: Value,
}

/// What the steps of these runs may look into: a later statement than the one that locked them.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn facts(conn: &mut PgConnection, runs: &[RunId]) -> StoreResult<Vec<FactsRow>> {
    if runs.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        FactsRow,
        r#"-- runs::facts
select r.id as "id!: RunId", r.context as "context!", coalesce(e.params, '{}') as "params!"
from chimeway.workflow_runs r
left join chimeway.notifications n on n.id = r.notification_id
left join chimeway.events e on e.id = coalesce(r.event_id, n.event_id)
where r.id = any($1)"#,
        runs as _,
    )
    .fetch_all(conn)
    .await?)
}

/// What a host says of a run by hand, beside its state.
#[derive(Debug, Clone)]
pub struct Note {
    /// Which run.
    pub id: RunId,
    /// The visit the host has seen it in.
    pub visit: Visit,
    /// Why it is where it is; `None` keeps what is stored.
    pub status_reason: Option<String>,
    /// Facts beside it; `None` keeps what is stored.
    pub status_context: Option<Value>,
    /// Values for later steps; `None` keeps what is stored.
    pub context: Option<Value>,
    /// How many lines its history grows by.
    pub lines: i32,
    /// When.
    pub at: DateTime<Utc>,
}

/// Writes what hosts say of locked, live runs.
///
/// # Errors
///
/// [`StoreError::RowsAffected`](super::StoreError::RowsAffected) if a run has ended or moved on.
pub async fn note(conn: &mut PgConnection, notes: &[Note]) -> StoreResult<()> {
    if notes.is_empty() {
        return Ok(());
    }
    let written = sqlx::query!(
        r#"-- runs::note
update chimeway.workflow_runs r
set status_reason = coalesce(u.status_reason, r.status_reason),
    status_context = coalesce(u.status_context, r.status_context),
    context = coalesce(u.context, r.context),
    transition_count = r.transition_count + u.lines,
    last_transition_at = case when u.lines > 0 then u.at else r.last_transition_at end
from unnest($1::uuid[], $2::int[], $3::text[], $4::jsonb[], $5::jsonb[], $6::int[], $7::timestamptz[])
    as u (id, visit, status_reason, status_context, context, lines, at)
where r.id = u.id and r.visit = u.visit and case when r.ended_at is null then true else false end"#,
        &notes.iter().map(|note| note.id.0).collect::<Vec<_>>(),
        &notes.iter().map(|note| note.visit.0).collect::<Vec<_>>(),
        &notes
            .iter()
            .map(|note| note.status_reason.clone())
            .collect::<Vec<_>>() as _,
        &notes
            .iter()
            .map(|note| note.status_context.clone())
            .collect::<Vec<_>>() as _,
        &notes
            .iter()
            .map(|note| note.context.clone())
            .collect::<Vec<_>>() as _,
        &notes.iter().map(|note| note.lines).collect::<Vec<_>>(),
        &notes.iter().map(|note| note.at).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?
    .rows_affected();
    ensure_affected("runs::note", notes.len(), written)
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

/// Counts a failed try to decide these runs; the third one sets a run aside. Returns how
/// many were set aside.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn fail(conn: &mut PgConnection, runs: &[RunId], reason: &str) -> StoreResult<usize> {
    if runs.is_empty() {
        return Ok(0);
    }
    let set_aside = sqlx::query_scalar!(
        r#"-- runs::fail
update chimeway.workflow_runs
set tries = tries + 1,
    wake_at = case when tries < 2 then chimeway.now() + interval '1 second' * (tries + 1) end, act_at = null,
    quarantine_reason = case when tries < 2 then null else $2 end
where id = any($1) and case when ended_at is null then true else false end
returning tries = 3 as "aside!""#,
        runs as _,
        reason,
    )
    .fetch_all(conn)
    .await?;
    Ok(set_aside.into_iter().filter(|aside| *aside).count())
}
