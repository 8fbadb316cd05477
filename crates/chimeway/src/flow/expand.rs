//! Making the runs of events that were stored without them: triggers from SQL, state changes of records, and
//! triggers with very many recipients, in chunks.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{
    Core,
    batch::{DueWork, Past},
    context::{self, Begun},
    made::{Made, SetAside},
    spans, start,
};
use crate::{
    ids::EventId,
    store::{
        StoreResult,
        crashes::{self, Counted},
        due::Floor,
        events::{self, Chunk, DueEvent, Given},
        runs::ForRecord,
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
        floor: Floor,
        limit: i64,
    ) -> StoreResult<Vec<DueEvent>> {
        events::lock_due(conn, among, floor, limit).await
    }

    fn id(row: &DueEvent) -> EventId {
        row.id
    }

    fn past(row: &DueEvent) -> Past {
        Past {
            due_at: row.due_at,
            crashes: row.crashes,
        }
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

        let (of_records, of_recipients): (Vec<Chunk>, Vec<Chunk>) = chunks
            .iter()
            .filter(|chunk| chunk.take > 0)
            .partition(|chunk| by_id.get(&chunk.event).is_some_and(|event| event.of_record));
        let takes = |event: &DueEvent| {
            let definition = definitions.get(&event.definition);
            event.of_record
                || definition.is_some_and(|definition| !definition.plan.context.is_empty())
        };
        // Of those that this transaction makes runs of: what a trigger gave may be large.
        let asked: Vec<EventId> = chunks
            .iter()
            .filter(|chunk| chunk.take > 0)
            .filter_map(|chunk| by_id.get(&chunk.event))
            .filter(|event| takes(event))
            .map(|event| event.id)
            .collect();
        let given: HashMap<EventId, Given> = events::given(conn, &asked)
            .await?
            .into_iter()
            .map(|given| (given.event, given))
            .collect();
        let begun =
            |event: &DueEvent| match (definitions.get(&event.definition), given.get(&event.id)) {
                (Some(definition), Some(given)) => context::begin(&definition.plan, given),
                _ => Begun::default(),
            };

        let mut starts = vec![];
        for recipient in events::recipients(conn, &of_recipients).await? {
            let Some(event) = by_id.get(&recipient.event) else {
                continue;
            };
            let recipient = start::Recipient {
                identity: recipient.identity,
                kind: recipient.kind,
            };
            starts.push(start_of(event, Some(recipient), None, begun(event)));
        }
        for chunk in of_records {
            let (Some(event), Some(given)) = (by_id.get(&chunk.event), given.get(&chunk.event))
            else {
                continue;
            };
            let record = ForRecord::of(given);
            let context = begun(event);
            let actor = context.actor().map(|identity| start::Recipient {
                identity,
                kind: None,
            });
            starts.push(start_of(event, actor, record, context));
        }
        let (mut made, started) =
            start::start(conn, &definitions, starts, start::Of::StoredEvents).await?;
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

    async fn count(
        &self,
        conn: &mut PgConnection,
        ids: &[EventId],
    ) -> StoreResult<Counted<EventId>> {
        crashes::count_events(conn, ids).await
    }

    async fn retake(&self, conn: &mut PgConnection, ids: &[EventId]) -> StoreResult<()> {
        crashes::retake_events(conn, ids).await
    }

    fn aside(rows: usize) -> SetAside {
        SetAside {
            events: rows,
            ..SetAside::default()
        }
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

fn start_of(
    event: &DueEvent,
    recipient: Option<start::Recipient>,
    record: Option<ForRecord>,
    context: Begun,
) -> start::Start {
    start::Start {
        event: event.id,
        tenant: event.tenant.clone(),
        definition: event.definition,
        started_at: event.occurred_at,
        recipient,
        record,
        context,
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
