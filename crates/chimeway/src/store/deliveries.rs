//! Deliveries: planned, claimed, recorded, closed, handed back.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, postgres::types::PgInterval};

use super::{StoreResult, json::Kept};
use crate::{
    engine::attempt::CRASHES_BEFORE_ISOLATION,
    ids::{
        AttemptNumber, ClaimNo, DefinitionId, DeliveryId, EventId, NotificationId, RunId, StepId,
        Visit,
    },
};

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
    /// Whose notification.
    pub notification: Option<NotificationId>,
    /// Whose it is.
    pub tenant: String,
    /// Which channel carries it.
    pub channel: String,
    /// Who is to get it: whose preferences count.
    pub recipient: String,
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
        status, status_reason, checkpoint, next_attempt_at, progress_owed_at, inserted_at, updated_at
    )
    select u.id, u.run_id, u.step_id, u.visit, u.notification_id, u.tenant_id, u.channel,
        case when v.reason is null then 'pending' else 'suppressed' end, v.reason,
        case when v.reason is not null then 'planning' end,
        case when v.reason is null then u.due end, case when v.reason is not null then u.due end,
        u.due, u.due
    from unnest(
            $1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::uuid[], $6::text[], $7::text[],
            $8::timestamptz[], $9::text[], $10::text[], $11::bool[]
        ) as u (
            id, run_id, step_id, visit, notification_id, tenant_id, channel, due, recipient, category,
            unless_read
        )
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
        &deliveries.iter().map(|delivery| delivery.tenant.clone()).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.channel.clone()).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.due).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.recipient.clone()).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.category.clone()).collect::<Vec<_>>() as _,
        &deliveries.iter().map(|delivery| delivery.unless_read).collect::<Vec<_>>(),
    )
    .fetch_one(conn)
    .await?;
    Ok(usize::try_from(suppressed).unwrap_or(0))
}

/// Who claims, and how much.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// The worker process.
    pub owner: &'a str,
    /// At most so many.
    pub limit: i64,
    /// For how long.
    pub lease: Duration,
    /// Not over these channels: their slots are taken.
    pub except_channels: &'a [String],
    /// Only those whose workers died repeatedly; else only the others.
    pub isolated: bool,
    /// Where not the earliest ones are claimed but tenants and channels take turns: the pair that had
    /// the last turn; two empty texts for the beginning.
    pub turns_after: Option<(&'a str, &'a str)>,
}

/// A claimed delivery with what sending needs.
#[derive(Debug, Clone)]
pub struct ClaimedRow {
    /// Which delivery.
    pub id: DeliveryId,
    /// The fence of this claim.
    pub claim_no: ClaimNo,
    /// Which try this is.
    pub attempt: AttemptNumber,
    /// Tries whose worker vanished.
    pub crashes: i32,
    /// Of which run.
    pub run: RunId,
    /// Of which step.
    pub step: StepId,
    /// Of which visit.
    pub visit: Visit,
    /// Whose notification.
    pub notification: Option<NotificationId>,
    /// Whose it is.
    pub tenant: String,
    /// Which channel carries it.
    pub channel: String,
    /// The version its run follows.
    pub definition: Option<DefinitionId>,
    /// The run's visit now.
    pub run_visit: Option<Visit>,
    /// Whether the run is live, and nobody has asked for its end.
    pub run_live: Option<bool>,
    /// The recipient.
    pub recipient: Option<String>,
    /// The trigger.
    pub event: Option<EventId>,
    /// What the host gave.
    pub params: Option<Kept>,
    /// The recipient's address for this channel.
    pub address: Option<String>,
    /// The recipient's language and region.
    pub locale: Option<String>,
    /// The recipient's time zone.
    pub time_zone: Option<String>,
    /// Whether the recipient has read the notification.
    pub read: bool,
    /// Whether the recipient does not want this channel.
    pub channel_disabled: bool,
    /// The categories that the recipient does not want.
    pub disabled_categories: Option<Vec<String>>,
    /// A try whose worker seemed to have vanished had succeeded after all.
    pub delivered: bool,
    /// When it was due.
    pub due_at: DateTime<Utc>,
    /// The database's now, when it was claimed.
    pub now: DateTime<Utc>,
}

