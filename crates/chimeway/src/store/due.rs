//! When each kind of work is due next: index probes, answered as a distance from the database's now,
//! so that no worker compares its own clock.

use std::time::Duration;

use sqlx::{PgConnection, postgres::types::PgInterval};

use super::StoreResult;

/// How far away the next row of a kind is: zero where it is due, `None` where there is none.
pub type DueIn = Option<Duration>;

fn duration(interval: Option<PgInterval>) -> DueIn {
    interval.map(|it| {
        let days = i64::from(it.months) * 30 + i64::from(it.days);
        let microseconds = days * 86_400_000_000 + it.microseconds;
        Duration::from_micros(u64::try_from(microseconds).unwrap_or(0))
    })
}

/// The next deliveries.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeliveriesDue {
    /// The next one to claim.
    pub to_claim: DueIn,
    /// The next one of all that are not over: one that is claimed is due since it was claimed.
    pub any: DueIn,
}

/// The next delivery to claim, and the next of all, in one statement.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn deliveries(conn: &mut PgConnection) -> StoreResult<DeliveriesDue> {
    let row = sqlx::query!(
        r#"-- due::deliveries
select
    (
        select next_attempt_at
        from chimeway.deliveries
        where next_attempt_at is not null and status in ('pending', 'failed')
        order by next_attempt_at
        limit 1
    ) - now as to_claim,
    (
        select next_attempt_at from chimeway.deliveries
        where next_attempt_at is not null order by next_attempt_at limit 1
    ) - now as any
from chimeway.clock() as now"#
    )
    .fetch_one(conn)
    .await?;
    Ok(DeliveriesDue {
        to_claim: duration(row.to_claim),
        any: duration(row.any),
    })
}

/// The next signal to route.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn signals(conn: &mut PgConnection) -> StoreResult<DueIn> {
    let next = sqlx::query_scalar!(
        r#"-- due::signals
select (
    select route_at from chimeway.signals where route_at is not null order by route_at limit 1
) - chimeway.clock()"#
    )
    .fetch_one(conn)
    .await?;
    Ok(duration(next))
}

/// The next of each kind of the workflows queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkflowsDue {
    /// The next event whose runs are to be made.
    pub events: DueIn,
    /// The next run to look at.
    pub runs: DueIn,
    /// The next run to be told a result.
    pub owed: DueIn,
    /// The next run whose actions are to be carried out.
    pub actions: DueIn,
}

/// The next of each kind of the workflows queue, in one statement.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn workflows(conn: &mut PgConnection) -> StoreResult<WorkflowsDue> {
    let row = sqlx::query!(
        r#"-- due::workflows
select
    (select expand_at from chimeway.events where expand_at is not null order by expand_at limit 1)
        - now as events,
    (select wake_at from chimeway.workflow_runs where wake_at is not null order by wake_at limit 1)
        - now as runs,
    (
        select progress_owed_at from chimeway.deliveries
        where progress_owed_at is not null order by progress_owed_at limit 1
    ) - now as owed,
    (select act_at from chimeway.workflow_runs where act_at is not null order by act_at limit 1)
        - now as actions
from chimeway.clock() as now"#
    )
    .fetch_one(conn)
    .await?;
    Ok(WorkflowsDue {
        events: duration(row.events),
        runs: duration(row.runs),
        owed: duration(row.owed),
        actions: duration(row.actions),
    })
}
