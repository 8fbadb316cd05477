//! Switches for the whole database, the clock, and waking idle workers.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreResult;

/// The database's now: what `decide` is given where no claim or lock brought it.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn now(conn: &mut PgConnection) -> StoreResult<DateTime<Utc>> {
    Ok(sqlx::query_scalar!(
        r#"-- settings::now
select chimeway.clock() as "now!""#
    )
    .fetch_one(conn)
    .await?)
}

/// Tells idle workers, at commit, that these queues have work; does nothing where the database has
/// notifications off.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn wake(conn: &mut PgConnection, queues: &[&str]) -> StoreResult<()> {
    if queues.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- settings::wake
select chimeway.wake(queue) from unnest($1::text[]) as queue"#,
        queues as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Sets the instant that Chimeway takes for now; `None` goes back to the real time. For tests: time
/// then moves only when told.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn set_clock(conn: &mut PgConnection, clock: Option<DateTime<Utc>>) -> StoreResult<()> {
    sqlx::query!(
        r#"-- settings::set_clock
update chimeway.settings set clock = $1"#,
        clock,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Turns NOTIFY on or off for the whole database.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn set_notify(conn: &mut PgConnection, notify: bool) -> StoreResult<()> {
    sqlx::query!(
        r#"-- settings::set_notify
update chimeway.settings set notify = $1"#,
        notify,
    )
    .execute(conn)
    .await?;
    Ok(())
}
