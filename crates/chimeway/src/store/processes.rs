//! Which worker processes live, and which have died without a drain.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreResult, deliveries::interval};

/// Says that a process lives, and asks which ones do not: those that have said nothing for `silence`, and those
/// that had its name before. Returns the instant until which one of them may have taken something up; `None` where
/// all live. Who died ten minutes ago is forgotten.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn beat(
    conn: &mut PgConnection,
    process: Uuid,
    name: &str,
    silence: Duration,
) -> StoreResult<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar!(
        r#"-- processes::beat
with moment as materialized (
    select chimeway.now() as now
), lives as (
    insert into chimeway.worker_processes (id, name, started_at, seen_at)
    select $1, $2, now, now from moment
    on conflict (id) do update set seen_at = excluded.seen_at
), forgotten as (
    delete from chimeway.worker_processes
    where id = any(array(
        select id from chimeway.worker_processes
        where seen_at < (select now from moment) - interval '10 minutes' and id <> $1
        order by id
        for update skip locked
    ))
)
select max(least(p.seen_at + $3::interval, m.now))
from chimeway.worker_processes p, moment m
where p.id <> $1 and (p.seen_at < m.now - $3::interval or p.name = $2)"#,
        process,
        name,
        interval(silence),
    )
    .fetch_one(conn)
    .await?)
}

/// A process has drained: it has left nothing behind.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn leave(conn: &mut PgConnection, process: Uuid) -> StoreResult<()> {
    sqlx::query!(
        r#"-- processes::leave
delete from chimeway.worker_processes where id = $1"#,
        process,
    )
    .execute(conn)
    .await?;
    Ok(())
}
