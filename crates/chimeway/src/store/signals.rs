//! What actors did: recorded by hosts, shown to runs by workers.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreResult, due::Floor};
use crate::ids::{DeliveryId, NotificationId, RunId, SignalId, StepId};

/// A signal to record.
#[derive(Debug, Clone)]
pub struct NewSignal {
    /// Its id.
    pub id: SignalId,
    /// Whose it is.
    pub tenant: String,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub name: String,
    /// What the host gave.
    pub payload: Value,
}

/// Records signals at this very instant, and makes them due.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn insert(conn: &mut PgConnection, signals: &[NewSignal]) -> StoreResult<()> {
    if signals.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- signals::insert
insert into chimeway.signals
    (id, tenant_id, actor_id, event_name, payload, notification_id, occurred_at, route_at)
select u.id, u.tenant_id, u.actor_id, u.event_name, u.payload,
    case when u.payload ? 'notification_id' then chimeway.notification_of(u.payload) end, c.at, c.at
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[])
        as u (id, tenant_id, actor_id, event_name, payload),
    (select chimeway.clock() as at) c"#,
        &signals.iter().map(|signal| signal.id.0).collect::<Vec<_>>(),
        &signals
            .iter()
            .map(|signal| signal.tenant.clone())
            .collect::<Vec<_>>(),
        &signals
            .iter()
            .map(|signal| signal.actor.clone())
            .collect::<Vec<_>>(),
        &signals
            .iter()
            .map(|signal| signal.name.clone())
            .collect::<Vec<_>>(),
        &signals
            .iter()
            .map(|signal| signal.payload.clone())
            .collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A signal to route.
#[derive(Debug, Clone, Copy)]
pub struct DueSignal {
    /// Which signal.
    pub id: SignalId,
    /// Since when it is due.
    pub due_at: DateTime<Utc>,
    /// Tries with which worker processes died.
    pub crashes: i32,
}

/// Locks up to `limit` due signals, oldest first, among some where those are given; those another worker holds are passed over.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_due(
    conn: &mut PgConnection,
    among: Option<&[SignalId]>,
    floor: Floor,
    limit: i64,
) -> StoreResult<Vec<DueSignal>> {
    Ok(sqlx::query_as!(
        DueSignal,
        r#"-- signals::lock_due
select id as "id: SignalId", route_at as "due_at!", crashes
from chimeway.signals
where route_at is not null and route_at >= coalesce($3, timestamptz '-infinity')
    and route_at <= (select chimeway.now())
    and ($2::uuid[] is null or id = any($2))
order by route_at, id
limit $1
for no key update skip locked"#,
        limit,
        among as _,
        floor,
    )
    .fetch_all(conn)
    .await?)
}

/// Locks one tenant's signals, routed or not, waiting for sessions that hold them: for a caller's own
/// transaction.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_waiting(
    conn: &mut PgConnection,
    tenant: &str,
    signals: &[SignalId],
) -> StoreResult<Vec<SignalId>> {
    Ok(sqlx::query_scalar!(
        r#"-- signals::lock_waiting
select id as "id: SignalId"
from chimeway.signals
where id = any($2) and tenant_id = $1
order by id
for no key update"#,
        tenant,
        signals as _,
    )
    .fetch_all(conn)
    .await?)
}

/// A live run that a signal is to be shown to.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// The signal.
    pub signal: SignalId,
    /// The run.
    pub run: RunId,
}

/// The live runs of each signal's actor that began before it, up to `per_signal` each, by id, after
/// the signal's cursor. All live ones, waiting or not: a run that is entering a wait at this moment
/// must be waited for, or it would miss the signal.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn candidates(
    conn: &mut PgConnection,
    signals: &[SignalId],
    per_signal: i64,
) -> StoreResult<Vec<Candidate>> {
    Ok(sqlx::query_as!(
        Candidate,
        r#"-- signals::candidates
select s.id as "signal: SignalId", r.id as "run!: RunId"
from chimeway.signals s
cross join lateral (
    select r.id
    from chimeway.workflow_runs r
    where r.tenant_id = s.tenant_id and r.actor_id = s.actor_id and r.ended_at is null
        and r.started_at <= s.occurred_at
        and r.id > coalesce(s.route_cursor, '00000000-0000-0000-0000-000000000000')
        and (s.notification_id is null or r.notification_id = s.notification_id)
    order by r.id
    limit $2
) r
where s.id = any($1)
order by s.route_at, s.id, r.id"#,
        signals as _,
        per_signal,
    )
    .fetch_all(conn)
    .await?)
}

