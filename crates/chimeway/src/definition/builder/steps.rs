//! Writing the steps of business workflows in Rust: conditions, approvals, actions, a host's own kinds.
//!
//! ```
//! use chimeway::definition::{Known, Outcome, To, WorkflowBuilder};
//!
//! let checked = WorkflowBuilder::new("purchase_approval")
//!     .on_change("order", "status", "submitted")
//!     .context("record_id", "trigger.record_id")
//!     .context("amount", "trigger.record.total")
//!     .condition("large", "context.amount > 1000")
//!     .on("large", Outcome::Unmet, To::step("accept"))
//!     .approval("manager", |ask| ask.role("manager").timeout("72h"))
//!     .action("accept", |work| {
//!         work.set_field("order", "context.record_id", "status", "approved")
//!     })
//!     .build(&Known::default())?;
//!
//! assert_eq!(checked.plan.steps.len(), 3);
//! # Ok::<(), Vec<chimeway::definition::DefinitionError>>(())
//! ```

use serde_json::{Map, Value, json};

use super::WorkflowBuilder;

impl WorkflowBuilder {
    /// The workflow starts by itself when that field of that kind of record comes to hold `to`.
    #[must_use]
    pub fn on_change(
        mut self,
        entity: impl Into<String>,
        field: impl Into<String>,
        to: impl Into<String>,
    ) -> Self {
        self.trigger = Some(json!({
            "type": "state_change", "entity": entity.into(), "field": field.into(), "to": to.into(),
        }));
        self
    }

    /// A run's context begins with this: `("amount", "trigger.record.total")`, `("kind", "params.kind")`.
    #[must_use]
    pub fn context(mut self, name: impl Into<String>, source: impl Into<String>) -> Self {
        self.context.insert(name.into(), json!(source.into()));
        self
    }

    /// Adds a step that goes one way or the other, as a CEL expression over `context` and `params` says.
    #[must_use]
    pub fn condition(self, id: impl Into<String>, expression: impl Into<String>) -> Self {
        let action = json!({ "type": "condition", "expression": expression.into() });
        self.add(id, action)
    }

    /// Adds a step that asks somebody for a decision; `configure` says whom, and for how long.
    #[must_use]
    pub fn approval(
        self,
        id: impl Into<String>,
        configure: impl FnOnce(ApprovalBuilder) -> ApprovalBuilder,
    ) -> Self {
        let asked = configure(ApprovalBuilder {
            action: json!({ "type": "approval" }),
        });
        self.add(id, asked.action)
    }

    /// Adds a step that does what `configure` says, in that order.
    #[must_use]
    pub fn action(
        self,
        id: impl Into<String>,
        configure: impl FnOnce(ActionBuilder) -> ActionBuilder,
    ) -> Self {
        let ActionBuilder { actions } = configure(ActionBuilder { actions: vec![] });
        self.add(id, json!({ "type": "action", "actions": actions }))
    }

    /// Adds a step of a kind that the host has registered; `settings` is a JSON object.
    #[must_use]
    pub fn step(self, id: impl Into<String>, kind: impl Into<String>, settings: Value) -> Self {
        self.add(id, typed(kind, settings))
    }

    fn add(mut self, id: impl Into<String>, action: Value) -> Self {
        self.steps
            .push(object([("id", id.into().into()), ("action", action)]));
        self
    }
}

fn object<const FIELDS: usize>(fields: [(&str, Value); FIELDS]) -> Value {
    let fields = fields.into_iter();
    Value::Object(
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

/// The settings with their type, for the checker to look at.
fn typed(kind: impl Into<String>, settings: Value) -> Value {
    let mut typed = Map::from_iter([("type".to_owned(), kind.into().into())]);
    if let Value::Object(settings) = settings {
        typed.extend(settings.into_iter().filter(|(name, _)| name != "type"));
    }
    Value::Object(typed)
}

/// Whom an approval asks, and for how long.
#[derive(Debug, Clone)]
pub struct ApprovalBuilder {
    action: Value,
}

impl ApprovalBuilder {
    /// This one decides.
    #[must_use]
    pub fn user(self, user: impl Into<String>) -> Self {
        self.assignee("user", user)
    }

    /// Whoever has this role decides.
    #[must_use]
    pub fn role(self, role: impl Into<String>) -> Self {
        self.assignee("role", role)
    }

    /// Whoever stands at that place in the run's context decides: `context.manager`.
    #[must_use]
    pub fn path(self, path: impl Into<String>) -> Self {
        self.assignee("path", path)
    }

    fn assignee(mut self, kind: &str, who: impl Into<String>) -> Self {
        self.action["assignee"] = object([(kind, who.into().into())]);
        self
    }

    /// Nobody can decide any more after so long (`P3D`, `72h`).
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<String>) -> Self {
        self.action["timeout"] = json!(timeout.into());
        self
    }
}

/// What an action step does. A text that begins with `context.` or `params.` is a path, `now` is the
/// instant, and everything else stands for itself.
#[derive(Debug, Clone)]
pub struct ActionBuilder {
    actions: Vec<Value>,
}

impl ActionBuilder {
    /// Writes one field of a host's record.
    #[must_use]
    pub fn set_field(
        self,
        entity: impl Into<String>,
        record: impl Into<Value>,
        field: impl Into<String>,
        value: impl Into<Value>,
    ) -> Self {
        self.perform(
            "set_field",
            json!({
                "entity": entity.into(), "record_id": record.into(), "field": field.into(),
                "value": value.into(),
            }),
        )
    }

    /// Inserts a record of a host's; `values` is a JSON object.
    #[must_use]
    pub fn create_record(self, entity: impl Into<String>, values: Value) -> Self {
        let settings = object([("entity", entity.into().into()), ("values", values)]);
        self.perform("create_record", settings)
    }

    /// Calls another system over HTTP.
    #[must_use]
    pub fn webhook(self, url: impl Into<String>) -> Self {
        self.perform("webhook", json!({ "url": url.into() }))
    }

    /// Tells that the run's actor did something; `payload` is a JSON object.
    #[must_use]
    pub fn send_signal(self, signal: impl Into<String>, payload: Value) -> Self {
        let settings = object([("signal", signal.into().into()), ("payload", payload)]);
        self.perform("send_signal", settings)
    }

    /// Triggers a workflow for the run's actor; `params` is a JSON object.
    #[must_use]
    pub fn start_workflow(self, workflow: impl Into<String>, params: Value) -> Self {
        let settings = object([("workflow", workflow.into().into()), ("params", params)]);
        self.perform("start_workflow", settings)
    }

    /// Any action, one that the host has registered too; `settings` is a JSON object.
    #[must_use]
    pub fn perform(mut self, kind: impl Into<String>, settings: Value) -> Self {
        self.actions.push(typed(kind, settings));
        self
    }
}
