//! Making the runs of events that were stored without them: triggers from SQL, and those with very many
//! recipients, in chunks.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{
    Core,
    batch::DueWork,
    made::{Made, SetAside},
    spans, start,
};
use crate::{
    ids::EventId,
    store::{
        StoreResult,
        events::{self, Chunk, DueEvent},
    },
};

/// How many runs one transaction makes.
const RUNS_AT_ONCE: i32 = 1_000;

/// Expands due events.
pub(super) struct Expand<'a> {
    pub(super) core: &'a Core,
}

impl DueWork for Expand<'_> {
    type Id = EventId;
    type Row = DueEvent;
    const LIMIT: i64 = 500;

    async fn lock(
        &self,
        conn: &mut PgConnection,
        among: Option<&[EventId]>,
        limit: i64,
    ) -> StoreResult<Vec<DueEvent>> {
        events::lock_due(conn, among, limit).await
    }

    fn id(row: &DueEvent) -> EventId {
        row.id
    }

    async fn work(&self, conn: &mut PgConnection, rows: Vec<DueEvent>) -> StoreResult<Made> {
        let chunks = chunks(&rows);
        let now = rows.first().map(|event| event.now);
        let definitions = self
            .core
            .definitions
            .get(conn, rows.iter().map(|event| event.definition))
            .await?;
        let (known, unknown): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|event| definitions.contains_key(&event.definition));
        let unknown: Vec<EventId> = unknown.iter().map(|event| event.id).collect();
        let set_aside = events::fail(conn, &unknown, "definition_does_not_decode").await?;
        let by_id: HashMap<EventId, DueEvent> =
            known.into_iter().map(|event| (event.id, event)).collect();
        let chunks: Vec<Chunk> = chunks
            .into_iter()
            .filter(|chunk| by_id.contains_key(&chunk.event))
            .collect();

        let recipients = events::recipients(conn, &chunks).await?;
        let starts: Vec<start::Start> = recipients
            .into_iter()
            .filter_map(|recipient| {
                let event = by_id.get(&recipient.event)?;
                Some(start::Start {
                    event: event.id,
                    tenant: event.tenant.clone(),
                    definition: event.definition,
                    started_at: event.occurred_at,
                    recipient: recipient.identity,
                    kind: recipient.kind,
                })
            })
            .collect();
        let (mut made, started) = start::start(conn, &definitions, &starts).await?;
        if let Some(now) = now {
            made.spans = spans::expanded(self.core, &started, now);
        }
        events::advance(conn, &chunks).await?;
        let events = SetAside {
            events: set_aside,
            ..SetAside::default()
        };
        Ok(made.and(events.into()))
    }

    async fn fail(
        &self,
        conn: &mut PgConnection,
        id: &EventId,
        reason: &str,
    ) -> StoreResult<SetAside> {
        let events = events::fail(conn, &[*id], reason).await?;
        Ok(SetAside {
            events,
            ..SetAside::default()
        })
    }
}

/// As many recipients as one transaction may take, oldest events first.
fn chunks(events: &[DueEvent]) -> Vec<Chunk> {
    let mut left = RUNS_AT_ONCE;
    let mut chunks = vec![];
    for event in events {
        let take = (event.total - event.expanded).clamp(0, left);
        if left == 0 {
            break;
        }
        chunks.push(Chunk {
            event: event.id,
            from: event.expanded,
            take,
        });
        left -= take;
    }
    chunks
}
