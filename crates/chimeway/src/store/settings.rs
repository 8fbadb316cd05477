//! Switches for the whole database, the clock, and waking idle workers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection, SqlSafeStr as _, SqlStr};

use super::StoreResult;

/// How workers begin a transaction, in one round trip, whoever made the connection and whichever pooler is
/// between.
///
/// Without just-in-time compilation: the statements are short, but look long to a planner that has no
/// statistics of young tables yet; compiling one took 30 to 500 ms, and running it 1 ms. With plans that are
/// made once: their shape does not depend on the arguments, and to plan a claim took longer than to run it. And
/// without reading tables from end to end, which is the best plan for as long as they are empty, and kept then.
///
/// Without bitmaps and parallel processes, too: beside a long history, of which nothing is due, statistics make the
/// planner read all that is due, with processes that it has to start for each look, and sort it; an index has the first
/// of it in its order.
///
/// And with an end to idleness: the session of a worker that a dead network cut off holds its row locks for so
/// long, instead of for the two hours that TCP takes to look for it. [`begin_for`] says otherwise.
pub const BEGIN: &str = "begin; set local jit = off; \
    set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off; \
    set local enable_bitmapscan = off; set local max_parallel_workers_per_gather = 0; \
    set local idle_in_transaction_session_timeout = '30s'";

/// The same through a pooler in transaction mode. A server's session is then whoever's turn it is: what another
/// client has prepared there, under the names that we use too, is forgotten first. Each statement is prepared
/// anew under a name of its own, and lives as long as the transaction needs it.
pub const BEGIN_POOLED: &str = "begin; set local jit = off; \
    set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off; \
    set local enable_bitmapscan = off; set local max_parallel_workers_per_gather = 0; \
    set local idle_in_transaction_session_timeout = '30s'; deallocate all";

/// How what is read or written once in a while is begun.
pub const BEGIN_PLAIN: &str = "begin; set local idle_in_transaction_session_timeout = '30s'";

/// The same through a pooler in transaction mode.
pub const BEGIN_PLAIN_POOLED: &str =
    "begin; set local idle_in_transaction_session_timeout = '30s'; deallocate all";

/// How retention begins a transaction: as workers do, but it never waits long for a row that another session
/// holds, and does not wait for the disk: what a crash brings back is pruned once more.
pub const BEGIN_PRUNING: &str = "begin; set local jit = off; \
    set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off; \
    set local enable_bitmapscan = off; set local max_parallel_workers_per_gather = 0; \
    set local lock_timeout = '100ms'; set local synchronous_commit = off; \
    set local idle_in_transaction_session_timeout = '30s'";

/// The same through a pooler in transaction mode.
pub const BEGIN_PRUNING_POOLED: &str = "begin; set local jit = off; \
    set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off; \
    set local enable_bitmapscan = off; set local max_parallel_workers_per_gather = 0; \
    set local lock_timeout = '100ms'; set local synchronous_commit = off; \
    set local idle_in_transaction_session_timeout = '30s'; deallocate all";

/// How a request from outside begins a transaction: it does not wait for ever for what another session holds,
/// nor does it keep the server busy.
pub const BEGIN_REQUEST: &str = "begin; set local lock_timeout = '5s'; \
    set local statement_timeout = '15s'; set local idle_in_transaction_session_timeout = '30s'";

/// The same through a pooler in transaction mode.
pub const BEGIN_REQUEST_POOLED: &str = "begin; set local lock_timeout = '5s'; \
    set local statement_timeout = '15s'; set local idle_in_transaction_session_timeout = '30s'; \
    deallocate all";

/// For how long a session may be idle in a transaction that begins with one of these.
const IDLE: (Duration, &str) = (Duration::from_secs(30), "'30s'");

/// `begin`, one of the above, for who gives a transaction up after so long: the server ends its session then, too.
#[must_use]
pub fn begin_for(begin: &'static str, longest: Duration) -> SqlStr {
    if longest == IDLE.0 {
        return begin.into_sql_str();
    }
    // 0 would be for ever, and more is more than the setting takes.
    let millis = longest.as_millis().clamp(1, 1_000_000_000);
    AssertSqlSafe(begin.replace(IDLE.1, &format!("'{millis}ms'"))).into_sql_str()
}

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

/// Checks now what would be checked by the commit, until which a host may have put its own constraints off.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn check_constraints(conn: &mut PgConnection) -> StoreResult<()> {
    sqlx::query!(
        r#"-- settings::check_constraints
set constraints all immediate"#
    )
    .execute(conn)
    .await?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_ended_when_its_worker_has_given_up() {
        for begin in [
            BEGIN,
            BEGIN_POOLED,
            BEGIN_PLAIN,
            BEGIN_PLAIN_POOLED,
            BEGIN_PRUNING,
            BEGIN_PRUNING_POOLED,
        ] {
            assert_eq!(begin_for(begin, IDLE.0).as_str(), begin);
            let sooner = begin_for(begin, Duration::from_millis(1_500));
            let set = "set local idle_in_transaction_session_timeout = '1500ms'";
            assert!(sooner.as_str().contains(set), "{}", sooner.as_str());
            assert!(!sooner.as_str().contains(IDLE.1), "{}", sooner.as_str());
        }
    }
}
