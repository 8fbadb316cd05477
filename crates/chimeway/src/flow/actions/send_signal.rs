//! `send_signal`: tells what an actor did, as if a host had.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{ActionError, perform::Doing, value};
use crate::{
    definition::Operand,
    ids::{SignalId, SignalName},
    queue::QueueName,
    store::{
        settings,
        signals::{self, NewSignal},
    },
};

pub(super) async fn perform(
    conn: &mut PgConnection,
    (signal, actor, payload): (&SignalName, Option<&Operand>, &BTreeMap<String, Operand>),
    doing: &Doing<'_>,
) -> Result<Map<String, Value>, ActionError> {
    let actor = match actor {
        Some(operand) => value::actor(operand, doing, "no_actor")?,
        None => doing.actor.clone(),
    };
    let new = NewSignal {
        id: SignalId::fresh(),
        tenant: doing.tenant.as_str().to_owned(),
        actor: actor.into(),
        name: signal.as_str().to_owned(),
        payload: Value::Object(value::object(payload, doing)?),
    };
    signals::insert(conn, &[new]).await?;
    settings::wake(conn, &[QueueName::Signals.as_str()]).await?;
    Ok(Map::new())
}
