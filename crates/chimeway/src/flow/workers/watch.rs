//! Whether the schema is still one for this program, while its workers run.

use std::sync::Arc;

use sqlx::PgPool;

use crate::{
    queue::Health,
    store::schema::{self, SchemaState},
};

/// Ends when the database has a schema that a program which knows this version cannot work with, or is about
/// to get one. What cannot be asked is asked again.
pub(super) async fn until_foreign(pool: PgPool, known: i64, health: Arc<Health>) {
    loop {
        tokio::time::sleep(schema::WATCH_EVERY).await;
        let Ok(mut conn) = pool.acquire().await else {
            continue;
        };
        if let Ok(SchemaState::New { found, .. }) = schema::state_for(&mut conn, known).await {
            tracing::error!(
                found,
                known,
                "the database gets version {found}, this program knows {known}: it stops"
            );
            health.meets_foreign_schema(found, known);
            return;
        }
    }
}
