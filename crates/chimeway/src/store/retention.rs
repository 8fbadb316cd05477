//! Taking what is over and old enough, in bounded batches.
//!
//! A batch locks what it is about to take with `skip locked` and leaves out what it could not lock: it
//! never waits for a row that a host or a worker holds, so that the order of its locks does not matter to
//! anybody. Every look is by an index that holds only what is over.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreResult, deliveries::interval};
use crate::ids::{DeliveryId, EventId, NotificationId, RunId};

/// Takes the turn of the one who prunes, until the end of the caller's transaction; false where another
/// session has it.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn take_turn(conn: &mut PgConnection) -> StoreResult<bool> {
    Ok(sqlx::query_scalar!(
        r#"-- retention::take_turn
select pg_try_advisory_xact_lock(hashtextextended('chimeway.retention', 0)) as "taken!""#
    )
    .fetch_one(conn)
    .await?)
}

/// A run that is over, locked.
#[derive(Debug, Clone, Copy)]
pub struct EndedRun {
    /// Which run.
    pub id: RunId,
    /// The notification it was for.
    pub notification: Option<NotificationId>,
    /// The state change that started it.
    pub event: Option<EventId>,
    /// When it ended.
    pub ended_at: DateTime<Utc>,
}

/// Locks up to `limit` runs that ended at least `age` ago, and not before `from`; the oldest first.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_ended(
    conn: &mut PgConnection,
    age: Duration,
    from: DateTime<Utc>,
    limit: i64,
) -> StoreResult<Vec<EndedRun>> {
    Ok(sqlx::query_as!(
        EndedRun,
        r#"-- retention::lock_ended
select id as "id: RunId", notification_id as "notification: NotificationId", event_id as "event: EventId",
    ended_at as "ended_at!"
from chimeway.workflow_runs
where ended_at is not null and ended_at <= (select chimeway.now()) - $1::interval and ended_at >= $2
order by ended_at
limit $3
for update skip locked"#,
        interval(age),
        from,
        limit,
    )
    .fetch_all(conn)
    .await?)
}

/// A delivery of a run that is over.
#[derive(Debug, Clone, Copy)]
pub struct OldDelivery {
    /// Which delivery.
    pub id: DeliveryId,
    /// Of which run.
    pub run: RunId,
    /// Another session has it.
    pub held: bool,
    /// A worker is sending it, or owes its run the result.
    pub busy: bool,
}

/// Locks the deliveries of these runs, as far as nobody else has them; all of them are told.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_deliveries(
    conn: &mut PgConnection,
    runs: &[RunId],
) -> StoreResult<Vec<OldDelivery>> {
    Ok(sqlx::query_as!(
        OldDelivery,
        r#"-- retention::lock_deliveries
with free as materialized (
    select id, next_attempt_at is not null or progress_owed_at is not null as busy
    from chimeway.deliveries
    where workflow_run_id = any($1)
    order by id
    for update skip locked
)
select d.id as "id: DeliveryId", d.workflow_run_id as "run: RunId", f.id is null as "held!",
    coalesce(f.busy, false) as "busy!"
from chimeway.deliveries d
left join free f on f.id = d.id
where d.workflow_run_id = any($1)"#,
        runs as _,
    )
    .fetch_all(conn)
    .await?)
}

/// The runs among these of which another session holds a line of history, a try or an approval. Nobody does
/// in its right mind; a deletion would wait for it.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn held_by_children(conn: &mut PgConnection, runs: &[RunId]) -> StoreResult<Vec<RunId>> {
    Ok(sqlx::query_scalar!(
        r#"-- retention::held_by_children
with lines as materialized (
    select workflow_run_id, sequence from chimeway.workflow_transitions
    where workflow_run_id = any($1) for update skip locked
), tries as materialized (
    select a.delivery_id, a.attempt_number
    from chimeway.deliveries d join chimeway.delivery_attempts a on a.delivery_id = d.id
    where d.workflow_run_id = any($1) for update of a skip locked
), asked as materialized (
    select id from chimeway.approvals where workflow_run_id = any($1) for update skip locked
)
select workflow_run_id as "run!: RunId" from chimeway.workflow_transitions t
where workflow_run_id = any($1) and not exists (
    select from lines l where l.workflow_run_id = t.workflow_run_id and l.sequence = t.sequence
)
union
select d.workflow_run_id
from chimeway.deliveries d join chimeway.delivery_attempts a on a.delivery_id = d.id
where d.workflow_run_id = any($1) and not exists (
    select from tries l where l.delivery_id = a.delivery_id and l.attempt_number = a.attempt_number
)
union
select workflow_run_id from chimeway.approvals a
where workflow_run_id = any($1) and not exists (select from asked l where l.id = a.id)"#,
        runs as _,
    )
    .fetch_all(conn)
    .await?)
}

