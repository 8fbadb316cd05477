//! Making runs: notifications, runs, the first lines of their history, the first messages. The same for
//! a trigger from Rust and for an event that a worker expands.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    definitions::Loaded,
    made::Made,
    moved::{Moved, Owner, Writes},
};
use crate::{
    definition::Definition,
    engine::{Input, Run, Verdict, decide},
    ids::{DefinitionId, EventId, NotificationId, RunId},
    store::{
        StoreResult,
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

/// Makes a run for each that has none yet: a recipient named twice by an event gets one. Returns those
/// that were made.
pub(super) async fn start(
    conn: &mut PgConnection,
    definitions: &Loaded,
    starts: &[Start],
) -> StoreResult<(Made, Vec<Started>)> {
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

    let born = starts.iter().zip(notifications);
    let born = born.filter(|(_, notification)| new.contains(&notification.id));
    let born = born.map(|(start, notification)| Born {
        event: Some(start.event),
        notification: notification.id,
        tenant: notification.tenant,
        actor: notification.recipient,
        definition: start.definition,
        started_at: start.started_at,
    });
    runs_of(conn, definitions, born).await
}

/// A run to make for a notification that is there.
pub(super) struct Born {
    pub(super) event: Option<EventId>,
    pub(super) notification: NotificationId,
    pub(super) tenant: String,
    pub(super) actor: String,
    pub(super) definition: DefinitionId,
    pub(super) started_at: DateTime<Utc>,
}

/// A run that was made.
pub(super) struct Started {
    pub(super) run: RunId,
    pub(super) event: Option<EventId>,
    pub(super) definition: Arc<Definition>,
    /// The instant of the trigger.
    pub(super) at: DateTime<Utc>,
}

/// Makes the runs of notifications.
pub(super) async fn runs_of(
    conn: &mut PgConnection,
    definitions: &Loaded,
    born: impl IntoIterator<Item = Born>,
) -> StoreResult<(Made, Vec<Started>)> {
    let (mut started, mut rows, mut lines, mut planned) = (vec![], vec![], vec![], vec![]);
    let mut made = Made::default();
    for one in born {
        let Some(definition) = definitions.get(&one.definition) else {
            continue;
        };
        let run = Run::born(RunId::fresh(), definition.clone());
        let Verdict::Move(decisions) = decide(&run, &Input::Started, one.started_at) else {
            continue;
        };
        let owner = Owner {
            tenant: one.tenant.clone(),
            actor: one.actor.clone(),
            notification: Some(one.notification),
        };
        let mut moved = Moved::new(run, owner);
        moved.apply(&decisions, one.started_at);
        let row = moved.row(one.started_at);
        if let Some(wake_at) = row.wake_at {
            made.wakes_in(wake_at - one.started_at);
        }
        started.push(Started {
            run: row.id,
            event: one.event,
            definition: Arc::clone(definition),
            at: one.started_at,
        });
        rows.push(runs::NewRun {
            tenant: one.tenant,
            actor: one.actor,
            notification: one.notification,
            definition: one.definition,
            started_at: one.started_at,
            row,
        });
        let Writes {
            transitions,
            deliveries,
            ..
        } = moved.writes;
        lines.extend(transitions);
        planned.extend(deliveries);
    }
    made.started = rows.len();
    runs::insert(conn, &rows).await?;
    transitions::append(conn, &lines).await?;
    made.plan(conn, &planned).await?;
    Ok((made, started))
}
