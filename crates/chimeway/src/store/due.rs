//! When each kind of work is due next: index probes, answered as a distance from the database's now,
//! so that no worker compares its own clock.
//!
//! Each takes the instant before which it does not look: see [`Floor`].

use std::time::Duration;

use chrono::{DateTime, Utc};
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

/// From what instant on due rows are looked for; `None`: from the beginning.
///
/// What was due before has nearly always been done. Its index entries stay for as long as some session keeps a
/// snapshot from before that, and whoever begins at the beginning passes over all of them, each time.
pub type Floor = Option<DateTime<Utc>>;

/// The next deliveries.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeliveriesDue {
    /// The next one to claim.
    pub to_claim: DueIn,
    /// The next one of all that are not over: one that is claimed is due since it was claimed.
    pub any: DueIn,
    /// The earlier of now and the instant of the next one to claim.
    pub from: Floor,
    /// The earlier of now and the instant of the next one of all.
    pub any_from: Floor,
}

/// The next delivery to claim, and the next of all, in one statement.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn deliveries(conn: &mut PgConnection, floor: Floor) -> StoreResult<DeliveriesDue> {
    let row = sqlx::query!(
        r#"-- due::deliveries
select next.to_claim - now as to_claim, next.any - now as any,
    least(next.to_claim, now) as "from", least(next.any, now) as any_from
from chimeway.clock() as now
cross join lateral (
    select
        (
            select next_attempt_at
            from chimeway.deliveries
            where next_attempt_at is not null and next_attempt_at >= coalesce($1, timestamptz '-infinity')
                and status in ('pending', 'failed')
            order by next_attempt_at
            limit 1
        ) as to_claim,
        (
            select next_attempt_at from chimeway.deliveries
            where next_attempt_at is not null and next_attempt_at >= coalesce($1, timestamptz '-infinity')
            order by next_attempt_at limit 1
        ) as any
    -- Once: each is asked for twice, and passes over all that is done and cannot be removed.
    offset 0
) next"#,
        floor,
    )
    .fetch_one(conn)
    .await?;
    Ok(DeliveriesDue {
        to_claim: duration(row.to_claim),
        any: duration(row.any),
        from: row.from,
        any_from: row.any_from,
    })
}

/// The next of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Next {
    /// How far away it is.
    pub due: DueIn,
    /// The earlier of now and its instant.
    pub from: Floor,
    /// The database's now.
    pub now: DateTime<Utc>,
}

/// The next signal to route.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn signals(conn: &mut PgConnection, floor: Floor) -> StoreResult<Next> {
    let row = sqlx::query!(
        r#"-- due::signals
select next - now as due, least(next, now) as "from", now as "now!"
from chimeway.clock() as now
cross join lateral (
    select (
        select route_at from chimeway.signals
        where route_at is not null and route_at >= coalesce($1, timestamptz '-infinity')
        order by route_at limit 1
    ) as next
    offset 0
) signals"#,
        floor,
    )
    .fetch_one(conn)
    .await?;
    Ok(Next {
        due: duration(row.due),
        from: row.from,
        now: row.now,
    })
}

/// Something of each kind of the workflows queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct OfWorkflows<T> {
    /// Of events whose runs are to be made.
    pub events: T,
    /// Of runs to look at.
    pub runs: T,
    /// Of runs to be told a result.
    pub owed: T,
    /// Of runs whose actions are to be carried out.
    pub actions: T,
}

/// The next of each kind of the workflows queue, in one statement.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn workflows(
    conn: &mut PgConnection,
    floors: OfWorkflows<Floor>,
) -> StoreResult<OfWorkflows<Next>> {
    let row = sqlx::query!(
        r#"-- due::workflows
select
    events - now as events, least(events, now) as events_from,
    runs - now as runs, least(runs, now) as runs_from,
    owed - now as owed, least(owed, now) as owed_from,
    actions - now as actions, least(actions, now) as actions_from,
    now as "now!"
from chimeway.clock() as now
cross join lateral (
    select
        (
            select expand_at from chimeway.events
            where expand_at is not null and expand_at >= coalesce($1, timestamptz '-infinity')
            order by expand_at limit 1
        ) as events,
        (
            select wake_at from chimeway.workflow_runs
            where wake_at is not null and wake_at >= coalesce($2, timestamptz '-infinity')
            order by wake_at limit 1
        ) as runs,
        (
            select progress_owed_at from chimeway.deliveries
            where progress_owed_at is not null and progress_owed_at >= coalesce($3, timestamptz '-infinity')
            order by progress_owed_at limit 1
        ) as owed,
        (
            select act_at from chimeway.workflow_runs
            where act_at is not null and act_at >= coalesce($4, timestamptz '-infinity')
            order by act_at limit 1
        ) as actions
    offset 0
) next"#,
        floors.events,
        floors.runs,
        floors.owed,
        floors.actions,
    )
    .fetch_one(conn)
    .await?;
    let next = |due, from| Next {
        due: duration(due),
        from,
        now: row.now,
    };
    Ok(OfWorkflows {
        events: next(row.events, row.events_from),
        runs: next(row.runs, row.runs_from),
        owed: next(row.owed, row.owed_from),
        actions: next(row.actions, row.actions_from),
    })
}