/// A notification that is locked.
#[derive(Debug, Clone, Copy)]
pub struct OldItem {
    /// Which notification.
    pub id: NotificationId,
    /// Of which event.
    pub event: EventId,
    /// Whether it has been in its inbox for long enough; `None` where items are never old.
    pub old: Option<bool>,
}

/// Locks notifications, as far as nobody else has them.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_items(
    conn: &mut PgConnection,
    items: &[NotificationId],
    age: Option<Duration>,
) -> StoreResult<Vec<OldItem>> {
    if items.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        OldItem,
        r#"-- retention::lock_items
select id as "id: NotificationId", event_id as "event: EventId",
    inserted_at <= (select chimeway.now()) - $2::interval as old
from chimeway.notifications
where id = any($1)
order by id
for update skip locked"#,
        items as _,
        age.map(interval) as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Locks up to `limit` items of inboxes that have outlived their run and are old enough; the oldest first.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_kept_items(
    conn: &mut PgConnection,
    age: Duration,
    limit: i64,
) -> StoreResult<Vec<OldItem>> {
    Ok(sqlx::query_as!(
        OldItem,
        r#"-- retention::lock_kept_items
select id as "id: NotificationId", event_id as "event: EventId", true as old
from chimeway.notifications
where kept_run_id is not null and inserted_at <= (select chimeway.now()) - $1::interval
order by inserted_at
limit $2
for update skip locked"#,
        interval(age),
        limit,
    )
    .fetch_all(conn)
    .await?)
}

/// An event that is locked.
#[derive(Debug, Clone, Copy)]
pub struct OldEvent {
    /// Which event.
    pub id: EventId,
    /// Whether all its runs were made: nothing of one that is being expanded, or was set aside, may go.
    pub whole: bool,
    /// Whether its idempotency key has been known for long enough; `None` where keys are kept for ever.
    pub old: Option<bool>,
}

/// Locks events, as far as nobody else has them.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_events(
    conn: &mut PgConnection,
    events: &[EventId],
    age: Option<Duration>,
) -> StoreResult<Vec<OldEvent>> {
    if events.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        OldEvent,
        r#"-- retention::lock_events
select id as "id: EventId", expand_at is null and quarantine_reason is null as "whole!",
    inserted_at <= (select chimeway.now()) - $2::interval as old
from chimeway.events
where id = any($1)
order by id
for update skip locked"#,
        events as _,
        age.map(interval) as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Keeps the items of these runs in their inboxes, where an in-app message of theirs was delivered: each
/// then says itself what it shows. Returns those that are kept.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn keep_items(
    conn: &mut PgConnection,
    items: &[(NotificationId, RunId)],
) -> StoreResult<Vec<NotificationId>> {
    if items.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_scalar!(
        r#"-- retention::keep_items
update chimeway.notifications n
set kept_run_id = m.run_id, kept_step_id = m.workflow_step_id
from (
    select u.notification_id, u.run_id, d.workflow_step_id
    from unnest($1::uuid[], $2::uuid[]) as u (notification_id, run_id)
    cross join lateral (
        select d.workflow_step_id
        from chimeway.deliveries d
        where d.workflow_run_id = u.run_id and d.channel = 'in_app' and d.status = 'succeeded'
        order by d.visit desc
        limit 1
    ) d
) m
where n.id = m.notification_id
returning n.id as "id: NotificationId""#,
        &items.iter().map(|(item, _)| item.0).collect::<Vec<_>>(),
        &items.iter().map(|(_, run)| run.0).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?)
}

