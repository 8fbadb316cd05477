//! Whether the schema is still one for this program, while its workers run.

use std::sync::Arc;

use crate::{
    flow::session::Sessions,
    queue::Health,
    store::schema::{self, SchemaState},
};

/// Ends when the database has a schema that a program which knows this version cannot work with, or is about
/// to get one. What cannot be asked is asked again.
pub(super) async fn until_foreign(sessions: Sessions, known: i64, health: Arc<Health>) {
    loop {
        tokio::time::sleep(schema::WATCH_EVERY).await;
        let work = sessions.bounded();
        let look = async {
            let mut session = work.session().await?;
            schema::state_for(&mut *session.read().await?, known).await
        };
        if let Ok(SchemaState::New { found, .. }) = work.run(look).await {
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
