//! Making runs: notifications, runs, the first lines of their history, the first messages. The same for
//! a trigger from Rust and for an event that a worker expands.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    context::Begun,
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
        runs::{self, ForRecord},
        transitions,
    },
};

/// A run to make.
pub(super) struct Start {
    pub(super) event: EventId,
    pub(super) tenant: String,
    pub(super) definition: DefinitionId,
    pub(super) started_at: DateTime<Utc>,
    /// Who is notified; nobody, where it is for a record alone.
    pub(super) recipient: Option<Recipient>,
    /// The record it is for, if it is for one.
    pub(super) record: Option<ForRecord>,
    pub(super) context: Begun,
}

/// Who is notified.
pub(super) struct Recipient {
    pub(super) identity: String,
    pub(super) kind: Option<String>,
}

/// Whose signals a run for the record alone listens to. An entity has at most 100 bytes and a key 150, so
/// that this is a name like others.
fn actor_of(record: &ForRecord) -> String {
    format!("{}/{}", record.entity, record.id)
}

/// The events whose runs are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Stored by this transaction: nobody has a run of theirs yet.
    NewEvents,
    /// Stored before: a part of their runs may be there.
    StoredEvents,
}

/// Makes a run for each that has none yet: a recipient named twice by an event gets one. Returns those
/// that were made.
pub(super) async fn start(
    conn: &mut PgConnection,
    definitions: &Loaded,
    mut starts: Vec<Start>,
    of: Of,
) -> StoreResult<(Made, Vec<Started>)> {
    keep_first(&mut starts);
    let ids: Vec<Option<NotificationId>> = starts
        .iter()
        .map(|start| start.recipient.as_ref().map(|_| NotificationId::fresh()))
        .collect();
    let named = ids.iter().zip(&starts);
    let notifications: Vec<NewNotification> = named
        .filter_map(|(id, start)| notification((*id)?, start))
        .collect();
    let known: HashSet<NotificationId> = match of {
        Of::NewEvents => {
            events::insert_notifications(conn, &notifications).await?;
            HashSet::new()
        }
        Of::StoredEvents => {
            let new = events::insert_missing_notifications(conn, &notifications).await?;
            let new: HashSet<NotificationId> = new.into_iter().collect();
            let all = notifications.iter().map(|one| one.id);
            all.filter(|id| !new.contains(id)).collect()
        }
    };

    let born = ids.into_iter().zip(starts);
    let born = born.filter_map(|(notification, start)| {
        if notification.is_some_and(|notification| known.contains(&notification)) {
            return None;
        }
        let actor = match (start.recipient, &start.record) {
            (Some(recipient), _) => recipient.identity,
            (None, Some(record)) => actor_of(record),
            (None, None) => return None,
        };
        Some(Born {
            event: Some(start.event),
            notification,
            record: start.record,
            tenant: start.tenant,
            actor,
            definition: start.definition,
            started_at: start.started_at,
            context: start.context,
        })
    });
    runs_of(conn, definitions, born).await
}

/// Of a recipient that an event names twice, the first.
fn keep_first(starts: &mut Vec<Start>) {
    let mut seen: HashMap<EventId, HashSet<String>> = HashMap::new();
    starts.retain(|start| match &start.recipient {
        Some(recipient) => {
            let of_event = seen.entry(start.event).or_default();
            of_event.insert(recipient.identity.clone())
        }
        None => true,
    });
}

fn notification(id: NotificationId, start: &Start) -> Option<NewNotification> {
    let recipient = start.recipient.as_ref()?;
    Some(NewNotification {
        id,
        event: start.event,
        tenant: start.tenant.clone(),
        recipient: recipient.identity.clone(),
        kind: recipient.kind.clone(),
        at: start.started_at,
    })
}

/// A run to make for a notification that is there, for a record, or for both.
pub(super) struct Born {
    pub(super) event: Option<EventId>,
    pub(super) notification: Option<NotificationId>,
    pub(super) record: Option<ForRecord>,
    pub(super) tenant: String,
    pub(super) actor: String,
    pub(super) definition: DefinitionId,
    pub(super) started_at: DateTime<Utc>,
    pub(super) context: Begun,
}

/// A run that was made.
pub(super) struct Started {
    pub(super) run: RunId,
    pub(super) event: Option<EventId>,
    pub(super) definition: Arc<Definition>,
    /// The instant of the trigger.
    pub(super) at: DateTime<Utc>,
}

/// Makes runs. One whose context could not be made is born and ends at once, with the reason.
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
        let input = match one.context.problem() {
            None => Input::Started,
            Some(problem) => Input::Unstartable {
                code: problem.code(),
                name: problem.path().map(ToOwned::to_owned),
            },
        };
        let Verdict::Move(decisions) = decide(&run, &input, one.started_at) else {
            continue;
        };
        let owner = Owner {
            tenant: one.tenant.clone(),
            actor: one.actor.clone(),
            notification: one.notification,
        };
        let mut moved = Moved::new(run, owner);
        moved.apply(decisions, one.started_at);
        let row = moved.row(one.started_at);
        for due in [row.wake_at, row.act_at].into_iter().flatten() {
            made.wakes_in(due - one.started_at);
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
            record: one.record,
            context: one.context.into_value(),
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
