//! The version of the schema: applied by us, and compared at every start and while workers run.
//!
//! A program knows the migrations that are compiled in. On a newer schema it goes on where every migration
//! that it does not know says so (`-- works-from: N`): workers of two releases then run side by side.

use std::time::Duration;

use rand::RngExt as _;
use sqlx::{
    PgConnection,
    migrate::{MigrateError, Migrator},
};

use super::{StoreError, StoreResult, error::Fault};

/// Our migrations, compiled in. [`migrate`] applies them: it holds a lock of its own, which is given back
/// whatever happens.
pub static MIGRATOR: Migrator = Migrator {
    locking: false,
    ..sqlx::migrate!("../../migrations")
};

/// How a database's schema compares with this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// As this program needs it.
    Current,
    /// Newer than this program, which may go on with it.
    Ahead {
        /// What the database has.
        found: i64,
        /// What this program needs.
        needed: i64,
    },
    /// There is no schema yet.
    Missing,
    /// Older than this program: `chimeway migrate` brings it up.
    Old {
        /// What the database has.
        found: i64,
        /// What this program needs.
        needed: i64,
    },
    /// Newer than this program, or about to be, and nothing for it: a newer `chimeway` is needed.
    New {
        /// The first version that this program cannot work with.
        found: i64,
        /// What this program needs.
        needed: i64,
    },
}

/// The version that this program needs.
#[must_use]
pub fn needed() -> i64 {
    MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or_default()
}

/// Compares the database's schema with this program.
///
/// # Errors
///
/// [`StoreError::Database`] if it cannot be asked.
pub async fn state(conn: &mut PgConnection) -> StoreResult<SchemaState> {
    state_for(conn, needed()).await
}

/// Compares the database's schema with a program that needs this version.
///
/// # Errors
///
/// [`StoreError::Database`] if it cannot be asked.
pub async fn state_for(conn: &mut PgConnection, needed: i64) -> StoreResult<SchemaState> {
    let answer = sqlx::query_scalar!(
        r#"-- schema::state_for
select chimeway.schema_version()"#
    )
    .fetch_one(&mut *conn)
    .await;
    let found = match answer {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(SchemaState::Missing),
        // No such schema, function or table: nothing was migrated.
        Err(sqlx::Error::Database(error))
            if matches!(error.code().as_deref(), Some("3F000" | "42883" | "42P01")) =>
        {
            return Ok(SchemaState::Missing);
        }
        Err(error) => return Err(error.into()),
    };
    if found < needed {
        return Ok(SchemaState::Old { found, needed });
    }
    let foreign = sqlx::query_scalar!(
        r#"-- schema::state_for (beyond)
select chimeway.first_foreign_version($1)"#,
        needed,
    )
    .fetch_one(conn)
    .await?;
    Ok(match foreign {
        Some(found) => SchemaState::New { found, needed },
        None if found > needed => SchemaState::Ahead { found, needed },
        None => SchemaState::Current,
    })
}

/// How long a migration waits for a lock, and so for how long others may have to wait behind it.
const LOCK_TIMEOUT: &str = "1s";
/// How often a migration is tried again that does not get its locks: for about ten minutes.
const TRIES: u32 = 120;
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// How long a migration that is nothing for running workers is announced before it is applied: they look
/// every [`WATCH_EVERY`], and stop claiming.
const ANNOUNCED_FOR: Duration = Duration::from_secs(12);
/// How often a running worker looks whether the schema is still one for it.
pub const WATCH_EVERY: Duration = Duration::from_secs(5);

/// Applies what is missing. Several processes may call it at once: they take turns. Each migration is a
/// transaction of its own. One that does not get a lock within a second gives way and tries again, for about
/// ten minutes, so that nobody waits long behind it. One that programs before it cannot work with is announced 12
/// seconds before it is applied.
///
/// # Errors
///
/// [`StoreError::Database`], also where the database is newer than this program.
pub async fn migrate(conn: &mut PgConnection) -> StoreResult<()> {
    take_turn(conn).await?;
    let before = set_lock_timeout(conn, LOCK_TIMEOUT).await;
    let outcome = match &before {
        Ok(_) => apply(conn).await,
        Err(_) => Ok(()),
    };
    // A connection that is lost has given back everything.
    let _ = sqlx::query!(
        r#"-- schema::migrate (over)
select pg_advisory_unlock(hashtextextended('chimeway.migrate', 0)) as "given_back!""#
    )
    .fetch_one(&mut *conn)
    .await;
    if let Ok(before) = &before {
        let _ = set_lock_timeout(conn, before).await;
    }
    before.map(|_| ())?;
    outcome
}

