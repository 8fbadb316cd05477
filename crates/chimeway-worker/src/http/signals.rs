//! `/api/signals`: telling what somebody did.

use std::sync::Arc;

use axum::extract::State;
use chimeway::{
    Signal,
    ids::{ActorId, SignalId, SignalName},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    answer::Created,
    api::{Api, Route},
    caller::{Caller, OfTenant},
    extract::{Json, Query},
    refusal::Refusal,
};

pub(super) fn routes() -> Vec<Route> {
    vec![Route::post("/api/signals", create)]
}

/// What somebody did.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSignal {
    event_name: SignalName,
    /// Who; the token's subject where it is left out.
    actor_id: Option<ActorId>,
    #[serde(default)]
    payload: Map<String, Value>,
}

#[derive(Serialize)]
struct Told {
    signal_id: SignalId,
}

async fn create(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Query(of): Query<OfTenant>,
    Json(new): Json<NewSignal>,
) -> Result<Created<Told>, Refusal> {
    let tenant = caller.tenant(of.tenant_id)?;
    let actor = caller.acting(new.actor_id)?;
    let signal = Signal::new(tenant, actor, new.event_name).payload(Value::Object(new.payload));
    let mut tx = api.begin().await?;
    let signal_id = api.chimeway.track(&mut tx, signal).await?;
    tx.commit().await?;
    Ok(Created {
        data: Told { signal_id },
        place: None,
    })
}
