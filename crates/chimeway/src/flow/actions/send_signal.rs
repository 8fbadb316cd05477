//! `send_signal`: tells what an actor did, as if a host had.

use async_trait::async_trait;
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{ActionError, ActionExecutor, Performing, value};
use crate::{
    definition::Action,
    ids::SignalId,
    queue::QueueName,
    store::{
        settings,
        signals::{self, NewSignal},
    },
};

pub(super) struct SendSignal;

#[async_trait]
impl ActionExecutor for SendSignal {
    async fn execute(
        &self,
        conn: &mut PgConnection,
        performing: &Performing<'_>,
    ) -> Result<Map<String, Value>, ActionError> {
        let Action::SendSignal {
            signal,
            actor,
            payload,
        } = performing.action
        else {
            return Err(ActionError::failed("wrong_action"));
        };
        let actor = match actor {
            Some(operand) => value::actor(operand, performing, "no_actor")?,
            None => performing.actor.clone(),
        };
        let new = NewSignal {
            id: SignalId::fresh(),
            tenant: performing.tenant.as_str().to_owned(),
            actor: actor.into(),
            name: signal.as_str().to_owned(),
            payload: Value::Object(value::object(payload, performing)?),
        };
        signals::insert(conn, &[new]).await?;
        settings::wake(conn, &[QueueName::Signals.as_str()]).await?;
        Ok(Map::new())
    }
}
