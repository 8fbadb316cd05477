//! Which tenants and channels have something due: found by skipping through an index.

use sqlx::PgConnection;

use super::{StoreResult, due::Floor};
use crate::engine::turns::{AHEAD, Due, Found, NEAR, Pair, Slots};

/// The next pairs after one that have something due, over channels that have a slot; after the last pair the first one
/// again, once round.
///
/// At most [`AHEAD`]. A look costs about 20 microseconds for each pair, however much it has. It ends where it has
/// passed so many pairs with nothing due (only something later, or over a channel without a slot), or [`NEAR`] after
/// the first one that has: the next look goes on from there.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn due(
    conn: &mut PgConnection,
    (after, far): (&Pair, i32),
    slots: &Slots,
    floor: Floor,
) -> StoreResult<Found> {
    let taken: Vec<String> = slots.taken().into_iter().collect();
    let passed = sqlx::query!(
        r#"-- turns::due
with recursive moment as materialized (
    select chimeway.now() as now
), pairs (tenant_id, channel, again, is_due, due_pairs, steps, steps_left, first) as (
    select $1::text collate "C", $2::text collate "C", false, false, 0, 0, $6::int, null::timestamptz
    union all
    select next.tenant_id, next.channel, next.again, d.first is not null, p.due_pairs + (d.first is not null)::int, p.steps + 1,
        least(p.steps_left - 1, case when d.first is not null and p.due_pairs = 0 then $7::int end), d.first
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
        select case when next.channel <> all($3) then (
            select d.next_attempt_at from chimeway.deliveries d
            where d.tenant_id collate "C" = next.tenant_id and d.channel collate "C" = next.channel
                and d.next_attempt_at is not null and d.crashes >= 0
                and d.next_attempt_at >= coalesce($4, timestamptz '-infinity') and d.next_attempt_at <= (select now from moment)
                and d.status in ('pending', 'failed')
            order by d.next_attempt_at
            limit 1
        ) end as first
        offset 0
    ) d
    where p.due_pairs < $5::int and p.steps_left > 0
        -- Once round: to the one that had the last turn.
        and (not next.again or (next.tenant_id, next.channel) <= ($1::text collate "C", $2::text collate "C"))
)
select tenant_id as "tenant!", channel as "channel!", first, is_cut as "is_cut!"
from (
    select *, steps = max(steps) over () and (due_pairs >= $5::int or steps_left <= 0) as is_cut from pairs
) passed
where is_due or is_cut
order by steps"#,
        after.tenant,
        after.channel,
        &taken,
        floor,
        i32::try_from(AHEAD).unwrap_or(i32::MAX),
        far,
        NEAR,
    )
    .fetch_all(conn)
    .await?;
    let mut found = Found::default();
    for row in passed {
        let pair = Pair {
            tenant: row.tenant,
            channel: row.channel,
        };
        if row.is_cut {
            found.cut = Some(pair.clone());
        }
        if row.first.is_some() {
            found.pairs.push(Due {
                pair,
                first: row.first,
            });
        }
    }
    Ok(found)
}
