//! Which process-wide duties ran.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreResult, deliveries::interval};

/// Takes a tick of a duty for this process; false where another process has it. Held by the caller's
/// transaction: rolled back, the tick is free again.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn take_tick(
    conn: &mut PgConnection,
    schedule: &str,
    tick: DateTime<Utc>,
) -> StoreResult<bool> {
    let locked = sqlx::query_scalar!(
        r#"-- cron::take_tick
select pg_try_advisory_xact_lock(hashtextextended('chimeway.cron.' || $1, 0)) as "locked!""#,
        schedule,
    )
    .fetch_one(&mut *conn)
    .await?;
    if !locked {
        return Ok(false);
    }
    let taken = sqlx::query!(
        r#"-- cron::take_tick (row)
insert into chimeway.cron_ticks (schedule, tick, ran_at)
values ($1, $2, chimeway.now())
on conflict do nothing"#,
        schedule,
        tick,
    )
    .execute(&mut *conn)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Forgets up to `limit` ticks that are at least this old; the table is small.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn forget_ticks(conn: &mut PgConnection, age: Duration, limit: i64) -> StoreResult<u64> {
    Ok(sqlx::query!(
        r#"-- cron::forget_ticks
with old as materialized (
    select schedule, tick from chimeway.cron_ticks
    where tick <= (select chimeway.now()) - $1::interval
    limit $2
    for update skip locked
)
delete from chimeway.cron_ticks c using old where c.schedule = old.schedule and c.tick = old.tick"#,
        interval(age),
        limit,
    )
    .execute(conn)
    .await?
    .rows_affected())
}
