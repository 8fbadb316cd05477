//! Claims: a worker's hold on a delivery, from taking it up to its record, its hand-back or the end of its lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreResult, deliveries::interval, due::Floor, json::Kept};
use crate::{
    engine::{
        attempt::CRASHES_BEFORE_ISOLATION,
        turns::{Share, Slots},
    },
    ids::{
        AttemptNumber, ClaimNo, DefinitionId, DeliveryId, EventId, NotificationId, RunId, StepId,
        Visit,
    },
};

/// Who claims, and how much.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// The worker process.
    pub owner: &'a str,
    /// For how long.
    pub lease: Duration,
    /// At most so many.
    pub slots: &'a Slots,
    /// Only those whose workers died repeatedly, the earliest of all, whatever the floor; else only the others.
    pub isolated: bool,
    /// Of these tenants and channels, so many each; `None`: the earliest of all.
    pub shares: Option<&'a [Share]>,
    /// Only what is due since then, or later; shares may have later floors of their own.
    pub floor: Floor,
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
    /// The place of its action in the step; 0 for a step that is one message.
    pub action: i32,
    /// Whose notification.
    pub notification: Option<NotificationId>,
    /// Whose it is.
    pub tenant: String,
    /// Which channel carries it.
    pub channel: String,
    /// The version its run follows.
    pub definition: Option<DefinitionId>,
    /// The instant of the run's trigger.
    pub run_started_at: Option<DateTime<Utc>>,
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
    /// The run's own values.
    pub context: Option<Kept>,
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
/// The earliest ones, for each channel as far as its slots go: what had to be locked beyond that is free again when
/// this commits. Or those of given tenants and channels, the earliest of each: that costs the same however much one
/// tenant has that is late, or a channel whose slots are taken.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn claim(conn: &mut PgConnection, claim: &Claim<'_>) -> StoreResult<Vec<ClaimedRow>> {
    let slots = claim.slots;
    let taken: Vec<String> = slots.taken().into_iter().collect();
    let (channels, left): (Vec<String>, Vec<i64>) = slots.left.clone().into_iter().unzip();
    let shares = claim.shares.unwrap_or_default();
    Ok(sqlx::query_as!(
        ClaimedRow,
        r#"-- claims::claim
with moment as materialized (
    -- Once: every call takes as long as a look at an index.
    select chimeway.now() as now
), earliest as materialized (
    select id, channel, row_number() over () as place from (
        select id, channel
        from chimeway.deliveries
        -- Not `status in ('pending', 'failed')`, which says the same of what is due: the planner takes that for
        -- rare, then reads and sorts all that is due instead of the first of it. So it would by the index for turns,
        -- where statistics say that nothing is due: that index asks for `crashes >= 0`, which is not said here.
        where $7 and not $5 and next_attempt_at is not null and next_attempt_at >= coalesce($14, timestamptz '-infinity')
            and next_attempt_at <= (select now from moment)
            and status <> 'dispatched'
            and crashes < $6
            and channel <> all($4)
        order by next_attempt_at
        limit least($1::bigint, $13::bigint)
        for no key update skip locked
    ) due
), taken as materialized (
    select nth.id
    from (select id, channel, row_number() over (partition by channel order by place) as place from earliest) nth
    left join unnest($11::text[], $12::bigint[]) as slots (channel, free) on slots.channel = nth.channel
    where nth.place <= coalesce(slots.free, $13::bigint)
    union all
    select due.id
    from (
        select id
        from chimeway.deliveries
        where $5 and next_attempt_at is not null and next_attempt_at <= (select now from moment)
            and status <> 'dispatched'
            and crashes > 0 and crashes >= $6
            and channel <> all($4)
        order by next_attempt_at
        limit least($1::bigint, $13::bigint)
        for no key update skip locked
    ) due
    union all
    select due.id
    from unnest($8::text[], $9::text[], $10::bigint[], $15::timestamptz[]) as share (tenant_id, channel, at_most, floor)
    cross join lateral (
        select d.id
        from chimeway.deliveries d
        where d.tenant_id collate "C" = share.tenant_id and d.channel collate "C" = share.channel
            and d.next_attempt_at is not null and d.crashes >= 0
            and d.next_attempt_at >= coalesce(share.floor, $14, timestamptz '-infinity')
            and d.next_attempt_at <= (select now from moment)
            and d.status in ('pending', 'failed')
            and d.crashes < $6
        order by d.next_attempt_at
        limit share.at_most
        for no key update skip locked
    ) due
), claimed as (
    update chimeway.deliveries d
    set status = 'dispatched', claim_no = d.claim_no + 1, attempts = d.attempts + 1,
        lease_owner = $2, lease_until = (select now from moment) + $3
    where d.id = any(array(select id from taken))
    returning d.*
)
select
    c.id as "id!: DeliveryId", c.claim_no as "claim_no!: ClaimNo",
    c.attempts as "attempt!: AttemptNumber", c.crashes as "crashes!",
    c.workflow_run_id as "run!: RunId", c.workflow_step_id as "step!: StepId",
    c.visit as "visit!: Visit", c.action_index as "action!", c.notification_id as "notification: NotificationId",
    c.tenant_id as "tenant!", c.channel as "channel!",
    r.workflow_definition_id as "definition?: DefinitionId", r.started_at as "run_started_at?", r.visit as "run_visit?: Visit",
    (r.ended_at is null and r.cancel_requested_at is null and r.id is not null) as "run_live", n.recipient as "recipient?",
    e.id as "event?: EventId", e.params as "params?: Kept", r.context as "context?: Kept",
    p.addresses ->> c.channel as "address?", p.locale as "locale?", p.time_zone as "time_zone?",
    (n.read_at is not null) as "read!", coalesce(q.channel, false) as "channel_disabled!",
    q.categories as "disabled_categories?",
    c.crashes > 0 and exists (
        select from chimeway.delivery_attempts a
        where a.delivery_id = c.id and a.outcome = 'succeeded'
        offset 0
    ) as "delivered!",
    c.next_attempt_at as "due_at!", (select now from moment) as "now!"
from claimed c
-- By key, row by row, whatever the planner makes of a limit that it does not know: `offset 0` keeps it from
-- reading whole tables to join them with a handful of rows.
left join lateral (
    select * from chimeway.workflow_runs r where r.id = c.workflow_run_id offset 0
) r on true
left join lateral (
    select * from chimeway.notifications n where n.id = c.notification_id offset 0
) n on true
left join lateral (
    select * from chimeway.events e where e.id = coalesce(n.event_id, r.event_id) offset 0
) e on true
left join lateral (
    select * from chimeway.recipients p where p.tenant_id = c.tenant_id and p.identity = n.recipient offset 0
) p on true
left join lateral (
    select bool_or(q.kind = 'channel' and q.name = c.channel) as channel,
        array_agg(q.name) filter (where q.kind = 'category') as categories
    from chimeway.preferences q
    where q.tenant_id = c.tenant_id and q.recipient = n.recipient and not q.enabled
) q on true
order by c.next_attempt_at, c.id"#,
        slots.free,
        claim.owner,
        interval(claim.lease),
        &taken,
        claim.isolated,
        CRASHES_BEFORE_ISOLATION,
        claim.shares.is_none(),
        &shares.iter().map(|share| share.pair.tenant.clone()).collect::<Vec<_>>(),
        &shares.iter().map(|share| share.pair.channel.clone()).collect::<Vec<_>>(),
        &shares.iter().map(|share| share.at_most).collect::<Vec<_>>(),
        &channels,
        &left,
        slots.per_channel,
        claim.floor,
        &shares.iter().map(|share| share.floor).collect::<Vec<_>>() as _,
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
        r#"-- claims::hand_back
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
    /// The place of its action in the step; 0 for a step that is one message.
    pub action: i32,
    /// Which channel carried it.
    pub channel: String,
    /// The worker process that held it.
    pub owner: String,
    /// When it was claimed, about: its lease's end less the lease.
    pub lease_until: DateTime<Utc>,
    /// The database's now.
    pub now: DateTime<Utc>,
}

/// Claims whose lease ended at least `grace` ago, among the `among` rows that have been due longest, from a floor on:
/// that is where they are, but for many rows of a channel whose slots are taken.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn expired(
    conn: &mut PgConnection,
    limit: i64,
    grace: Duration,
    among: i64,
    floor: Floor,
) -> StoreResult<Vec<ExpiredRow>> {
    Ok(sqlx::query_as!(
        ExpiredRow,
        r#"-- claims::expired
select
    d.id as "id: DeliveryId", d.claim_no as "claim_no: ClaimNo",
    d.attempts as "attempt: AttemptNumber", d.crashes, d.workflow_run_id as "run: RunId",
    d.visit as "visit: Visit", d.action_index as action, d.channel, coalesce(d.lease_owner, '') as "owner!",
    d.lease_until as "lease_until!", (select chimeway.now()) as "now!"
from (
    select *
    from chimeway.deliveries
    where next_attempt_at is not null and next_attempt_at >= coalesce($4, timestamptz '-infinity')
        and next_attempt_at <= (select chimeway.now())
    order by next_attempt_at
    limit $3
) d
where d.status = 'dispatched' and d.lease_until <= (select chimeway.now()) - $2::interval
order by d.id
limit $1"#,
        limit,
        interval(grace),
        among,
        floor,
    )
    .fetch_all(conn)
    .await?)
}
