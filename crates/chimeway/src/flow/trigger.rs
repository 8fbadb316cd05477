//! Starting runs inside the caller's transaction.

mod begin;

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Chimeway, FlowError, Recipient};
use crate::{
    definition::{Document, Workflow},
    ids::{ActorId, EventId, TenantId, WorkflowKey},
};
use begin::{Asked, begin};

/// What starts a workflow.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// Which workflow.
    pub workflow: WorkflowKey,
    /// Whose it is.
    pub tenant: TenantId,
    /// What messages are made of; a JSON object. `{}` by default.
    pub params: Value,
    /// Who is notified. Empty (the default): `params.actor_id`.
    pub recipients: Vec<Recipient>,
    /// Makes a repeated trigger return the first event and write nothing. Unique per tenant, for as
    /// long as the event is kept.
    pub idempotency_key: Option<String>,
    /// Your own id for following a thing through systems.
    pub correlation_id: Option<String>,
    document: Option<Document>,
}

/// What a trigger did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Triggered {
    /// It started runs.
    New(EventId),
    /// The idempotency key was used before: nothing was written.
    Already(EventId),
}

impl Triggered {
    /// The event, new or not.
    #[must_use]
    pub const fn event(self) -> EventId {
        match self {
            Self::New(event) | Self::Already(event) => event,
        }
    }
}

impl Trigger {
    /// Starts the latest stored version of a workflow.
    #[must_use]
    pub fn new(workflow: WorkflowKey, tenant: TenantId) -> Self {
        Self {
            workflow,
            tenant,
            params: json!({}),
            recipients: vec![],
            idempotency_key: None,
            correlation_id: None,
            document: None,
        }
    }

    /// Starts a workflow written in Rust; its definition is stored in the caller's transaction if it
    /// is not yet.
    ///
    /// # Errors
    ///
    /// [`FlowError::BadName`] if its document has no usable key.
    pub fn of(workflow: &impl Workflow, tenant: TenantId) -> Result<Self, FlowError> {
        let document = workflow.workflow();
        let key = WorkflowKey::new(document.key().unwrap_or_default())?;
        Ok(Self {
            document: Some(document),
            ..Self::new(key, tenant)
        })
    }

    /// Sets what messages are made of.
    #[must_use]
    pub fn params(mut self, params: Value) -> Self {
        self.params = params;
        self
    }

    /// Adds a recipient.
    #[must_use]
    pub fn recipient(mut self, recipient: Recipient) -> Self {
        self.recipients.push(recipient);
        self
    }

    /// Makes a repeated trigger harmless.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Sets your own id for following a thing through systems.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Who is notified: those named, or `params.actor_id`.
    fn resolved(&self) -> Result<Vec<Recipient>, FlowError> {
        if !self.recipients.is_empty() {
            return Ok(self.recipients.clone());
        }
        match self.params.get("actor_id").and_then(Value::as_str) {
            Some(actor) => Ok(vec![Recipient::new(ActorId::new(actor)?)]),
            None => Err(FlowError::NoRecipient),
        }
    }
}

impl Chimeway {
    /// Starts a workflow for each recipient, inside the caller's transaction: it commits and rolls
    /// back with it. Sends nothing itself; that begins when the caller has committed.
    ///
    /// A caller with the same idempotency key waits while another one's transaction with it is open.
    /// Under READ COMMITTED a repeated key never aborts the caller's transaction; at stricter levels
    /// the database may answer 40001.
    ///
    /// # Errors
    ///
    /// [`FlowError::UnknownWorkflow`], [`FlowError::WorkflowPaused`], [`FlowError::NoRecipient`],
    /// [`FlowError::BadJson`], [`FlowError::KeyReused`]: nothing was written, and the caller's
    /// transaction can go on. [`FlowError::Store`]: it cannot.
    pub async fn trigger(
        &self,
        conn: &mut PgConnection,
        trigger: Trigger,
    ) -> Result<Triggered, FlowError> {
        let mut asked = [Asked::new(trigger)?];
        begin(self.core(), conn, &mut asked).await?;
        let [asked] = asked;
        Ok(asked.done())
    }

    /// Does many triggers at once, of whichever tenants and workflows, with as many statements as one
    /// takes (each workflow written in Rust that is not stored yet takes its own, once); the answers are in
    /// their order. All of them or none: a refusal is that of one of them, and nothing was written. Roll back all the same where another session may get in between
    /// (it uses one of the idempotency keys for another workflow, or pauses one), or where there are
    /// several workflows written in Rust that are not stored yet: one of them may be, and the next be refused.
    ///
    /// Of two with the same key the second is [`Triggered::Already`]. Beyond 1,000 recipients in all a
    /// worker makes the runs, so that the caller's transaction stays short. A trigger by name takes the
    /// version that was the latest before the call.
    ///
    /// # Errors
    ///
    /// Those of [`Chimeway::trigger`].
    pub async fn trigger_many(
        &self,
        conn: &mut PgConnection,
        triggers: impl IntoIterator<Item = Trigger>,
    ) -> Result<Vec<Triggered>, FlowError> {
        let asked: Result<Vec<Asked>, FlowError> = triggers.into_iter().map(Asked::new).collect();
        let mut asked = asked?;
        begin(self.core(), conn, &mut asked).await?;
        Ok(asked.iter().map(Asked::done).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Written(Value);

    impl Workflow for Written {
        fn workflow(&self) -> Document {
            Document::from_value(self.0.clone())
        }
    }

    #[test]
    fn a_workflow_is_known_by_its_key_in_either_spelling() {
        let of = |value| Trigger::of(&Written(value), TenantId::new("org_456").unwrap());
        for value in [json!({ "key": "k" }), json!({ "workflow_key": " k " })] {
            assert_eq!(of(value).unwrap().workflow.as_str(), "k");
        }
        assert!(matches!(of(json!({})), Err(FlowError::BadName(_))));
    }
}
