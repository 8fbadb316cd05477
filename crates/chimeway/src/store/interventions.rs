//! What people do by hand: cancel runs, retry what failed or was set aside. Each is stamped with who,
//! when and why.

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreResult;
use crate::ids::{DeliveryId, EventId, RunId, SignalId};

/// Asks for the end of these runs, as far as they are one tenant's, live, and nobody has asked before;
/// returns those. A session that holds one of them is waited for.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn request_cancel(
    conn: &mut PgConnection,
    tenant: &str,
    runs: &[RunId],
    by: Option<&str>,
    reason: Option<&str>,
) -> StoreResult<Vec<RunId>> {
    if runs.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_scalar!(
        r#"-- interventions::request_cancel
select id as "id!: RunId"
from chimeway.request_cancel($1, $2, coalesce($3, session_user::text), $4) as id"#,
        tenant,
        runs as _,
        by,
        reason,
    )
    .fetch_all(conn)
    .await?)
}

/// Up to `limit` live runs of one tenant's workflow, over all its versions, whose end nobody has asked
/// for yet; by id.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn live_of_workflow(
    conn: &mut PgConnection,
    tenant: &str,
    workflow: &str,
    limit: i64,
) -> StoreResult<Vec<RunId>> {
    Ok(sqlx::query_scalar!(
        r#"-- interventions::live_of_workflow
select id as "id: RunId"
from chimeway.workflow_runs
where tenant_id = $1 and ended_at is null and cancel_requested_at is null
    and workflow_definition_id in (
        select id from chimeway.workflow_definitions where workflow_key = $2
    )
order by id
limit $3"#,
        tenant,
        workflow,
        limit,
    )
    .fetch_all(conn)
    .await?)
}

/// The messages of these runs that a worker is sending at this moment: nobody can call them back.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn in_flight(conn: &mut PgConnection, runs: &[RunId]) -> StoreResult<Vec<DeliveryId>> {
    Ok(sqlx::query_scalar!(
        r#"-- interventions::in_flight
select id as "id: DeliveryId"
from chimeway.deliveries
where workflow_run_id = any($1) and status = 'dispatched'
order by id"#,
        runs as _,
    )
    .fetch_all(conn)
    .await?)
}

/// What a retry is about, as it was before.
#[derive(Debug, Clone)]
pub struct Subject {
    /// delivery, run, event or signal.
    pub subject: String,
    /// Whether it waits for another try, or was set aside: a retry makes it due.
    pub retryable: bool,
    /// Its status, or a run's state; else why it was set aside.
    pub status: Option<String>,
    /// Why, for a delivery; why it ended, for a run.
    pub status_reason: Option<String>,
}

/// What one tenant has under that id, if anything: a delivery, run, event or signal.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn subject(
    conn: &mut PgConnection,
    tenant: &str,
    id: Uuid,
) -> StoreResult<Option<Subject>> {
    Ok(sqlx::query_as!(
        Subject,
        r#"-- interventions::subject
select 'delivery' as "subject!", status in ('pending', 'failed') as "retryable!", status, status_reason
from chimeway.deliveries where id = $2 and tenant_id = $1
union all
select 'run', quarantine_reason is not null and ended_at is null, state, terminal_reason
from chimeway.workflow_runs where id = $2 and tenant_id = $1
union all
select 'event', quarantine_reason is not null, quarantine_reason, null
from chimeway.events where id = $2 and tenant_id = $1
union all
select 'signal', quarantine_reason is not null, quarantine_reason, null
from chimeway.signals where id = $2 and tenant_id = $1
limit 1"#,
        tenant,
        id,
    )
    .fetch_optional(conn)
    .await?)
}

/// Makes messages that wait for a try due now; returns those that did. Tries that they have had still
/// count: a message's budget is its own.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn hurry(
    conn: &mut PgConnection,
    tenant: &str,
    deliveries: &[DeliveryId],
) -> StoreResult<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"-- interventions::hurry
update chimeway.deliveries
set next_attempt_at = chimeway.now()
where id = any($2) and tenant_id = $1 and status in ('pending', 'failed')
returning id"#,
        tenant,
        deliveries as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Makes runs that were set aside due again, and owes them the results that came meanwhile; returns
/// those that were.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn free_runs(
    conn: &mut PgConnection,
    tenant: &str,
    runs: &[RunId],
) -> StoreResult<Vec<Uuid>> {
    let freed = sqlx::query_scalar!(
        r#"-- interventions::free_runs
update chimeway.workflow_runs
set quarantine_reason = null, tries = 0, crashes = least(crashes, 1), wake_at = chimeway.now()
where id = any($2) and tenant_id = $1 and quarantine_reason is not null and ended_at is null
returning id"#,
        tenant,
        runs as _,
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!(
        r#"-- interventions::free_runs (results)
update chimeway.deliveries
set progress_owed_at = chimeway.now()
where workflow_run_id = any($1) and progress_owed_at is not null"#,
        &freed,
    )
    .execute(conn)
    .await?;
    Ok(freed)
}

/// Makes events that were set aside due again; returns those that were.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn free_events(
    conn: &mut PgConnection,
    tenant: &str,
    events: &[EventId],
) -> StoreResult<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"-- interventions::free_events
update chimeway.events
set quarantine_reason = null, tries = 0, crashes = least(crashes, 1), expand_at = chimeway.now()
where id = any($2) and tenant_id = $1 and quarantine_reason is not null
returning id"#,
        tenant,
        events as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Makes signals that were set aside due again; returns those that were.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn free_signals(
    conn: &mut PgConnection,
    tenant: &str,
    signals: &[SignalId],
) -> StoreResult<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"-- interventions::free_signals
update chimeway.signals
set quarantine_reason = null, tries = 0, crashes = least(crashes, 1), route_at = chimeway.now()
where id = any($2) and tenant_id = $1 and quarantine_reason is not null
returning id"#,
        tenant,
        signals as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Notes that somebody retried these: who (`None`: the database role of this session), when and why.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn stamp_retry(
    conn: &mut PgConnection,
    tenant: &str,
    subject: &str,
    ids: &[Uuid],
    by: Option<&str>,
    reason: Option<&str>,
) -> StoreResult<()> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- interventions::stamp_retry
insert into chimeway.interventions (id, tenant_id, kind, subject, subject_id, made_by, reason, made_at)
select chimeway.uuid_v7(), $1, 'retry', $2, id, coalesce($4, session_user::text), $5, chimeway.now()
from unnest($3::uuid[]) as id"#,
        tenant,
        subject,
        ids,
        by,
        reason,
    )
    .execute(conn)
    .await?;
    Ok(())
}