/// Without waiting in the server: a statement that waits there has a snapshot, and an index that is built
/// beside it would wait for that.
async fn take_turn(conn: &mut PgConnection) -> StoreResult<()> {
    loop {
        let taken = sqlx::query_scalar!(
            r#"-- schema::take_turn
select pg_try_advisory_lock(hashtextextended('chimeway.migrate', 0)) as "taken!""#
        )
        .fetch_one(&mut *conn)
        .await?;
        if taken {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Sets it for the session; what it was.
async fn set_lock_timeout(conn: &mut PgConnection, to: &str) -> StoreResult<String> {
    let before = sqlx::query_scalar!(
        r#"-- schema::set_lock_timeout (before)
select current_setting('lock_timeout') as "before!""#
    )
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query!(
        r#"-- schema::set_lock_timeout
select set_config('lock_timeout', $1, false)"#,
        to,
    )
    .fetch_one(conn)
    .await?;
    Ok(before)
}

async fn apply(conn: &mut PgConnection) -> StoreResult<()> {
    let mut tries = 0;
    let mut pause = Duration::from_millis(250);
    announce(conn).await?;
    loop {
        let error = match MIGRATOR.run(&mut *conn).await {
            Ok(()) => return say(conn, &all()).await,
            Err(error) => error,
        };
        let (version, error) = match error {
            MigrateError::ExecuteMigration(error, version) => (version, error),
            error => return Err(StoreError::Database(error.into())),
        };
        let error = StoreError::from(error);
        tries += 1;
        if error.fault() != Fault::Conflict || tries == TRIES {
            return Err(error);
        }
        tracing::warn!(
            version,
            "migration {version} does not get its locks within {LOCK_TIMEOUT}; it gives way and tries again"
        );
        let jitter = 0.5 + 0.5 * rand::rng().random::<f64>();
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A migration, and the oldest version that a program has to know to work on.
type WorksFrom = (i64, i64);

fn all() -> Vec<WorksFrom> {
    let known = MIGRATOR.iter();
    known
        .map(|migration| {
            (
                migration.version,
                works_from(migration.version, migration.sql.as_str()),
            )
        })
        .collect()
}

/// What a migration says in a line `-- works-from: N`; itself, where it says nothing.
#[must_use]
pub fn works_from(version: i64, sql: &str) -> i64 {
    let said = sql
        .lines()
        .find_map(|line| line.strip_prefix("-- works-from:"));
    said.and_then(|said| said.trim().parse().ok())
        .unwrap_or(version)
}

/// Says what is about to be applied, and gives those time to stop who cannot work with it.
async fn announce(conn: &mut PgConnection) -> StoreResult<()> {
    let found = match state(conn).await? {
        SchemaState::Old { found, .. } => found,
        _ => return Ok(()),
    };
    let there = sqlx::query_scalar!(
        r#"-- schema::announce
select to_regclass('chimeway.schema_versions') is not null as "there!""#
    )
    .fetch_one(&mut *conn)
    .await?;
    if !there {
        return Ok(());
    }
    let pending: Vec<WorksFrom> = all()
        .into_iter()
        .filter(|(version, _)| *version > found)
        .collect();
    say(conn, &pending).await?;
    if pending.iter().any(|(_, works_from)| *works_from > found) {
        tracing::warn!(
            "what is to be applied is nothing for the programs that run: they are given {} seconds to stop",
            ANNOUNCED_FOR.as_secs()
        );
        tokio::time::sleep(ANNOUNCED_FOR).await;
    }
    Ok(())
}

async fn say(conn: &mut PgConnection, versions: &[WorksFrom]) -> StoreResult<()> {
    sqlx::query!(
        r#"-- schema::say
insert into chimeway.schema_versions (version, works_from, announced_at)
select version, works_from, clock_timestamp() from unnest($1::bigint[], $2::bigint[]) as u (version, works_from)
on conflict (version) do nothing"#,
        &versions.iter().map(|(version, _)| *version).collect::<Vec<_>>(),
        &versions.iter().map(|(_, works_from)| *works_from).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_says_who_may_go_on() {
        assert_eq!(works_from(20, "-- works-from: 18\ncreate table x ();"), 18);
        assert_eq!(works_from(20, "create table x ();"), 20);
        assert_eq!(works_from(20, "-- works-from: soon"), 20);
    }
}