/// Deletes locked runs with all that belongs to them alone: history, deliveries (all of theirs), tries and
/// approvals.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database); 55P03 where another session holds a line, a try or
/// an approval.
pub async fn delete_runs(
    conn: &mut PgConnection,
    runs: &[RunId],
    deliveries: &[DeliveryId],
) -> StoreResult<u64> {
    if runs.is_empty() {
        return Ok(0);
    }
    Ok(sqlx::query!(
        r#"-- retention::delete_runs
with tries as (
    delete from chimeway.delivery_attempts where delivery_id = any($2)
), lines as (
    delete from chimeway.workflow_transitions where workflow_run_id = any($1)
), asked as (
    delete from chimeway.approvals where workflow_run_id = any($1)
), messages as (
    delete from chimeway.deliveries where id = any($2)
)
delete from chimeway.workflow_runs where id = any($1)"#,
        runs as _,
        deliveries as _,
    )
    .execute(conn)
    .await?
    .rows_affected())
}

/// Deletes locked notifications.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn delete_items(conn: &mut PgConnection, items: &[NotificationId]) -> StoreResult<u64> {
    if items.is_empty() {
        return Ok(0);
    }
    Ok(sqlx::query!(
        r#"-- retention::delete_items
delete from chimeway.notifications where id = any($1)"#,
        items as _,
    )
    .execute(conn)
    .await?
    .rows_affected())
}

/// Of these locked events, deletes those that are old and that no run or notification is left of; those that
/// are not old yet are marked to be found when they are. Returns how many were deleted.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn leave_events(conn: &mut PgConnection, events: &[(EventId, bool)]) -> StoreResult<u64> {
    if events.is_empty() {
        return Ok(0);
    }
    let deleted = sqlx::query_scalar!(
        r#"-- retention::leave_events
with childless as materialized (
    select u.id, u.old
    from unnest($1::uuid[], $2::bool[]) as u (id, old)
    where not exists (select from chimeway.notifications n where n.event_id = u.id)
        and not exists (select from chimeway.workflow_runs r where r.event_id = u.id)
), marked as (
    update chimeway.events e
    set childless_at = (select chimeway.now())
    from childless c
    where e.id = c.id and not c.old
), gone as (
    delete from chimeway.events e using childless c where e.id = c.id and c.old returning e.id
)
select count(*) as "count!" from gone"#,
        &events.iter().map(|(event, _)| event.0).collect::<Vec<_>>(),
        &events.iter().map(|(_, old)| *old).collect::<Vec<_>>(),
    )
    .fetch_one(conn)
    .await?;
    Ok(u64::try_from(deleted).unwrap_or(0))
}

/// Deletes up to `limit` events that are old enough and whose runs were pruned before; the oldest first.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn delete_childless(
    conn: &mut PgConnection,
    age: Duration,
    limit: i64,
) -> StoreResult<u64> {
    Ok(sqlx::query!(
        r#"-- retention::delete_childless
with old as materialized (
    select id from chimeway.events
    where childless_at is not null and inserted_at <= (select chimeway.now()) - $1::interval
    order by inserted_at
    limit $2
    for update skip locked
)
delete from chimeway.events e using old where e.id = old.id"#,
        interval(age),
        limit,
    )
    .execute(conn)
    .await?
    .rows_affected())
}

/// Events whose runs are not all made: signals since their triggers will count for those runs.
#[derive(Debug, Clone, Copy)]
pub struct Unexpanded {
    /// How many there are; counting stops at 10,001.
    pub count: i64,
    /// The first trigger of those that were counted.
    pub since: Option<DateTime<Utc>>,
}

