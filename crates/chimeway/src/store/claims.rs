//! Claims: a worker's hold on a delivery, from taking it up to its record, its hand-back or the end of its lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreResult, deliveries::interval, json::Kept};
use crate::{
    engine::attempt::CRASHES_BEFORE_ISOLATION,
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
        r#"-- claims::claim
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
        -- Not `status in ('pending', 'failed')`, which says the same of what is due: the planner takes that for
        -- rare, then reads and sorts all that is due instead of the first of it.
        where not $7 and next_attempt_at is not null and next_attempt_at <= (select chimeway.now())
            and status <> 'dispatched'
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
    where d.id = any(array(select due.id from due))
    returning d.*
)
select
    c.id as "id!: DeliveryId", c.claim_no as "claim_no!: ClaimNo",
    c.attempts as "attempt!: AttemptNumber", c.crashes as "crashes!",
    c.workflow_run_id as "run!: RunId", c.workflow_step_id as "step!: StepId",
    c.visit as "visit!: Visit", c.action_index as "action!", c.notification_id as "notification: NotificationId",
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
        offset 0
    ) as "delivered!",
    c.next_attempt_at as "due_at!", (select chimeway.now()) as "now!"
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
    select * from chimeway.events e where e.id = n.event_id offset 0
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
        r#"-- claims::expired
select
    d.id as "id: DeliveryId", d.claim_no as "claim_no: ClaimNo",
    d.attempts as "attempt: AttemptNumber", d.crashes, d.workflow_run_id as "run: RunId",
    d.visit as "visit: Visit", d.action_index as action, d.channel, coalesce(d.lease_owner, '') as "owner!",
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
