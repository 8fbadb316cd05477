//! Deliveries: planned, recorded, cancelled.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, postgres::types::PgInterval};

use super::{StoreResult, claims::ClaimRef};
use crate::ids::{ClaimNo, DeliveryId, NotificationId, RunId, StepId, Visit};

/// A duration as PostgreSQL has it. Ours are far below its limits.
pub(super) fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval {
        months: 0,
        days: 0,
        microseconds,
    }
}

/// A delivery to plan.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Its id; also the idempotency token that providers are given.
    pub id: DeliveryId,
    /// Of which run.
    pub run: RunId,
    /// Of which step.
    pub step: StepId,
    /// Of which visit.
    pub visit: Visit,
    /// The place of its action in the step; 0 for a step that is one message.
    pub action: i32,
    /// Whose notification.
    pub notification: Option<NotificationId>,
    /// Whose it is.
    pub tenant: String,
    /// Which channel carries it.
    pub channel: String,
    /// Who is to get it: whose preferences count; `None`: nobody's.
    pub recipient: Option<String>,
    /// What kind of message its step says it is; else the trigger's `params.category` counts.
    pub category: Option<String>,
    /// Not for somebody who has read the notification already.
    pub unless_read: bool,
    /// When it is due.
    pub due: DateTime<Utc>,
}

/// Plans deliveries; inserting them is the enqueue. One that its recipient does not want, or that is a
/// fallback for a notification that was read, is suppressed at once, and its run is owed that result: a
/// worker moves it on. Returns how many were suppressed.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database); a repeated (run, visit) means that the run was not locked.
pub async fn plan(conn: &mut PgConnection, deliveries: &[NewDelivery]) -> StoreResult<usize> {
    if deliveries.is_empty() {
        return Ok(0);
    }
    let suppressed = sqlx::query_scalar!(
        r#"-- deliveries::plan
with planned as (
    insert into chimeway.deliveries (
        id, workflow_run_id, workflow_step_id, visit, notification_id, tenant_id, channel,
        status, status_reason, checkpoint, next_attempt_at, progress_owed_at, inserted_at, updated_at,
        action_index
    )
    select u.id, u.run_id, u.step_id, u.visit, u.notification_id, u.tenant_id, u.channel,
        case when v.reason is null then 'pending' else 'suppressed' end, v.reason,
        case when v.reason is not null then 'planning' end,
        case when v.reason is null then u.due end, case when v.reason is not null then u.due end,
        u.due, u.due, u.action_index
    from (
            select *
            from unnest(
                $1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::uuid[], $6::text[], $7::text[],
                $8::timestamptz[], $9::text[], $10::text[], $11::bool[], $12::int[]
            ) as u (
                id, run_id, step_id, visit, notification_id, tenant_id, channel, due, recipient, category,
                unless_read, action_index
            )
            -- All of them. The planner takes it for a tenth: else a plan that is made once looks ten times as dear as
            -- one for a single row, and a host's trigger would be planned each time, which takes longer than to run it.
            limit cardinality($1::uuid[])
        ) u
        left join lateral (
            select p.kind || '_disabled' as reason
            from chimeway.preferences p
            where p.tenant_id = u.tenant_id and p.recipient = u.recipient and not p.enabled
                and p.name = case p.kind
                    when 'channel' then u.channel
                    else coalesce(u.category, (
                        select e.params ->> 'category'
                        from chimeway.notifications n join chimeway.events e on e.id = n.event_id
                        where n.id = u.notification_id
                    ))
                end
            order by p.kind desc
            limit 1
        ) unwanted on true
        cross join lateral (
            select coalesce(unwanted.reason, case
                when u.unless_read and exists (
                    select from chimeway.notifications n
                    where n.id = u.notification_id and n.read_at is not null
                ) then 'already_read'
            end) as reason
        ) v
    returning status
)
select count(*) as "count!" from planned where status = 'suppressed'"#,
        &deliveries.iter().map(|delivery| delivery.id.0).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.run.0).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.step.0).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.visit.0).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.notification.map(|id| id.0)).collect::<Vec<_>>()
            as _,
        &deliveries.iter().map(|delivery| delivery.tenant.as_str()).collect::<Vec<_>>() as _,
        &deliveries.iter().map(|delivery| delivery.channel.as_str()).collect::<Vec<_>>() as _,
        &deliveries.iter().map(|delivery| delivery.due).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.recipient.as_deref()).collect::<Vec<_>>() as _,
        &deliveries.iter().map(|delivery| delivery.category.as_deref()).collect::<Vec<_>>() as _,
        &deliveries.iter().map(|delivery| delivery.unless_read).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.action).collect::<Vec<_>>(),
    )
    .fetch_one(conn)
    .await?;
    Ok(usize::try_from(suppressed).unwrap_or(0))
}

/// What a delivery becomes after a try.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Which delivery, under which fence.
    pub claim: ClaimRef,
    /// Its status.
    pub status: &'static str,
    /// Why.
    pub status_reason: Option<&'static str>,
    /// How long until the next try.
    pub retry_in: Option<Duration>,
    /// Its worker vanished: the lease is being closed.
    pub closing: bool,
    /// The channel was not called: the try does not count.
    pub uncounted: bool,
    /// Where it was decided not to send it, if it was.
    pub checkpoint: Option<&'static str>,
}

