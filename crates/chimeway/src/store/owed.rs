//! Results that their runs have not been told: another session held the run when they were recorded,
//! or its row did not decode.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreError, StoreResult, deliveries::interval, due::Floor};
use crate::{
    engine::DeliveryStatus,
    ids::{DeliveryId, RunId, Visit},
};

/// These have a result that their run cannot be told now: it is told later, first after 20 ms, then
/// ever less often, at the latest after `longest`.
///
/// # Errors
///
/// [`StoreError::Database`].
pub async fn owe(
    conn: &mut PgConnection,
    deliveries: &[DeliveryId],
    longest: Duration,
) -> StoreResult<()> {
    if deliveries.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- owed::owe
update chimeway.deliveries
set progress_owed_at = chimeway.now()
    + least(greatest((chimeway.now() - updated_at) / 4, interval '20 milliseconds'), $2::interval)
where id = any($1)"#,
        deliveries as _,
        interval(longest),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A result that its run has not been told.
#[derive(Debug, Clone)]
pub struct OwedRow {
    /// Which delivery.
    pub id: DeliveryId,
    /// Of which run.
    pub run: RunId,
    /// Of which visit.
    pub visit: Visit,
    /// The place of its action in the step; 0 for a step that is one message.
    pub action: i32,
    /// Its status.
    pub status: String,
    /// Why.
    pub status_reason: Option<String>,
    /// Since when it is due.
    pub due_at: DateTime<Utc>,
    /// Tries to move its run with which worker processes died.
    pub crashes: i32,
}

/// Results that their runs are to be told now, among some where those are given.
///
/// # Errors
///
/// [`StoreError::Database`].
pub async fn list(
    conn: &mut PgConnection,
    among: Option<&[DeliveryId]>,
    floor: Floor,
    limit: i64,
) -> StoreResult<Vec<OwedRow>> {
    Ok(sqlx::query_as!(
        OwedRow,
        r#"-- owed::list
select id as "id: DeliveryId", workflow_run_id as "run: RunId", visit as "visit: Visit",
    action_index as action, status, status_reason, progress_owed_at as "due_at!",
    coalesce((select r.crashes from chimeway.workflow_runs r where r.id = workflow_run_id), 0) as "crashes!"
from chimeway.deliveries
where progress_owed_at is not null and progress_owed_at >= coalesce($3, timestamptz '-infinity')
    and progress_owed_at <= (select chimeway.now())
    and ($2::uuid[] is null or id = any($2))
order by progress_owed_at
limit $1
for no key update skip locked"#,
        limit,
        among as _,
        floor,
    )
    .fetch_all(conn)
    .await?)
}

/// Their runs have been told.
///
/// # Errors
///
/// [`StoreError::Database`].
pub async fn settle(conn: &mut PgConnection, deliveries: &[DeliveryId]) -> StoreResult<()> {
    if deliveries.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- owed::settle
update chimeway.deliveries set progress_owed_at = null where id = any($1)"#,
        deliveries as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Turns a status that is not one of ours into an error that names its row.
///
/// # Errors
///
/// [`StoreError::Inconsistent`].
pub fn parse_status(id: DeliveryId, status: &str) -> StoreResult<DeliveryStatus> {
    DeliveryStatus::parse(status).ok_or(StoreError::Inconsistent {
        table: "deliveries",
        column: "status",
        row: id.0,
    })
}
