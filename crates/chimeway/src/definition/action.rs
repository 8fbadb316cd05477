//! A step that does things: what actions there are and what they are given.

mod read;
mod written;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::step::JsonPath;
use crate::ids::{ActionName, ChannelName, EntityName, FieldName, SignalName, WorkflowKey};

pub(super) use written::written;

/// The most actions a step may have.
pub const MAX_ACTIONS: usize = 20;

/// One thing that an action step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Writes one field of a host's record.
    SetField {
        /// Which kind of record.
        entity: EntityName,
        /// Which record.
        record: Operand,
        /// Which field.
        field: FieldName,
        /// What is written.
        value: Operand,
    },
    /// Inserts a record of a host's.
    CreateRecord {
        /// Which kind of record.
        entity: EntityName,
        /// What its fields hold.
        values: BTreeMap<FieldName, Operand>,
    },
    /// Calls another system over HTTP: a delivery, with everything that goes with one.
    Webhook(Webhook),
    /// Tells what an actor did.
    SendSignal {
        /// What was done.
        signal: SignalName,
        /// Who did it; `None`: the run's own actor.
        actor: Option<Operand>,
        /// What goes with it.
        payload: BTreeMap<String, Operand>,
    },
    /// Triggers a workflow.
    StartWorkflow {
        /// Which one.
        workflow: WorkflowKey,
        /// For whom; `None`: for the run's own actor.
        recipient: Option<Operand>,
        /// What it is given.
        params: BTreeMap<String, Operand>,
    },
    /// An action that a host has registered.
    Custom {
        /// Which one.
        kind: ActionName,
        /// Everything else that the document says of it.
        settings: Map<String, Value>,
    },
}

/// A call of another system. Texts in it are templates over `context` and `params`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where to.
    pub url: String,
    /// How; `POST` unless the document says otherwise.
    pub method: String,
    /// What is sent with it, besides what signs it.
    pub headers: BTreeMap<String, String>,
    /// What is sent; `None`: the context.
    pub body: Option<Value>,
}

/// A value that an action is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// This one.
    Literal(Value),
    /// What stands at that place in the run's context.
    Context(JsonPath),
    /// What stands at that place in the trigger's params.
    Params(JsonPath),
    /// The instant at which the action is performed.
    Now,
}

impl Action {
    /// The name people write: `set_field`, or a host's own.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::SetField { .. } => "set_field",
            Self::CreateRecord { .. } => "create_record",
            Self::Webhook(_) => "webhook",
            Self::SendSignal { .. } => "send_signal",
            Self::StartWorkflow { .. } => "start_workflow",
            Self::Custom { kind, .. } => kind.as_str(),
        }
    }

    /// Whether it leaves the database: such an action is a delivery, the others are performed in the
    /// transaction of their step.
    #[must_use]
    pub const fn is_delivery(&self) -> bool {
        matches!(self, Self::Webhook(_))
    }

    /// The channel that carries it, if it is a delivery.
    #[must_use]
    pub fn channel(&self) -> Option<ChannelName> {
        let channel = self.is_delivery().then(|| ChannelName::new(self.name()));
        channel.and_then(Result::ok)
    }

    /// Whether it writes a table of the host's.
    #[must_use]
    pub const fn writes_host(&self) -> bool {
        matches!(
            self,
            Self::SetField { .. } | Self::CreateRecord { .. } | Self::Custom { .. }
        )
    }
}

/// The built-in actions, as people write them.
pub const BUILT_IN_ACTIONS: [&str; 5] = [
    "set_field",
    "create_record",
    "webhook",
    "send_signal",
    "start_workflow",
];
/// The methods of a webhook; the first one where none is said.
const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];
