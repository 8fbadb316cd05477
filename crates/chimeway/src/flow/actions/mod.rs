//! Performing the actions of a step, in the transaction of its run: all of them or none.
//!
//! An action is performed once for each (run, visit, place in the step): what it does commits together
//! with the run's going on, and with nothing else. One that leaves the database is a delivery instead,
//! and never comes here.

use std::{collections::HashMap, ops::Range, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::{Connection as _, PgConnection};

use super::{Core, moved::Moved};
use crate::{
    definition::{Action, StepKind},
    engine::{ActionFailure, Executed, Facts},
    ids::{ActionName, RunId, StepKey, TenantId, Visit, WorkflowKey},
    store::{StoreError, StoreResult},
};

/// An action of a host's own.
#[async_trait]
pub trait ActionKind: Send + Sync + 'static {
    /// What is wrong with the settings that a document gives such an action: looked at when it is applied,
    /// and so without any run. Takes everything unless told otherwise.
    ///
    /// # Errors
    ///
    /// What is wrong and how to mend it, on one line.
    fn check(&self, settings: &Map<String, Value>) -> Result<(), String> {
        let _ = settings;
        Ok(())
    }

    /// Performs the action in the transaction of its run, and says what to add to the run's context.
    ///
    /// What it writes over `conn` commits together with the run's going on. It may be called again after
    /// a rollback, and must have no effect but through `conn`. It holds up its run and a worker's
    /// connection: work that waits for others belongs into a step kind of a host's own.
    ///
    /// # Errors
    ///
    /// [`ActionError`].
    async fn perform(
        &self,
        conn: &mut PgConnection,
        call: &ActionCall<'_>,
    ) -> Result<Map<String, Value>, ActionError>;
}

/// What an action is called with.
#[derive(Debug, Clone, Copy)]
pub struct ActionCall<'a> {
    /// Whose run it is.
    pub tenant: &'a TenantId,
    /// Which run.
    pub run: RunId,
    /// Which visit of the step.
    pub visit: Visit,
    /// The place of the action in its step: (run, visit, index) is the same however often it is called.
    pub index: usize,
    /// Which workflow.
    pub workflow: &'a WorkflowKey,
    /// Which step.
    pub step: &'a StepKey,
    /// What the document says of the action, without its type.
    pub settings: &'a Map<String, Value>,
    /// What the run's context holds, with what earlier actions of the step have added.
    pub context: &'a Value,
    /// What the trigger was given.
    pub params: &'a Value,
    /// The database's now.
    pub now: DateTime<Utc>,
}

/// Why an action was not performed. Nothing of its step's actions is kept then.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// It will never work: the step ends `failed`. A word, without any value: it is kept in the history.
    #[error("{0}")]
    Refused(String),
    /// The database: a conflict is tried again, anything else sets the run aside after three tries.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ActionError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// The actions that a host has registered.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    known: HashMap<ActionName, Arc<dyn ActionKind>>,
}

impl Registry {
    pub(super) fn get(&self, name: &ActionName) -> Option<&Arc<dyn ActionKind>> {
        self.known.get(name)
    }

    pub(super) fn register(&mut self, name: &ActionName, action: Arc<dyn ActionKind>) {
        self.known.insert(name.clone(), action);
    }
}

/// Performs these actions of the step that the run is in; what comes of it is to be told to the run.
pub(super) async fn perform(
    core: &Core,
    conn: &mut PgConnection,
    moved: &Moved,
    actions: Range<usize>,
    now: DateTime<Utc>,
) -> StoreResult<Executed> {
    let run = &moved.run;
    let mut executed = Executed {
        visit: run.visit,
        actions: actions.clone(),
        result: Ok(Map::new()),
    };
    let StepKind::Action(all) = &run.definition.step(run.step).kind else {
        return Ok(executed);
    };
    let Ok(tenant) = TenantId::new(moved.owner.tenant.as_str()) else {
        return Err(StoreError::Inconsistent {
            table: "workflow_runs",
            column: "tenant_id",
            row: run.id.0,
        });
    };
    let mut facts = run.facts.as_deref().cloned().unwrap_or_default();
    let mut added = Map::new();
    // What one of them has done is undone where a later one is refused.
    let mut all_or_none = conn.begin().await?;
    for index in actions {
        let Some(action) = all.get(index) else {
            continue;
        };
        match one(
            core,
            &mut all_or_none,
            moved,
            &tenant,
            (index, action),
            &facts,
            now,
        )
        .await
        {
            Ok(more) => {
                remember(&mut facts, &more);
                added.extend(more);
            }
            Err(ActionError::Store(error)) => return Err(error),
            Err(ActionError::Refused(code)) => {
                all_or_none.rollback().await?;
                executed.result = Err(ActionFailure {
                    action: index,
                    code,
                });
                return Ok(executed);
            }
        }
    }
    all_or_none.commit().await?;
    executed.result = Ok(added);
    Ok(executed)
}

fn remember(facts: &mut Facts, more: &Map<String, Value>) {
    if let Value::Object(context) = &mut facts.context {
        context.extend(more.clone());
    }
}

async fn one(
    core: &Core,
    conn: &mut PgConnection,
    moved: &Moved,
    tenant: &TenantId,
    (index, action): (usize, &Action),
    facts: &Facts,
    now: DateTime<Utc>,
) -> Result<Map<String, Value>, ActionError> {
    let run = &moved.run;
    let Action::Custom { kind, settings } = action else {
        return Err(ActionError::Refused(format!("cannot_{}", action.name())));
    };
    let Some(own) = core.actions.get(kind) else {
        tracing::warn!(run.id = %run.id, action = %kind, "this worker has no such action");
        return Err(ActionError::Refused("unknown_action".to_owned()));
    };
    let call = ActionCall {
        tenant,
        run: run.id,
        visit: run.visit,
        index,
        workflow: &run.definition.key,
        step: &run.definition.step(run.step).key,
        settings,
        context: &facts.context,
        params: &facts.params,
        now,
    };
    own.perform(conn, &call).await
}
