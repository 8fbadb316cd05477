//! `/api/triggers`: starting a workflow for recipients.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use chimeway::{
    FlowError, Recipient, Trigger, Triggered,
    ids::{ActorId, EventId, RunId, WorkflowKey},
    store::run_views::{self, RunFilter},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    answer::{Created, Data},
    api::{Api, Route},
    caller::{Caller, OfTenant},
    extract::{Json, Query},
    refusal::Refusal,
};

/// How many runs an answer names.
const RUNS_NAMED: i64 = 100;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::post("/api/triggers", create)]
}

/// What starts a workflow.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTrigger {
    workflow: WorkflowKey,
    #[serde(default)]
    params: Map<String, Value>,
    #[serde(default)]
    recipients: Vec<Person>,
    idempotency_key: Option<String>,
    correlation_id: Option<String>,
}

/// Who is notified.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    identity: ActorId,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    addresses: BTreeMap<String, String>,
    locale: Option<String>,
    time_zone: Option<String>,
}

impl From<Person> for Recipient {
    fn from(person: Person) -> Self {
        Self {
            kind: person.kind,
            addresses: person.addresses,
            locale: person.locale,
            time_zone: person.time_zone,
            ..Self::new(person.identity)
        }
    }
}

/// What a trigger did.
#[derive(Serialize)]
struct Told {
    event_id: EventId,
    /// `new`, or `already` where the idempotency key was used before.
    status: &'static str,
    /// The runs, as far as they are made by now.
    runs: Vec<Begun>,
}

#[derive(Serialize)]
struct Begun {
    id: RunId,
    recipient: String,
}

async fn create(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Query(of): Query<OfTenant>,
    Json(new): Json<NewTrigger>,
) -> Result<Response, Refusal> {
    let tenant = caller.tenant(of.tenant_id)?;
    for person in &new.recipients {
        caller.may_act_for(&person.identity)?;
    }
    // Who is notified where no recipients are named.
    let actor = new.params.get("actor_id").and_then(Value::as_str);
    if let Some(actor) = actor.filter(|_| new.recipients.is_empty()) {
        caller.may_act_for(&ActorId::new(actor).map_err(FlowError::from)?)?;
    }
    let mut trigger = Trigger::new(new.workflow, tenant).params(Value::Object(new.params));
    trigger.recipients = new.recipients.into_iter().map(Into::into).collect();
    trigger.idempotency_key = new.idempotency_key;
    trigger.correlation_id = new.correlation_id;

    let mut tx = api.begin().await?;
    let triggered = api.chimeway.trigger(&mut tx, trigger).await?;
    let event_id = triggered.event();
    let filter = RunFilter {
        event: Some(event_id),
        ..RunFilter::default()
    };
    let runs = run_views::list(&mut tx, &filter, RUNS_NAMED).await?;
    tx.commit().await?;

    let runs = runs.into_iter().map(|run| Begun {
        id: run.id,
        recipient: run.recipient,
    });
    let told = |status| Told {
        event_id,
        status,
        runs: runs.collect(),
    };
    Ok(match triggered {
        Triggered::New(_) => Created {
            data: told("new"),
            place: None,
        }
        .into_response(),
        Triggered::Already(_) => Data {
            data: told("already"),
        }
        .into_response(),
    })
}
