//! The history of runs: append-only.

use std::{borrow::Cow, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::StoreResult;
use crate::ids::{ApprovalId, DeliveryId, RunId, Sequence, SignalId, StepId, Visit};

/// One line of history, as it is written.
#[derive(Debug, Clone)]
pub struct NewTransition {
    /// Of which run.
    pub run: RunId,
    /// In which step.
    pub step: StepId,
    /// The delivery that moved the run.
    pub delivery: Option<DeliveryId>,
    /// The signal that moved the run.
    pub signal: Option<SignalId>,
    /// The approval that it opens, or that moved the run.
    pub approval: Option<ApprovalId>,
    /// Its place in the run's history.
    pub sequence: Sequence,
    /// The visit after it.
    pub visit: Visit,
    /// The state before.
    pub from: Option<&'static str>,
    /// The state after.
    pub to: &'static str,
    /// What happened.
    pub reason: Cow<'static, str>,
    /// Structural facts.
    pub context: Arc<Value>,
    /// When it happened.
    pub at: DateTime<Utc>,
}

/// Appends lines.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database); a repeated (run, sequence) or
/// (run, signal) means that the run was not locked.
pub async fn append(conn: &mut PgConnection, lines: &[NewTransition]) -> StoreResult<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&NewTransition) -> Uuid| lines.iter().map(of).collect::<Vec<_>>();
    sqlx::query!(
        r#"-- transitions::append
insert into chimeway.workflow_transitions (
    workflow_run_id, workflow_step_id, delivery_id, signal_id, sequence, visit,
    from_state, to_state, reason, context, inserted_at, approval_id
)
select * from unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::int[], $6::int[],
    $7::text[], $8::text[], $9::text[], $10::jsonb[], $11::timestamptz[], $12::uuid[]
)"#,
        &column(|line| line.run.0),
        &column(|line| line.step.0),
        &lines
            .iter()
            .map(|line| line.delivery.map(|id| id.0))
            .collect::<Vec<_>>() as _,
        &lines
            .iter()
            .map(|line| line.signal.map(|id| id.0))
            .collect::<Vec<_>>() as _,
        &lines.iter().map(|line| line.sequence.0).collect::<Vec<_>>(),
        &lines.iter().map(|line| line.visit.0).collect::<Vec<_>>(),
        &lines.iter().map(|line| line.from).collect::<Vec<_>>() as _,
        &lines.iter().map(|line| line.to).collect::<Vec<_>>() as _,
        &lines
            .iter()
            .map(|line| line.reason.as_ref())
            .collect::<Vec<_>>() as _,
        &lines
            .iter()
            .map(|line| Json(line.context.as_ref()))
            .collect::<Vec<_>>() as _,
        &lines.iter().map(|line| line.at).collect::<Vec<_>>(),
        &lines
            .iter()
            .map(|line| line.approval.map(|id| id.0))
            .collect::<Vec<_>>() as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// One line of history, as it is read.
#[derive(Debug, Clone, serde::Serialize)]
pub struct StoredTransition {
    /// Of which run.
    pub workflow_run_id: RunId,
    /// Its place in the run's history.
    pub sequence: i32,
    /// The step's name.
    pub step_key: Option<String>,
    /// The step.
    pub workflow_step_id: StepId,
    /// The visit after it.
    pub visit: i32,
    /// The state before.
    pub from_state: Option<String>,
    /// The state after.
    pub to_state: String,
    /// What happened.
    pub reason: String,
    /// Structural facts.
    pub context: Value,
    /// The delivery that moved the run.
    pub delivery_id: Option<DeliveryId>,
    /// The signal that moved the run.
    pub signal_id: Option<SignalId>,
    /// The approval that it opens, or that moved the run.
    pub approval_id: Option<ApprovalId>,
    /// When it happened.
    pub inserted_at: DateTime<Utc>,
}

/// The history of one tenant's run, oldest first; the newest `limit` lines where that is given.
/// Empty where that tenant has no such run.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn of_run(
    conn: &mut PgConnection,
    tenant: &str,
    run: RunId,
    limit: Option<i64>,
) -> StoreResult<Vec<StoredTransition>> {
    Ok(sqlx::query_as!(
        StoredTransition,
        r#"-- transitions::of_run
select * from (
    select
        t.workflow_run_id as "workflow_run_id: RunId", t.sequence, s.step_key as "step_key?",
        t.workflow_step_id as "workflow_step_id: StepId", t.visit, t.from_state, t.to_state, t.reason,
        t.context, t.delivery_id as "delivery_id: DeliveryId", t.signal_id as "signal_id: SignalId",
        t.approval_id as "approval_id: ApprovalId", t.inserted_at
    from chimeway.workflow_transitions t
    join chimeway.workflow_runs r on r.id = t.workflow_run_id
    left join chimeway.workflow_steps s on s.id = t.workflow_step_id
    where t.workflow_run_id = $1 and r.tenant_id = $2
    order by t.sequence desc
    limit $3
) newest
order by sequence"#,
        run.0,
        tenant,
        limit,
    )
    .fetch_all(conn)
    .await?)
}
