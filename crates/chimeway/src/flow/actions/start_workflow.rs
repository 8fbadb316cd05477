//! `start_workflow`: triggers a workflow. Its runs are made by a worker, once the step is committed.

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::{ActionError, ActionExecutor, Performing, value};
use crate::{
    definition::Action,
    ids::EventId,
    queue::QueueName,
    store::{
        events::{self, NewEvent},
        settings, workflows,
    },
};

/// How many workflows may start each other in a chain.
const DEEPEST: i32 = 16;

pub(super) struct StartWorkflow;

#[async_trait]
impl ActionExecutor for StartWorkflow {
    async fn execute(
        &self,
        conn: &mut PgConnection,
        performing: &Performing<'_>,
    ) -> Result<Map<String, Value>, ActionError> {
        let Action::StartWorkflow {
            workflow,
            recipient,
            params,
        } = performing.action
        else {
            return Err(ActionError::failed("wrong_action"));
        };
        if performing.depth > DEEPEST {
            return Err(ActionError::failed("depth_exceeded"));
        }
        let recipient = match recipient {
            Some(operand) => value::actor(operand, performing, "no_recipient")?,
            None => performing
                .recipient
                .cloned()
                .ok_or_else(|| ActionError::failed("no_recipient"))?,
        };
        let latest = workflows::latest(conn, &[workflow.as_str()]).await?;
        let latest = match latest.into_iter().next() {
            None => return Err(ActionError::failed("unknown_workflow")),
            Some(latest) if !latest.active => return Err(ActionError::failed("workflow_paused")),
            Some(latest) => latest,
        };
        let event = NewEvent {
            id: EventId::fresh(),
            tenant: performing.tenant.as_str().to_owned(),
            workflow: workflow.as_str().to_owned(),
            definition: latest.definition,
            params: Value::Object(value::object(params, performing)?),
            recipients: Some(json!([{ "identity": recipient }])),
            correlation_id: None,
            idempotency_key: Some(format!("chimeway:{}", performing.token())),
            expand_later: true,
        };
        events::insert(conn, &[event]).await?;
        settings::wake(conn, &[QueueName::Workflows.as_str()]).await?;
        Ok(Map::new())
    }
}
