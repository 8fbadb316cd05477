//! Any number of triggers in the caller's transaction, with as many statements as one takes.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Trigger, Triggered};
use crate::{
    definition::Document,
    flow::{
        Core, Dispatcher, FlowError, Recipient, apply,
        check::{check_json, check_key, check_text},
        context::{self, Begun},
        definitions::{self, Loaded},
        recipients, start,
    },
    ids::{DefinitionId, EventId, WorkflowKey},
    queue::QueueName,
    store::{
        events, settings,
        workflows::{self, Latest},
    },
};

/// Beyond this many recipients of a call a worker makes the runs, in chunks, so that the caller's
/// transaction stays short.
const RECIPIENTS_IN_LINE: usize = 1_000;

/// A trigger that has been checked, and what has come of it.
pub(super) struct Asked {
    trigger: Trigger,
    recipients: Vec<Recipient>,
    event: EventId,
    fate: Fate,
}

enum Fate {
    /// Nothing yet.
    Open,
    /// Its event was stored at this instant.
    Stored(DefinitionId, DateTime<Utc>),
    /// This event has its key.
    Already(EventId),
}

impl Asked {
    pub(super) fn new(trigger: Trigger) -> Result<Self, FlowError> {
        check_json("params", &trigger.params)?;
        let recipients = trigger.resolved()?;
        if let Some(key) = trigger.idempotency_key.as_deref() {
            check_key(key)?;
        }
        check_text("the correlation id", trigger.correlation_id.iter())?;
        recipients::check(&recipients)?;
        Ok(Self {
            trigger,
            recipients,
            event: EventId::fresh(),
            fate: Fate::Open,
        })
    }

    pub(super) const fn done(&self) -> Triggered {
        match self.fate {
            Fate::Open | Fate::Stored(..) => Triggered::New(self.event),
            Fate::Already(event) => Triggered::Already(event),
        }
    }

    const fn is_open(&self) -> bool {
        matches!(self.fate, Fate::Open)
    }

    /// Unique for as long as its event is kept.
    fn key(&self) -> Option<(&str, &str)> {
        let key = self.trigger.idempotency_key.as_deref()?;
        Some((self.trigger.tenant.as_str(), key))
    }

    fn new_event(&self, definition: DefinitionId, expand_later: bool) -> events::NewEvent {
        let trigger = &self.trigger;
        events::NewEvent {
            id: self.event,
            tenant: trigger.tenant.as_str().to_owned(),
            workflow: trigger.workflow.as_str().to_owned(),
            definition,
            params: trigger.params.clone(),
            recipients: expand_later.then(|| identities(&self.recipients)),
            correlation_id: trigger.correlation_id.clone(),
            idempotency_key: trigger.idempotency_key.clone(),
            expand_later,
        }
    }

    const fn definition(&self) -> Option<DefinitionId> {
        match self.fate {
            Fate::Stored(definition, _) => Some(definition),
            Fate::Open | Fate::Already(_) => None,
        }
    }

    fn starts(&self, definitions: &Loaded) -> Vec<start::Start> {
        let Fate::Stored(definition, started_at) = self.fate else {
            return vec![];
        };
        let params = &self.trigger.params;
        let plan = definitions.get(&definition).map(|it| &it.plan);
        let begun = plan.map_or_else(Begun::default, |plan| context::of_params(plan, params));
        let start = |recipient: &Recipient| start::Start {
            event: self.event,
            tenant: self.trigger.tenant.as_str().to_owned(),
            definition,
            started_at,
            recipient: Some(start::Recipient {
                identity: recipient.identity.as_str().to_owned(),
                kind: recipient.kind.clone(),
            }),
            record: None,
            context: begun.clone(),
        };
        self.recipients.iter().map(start).collect()
    }
}

/// Stores the events of all that are new, and makes their runs.
pub(super) async fn begin(
    core: &Core,
    conn: &mut PgConnection,
    asked: &mut [Asked],
) -> Result<(), FlowError> {
    if asked.is_empty() {
        return Ok(());
    }
    refuse_keys_of_two_workflows(asked)?;
    let all = asked.iter();
    let named = all.map(|one| (one.trigger.tenant.as_str(), one.recipients.as_slice()));
    recipients::refuse_unknown_zones(conn, named).await?;

    let later = expanded_later(asked);
    loop {
        find_repeated(conn, asked).await?;
        let definitions = definitions_of(core, conn, asked).await?;
        let open = asked.iter().zip(definitions);
        let new: Vec<events::NewEvent> = open
            .filter_map(|(one, definition)| {
                Some(one.new_event(definition?, later.contains(&one.event)))
            })
            .collect();
        let stored = events::insert(conn, &new).await?;
        let definitions: HashMap<EventId, DefinitionId> = new
            .iter()
            .map(|event| (event.id, event.definition))
            .collect();
        let stored: HashMap<EventId, DateTime<Utc>> = stored.into_iter().collect();
        for one in &mut *asked {
            if let (Some(definition), Some(at)) =
                (definitions.get(&one.event), stored.get(&one.event))
            {
                one.fate = Fate::Stored(*definition, *at);
            }
        }
        if !asked.iter().any(Asked::is_open) {
            break;
        }
        // Another session committed the same key while this one waited for it, or one before it in this
        // slice has it: a new statement sees its event.
    }
    let new = || {
        let all = asked.iter();
        all.filter(|one| matches!(one.fate, Fate::Stored(..)))
    };
    let named = new().map(|one| (one.trigger.tenant.as_str(), one.recipients.as_slice()));
    recipients::store(conn, named).await?;

    let (expanded, in_line): (Vec<&Asked>, Vec<&Asked>) =
        new().partition(|one| later.contains(&one.event));
    let ids = in_line.iter().filter_map(|one| one.definition());
    let ids: HashSet<DefinitionId> = ids.collect();
    let loaded = core.definitions.get(conn, ids.iter().copied()).await?;
    if let Some(missing) = ids.iter().find(|id| !loaded.contains_key(id)) {
        return Err(definitions::undecodable(*missing).into());
    }
    let starts = in_line.into_iter().flat_map(|one| one.starts(&loaded));
    let (made, _) = start::start(conn, &loaded, starts.collect(), start::Of::NewEvents).await?;

    if core.dispatcher == Dispatcher::Queued {
        let mut queues = vec![];
        if made.planned > 0 {
            queues.push(QueueName::Delivery.as_str());
        }
        if made.next_wake.is_some() || !expanded.is_empty() {
            queues.push(QueueName::Workflows.as_str());
        }
        if !queues.is_empty() {
            settings::wake(conn, &queues).await?;
        }
    }
    Ok(())
}

