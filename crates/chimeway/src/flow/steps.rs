//! Kinds of steps of a host's own.
//!
//! Such a step is entered, retried, given up and left by the same decisions as a message: it is planned as
//! a delivery over a channel of the kind's name, its work is done under a claim with no transaction open,
//! and what came of it is recorded with the run's going on. A worker that dies while it works leaves a
//! try of unknown end, which is repeated.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::{
    channels::{Receipt, SendError},
    ids::{
        ActorId, AttemptNumber, DeliveryId, KindName, NotificationId, RunId, StepKey, TenantId,
        WorkflowKey,
    },
};

/// The work of a step of a host's own kind.
#[async_trait]
pub trait CustomStep: Send + Sync + 'static {
    /// What is wrong with the settings that a document gives such a step: looked at when it is applied,
    /// and so without any run. Takes everything unless told otherwise.
    ///
    /// # Errors
    ///
    /// What is wrong and how to mend it, on one line.
    fn check(&self, settings: &Map<String, Value>) -> Result<(), String> {
        let _ = settings;
        Ok(())
    }

    /// Does the work of one visit of the step; the step ends `succeeded`. It has the time-out of a send,
    /// and may be called again with the same delivery: what must happen once is made so by that id.
    ///
    /// # Errors
    ///
    /// Temporary: the work is tried again, with a growing delay and five tries in all; then, and for
    /// anything permanent at once, the step ends `failed`.
    async fn perform(&self, call: &StepCall) -> Result<Receipt, SendError>;
}

/// What the work of a step is called with.
#[derive(Debug, Clone)]
pub struct StepCall {
    /// One for each visit of the step: the same in every try.
    pub delivery: DeliveryId,
    /// Which try this is: 1, 2, 3 ...
    pub attempt: AttemptNumber,
    /// Whose run it is.
    pub tenant: TenantId,
    /// Which run.
    pub run: RunId,
    /// The run's recipient.
    pub recipient: Option<ActorId>,
    /// The notification it is for.
    pub notification: Option<NotificationId>,
    /// Which workflow.
    pub workflow: WorkflowKey,
    /// Which step.
    pub step: StepKey,
    /// What the document says of the step, without its type.
    pub settings: Map<String, Value>,
    /// What the trigger was given.
    pub params: Value,
}

/// The kinds that a host has registered.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    known: HashMap<KindName, Arc<dyn CustomStep>>,
}

impl Registry {
    pub(super) fn register(&mut self, name: &KindName, kind: Arc<dyn CustomStep>) {
        self.known.insert(name.clone(), kind);
    }

    pub(super) fn get(&self, name: &KindName) -> Option<&Arc<dyn CustomStep>> {
        self.known.get(name)
    }
}
