//! Runs as hosts and people read them: one, a list, one explained.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::StoreResult;
use crate::ids::{DefinitionId, EventId, NotificationId, RunId, StepId};

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct WorkflowRun {
    /// Which run.
    pub id: RunId,
    /// Whose it is.
    pub tenant_id: String,
    /// Whose signals it listens to: its recipient, or its record as `entity/id`.
    pub actor_id: String,
    /// The notification it is for; `None` where it is for a record alone.
    pub notification_id: Option<NotificationId>,
    /// What kind of record of the host it is for, if it is for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_entity: Option<String>,
    /// Which record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_id: Option<String>,
    /// The version it follows.
    pub workflow_definition_id: DefinitionId,
    /// The step it is in, or ended in.
    pub current_step_id: StepId,
    /// How many steps it has entered.
    pub visit: i32,
    /// active, waiting, completed, stopped or failed.
    pub state: String,
    /// Why it is where it is.
    pub status_reason: String,
    /// Structural facts beside it.
    pub status_context: Value,
    /// When its wait ends by itself.
    pub suspended_until: Option<DateTime<Utc>>,
    /// When a worker is to look at it.
    pub wake_at: Option<DateTime<Utc>>,
    /// When a worker is to carry out the actions of its step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_at: Option<DateTime<Utc>>,
    /// The signals that end its wait.
    pub pending_signals: Vec<String>,
    /// Why it ended.
    pub terminal_reason: Option<String>,
    /// Values that steps and hosts have added.
    pub context: Value,
    /// The instant of the trigger.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// When its history last grew.
    pub last_transition_at: DateTime<Utc>,
}

/// Those of these runs that are one tenant's, by id.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn find(
    conn: &mut PgConnection,
    tenant: &str,
    runs: &[RunId],
) -> StoreResult<Vec<WorkflowRun>> {
    Ok(sqlx::query_as!(
        WorkflowRun,
        r#"-- run_views::find
select
    id as "id: RunId", tenant_id, actor_id, notification_id as "notification_id: NotificationId",
    record_entity, record_id, workflow_definition_id as "workflow_definition_id: DefinitionId",
    current_step_id as "current_step_id: StepId", visit, state, status_reason, status_context,
    suspended_until, wake_at, act_at, pending_signals, terminal_reason, context, started_at, ended_at,
    last_transition_at
from chimeway.workflow_runs
where id = any($2) and tenant_id = $1
order by id"#,
        tenant,
        runs as _,
    )
    .fetch_all(conn)
    .await?)
}

/// The runs of these notifications, as far as they are one tenant's; the oldest first.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn of_notifications(
    conn: &mut PgConnection,
    tenant: &str,
    notifications: &[NotificationId],
) -> StoreResult<Vec<RunId>> {
    Ok(sqlx::query_scalar!(
        r#"-- run_views::of_notifications
select id as "id: RunId"
from chimeway.workflow_runs
where notification_id = any($2) and tenant_id = $1
order by id"#,
        tenant,
        notifications as _,
    )
    .fetch_all(conn)
    .await?)
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
    /// Its recipient, or the record it is for, as `entity/id`.
    pub recipient: String,
    /// What kind of record of the host it is for, if it is for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_entity: Option<String>,
    /// Which record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_id: Option<String>,
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
    /// Older than which run.
    pub before: Option<RunId>,
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
        r#"-- run_views::list
select
    r.id as "id: RunId", r.tenant_id, d.workflow_key as "workflow", d.workflow_version as "version",
    r.actor_id as "recipient", r.record_entity, r.record_id,
    coalesce(r.event_id, n.event_id) as "event_id?: EventId", r.state, r.status_reason,
    s.step_key as "current_step_name?", r.suspended_until, r.terminal_reason, r.started_at, r.ended_at
from chimeway.workflow_runs r
join chimeway.workflow_definitions d on d.id = r.workflow_definition_id
left join chimeway.workflow_steps s on s.id = r.current_step_id
left join chimeway.notifications n on n.id = r.notification_id
where ($1::text is null or r.tenant_id = $1)
    and ($2::text is null or r.state = $2)
    and ($3::text is null or d.workflow_key = $3)
    and ($4::text is null or r.actor_id = $4)
    and ($5::uuid is null or r.id in (
        select of_record.id from chimeway.workflow_runs of_record where of_record.event_id = $5
        union all
        select of_recipient.id
        from chimeway.notifications e
        join chimeway.workflow_runs of_recipient on of_recipient.notification_id = e.id
        where e.event_id = $5
    ))
    and ($6::uuid is null or r.id < $6)
order by r.id desc
limit $7"#,
        filter.tenant,
        filter.state,
        filter.workflow,
        filter.recipient,
        filter.event.map(|id| id.0),
        filter.before.map(|id| id.0),
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
        r#"-- run_views::explain
select chimeway.explain($1, $2)"#,
        tenant,
        run.0,
    )
    .fetch_one(conn)
    .await?)
}
