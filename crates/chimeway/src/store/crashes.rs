//! Rows of batches that may have taken a worker process down: their try is counted and committed before it is made,
//! so that a process that dies with one leaves a trace.

use sqlx::PgConnection;

use super::StoreResult;
use crate::{
    engine::attempt::CRASHES_BEFORE_QUARANTINE,
    ids::{DeliveryId, EventId, RunId, SignalId},
};

/// Why a row is set aside with which processes died.
pub const WORKER_DIED: &str = "worker_died";

/// What counting has done.
#[derive(Debug, Clone)]
pub struct Counted<Id> {
    /// To be tried now. They are due again later, should the process not come back from it.
    pub taken: Vec<Id>,
    /// How many were set aside: [`CRASHES_BEFORE_QUARANTINE`] processes in a row had not come back from them, as with
    /// messages. Fewer could be chance, where processes die of something else all the time.
    pub set_aside: usize,
}

impl<Id> Counted<Id> {
    fn of(rows: impl Iterator<Item = (Id, bool)>) -> Self {
        let (aside, taken): (Vec<_>, Vec<_>) = rows.partition(|(_, aside)| *aside);
        Self {
            taken: taken.into_iter().map(|(id, _)| id).collect(),
            set_aside: aside.len(),
        }
    }
}

/// Counts a try of these events, where they are due and nobody holds them.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn count_events(
    conn: &mut PgConnection,
    events: &[EventId],
) -> StoreResult<Counted<EventId>> {
    let rows = sqlx::query!(
        r#"-- crashes::count_events
with free as materialized (
    select id from chimeway.events
    where id = any($1) and expand_at is not null and expand_at <= (select chimeway.now())
    order by id
    for no key update skip locked
)
update chimeway.events e
set crashes = least(e.crashes + 1, $3),
    expand_at = case when e.crashes < $3 then chimeway.now() + interval '1 second' end,
    quarantine_reason = case when e.crashes < $3 then null else $2 end
from free
where e.id = free.id
returning e.id as "id: EventId", e.quarantine_reason is not null as "aside!""#,
        events as _,
        WORKER_DIED,
        CRASHES_BEFORE_QUARANTINE,
    )
    .fetch_all(conn)
    .await?;
    Ok(Counted::of(rows.into_iter().map(|row| (row.id, row.aside))))
}

