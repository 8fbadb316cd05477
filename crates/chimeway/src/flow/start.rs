//! Making runs: notifications, runs, the first lines of their history, the first messages. The same for
//! a trigger from Rust and for an event that a worker expands.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    definitions::Loaded,
    progress::{self, Made, Moved, Owner},
};
use crate::{
    engine::{Input, Run, Verdict, decide},
    ids::{DefinitionId, EventId, NotificationId, RunId},
    store::{
        StoreResult, deliveries,
        events::{self, NewNotification},
        runs, transitions,
    },
};

/// A run to make.
pub(super) struct Start {
    pub(super) event: EventId,
    pub(super) tenant: String,
    pub(super) definition: DefinitionId,
    pub(super) started_at: DateTime<Utc>,
    pub(super) recipient: String,
    pub(super) kind: Option<String>,
}

/// Makes a run for each that has none yet: a recipient named twice by an event gets one.
pub(super) async fn start(
    conn: &mut PgConnection,
    definitions: &Loaded,
    starts: &[Start],
) -> StoreResult<Made> {
    let notifications: Vec<NewNotification> = starts
        .iter()
        .map(|start| NewNotification {
            id: NotificationId::fresh(),
            event: start.event,
            tenant: start.tenant.clone(),
            recipient: start.recipient.clone(),
            kind: start.kind.clone(),
            at: start.started_at,
        })
        .collect();
    let new: std::collections::HashSet<NotificationId> =
        events::insert_notifications(conn, &notifications)
            .await?
            .into_iter()
            .collect();

    let mut rows = vec![];
    let mut lines = vec![];
    let mut planned = vec![];
    let mut made = Made::default();
    for (start, notification) in starts.iter().zip(notifications) {
        let Some(definition) = definitions.get(&start.definition) else {
            continue;
        };
        if !new.contains(&notification.id) {
            continue;
        }
        let run = Run::born(RunId::fresh(), definition.clone());
        let Verdict::Move(decisions) = decide(&run, &Input::Started, start.started_at) else {
            continue;
        };
        let owner = Owner {
            tenant: notification.tenant.clone(),
            actor: notification.recipient.clone(),
            notification: Some(notification.id),
        };
        let mut moved = Moved::new(run, owner);
        moved.apply(&decisions, start.started_at);
        let row = moved.row(start.started_at);
        if let Some(wake_at) = row.wake_at {
            made.wakes_in(wake_at - start.started_at);
        }
        rows.push(runs::NewRun {
            tenant: notification.tenant,
            actor: notification.recipient,
            notification: notification.id,
            definition: start.definition,
            started_at: start.started_at,
            row,
        });
        let progress::Writes {
            transitions,
            deliveries,
            ..
        } = moved.writes;
        lines.extend(transitions);
        planned.extend(deliveries);
    }
    made.planned = planned.len();
    made.started = rows.len();
    runs::insert(conn, &rows).await?;
    transitions::append(conn, &lines).await?;
    deliveries::plan(conn, &planned).await?;
    Ok(made)
}
