//! Which process-wide duties ran.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreResult;

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

/// Forgets ticks older than a day.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn forget_old_ticks(conn: &mut PgConnection) -> StoreResult<u64> {
    Ok(sqlx::query!(
        r#"-- cron::forget_old_ticks
delete from chimeway.cron_ticks where tick < chimeway.now() - interval '1 day'"#
    )
    .execute(conn)
    .await?
    .rows_affected())
}