/// A run that waits, and what ends its wait: one per (run, signal name).
#[derive(Debug, Clone)]
pub struct Listening {
    /// The run.
    pub run: RunId,
    /// Whose it is.
    pub tenant: String,
    /// Whose signals it listens to.
    pub actor: String,
    /// Its notification: a signal about another one does not count.
    pub notification: Option<NotificationId>,
    /// The step it waits in.
    pub step: StepId,
    /// The signal's name.
    pub name: String,
    /// What must hold of its payload, all of it: `[{payload: [name, ..], params: [name, ..]}]`, or with a
    /// `value` in place of `params`. `None`: nothing.
    pub matches: Option<Value>,
    /// Signals from then on count: when the run began, or when it left this step before in the
    /// transaction that asks.
    pub since: DateTime<Utc>,
}

/// A signal that ends a wait.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The run.
    pub run: RunId,
    /// The signal.
    pub signal: SignalId,
    /// What was done.
    pub name: String,
    /// When.
    pub occurred_at: DateTime<Utc>,
    /// The delivery of this run that it is about, where its payload names one.
    pub delivery: Option<DeliveryId>,
}

/// For each, the oldest signal that counts: made since the run began, and since it last left this
/// step where it was there before; about this run's notification or about none; with a payload that
/// matches; not consumed by this run yet, be it in the transaction that asks (`acted`). One predicate for entering a wait,
/// leaving it by time, and routing.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn look_up(
    conn: &mut PgConnection,
    waits: &[Listening],
    acted: &[Candidate],
) -> StoreResult<Vec<Heard>> {
    if waits.is_empty() {
        return Ok(vec![]);
    }
    let text =
        |of: fn(&Listening) -> &String| waits.iter().map(|w| of(w).clone()).collect::<Vec<_>>();
    Ok(sqlx::query_as!(
        Heard,
        r#"-- signals::look_up
select w.run_id as "run!: RunId", s.id as "signal: SignalId", s.event_name as name, s.occurred_at,
    (
        select d.id from chimeway.deliveries d
        where d.id = s.delivery_id and d.workflow_run_id = w.run_id
    ) as "delivery: DeliveryId"
from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::text[], $7::timestamptz[], $10::jsonb[]
    ) as w (run_id, tenant_id, actor_id, notification_id, step_id, event_name, since, matches)
-- Most waits have nothing to hear: one look at the index says so, before anything else is read for them.
cross join lateral (
    select
    from chimeway.signals s
    where s.tenant_id = w.tenant_id and s.actor_id = w.actor_id and s.event_name = w.event_name
        and s.occurred_at >= w.since
    limit 1
) anything
left join lateral (
    select e.params
    from chimeway.workflow_runs r
    left join chimeway.notifications n on n.id = r.notification_id
    join chimeway.events e on e.id = coalesce(r.event_id, n.event_id)
    where r.id = case when w.matches is not null then w.run_id end
) host on true
cross join lateral (
    select s.id, s.event_name, s.occurred_at,
        case when s.payload ? 'delivery_id' then chimeway.delivery_of(s.payload) end as delivery_id
    from chimeway.signals s
    where s.tenant_id = w.tenant_id and s.actor_id = w.actor_id and s.event_name = w.event_name
        and s.occurred_at >= w.since
        and s.occurred_at >= coalesce((
            select t.inserted_at
            from chimeway.workflow_transitions t
            where t.workflow_run_id = w.run_id and t.workflow_step_id = w.step_id and t.from_state = 'waiting'
            order by t.sequence desc
            limit 1
        ), w.since)
        and (s.notification_id is null or s.notification_id = w.notification_id)
        and (w.matches is null or not exists (
            select
            from jsonb_array_elements(w.matches) m
            cross join lateral (
                select s.payload #> array(select jsonb_array_elements_text(m -> 'payload')) as found
            ) f
            where f.found is null or f.found is distinct from coalesce(
                m -> 'value', host.params #> array(select jsonb_array_elements_text(m -> 'params'))
            )
        ))
        and not exists (
            select from chimeway.workflow_transitions t
            where t.workflow_run_id = w.run_id and t.signal_id = s.id
        )
        and not exists (
            select from unnest($8::uuid[], $9::uuid[]) as a (run_id, signal_id)
            where a.run_id = w.run_id and a.signal_id = s.id
        )
    order by s.occurred_at, s.id
    limit 1
) s"#,
        &waits.iter().map(|wait| wait.run.0).collect::<Vec<_>>(),
        &text(|wait| &wait.tenant),
        &text(|wait| &wait.actor),
        &waits.iter().map(|wait| wait.notification.map(|id| id.0)).collect::<Vec<Option<Uuid>>>() as _,
        &waits.iter().map(|wait| wait.step.0).collect::<Vec<_>>(),
        &text(|wait| &wait.name),
        &waits.iter().map(|wait| wait.since).collect::<Vec<_>>(),
        &acted.iter().map(|one| one.run.0).collect::<Vec<_>>(),
        &acted.iter().map(|one| one.signal.0).collect::<Vec<_>>(),
        &waits.iter().map(|wait| wait.matches.clone()).collect::<Vec<_>>() as _,
    )
    .fetch_all(conn)
    .await?)
}

