//! Performing the actions of a step, in the transaction of its run: all of them or none.
//!
//! An action is performed once for each (run, visit, place in the step): what it does commits together
//! with the run's going on, and with nothing else. One that leaves the database is a delivery instead,
//! and never comes here.
//!
//! `act.rs` is the transaction, one for each run; `perform.rs` goes through the actions; each built-in kind
//! has a file of its own, and a host's own kinds are in the `Registry`.

mod act;
mod create_record;
mod ground;
mod perform;
mod send_signal;
mod set_field;
mod start_workflow;
mod value;
mod writable;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::PgConnection;

pub(super) use act::take;
pub(super) use ground::Ground;
pub(super) use perform::perform;
pub use writable::{BadWritable, Writable};

use crate::{
    definition::Action,
    ids::{ActionName, FieldName, RunId, StepKey, TenantId, Visit, WorkflowKey},
    store::{StoreError, error::Fault},
};
use writable::Allowed;

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
    /// It needs a value that is not there: the step ends `failed` with `missing_path`. The place, which is
    /// kept in the history.
    #[error("nothing stands at `{0}`")]
    Missing(String),
    /// The database. What it refuses for what is in a statement ends the step `failed`; where another
    /// session was in the way, or the database is away, everything is tried again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ActionError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl ActionError {
    /// In a word, and the place that is missing; or the error after which everything is tried again.
    fn settled(self) -> Result<(String, Option<String>), StoreError> {
        let error = match self {
            Self::Refused(code) => return Ok((code, None)),
            Self::Missing(path) => return Ok(("missing_path".to_owned(), Some(path))),
            Self::Store(error) => error,
        };
        match (error.fault(), error.sqlstate()) {
            (Fault::Data, Some(state)) if !is_the_servers(&state) => Ok((word_of(&state), None)),
            _ => Err(error),
        }
    }
}

/// Whether a statement failed for what the server lacked or was told, and not for what it said: a full disk,
/// a statement that somebody cancelled.
fn is_the_servers(sqlstate: &str) -> bool {
    ["53", "57", "58", "XX"]
        .iter()
        .any(|class| sqlstate.starts_with(class))
}

/// What a host's table, or its triggers, said about a write.
fn word_of(sqlstate: &str) -> String {
    let word = match sqlstate {
        "42501" => "no_privilege",
        "P0001" => "refused_by_trigger",
        state if state.starts_with("22") => "value_does_not_fit",
        state if state.starts_with("23") => "refused_by_constraint",
        state => return format!("sqlstate_{state}"),
    };
    word.to_owned()
}

/// The actions that a host has registered, and what the built-in ones may write.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    known: HashMap<ActionName, Arc<dyn ActionKind>>,
    allowed: Allowed,
}

impl Registry {
    pub(super) fn get(&self, name: &ActionName) -> Option<&Arc<dyn ActionKind>> {
        self.known.get(name)
    }

    pub(super) fn register(&mut self, name: &ActionName, action: Arc<dyn ActionKind>) {
        self.known.insert(name.clone(), action);
    }

    pub(super) fn allow(&mut self, table: Writable) {
        self.allowed.add(table);
    }

    /// What a built-in action would write of a host's, and may not.
    pub(super) fn refused(&self, action: &Action) -> Option<String> {
        match action {
            Action::SetField { entity, field, .. } => {
                let allowed = self.allowed.field(entity.as_str(), field.as_str());
                let refused = || format!("{entity}.{field}");
                allowed.is_none().then(refused)
            }
            Action::CreateRecord { entity, values } => {
                let fields = values.keys().map(FieldName::as_str);
                let allowed = self.allowed.record(entity.as_str(), fields);
                allowed.is_none().then(|| format!("a row of {entity}"))
            }
            _ => None,
        }
    }
}
