//! `start_workflow`: triggers a workflow. Its run is made by a worker, once the step is committed.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::{ActionError, perform::Doing, value};
use crate::{
    definition::Operand,
    ids::{EventId, WorkflowKey},
    queue::QueueName,
    store::{
        events::{self, NewEvent},
        settings, workflows,
    },
};

/// How many workflows may start each other in a chain; the schema says the same of state changes.
const DEEPEST: i32 = 16;

pub(super) async fn perform(
    conn: &mut PgConnection,
    (workflow, recipient, params): (&WorkflowKey, Option<&Operand>, &BTreeMap<String, Operand>),
    doing: &Doing<'_>,
) -> Result<Map<String, Value>, ActionError> {
    let refused = |code: &str| Err(ActionError::Refused(code.to_owned()));
    if doing.depth > DEEPEST {
        return refused("depth_exceeded");
    }
    let recipient = match recipient {
        Some(operand) => value::actor(operand, doing, "no_recipient")?,
        None if doing.is_person => doing.actor.clone(),
        None => return refused("no_recipient"),
    };
    let latest = workflows::latest(conn, &[workflow.as_str()]).await?;
    let latest = match latest.into_iter().next() {
        None => return refused("unknown_workflow"),
        Some(latest) if !latest.active => return refused("workflow_paused"),
        Some(latest) => latest,
    };
    let event = NewEvent {
        id: EventId::fresh(),
        tenant: doing.tenant.as_str().to_owned(),
        workflow: workflow.as_str().to_owned(),
        definition: latest.definition,
        params: Value::Object(value::object(params, doing)?),
        recipients: Some(json!([{ "identity": recipient }])),
        correlation_id: None,
        idempotency_key: Some(format!("chimeway:{}", doing.token())),
        expand_later: true,
    };
    events::insert(conn, &[event]).await?;
    settings::wake(conn, &[QueueName::Workflows.as_str()]).await?;
    Ok(Map::new())
}
