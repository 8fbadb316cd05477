//! The version of the schema: applied by us, and compared at every start.

use sqlx::{PgConnection, migrate::Migrator};

use super::{StoreError, StoreResult};

/// Our migrations, compiled in.
pub static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// How a database's schema compares with this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// As this program needs it.
    Current,
    /// There is no schema yet.
    Missing,
    /// Older than this program: `chimeway migrate` brings it up.
    Old {
        /// What the database has.
        found: i64,
        /// What this program needs.
        needed: i64,
    },
    /// Newer than this program: a newer `chimeway` is needed.
    New {
        /// What the database has.
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
    let answer = sqlx::query_scalar!(
        r#"-- schema::state
select chimeway.schema_version()"#
    )
    .fetch_one(conn)
    .await;
    let needed = needed();
    let found = match answer {
        Ok(found) => found,
        // No such schema, function or table: nothing was migrated.
        Err(sqlx::Error::Database(error))
            if matches!(error.code().as_deref(), Some("3F000" | "42883" | "42P01")) =>
        {
            None
        }
        Err(error) => return Err(error.into()),
    };
    Ok(match found {
        None => SchemaState::Missing,
        Some(found) if found < needed => SchemaState::Old { found, needed },
        Some(found) if found > needed => SchemaState::New { found, needed },
        Some(_) => SchemaState::Current,
    })
}

/// Applies what is missing. Several processes may call it at once: they take turns.
///
/// # Errors
///
/// [`StoreError::Database`], also where the database is newer than this program.
pub async fn migrate(conn: &mut PgConnection) -> StoreResult<()> {
    MIGRATOR
        .run(conn)
        .await
        .map_err(|error| StoreError::Database(error.into()))
}