/// Claims due deliveries: status dispatched, fence raised, try counted, lease begun. Rows that another
/// session holds are passed over.
///
/// The earliest ones come first; or tenants and channels take turns (`turns_after`), each pair an equal
/// share, found by skipping through an index, at most 1,000 pairs a claim: it costs the same however much
/// one tenant has that is late, or a channel whose slots are taken.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn claim(conn: &mut PgConnection, claim: &Claim<'_>) -> StoreResult<Vec<ClaimedRow>> {
    Ok(sqlx::query_as!(
        ClaimedRow,
        r#"-- deliveries::claim
with recursive pairs (tenant_id, channel, is_due, due_pairs, steps) as (
    select first.tenant_id, first.channel, d.is_due, d.is_due::int, 1
    from (
        select tenant_id collate "C" as tenant_id, channel collate "C" as channel
        from chimeway.deliveries
        where $7 and next_attempt_at is not null
            and (tenant_id collate "C", channel collate "C") > ($8::text collate "C", $9::text collate "C")
        order by tenant_id collate "C", channel collate "C"
        limit 1
    ) first
    cross join lateral (
        select first.channel <> all($4) and exists (
            select from chimeway.deliveries d
            where d.tenant_id collate "C" = first.tenant_id and d.channel collate "C" = first.channel
                and d.next_attempt_at is not null and d.next_attempt_at <= (select chimeway.now())
                and d.status in ('pending', 'failed')
        ) as is_due
    ) d
    union all
    select next.tenant_id, next.channel, d.is_due, p.due_pairs + d.is_due::int, p.steps + 1
    from pairs p
    cross join lateral (
        select d.tenant_id collate "C" as tenant_id, d.channel collate "C" as channel
        from chimeway.deliveries d
        where d.next_attempt_at is not null
            and (d.tenant_id collate "C", d.channel collate "C") > (p.tenant_id, p.channel)
        order by d.tenant_id collate "C", d.channel collate "C"
        limit 1
    ) next
    cross join lateral (
        select next.channel <> all($4) and exists (
            select from chimeway.deliveries d
            where d.tenant_id collate "C" = next.tenant_id and d.channel collate "C" = next.channel
                and d.next_attempt_at is not null and d.next_attempt_at <= (select chimeway.now())
                and d.status in ('pending', 'failed')
        ) as is_due
    ) d
    where p.due_pairs < $1::bigint and p.steps < 1000
), due as materialized (
    select earliest.id from (
        select id
        from chimeway.deliveries
        where not $7 and next_attempt_at is not null and next_attempt_at <= (select chimeway.now())
            and status in ('pending', 'failed')
            and (crashes >= $6) = $5
            and channel <> all($4)
        order by next_attempt_at
        limit $1
        for no key update skip locked
    ) earliest
    union all
    select share.id from (
        select d.id
        from pairs p
        cross join lateral (
            select d.id
            from chimeway.deliveries d
            where d.tenant_id collate "C" = p.tenant_id and d.channel collate "C" = p.channel
                and d.next_attempt_at is not null and d.next_attempt_at <= (select chimeway.now())
                and d.status in ('pending', 'failed')
                and (d.crashes >= $6) = $5
            order by d.next_attempt_at
            limit (select greatest(ceil($1::bigint::numeric / greatest(max(due_pairs), 1)), 1)::bigint from pairs)
            for no key update skip locked
        ) d
        where p.is_due
        order by p.steps
        limit $1
    ) share
), claimed as (
    update chimeway.deliveries d
    set status = 'dispatched', claim_no = d.claim_no + 1, attempts = d.attempts + 1,
        lease_owner = $2, lease_until = (select chimeway.now()) + $3
    from due
    where d.id = due.id
    returning d.*
)
select
    c.id as "id!: DeliveryId", c.claim_no as "claim_no!: ClaimNo",
    c.attempts as "attempt!: AttemptNumber", c.crashes as "crashes!",
    c.workflow_run_id as "run!: RunId", c.workflow_step_id as "step!: StepId",
    c.visit as "visit!: Visit", c.notification_id as "notification: NotificationId",
    c.tenant_id as "tenant!", c.channel as "channel!",
    r.workflow_definition_id as "definition?: DefinitionId", r.visit as "run_visit?: Visit",
    (r.ended_at is null and r.cancel_requested_at is null and r.id is not null) as "run_live", r.actor_id as "recipient?",
    e.id as "event?: EventId", e.params as "params?: Kept",
    p.addresses ->> c.channel as "address?", p.locale as "locale?", p.time_zone as "time_zone?",
    (n.read_at is not null) as "read!", coalesce(q.channel, false) as "channel_disabled!",
    q.categories as "disabled_categories?",
    c.crashes > 0 and exists (
        select from chimeway.delivery_attempts a
        where a.delivery_id = c.id and a.outcome = 'succeeded'
    ) as "delivered!",
    c.next_attempt_at as "due_at!", (select chimeway.now()) as "now!"
from claimed c
left join chimeway.workflow_runs r on r.id = c.workflow_run_id
left join chimeway.notifications n on n.id = c.notification_id
left join chimeway.events e on e.id = n.event_id
left join chimeway.recipients p on p.tenant_id = c.tenant_id and p.identity = n.recipient
left join lateral (
    select bool_or(q.kind = 'channel' and q.name = c.channel) as channel,
        array_agg(q.name) filter (where q.kind = 'category') as categories
    from chimeway.preferences q
    where q.tenant_id = c.tenant_id and q.recipient = n.recipient and not q.enabled
) q on true
order by c.next_attempt_at, c.id"#,
        claim.limit,
        claim.owner,
        interval(claim.lease),
        claim.except_channels,
        claim.isolated,
        CRASHES_BEFORE_ISOLATION,
        claim.turns_after.is_some(),
        claim.turns_after.map_or("", |(tenant, _)| tenant),
        claim.turns_after.map_or("", |(_, channel)| channel),
    )
    .fetch_all(conn)
    .await?)
}