/// What writing results has done.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// The claims that still decided their deliveries.
    pub decided: HashSet<ClaimRef>,
    /// Those of them that still held theirs: their tries are not written down yet.
    pub fresh: HashSet<ClaimRef>,
    /// Those that another session holds: nothing was written of them.
    pub held: Vec<DeliveryId>,
}

/// Writes what deliveries become, as far as this claim still decides it and no other session holds the
/// row. One whose lease was closed meanwhile is still decided by the real outcome, as long as nobody has
/// claimed it again.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn record(conn: &mut PgConnection, recordings: &[Recording]) -> StoreResult<Recorded> {
    if recordings.is_empty() {
        return Ok(Recorded::default());
    }
    let rows = sqlx::query!(
        r#"-- deliveries::record
with locked as materialized (
    select u.*, d.status = 'dispatched' as fresh
    from unnest(
            $1::uuid[], $2::int[], $3::text[], $4::text[], $5::interval[], $6::bool[], $7::bool[], $8::text[]
        ) as u (id, claim_no, status, status_reason, retry_in, closing, uncounted, checkpoint)
        join chimeway.deliveries d on d.id = u.id
    order by d.id
    for no key update of d skip locked
), written as (
    update chimeway.deliveries d
    set status = l.status, status_reason = l.status_reason, checkpoint = l.checkpoint,
        next_attempt_at = (select chimeway.now()) + l.retry_in, crashes = d.crashes + l.closing::int,
        -- A try whose lease was closed meanwhile has its row, and stays counted.
        attempts = d.attempts - (l.uncounted and d.status = 'dispatched')::int,
        lease_owner = null, lease_until = null, updated_at = (select chimeway.now())
    from locked l
    where d.id = l.id and d.claim_no = l.claim_no
        and (d.status = 'dispatched' or (d.status = 'failed' and not l.closing))
    returning d.id, d.claim_no, l.fresh
)
select id as "id!: DeliveryId", claim_no as "claim_no?: ClaimNo", fresh as "fresh!" from written
union all
select id, null::int, fresh from locked"#,
        &recordings
            .iter()
            .map(|one| one.claim.id.0)
            .collect::<Vec<_>>(),
        &recordings
            .iter()
            .map(|one| one.claim.claim_no.0)
            .collect::<Vec<_>>(),
        &recordings.iter().map(|one| one.status).collect::<Vec<_>>() as _,
        &recordings
            .iter()
            .map(|one| one.status_reason)
            .collect::<Vec<_>>() as _,
        &recordings
            .iter()
            .map(|one| one.retry_in.map(interval))
            .collect::<Vec<_>>() as _,
        &recordings.iter().map(|one| one.closing).collect::<Vec<_>>(),
        &recordings
            .iter()
            .map(|one| one.uncounted)
            .collect::<Vec<_>>(),
        &recordings
            .iter()
            .map(|one| one.checkpoint)
            .collect::<Vec<_>>() as _,
    )
    .fetch_all(&mut *conn)
    .await?;
    let locked: HashSet<DeliveryId> = rows.iter().map(|row| row.id).collect();
    let missing: Vec<DeliveryId> = recordings
        .iter()
        .map(|one| one.claim.id)
        .filter(|id| !locked.contains(id))
        .collect();
    let (mut decided, mut fresh) = (HashSet::new(), HashSet::new());
    for row in rows {
        let (id, Some(claim_no)) = (row.id, row.claim_no) else {
            continue;
        };
        let claim = ClaimRef { id, claim_no };
        decided.insert(claim);
        if row.fresh {
            fresh.insert(claim);
        }
    }
    Ok(Recorded {
        decided,
        fresh,
        held: existing(conn, &missing).await?,
    })
}

/// Those of these deliveries that are there: retention takes those of ended runs.
async fn existing(
    conn: &mut PgConnection,
    deliveries: &[DeliveryId],
) -> StoreResult<Vec<DeliveryId>> {
    if deliveries.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_scalar!(
        r#"-- deliveries::existing
select id as "id: DeliveryId" from chimeway.deliveries where id = any($1)"#,
        deliveries as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Cancels what these runs still had to send, each for its reason. One that another session holds is
/// left as it is: its claim finds that the run has moved on.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn cancel_unsent(
    conn: &mut PgConnection,
    runs: &[(RunId, &'static str)],
) -> StoreResult<()> {
    if runs.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- deliveries::cancel_unsent
with free as materialized (
    select d.id, u.reason
    from chimeway.deliveries d
    join unnest($1::uuid[], $2::text[]) as u (run_id, reason) on d.workflow_run_id = u.run_id
    where d.status in ('pending', 'failed')
    order by d.id
    for no key update of d skip locked
)
update chimeway.deliveries d
set status = 'cancelled', status_reason = free.reason, next_attempt_at = null,
    updated_at = (select chimeway.now())
from free
where d.id = free.id"#,
        &runs.iter().map(|(run, _)| run.0).collect::<Vec<_>>(),
        &runs.iter().map(|(_, reason)| *reason).collect::<Vec<_>>() as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}