/// These have been shown to every live run.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn mark_routed(conn: &mut PgConnection, signals: &[SignalId]) -> StoreResult<Vec<f64>> {
    if signals.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_scalar!(
        r#"-- signals::mark_routed
update chimeway.signals
set route_at = null, routed_at = chimeway.now()
where id = any($1)
returning extract(epoch from routed_at - occurred_at)::float8 as "lag!""#,
        signals as _,
    )
    .fetch_all(conn)
    .await?)
}

/// A run was locked by another session: these are looked at again in 20 ms to 1 s, the later the
/// longer they have waited.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn defer(conn: &mut PgConnection, signals: &[SignalId]) -> StoreResult<()> {
    if signals.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- signals::defer
update chimeway.signals
set route_at = chimeway.now()
    + least(greatest((chimeway.now() - occurred_at) / 4, interval '20 milliseconds'), interval '1 second')
where id = any($1)"#,
        signals as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// These have been shown to the runs up to a cursor, and go on from there.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn advance(conn: &mut PgConnection, cursors: &[Candidate]) -> StoreResult<()> {
    if cursors.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- signals::advance
update chimeway.signals s
set route_cursor = u.run_id
from unnest($1::uuid[], $2::uuid[]) as u (signal_id, run_id)
where s.id = u.signal_id"#,
        &cursors
            .iter()
            .map(|cursor| cursor.signal.0)
            .collect::<Vec<_>>(),
        &cursors
            .iter()
            .map(|cursor| cursor.run.0)
            .collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counts a failed try to route these; the third one sets a signal aside. Returns how
/// many were set aside.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn fail(
    conn: &mut PgConnection,
    signals: &[SignalId],
    reason: &str,
) -> StoreResult<usize> {
    if signals.is_empty() {
        return Ok(0);
    }
    let set_aside = sqlx::query_scalar!(
        r#"-- signals::fail
update chimeway.signals
set tries = tries + 1,
    route_at = case when tries < 2 then chimeway.now() + interval '1 second' * (tries + 1) end,
    quarantine_reason = case when tries < 2 then null else $2 end
where id = any($1)
returning tries = 3 as "aside!""#,
        signals as _,
        reason,
    )
    .fetch_all(conn)
    .await?;
    Ok(set_aside.into_iter().filter(|aside| *aside).count())
}