/// A claim: which delivery, under which fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimRef {
    /// Which delivery.
    pub id: DeliveryId,
    /// The fence of the claim.
    pub claim_no: ClaimNo,
}

/// Gives claimed but unsent deliveries back: due again, the try not counted, the fence kept. One that
/// another session holds is left to the end of its lease.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn hand_back(conn: &mut PgConnection, claims: &[ClaimRef]) -> StoreResult<u64> {
    if claims.is_empty() {
        return Ok(0);
    }
    Ok(sqlx::query!(
        r#"-- deliveries::hand_back
with free as materialized (
    select id from chimeway.deliveries where id = any($1) order by id for no key update skip locked
)
update chimeway.deliveries d
set status = case when d.attempts > 1 then 'failed' else 'pending' end, attempts = d.attempts - 1,
    lease_owner = null, lease_until = null
from unnest($1::uuid[], $2::int[]) as u (id, claim_no)
    join free on free.id = u.id
where d.id = u.id and d.claim_no = u.claim_no and d.status = 'dispatched'"#,
        &claims.iter().map(|claim| claim.id.0).collect::<Vec<_>>(),
        &claims
            .iter()
            .map(|claim| claim.claim_no.0)
            .collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?
    .rows_affected())
}

/// A claim whose lease has ended without a record.
#[derive(Debug, Clone)]
pub struct ExpiredRow {
    /// Which delivery.
    pub id: DeliveryId,
    /// The fence of the claim.
    pub claim_no: ClaimNo,
    /// Which try it was.
    pub attempt: AttemptNumber,
    /// Tries whose worker vanished before it.
    pub crashes: i32,
    /// Of which run.
    pub run: RunId,
    /// Of which visit.
    pub visit: Visit,
    /// Which channel carried it.
    pub channel: String,
    /// The worker process that held it.
    pub owner: String,
    /// When it was claimed, about: its lease's end less the lease.
    pub lease_until: DateTime<Utc>,
    /// The database's now.
    pub now: DateTime<Utc>,
}

/// Claims whose lease ended at least `grace` ago, among the `among` rows that have been due longest: that
/// is where they are, but for many rows of a channel whose slots are taken.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn expired(
    conn: &mut PgConnection,
    limit: i64,
    grace: Duration,
    among: i64,
) -> StoreResult<Vec<ExpiredRow>> {
    Ok(sqlx::query_as!(
        ExpiredRow,
        r#"-- deliveries::expired
select
    d.id as "id: DeliveryId", d.claim_no as "claim_no: ClaimNo",
    d.attempts as "attempt: AttemptNumber", d.crashes, d.workflow_run_id as "run: RunId",
    d.visit as "visit: Visit", d.channel, coalesce(d.lease_owner, '') as "owner!",
    d.lease_until as "lease_until!", (select chimeway.now()) as "now!"
from (
    select *
    from chimeway.deliveries
    where next_attempt_at is not null and next_attempt_at <= (select chimeway.now())
    order by next_attempt_at
    limit $3
) d
where d.status = 'dispatched' and d.lease_until <= (select chimeway.now()) - $2::interval
order by d.id
limit $1"#,
        limit,
        interval(grace),
        among,
    )
    .fetch_all(conn)
    .await?)
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
    pub decided: Vec<ClaimRef>,
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
    select u.*
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
    returning d.id, d.claim_no
)
select id as "id!: DeliveryId", claim_no as "claim_no?: ClaimNo" from written
union all
select id, null::int from locked"#,
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
    let decided = rows.into_iter().filter_map(|row| {
        let (id, claim_no) = (row.id, row.claim_no?);
        Some(ClaimRef { id, claim_no })
    });
    Ok(Recorded {
        decided: decided.collect(),
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