/// Before anything is written.
fn refuse_keys_of_two_workflows(asked: &[Asked]) -> Result<(), FlowError> {
    let mut first: HashMap<(&str, &str), &WorkflowKey> = HashMap::new();
    for one in asked {
        let Some(key) = one.key() else { continue };
        let known = *first.entry(key).or_insert(&one.trigger.workflow);
        if *known != one.trigger.workflow {
            return Err(FlowError::KeyReused {
                first: known.as_str().to_owned(),
            });
        }
    }
    Ok(())
}

/// Those whose runs a worker makes.
fn expanded_later(asked: &[Asked]) -> HashSet<EventId> {
    let mut in_line = 0;
    let later = asked.iter().filter(|one| {
        let fits = in_line + one.recipients.len() <= RECIPIENTS_IN_LINE;
        if fits {
            in_line += one.recipients.len();
        }
        !fits
    });
    later.map(|one| one.event).collect()
}

/// A repeated key first: it is answered with what it began, also when the workflow has been paused since.
async fn find_repeated(conn: &mut PgConnection, asked: &mut [Asked]) -> Result<(), FlowError> {
    let open = asked.iter().filter(|one| one.is_open());
    let keys: Vec<(&str, &str)> = open.filter_map(Asked::key).collect();
    let found = events::find_by_keys(conn, &keys).await?;
    let known: HashMap<(&str, &str), &events::KnownEvent> = found
        .iter()
        .map(|event| ((event.tenant.as_str(), event.key.as_str()), event))
        .collect();
    for one in asked.iter_mut().filter(|one| one.is_open()) {
        let Some(event) = one.key().and_then(|key| known.get(&key)) else {
            continue;
        };
        if event.workflow != one.trigger.workflow.as_str() {
            return Err(FlowError::KeyReused {
                first: event.workflow.clone(),
            });
        }
        one.fate = Fate::Already(event.id);
    }
    Ok(())
}

/// The definitions that the open ones follow. Nothing is stored before all of them have been found to be
/// known and not paused; a document that is given many times is looked at once.
async fn definitions_of(
    core: &Core,
    conn: &mut PgConnection,
    asked: &[Asked],
) -> Result<Vec<Option<DefinitionId>>, FlowError> {
    let open = || asked.iter().filter(|one| one.is_open());
    let keys: HashSet<&str> = open().map(|one| one.trigger.workflow.as_str()).collect();
    if keys.is_empty() {
        return Ok(vec![None; asked.len()]);
    }
    let keys: Vec<&str> = keys.into_iter().collect();
    let latest = workflows::latest(conn, &keys).await?.into_iter();
    let latest: HashMap<String, Latest> = latest.map(|row| (row.key.clone(), row)).collect();
    for one in open() {
        let key = &one.trigger.workflow;
        match latest.get(key.as_str()) {
            Some(latest) if !latest.active => return Err(FlowError::WorkflowPaused(key.clone())),
            None if one.trigger.document.is_none() => {
                return Err(FlowError::UnknownWorkflow(key.clone()));
            }
            _ => {}
        }
    }
    let mut stored: Vec<(&Document, DefinitionId)> = vec![];
    let mut definitions = vec![];
    for one in asked {
        let latest = latest.get(one.trigger.workflow.as_str());
        let document = one.trigger.document.as_ref().filter(|_| one.is_open());
        let Some(document) = document else {
            let by_key = latest.filter(|_| one.is_open());
            definitions.push(by_key.map(|latest| latest.definition));
            continue;
        };
        let known = stored.iter().find(|(known, _)| *known == document);
        let definition = match known {
            Some((_, definition)) => *definition,
            None => apply::ensure_document(core, conn, document, latest.cloned()).await?,
        };
        if known.is_none() {
            stored.push((document, definition));
        }
        definitions.push(Some(definition));
    }
    Ok(definitions)
}

fn identities(recipients: &[Recipient]) -> Value {
    recipients
        .iter()
        .map(|recipient| json!({ "identity": recipient.identity, "type": recipient.kind }))
        .collect()
}
