//! Claims: a worker's hold on a delivery, from taking it up to its record, its hand-back or the end of its lease.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreResult, deliveries::interval, due::Floor, json::Kept};
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
    /// At most so many over one channel.
    pub per_channel: i64,
    /// Channels over which there are fewer, or none: some of their slots are taken, or all.
    pub left: &'a BTreeMap<String, i64>,
    /// Only those whose workers died repeatedly; else only the others.
    pub isolated: bool,
    /// Where not the earliest ones are claimed but tenants and channels take turns: the pair that had
    /// the last turn; two empty texts for the beginning.
    pub turns_after: Option<(&'a str, &'a str)>,
    /// Only what is due since then, or later.
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
    /// Where tenants and channels take turns: the place of this one's pair after the pair that had the last
    /// turn. `None` where pairs before it had something due, and nothing was taken of one of them.
    pub turn: Option<i32>,
    /// When it was due.
    pub due_at: DateTime<Utc>,
    /// The database's now, when it was claimed.
    pub now: DateTime<Utc>,
}

/// Claims due deliveries: status dispatched, fence raised, try counted, lease begun. Rows that another
/// session holds are passed over.
///
/// The earliest ones come first; or tenants and channels take turns (`turns_after`), each pair an equal
/// share, after the last one the first one again. Pairs are found by skipping through an index, at most
/// 1,000 a claim: it costs the same however much one tenant has that is late, or a channel whose slots are
/// taken. One claim fills several channels, each as far as its slots go; what it had to lock beyond that is
/// free again when it commits.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn claim(conn: &mut PgConnection, claim: &Claim<'_>) -> StoreResult<Vec<ClaimedRow>> {
    let (channels, left): (Vec<String>, Vec<i64>) = claim.left.clone().into_iter().unzip();
    let taken = claim.left.iter().filter(|(_, left)| **left <= 0);
    let taken: Vec<String> = taken.map(|(channel, _)| channel.clone()).collect();
    Ok(sqlx::query_as!(
        ClaimedRow,
        r#"-- claims::claim
with recursive moment as materialized (
    -- Once: every call takes as long as a look at an index.
    select chimeway.now() as now
), pairs (tenant_id, channel, again, is_due, due_pairs, steps) as (
    select first.tenant_id, first.channel, first.again, d.is_due, d.is_due::int, 1
    from (
        select * from (
            (
                select tenant_id collate "C" as tenant_id, channel collate "C" as channel, false as again
                from chimeway.deliveries
                where $7 and next_attempt_at is not null and next_attempt_at >= coalesce($13, timestamptz '-infinity') and crashes >= 0
                    and (tenant_id collate "C", channel collate "C") > ($8::text collate "C", $9::text collate "C")
                order by tenant_id collate "C", channel collate "C"
                limit 1
            )
            union all
            (
                select tenant_id collate "C", channel collate "C", true
                from chimeway.deliveries
                where $7 and next_attempt_at is not null and next_attempt_at >= coalesce($13, timestamptz '-infinity') and crashes >= 0
                order by tenant_id collate "C", channel collate "C"
                limit 1
            )
        ) ahead
        order by again
        limit 1
    ) first
    cross join lateral (
        -- Not `exists`, for which the planner may read all that is due into a table first.
        select first.channel <> all($4) and coalesce((
            select true from chimeway.deliveries d
            where d.tenant_id collate "C" = first.tenant_id and d.channel collate "C" = first.channel
                and d.next_attempt_at is not null and d.crashes >= 0
                and d.next_attempt_at >= coalesce($13, timestamptz '-infinity') and d.next_attempt_at <= (select now from moment)
                and d.status in ('pending', 'failed')
            limit 1
        ), false) as is_due
    ) d
    union all
    select next.tenant_id, next.channel, next.again, d.is_due, p.due_pairs + d.is_due::int, p.steps + 1
    from pairs p
    cross join lateral (
        select * from (
            (
                select d.tenant_id collate "C" as tenant_id, d.channel collate "C" as channel, p.again
                from chimeway.deliveries d
                where d.next_attempt_at is not null and d.next_attempt_at >= coalesce($13, timestamptz '-infinity') and d.crashes >= 0
                    and (d.tenant_id collate "C", d.channel collate "C") > (p.tenant_id, p.channel)
                order by d.tenant_id collate "C", d.channel collate "C"
                limit 1
            )
            union all
            -- After the last one comes the first one again.
            (
                select d.tenant_id collate "C", d.channel collate "C", true
                from chimeway.deliveries d
                where not p.again and d.next_attempt_at is not null and d.next_attempt_at >= coalesce($13, timestamptz '-infinity')
                    and d.crashes >= 0
                order by d.tenant_id collate "C", d.channel collate "C"
                limit 1
            )
        ) ahead
        order by again
        limit 1
    ) next
    cross join lateral (
        select next.channel <> all($4) and coalesce((
            select true from chimeway.deliveries d
            where d.tenant_id collate "C" = next.tenant_id and d.channel collate "C" = next.channel
                and d.next_attempt_at is not null and d.crashes >= 0
                and d.next_attempt_at >= coalesce($13, timestamptz '-infinity') and d.next_attempt_at <= (select now from moment)
                and d.status in ('pending', 'failed')
            limit 1
        ), false) as is_due
    ) d
    where p.due_pairs < $1::bigint and p.steps < 1000
        -- Once round: to the one that had the last turn.
        and (not next.again or (next.tenant_id, next.channel) <= ($8::text collate "C", $9::text collate "C"))
), shares as materialized (
    -- No more is locked than can be taken: as much for each pair, and for those of one channel as it has slots.
    select p.tenant_id, p.channel, p.steps,
        greatest(1, least(
            ceil($1::bigint::numeric / max(p.due_pairs) over ()),
            ceil(coalesce(slots.free, $12::bigint)::numeric / count(*) over (partition by p.channel))
        ))::bigint as share
    from pairs p
    left join unnest($10::text[], $11::bigint[]) as slots (channel, free) on slots.channel = p.channel
    where p.is_due
), due as materialized (
    select earliest.id, earliest.channel, 0 as turn, row_number() over () as place from (
        select id, channel
        from chimeway.deliveries
        -- Not `status in ('pending', 'failed')`, which says the same of what is due: the planner takes that for
        -- rare, then reads and sorts all that is due instead of the first of it. So it would by the index for turns,
        -- where statistics say that nothing is due: that index asks for `crashes >= 0`, which is not said here.
        where not $7 and next_attempt_at is not null and next_attempt_at >= coalesce($13, timestamptz '-infinity')
            and next_attempt_at <= (select now from moment)
            and status <> 'dispatched'
            and (crashes >= $6) = $5
            and channel <> all($4)
        order by next_attempt_at
        limit least($1::bigint, $12::bigint)
        for no key update skip locked
    ) earliest
    union all
    select share.id, share.channel, share.turn, row_number() over () from (
        select d.id, p.channel, p.steps as turn
        from shares p
        cross join lateral (
            select d.id
            from chimeway.deliveries d
            where d.tenant_id collate "C" = p.tenant_id and d.channel collate "C" = p.channel
                and d.next_attempt_at is not null and d.crashes >= 0
                and d.next_attempt_at >= coalesce($13, timestamptz '-infinity') and d.next_attempt_at <= (select now from moment)
                and d.status in ('pending', 'failed')
                and (d.crashes >= $6) = $5
            order by d.next_attempt_at
            limit p.share
            for no key update skip locked
        ) d
        order by p.steps
        limit $1
    ) share
), fits as materialized (
    select due.id, due.turn, due.nth <= coalesce(slots.free, $12::bigint) as fits
    from (
        select id, turn, channel, row_number() over (partition by channel order by place) as nth from due
    ) due
    left join unnest($10::text[], $11::bigint[]) as slots (channel, free) on slots.channel = due.channel
), passed_over (turn) as (
    select min(turn) from (select turn from fits group by turn having not bool_or(fits)) none_taken
), claimed as (
    update chimeway.deliveries d
    set status = 'dispatched', claim_no = d.claim_no + 1, attempts = d.attempts + 1,
        lease_owner = $2, lease_until = (select now from moment) + $3
    where d.id = any(array(select id from fits where fits))
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
    case when f.turn < (select coalesce(turn, 1001) from passed_over) then f.turn end as "turn?",
    c.next_attempt_at as "due_at!", (select now from moment) as "now!"
from claimed c
join fits f on f.id = c.id
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
        claim.limit,
        claim.owner,
        interval(claim.lease),
        &taken,
        claim.isolated,
        CRASHES_BEFORE_ISOLATION,
        claim.turns_after.is_some(),
        claim.turns_after.map_or("", |(tenant, _)| tenant),
        claim.turns_after.map_or("", |(_, channel)| channel),
        &channels,
        &left,
        claim.per_channel,
        claim.floor,
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