/// The events whose runs are not all made, those that were set aside among them.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn unexpanded(conn: &mut PgConnection) -> StoreResult<Unexpanded> {
    Ok(sqlx::query_as!(
        Unexpanded,
        r#"-- retention::unexpanded
select count(*) as "count!", min(occurred_at) as since
from (
    (select occurred_at from chimeway.events where expand_at is not null order by expand_at limit 10001)
    union all
    (select occurred_at from chimeway.events where quarantine_reason is not null order by id limit 10001)
) events"#
    )
    .fetch_one(conn)
    .await?)
}

/// What became of a stretch of the signals.
#[derive(Debug, Clone, Copy)]
pub struct SignalStretch {
    /// How many were looked at.
    pub looked: i64,
    /// Those of them that are old enough.
    pub old: i64,
    /// Those of the old ones that were deleted.
    pub deleted: i64,
    /// Those that are not routed, or were set aside.
    pub unrouted: i64,
    /// Those that a live run may still look for, or one that is to be made.
    pub wanted: i64,
    /// The last of the old ones.
    pub last: Option<Uuid>,
}

/// Looks at `length` signals after one, in the order of their ids, and deletes those that are old enough,
/// routed, and that no live run of their actor may look for: none began before them, nor was triggered before
/// and is still to be made (`unexpanded_since`). An actor with more than 10,000 live runs keeps its signals.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn delete_signals(
    conn: &mut PgConnection,
    age: Duration,
    unexpanded_since: Option<DateTime<Utc>>,
    after: Uuid,
    length: i64,
) -> StoreResult<SignalStretch> {
    Ok(sqlx::query_as!(
        SignalStretch,
        r#"-- retention::delete_signals
with stretch as materialized (
    select id, tenant_id, actor_id, occurred_at,
        occurred_at <= (select chimeway.now()) - $1::interval as old, routed_at is not null as routed
    from chimeway.signals
    where id > $3
    order by id
    limit $4
), over as materialized (
    select * from stretch where old and routed and occurred_at < coalesce($2::timestamptz, 'infinity')
), actors as materialized (
    select a.tenant_id, a.actor_id, live.runs, live.since
    from (select distinct tenant_id, actor_id from over) a
    cross join lateral (
        select count(*) as runs, min(started_at) as since
        from (
            select started_at from chimeway.workflow_runs r
            where r.tenant_id = a.tenant_id and r.actor_id = a.actor_id and r.ended_at is null
            limit 10001
        ) r
    ) live
), free as materialized (
    select s.id
    from over o
    join actors a on a.tenant_id = o.tenant_id and a.actor_id = o.actor_id
    join chimeway.signals s on s.id = o.id
    where a.runs <= 10000 and (a.since is null or a.since > o.occurred_at)
    order by s.id
    for update of s skip locked
), gone as (
    delete from chimeway.signals s using free where s.id = free.id returning s.id
)
select count(*) as "looked!", count(*) filter (where old) as "old!",
    (select count(*) from gone) as "deleted!",
    count(*) filter (where old and not routed) as "unrouted!",
    (count(*) filter (where old and routed) - (select count(*) from gone)) as "wanted!",
    (select id from stretch where old order by id desc limit 1) as last
from stretch"#,
        interval(age),
        unexpanded_since,
        after,
        length,
    )
    .fetch_one(conn)
    .await?)
}

/// Deletes up to `limit` notes of what people did by hand that are old enough and not about what lives; the
/// oldest first.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn delete_interventions(
    conn: &mut PgConnection,
    age: Duration,
    limit: i64,
) -> StoreResult<u64> {
    Ok(sqlx::query!(
        r#"-- retention::delete_interventions
with old as materialized (
    select i.id from chimeway.interventions i
    where i.made_at <= (select chimeway.now()) - $1::interval
        and not exists (
            select from chimeway.workflow_runs r where r.id = i.subject_id and r.ended_at is null
        )
        and not exists (
            select from chimeway.deliveries d
            join chimeway.workflow_runs r on r.id = d.workflow_run_id and r.ended_at is null
            where d.id = i.subject_id
        )
    order by i.made_at
    limit $2
    for update of i skip locked
)
delete from chimeway.interventions i using old where i.id = old.id"#,
        interval(age),
        limit,
    )
    .execute(conn)
    .await?
    .rows_affected())
}
