//! Which tenants and channels have something due: found by skipping through an index.

use sqlx::PgConnection;

use super::{StoreResult, due::Floor};
use crate::engine::turns::{AHEAD, Pair, Slots};

/// The next pairs after the one that had the last turn that have something due, over channels that have a slot; after
/// the last pair the first one again, once round. At most [`AHEAD`], among the next 1,000 that have anything to send,
/// be it later: a look costs the same however much each of them has.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn due(
    conn: &mut PgConnection,
    after: &Pair,
    slots: &Slots,
    floor: Floor,
) -> StoreResult<Vec<Pair>> {
    let taken: Vec<String> = slots.taken().into_iter().collect();
    Ok(sqlx::query_as!(
        Pair,
        r#"-- turns::due
with recursive moment as materialized (
    select chimeway.now() as now
), pairs (tenant_id, channel, again, is_due, due_pairs, steps) as (
    select $1::text collate "C", $2::text collate "C", false, false, 0, 0
    union all
    select next.tenant_id, next.channel, next.again, d.is_due, p.due_pairs + d.is_due::int, p.steps + 1
    from pairs p
    cross join lateral (
        select * from (
            (
                select d.tenant_id collate "C" as tenant_id, d.channel collate "C" as channel, p.again
                from chimeway.deliveries d
                where d.next_attempt_at is not null and d.next_attempt_at >= coalesce($4, timestamptz '-infinity') and d.crashes >= 0
                    and (d.tenant_id collate "C", d.channel collate "C") > (p.tenant_id, p.channel)
                order by d.tenant_id collate "C", d.channel collate "C"
                limit 1
            )
            union all
            -- After the last one comes the first one again.
            (
                select d.tenant_id collate "C", d.channel collate "C", true
                from chimeway.deliveries d
                where not p.again and d.next_attempt_at is not null and d.next_attempt_at >= coalesce($4, timestamptz '-infinity')
                    and d.crashes >= 0
                order by d.tenant_id collate "C", d.channel collate "C"
                limit 1
            )
        ) ahead
        order by again
        limit 1
    ) next
    cross join lateral (
        -- Not `exists`, for which the planner may read all that is due into a table first; and once (`offset 0`).
        select next.channel <> all($3) and coalesce((
            select true from chimeway.deliveries d
            where d.tenant_id collate "C" = next.tenant_id and d.channel collate "C" = next.channel
                and d.next_attempt_at is not null and d.crashes >= 0
                and d.next_attempt_at >= coalesce($4, timestamptz '-infinity') and d.next_attempt_at <= (select now from moment)
                and d.status in ('pending', 'failed')
            limit 1
        ), false) as is_due
        offset 0
    ) d
    where p.due_pairs < $5::int and p.steps < 1000
        -- Once round: to the one that had the last turn.
        and (not next.again or (next.tenant_id, next.channel) <= ($1::text collate "C", $2::text collate "C"))
)
select tenant_id as "tenant!", channel as "channel!" from pairs where is_due order by steps"#,
        after.tenant,
        after.channel,
        &taken,
        floor,
        i32::try_from(AHEAD).unwrap_or(i32::MAX),
    )
    .fetch_all(conn)
    .await?)
}
