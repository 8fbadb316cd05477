//! Goes through actions of a step in order: all of them are performed, or none.

use std::ops::Range;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::{Connection as _, PgConnection};

use super::{
    ActionCall, ActionError, create_record, ground::Ground, send_signal, set_field, start_workflow,
};
use crate::{
    definition::{Action, StepKind},
    engine::{ActionFailure, Executed, Facts, Run},
    flow::{Core, Point, check::check_json, moved::Moved},
    ids::{ActorId, TenantId},
    store::{StoreError, StoreResult, acting},
};

/// The longest reason for a refusal that is kept, in characters.
const LONGEST_CODE: usize = 100;

/// One action that is to be performed, of a built-in kind.
pub(super) struct Doing<'a> {
    /// Whose run it is.
    pub(super) tenant: &'a TenantId,
    /// Whose signals the run listens to.
    pub(super) actor: &'a ActorId,
    /// Whether that is somebody, and not a record.
    pub(super) is_person: bool,
    pub(super) run: &'a Run,
    /// Its place in the step.
    pub(super) index: usize,
    /// What the run's context holds, with what earlier actions of the step have added.
    pub(super) facts: &'a Facts,
    /// How many workflows stand before what it starts.
    pub(super) depth: i32,
    /// The database's now.
    pub(super) now: DateTime<Utc>,
}

impl Doing<'_> {
    /// The same for every try of this action, and of no other.
    pub(super) fn token(&self) -> String {
        format!("{}/{}/{}", self.run.id, self.run.visit.0, self.index)
    }
}

/// Performs these actions of the step that the run is in; what comes of it is to be told to the run.
///
/// One that fails takes back those before it: they are in a savepoint together.
pub(in crate::flow) async fn perform(
    core: &Core,
    conn: &mut PgConnection,
    moved: &Moved,
    actions: Range<usize>,
    now: DateTime<Utc>,
    ground: &Ground,
) -> StoreResult<Executed> {
    let run = &moved.run;
    let mut executed = Executed {
        visit: run.visit,
        actions: actions.clone(),
        result: Ok(Map::new()),
    };
    let failed = |action, code: &str, name| {
        Err(ActionFailure {
            action,
            code: word(code),
            name,
        })
    };
    let StepKind::Action(all) = &run.definition.step(run.step).kind else {
        return Ok(executed);
    };
    if ground.is_given_up {
        executed.result = failed(actions.start, "record_is_locked", None);
        return Ok(executed);
    }
    let bad = |column| StoreError::Inconsistent {
        table: "workflow_runs",
        column,
        row: run.id.0,
    };
    let tenant = TenantId::new(moved.owner.tenant.as_str()).map_err(|_| bad("tenant_id"))?;
    let actor = ActorId::new(moved.owner.actor.as_str()).map_err(|_| bad("actor_id"))?;
    let mut facts = run.facts.as_deref().cloned().unwrap_or_default();
    let mut added = Map::new();
    let mut all_or_none = conn.begin().await?;
    for index in actions {
        let Some(action) = all.get(index) else {
            continue;
        };
        let doing = Doing {
            tenant: &tenant,
            actor: &actor,
            is_person: moved.owner.notification.is_some(),
            run,
            index,
            facts: &facts,
            depth: ground.depth + 1,
            now,
        };
        let longest_wait = ground.patience.left();
        acting::enter_host(&mut all_or_none, longest_wait, doing.depth).await?;
        let done = one(core, &mut all_or_none, action, &doing).await;
        core.reach(Point::ActionPerformed).await;
        match done {
            Ok(more) => {
                if let Value::Object(context) = &mut facts.context {
                    context.extend(more.clone());
                }
                added.extend(more);
            }
            Err(error) => {
                let (code, name) = error.settled()?;
                // With it goes what was said for the host's tables.
                all_or_none.rollback().await?;
                executed.result = failed(index, &code, name);
                return Ok(executed);
            }
        }
    }
    acting::leave_host(&mut all_or_none).await?;
    all_or_none.commit().await?;
    executed.result = Ok(added);
    Ok(executed)
}

async fn one(
    core: &Core,
    conn: &mut PgConnection,
    action: &Action,
    doing: &Doing<'_>,
) -> Result<Map<String, Value>, ActionError> {
    let allowed = &core.actions.allowed;
    let (kind, settings) = match action {
        Action::SetField {
            entity,
            record,
            field,
            value,
        } => {
            let write = set_field::SetField {
                entity,
                record,
                field,
                value,
            };
            return write.perform(conn, allowed, doing).await;
        }
        Action::CreateRecord { entity, values } => {
            return create_record::perform(conn, allowed, (entity, values), doing).await;
        }
        Action::SendSignal {
            signal,
            actor,
            payload,
        } => return send_signal::perform(conn, (signal, actor.as_ref(), payload), doing).await,
        Action::StartWorkflow {
            workflow,
            recipient,
            params,
        } => {
            let start = (workflow, recipient.as_ref(), params);
            return start_workflow::perform(conn, start, doing).await;
        }
        // A delivery: never among those that are performed.
        Action::Webhook(_) => return Err(ActionError::Refused("is_a_delivery".to_owned())),
        Action::Custom { kind, settings } => (kind, settings),
    };
    let run = doing.run;
    let Some(own) = core.actions.get(kind) else {
        tracing::warn!(run.id = %run.id, action = %kind, "this worker has no such action");
        return Err(ActionError::Refused("unknown_action".to_owned()));
    };
    let call = ActionCall {
        tenant: doing.tenant,
        run: run.id,
        visit: run.visit,
        index: doing.index,
        workflow: &run.definition.key,
        step: &run.definition.step(run.step).key,
        settings,
        context: &doing.facts.context,
        params: &doing.facts.params,
        now: doing.now,
    };
    let added = Value::Object(own.perform(conn, &call).await?);
    match (check_json("the context", &added), added) {
        (Ok(()), Value::Object(added)) => Ok(added),
        _ => Err(ActionError::Refused("context_cannot_be_kept".to_owned())),
    }
}

/// A code as rows keep it, whatever a host has said.
fn word(code: &str) -> String {
    let clean = code.chars().filter(|c| !c.is_control());
    clean.take(LONGEST_CODE).collect()
}