/// These events are tried now, or were, and the process lives: as if nothing had been counted, and due.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn retake_events(conn: &mut PgConnection, events: &[EventId]) -> StoreResult<()> {
    sqlx::query!(
        r#"-- crashes::retake_events
with free as materialized (
    select id from chimeway.events
    where id = any($1) and expand_at is not null and crashes > 0
    order by id
    for no key update skip locked
)
update chimeway.events e set crashes = 0, expand_at = chimeway.now() from free where e.id = free.id"#,
        events as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counts a try of these signals, where they are due and nobody holds them.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn count_signals(
    conn: &mut PgConnection,
    signals: &[SignalId],
) -> StoreResult<Counted<SignalId>> {
    let rows = sqlx::query!(
        r#"-- crashes::count_signals
with free as materialized (
    select id from chimeway.signals
    where id = any($1) and route_at is not null and route_at <= (select chimeway.now())
    order by id
    for no key update skip locked
)
update chimeway.signals s
set crashes = least(s.crashes + 1, $3),
    route_at = case when s.crashes < $3 then chimeway.now() + interval '1 second' end,
    quarantine_reason = case when s.crashes < $3 then null else $2 end
from free
where s.id = free.id
returning s.id as "id: SignalId", s.quarantine_reason is not null as "aside!""#,
        signals as _,
        WORKER_DIED,
        CRASHES_BEFORE_QUARANTINE,
    )
    .fetch_all(conn)
    .await?;
    Ok(Counted::of(rows.into_iter().map(|row| (row.id, row.aside))))
}

/// As [`retake_events`], of signals.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn retake_signals(conn: &mut PgConnection, signals: &[SignalId]) -> StoreResult<()> {
    sqlx::query!(
        r#"-- crashes::retake_signals
with free as materialized (
    select id from chimeway.signals
    where id = any($1) and route_at is not null and crashes > 0
    order by id
    for no key update skip locked
)
update chimeway.signals s set crashes = 0, route_at = chimeway.now() from free where s.id = free.id"#,
        signals as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counts a try of these runs, where they are to be looked at or their actions carried out, and nobody holds them.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn count_runs(conn: &mut PgConnection, runs: &[RunId]) -> StoreResult<Counted<RunId>> {
    let rows = sqlx::query!(
        r#"-- crashes::count_runs
with free as materialized (
    select id, chimeway.now() as now from chimeway.workflow_runs
    where id = any($1) and (wake_at <= (select chimeway.now()) or act_at <= (select chimeway.now()))
    order by id
    for no key update skip locked
)
update chimeway.workflow_runs r
set crashes = least(r.crashes + 1, $3),
    wake_at = case
        when r.crashes >= $3 then null
        when r.wake_at <= free.now then free.now + interval '1 second'
        else r.wake_at
    end,
    act_at = case
        when r.crashes >= $3 then null
        when r.act_at <= free.now then free.now + interval '1 second'
        else r.act_at
    end,
    quarantine_reason = case when r.crashes < $3 then null else $2 end
from free
where r.id = free.id
returning r.id as "id: RunId", r.quarantine_reason is not null as "aside!""#,
        runs as _,
        WORKER_DIED,
        CRASHES_BEFORE_QUARANTINE,
    )
    .fetch_all(conn)
    .await?;
    Ok(Counted::of(rows.into_iter().map(|row| (row.id, row.aside))))
}

/// As [`retake_events`], of runs that are to be looked at, or whose actions are to be carried out.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn retake_runs(
    conn: &mut PgConnection,
    runs: &[RunId],
    actions: bool,
) -> StoreResult<()> {
    sqlx::query!(
        r#"-- crashes::retake_runs
with free as materialized (
    select id from chimeway.workflow_runs
    where id = any($1) and crashes > 0 and case when $2 then act_at is not null else wake_at is not null end
    order by id
    for no key update skip locked
)
update chimeway.workflow_runs r
set crashes = 0, wake_at = case when $2 then r.wake_at else chimeway.now() end,
    act_at = case when $2 then chimeway.now() else r.act_at end
from free
where r.id = free.id"#,
        runs as _,
        actions,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counts a try to tell the runs of these deliveries their results, where nobody holds them. What cannot be told
/// now is owed later: that of a run which another session holds within a second, that of one that is set aside
/// within a minute.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn count_owed(
    conn: &mut PgConnection,
    deliveries: &[DeliveryId],
) -> StoreResult<Counted<DeliveryId>> {
    let rows = sqlx::query!(
        r#"-- crashes::count_owed
with free as materialized (
    select d.id, d.workflow_run_id from chimeway.deliveries d
    where d.id = any($1) and d.progress_owed_at is not null and d.progress_owed_at <= (select chimeway.now())
    order by d.id
    for no key update skip locked
), runs as materialized (
    select id, crashes, quarantine_reason is not null as is_aside, ended_at is not null as has_ended
    from chimeway.workflow_runs
    where id = any(array(select workflow_run_id from free))
    order by id
    for no key update skip locked
), told as materialized (
    select free.id, runs.id as run_id, runs.crashes,
        runs.has_ended or (runs.crashes < $3 and not runs.is_aside) as taken,
        runs.crashes >= $3 and not runs.is_aside and not runs.has_ended as aside
    from free left join runs on runs.id = free.workflow_run_id
), counted as (
    update chimeway.workflow_runs r
    set crashes = least(r.crashes + 1, $3),
        wake_at = case when r.crashes < $3 then r.wake_at end, act_at = case when r.crashes < $3 then r.act_at end,
        quarantine_reason = case when r.crashes < $3 then null else $2 end
    from runs
    where r.id = runs.id and not runs.is_aside and not runs.has_ended
)
update chimeway.deliveries d
set progress_owed_at = chimeway.now() + case
        when told.run_id is null
            then least(greatest((chimeway.now() - d.updated_at) / 4, interval '20 milliseconds'), interval '1 second')
        when told.taken then interval '1 second'
        else interval '1 minute'
    end
from told
where d.id = told.id
returning d.id as "id: DeliveryId", coalesce(told.taken, false) as "taken!", coalesce(told.aside, false) as "aside!""#,
        deliveries as _,
        WORKER_DIED,
        CRASHES_BEFORE_QUARANTINE,
    )
    .fetch_all(conn)
    .await?;
    Ok(Counted {
        set_aside: rows.iter().filter(|row| row.aside).count(),
        taken: rows
            .into_iter()
            .filter(|row| row.taken)
            .map(|row| row.id)
            .collect(),
    })
}

/// As [`retake_events`], of results that are owed.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn retake_owed(conn: &mut PgConnection, deliveries: &[DeliveryId]) -> StoreResult<()> {
    sqlx::query!(
        r#"-- crashes::retake_owed
with free as materialized (
    select d.id, d.workflow_run_id from chimeway.deliveries d
    where d.id = any($1) and d.progress_owed_at is not null
    order by d.id
    for no key update skip locked
), runs as materialized (
    select id from chimeway.workflow_runs
    where id = any(array(select workflow_run_id from free)) and crashes > 0
    order by id
    for no key update skip locked
), uncounted as (
    update chimeway.workflow_runs r set crashes = 0 from runs where r.id = runs.id
)
update chimeway.deliveries d set progress_owed_at = chimeway.now() from free where d.id = free.id"#,
        deliveries as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}
