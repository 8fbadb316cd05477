//! How much is old enough to go: for people who ask before they prune.

use std::time::Duration;

use sqlx::PgConnection;

use super::{StoreResult, deliveries::interval};

/// How old each kind has to be; kinds without an age count nothing.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// Of runs, since their end.
    pub runs: Option<Duration>,
    /// Of items that have outlived their run, since they were made.
    pub inbox: Option<Duration>,
    /// Of events that no run is left of, since their trigger.
    pub events: Option<Duration>,
    /// Of signals, since they were made.
    pub signals: Option<Duration>,
    /// Of notes of what people did by hand.
    pub interventions: Option<Duration>,
    /// Of ticks of the cron.
    pub ticks: Option<Duration>,
}

/// How many rows of each kind are old enough, whatever else may keep them.
#[derive(Debug, Clone, Copy)]
pub struct OldRows {
    /// Runs.
    pub runs: i64,
    /// Items of inboxes that have outlived their run.
    pub inbox: i64,
    /// Events that no run is left of.
    pub events: i64,
    /// Signals that are routed, and that no live run of their actor began before.
    pub signals: i64,
    /// Notes of what people did by hand.
    pub interventions: i64,
    /// Ticks.
    pub ticks: i64,
}

/// Counts what is old enough of each kind. Reads all of it: for people who ask.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn count(conn: &mut PgConnection, ages: &Ages) -> StoreResult<OldRows> {
    Ok(sqlx::query_as!(
        OldRows,
        r#"-- prunable::count
select
    (select count(*) from chimeway.workflow_runs where ended_at is not null and ended_at <= now - $1::interval)
        as "runs!",
    (
        select count(*) from chimeway.notifications
        where kept_run_id is not null and inserted_at <= now - $2::interval
    ) as "inbox!",
    (select count(*) from chimeway.events where childless_at is not null and inserted_at <= now - $3::interval)
        as "events!",
    (
        select count(*) from chimeway.signals s
        where s.occurred_at <= now - $4::interval and s.routed_at is not null and not exists (
            select from chimeway.workflow_runs r
            where r.tenant_id = s.tenant_id and r.actor_id = s.actor_id and r.ended_at is null
                and r.started_at <= s.occurred_at
        )
    ) as "signals!",
    (select count(*) from chimeway.interventions where made_at <= now - $5::interval) as "interventions!",
    (select count(*) from chimeway.cron_ticks where tick <= now - $6::interval) as "ticks!"
from chimeway.now() as now"#,
        ages.runs.map(interval) as _,
        ages.inbox.map(interval) as _,
        ages.events.map(interval) as _,
        ages.signals.map(interval) as _,
        ages.interventions.map(interval) as _,
        ages.ticks.map(interval) as _,
    )
    .fetch_one(conn)
    .await?)
}
