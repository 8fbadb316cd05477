//! Starting runs inside the caller's transaction.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Chimeway, Dispatcher, FlowError, Recipient, apply, definitions, recipients, start};
use crate::{
    definition::{Document, Workflow, is_huge},
    ids::{ActorId, DefinitionId, EventId, TenantId, WorkflowKey},
    queue::QueueName,
    store::{self, events, settings, workflows},
};

/// Above this many recipients a worker makes the runs, in chunks, so that the caller's transaction
/// stays short.
const RECIPIENTS_IN_LINE: usize = 1_000;

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
        check_json("params", &trigger.params)?;
        let recipients = trigger.resolved()?;
        if let Some(key) = trigger.idempotency_key.as_deref() {
            check_key(key)?;
        }
        check_text("the correlation id", trigger.correlation_id.iter())?;
        let reached = recipients::check(conn, &trigger.tenant, &recipients).await?;
        let later = recipients.len() > RECIPIENTS_IN_LINE;
        let listed = later.then(|| identities(&recipients));
        let (event, definition, started_at) = loop {
            if let Some(already) = self.already(conn, &trigger).await? {
                return Ok(already);
            }
            let definition = self.definition_of(conn, &trigger).await?;
            let new = new_event(&trigger, definition, listed.clone());
            let inserted = events::insert(conn, &[new]).await?;
            if let Some((event, started_at)) = inserted.into_iter().next() {
                break (event, definition, started_at);
            }
            // Another session committed the same key while this one waited for it: a new statement
            // sees its event.
        };
        if let Some(reached) = reached {
            store::recipients::upsert(conn, trigger.tenant.as_str(), &reached).await?;
        }
        let mut queues = vec![QueueName::Workflows.as_str()];
        if !later {
            let loaded = self.core.definitions.get(conn, [definition]).await?;
            if !loaded.contains_key(&definition) {
                return Err(definitions::undecodable(definition).into());
            }
            let starts: Vec<start::Start> = recipients
                .into_iter()
                .map(|recipient| start::Start {
                    event,
                    tenant: trigger.tenant.as_str().to_owned(),
                    definition,
                    started_at,
                    recipient: recipient.identity.into(),
                    kind: recipient.kind,
                })
                .collect();
            let made = start::start(conn, &loaded, &starts).await?;
            queues.clear();
            if made.planned > 0 {
                queues.push(QueueName::Delivery.as_str());
            }
            if made.next_wake.is_some() {
                queues.push(QueueName::Workflows.as_str());
            }
        }
        if self.core.dispatcher == Dispatcher::Queued {
            settings::wake(conn, &queues).await?;
        }
        Ok(Triggered::New(event))
    }

    async fn already(
        &self,
        conn: &mut PgConnection,
        trigger: &Trigger,
    ) -> Result<Option<Triggered>, FlowError> {
        let Some(key) = trigger.idempotency_key.as_deref() else {
            return Ok(None);
        };
        match events::find_by_key(conn, trigger.tenant.as_str(), key).await? {
            None => Ok(None),
            Some((event, first)) if first == trigger.workflow.as_str() => {
                Ok(Some(Triggered::Already(event)))
            }
            Some((_, first)) => Err(FlowError::KeyReused { first }),
        }
    }

    async fn definition_of(
        &self,
        conn: &mut PgConnection,
        trigger: &Trigger,
    ) -> Result<DefinitionId, FlowError> {
        let key = &trigger.workflow;
        let latest = workflows::latest(conn, &[key.as_str()])
            .await?
            .into_iter()
            .next();
        if latest.as_ref().is_some_and(|latest| !latest.active) {
            return Err(FlowError::WorkflowPaused(key.clone()));
        }
        match (&trigger.document, latest) {
            (Some(document), latest) => {
                apply::ensure_document(&self.core, conn, document, latest).await
            }
            (None, Some(latest)) => Ok(latest.definition),
            (None, None) => Err(FlowError::UnknownWorkflow(key.clone())),
        }
    }
}

fn new_event(
    trigger: &Trigger,
    definition: DefinitionId,
    recipients: Option<Value>,
) -> events::NewEvent {
    events::NewEvent {
        id: EventId::fresh(),
        tenant: trigger.tenant.as_str().to_owned(),
        workflow: trigger.workflow.as_str().to_owned(),
        definition,
        params: trigger.params.clone(),
        expand_later: recipients.is_some(),
        recipients,
        correlation_id: trigger.correlation_id.clone(),
        idempotency_key: trigger.idempotency_key.clone(),
    }
}

fn identities(recipients: &[Recipient]) -> Value {
    recipients
        .iter()
        .map(|recipient| json!({ "identity": recipient.identity, "type": recipient.kind }))
        .collect()
}

fn check_key(key: &str) -> Result<(), FlowError> {
    if key.trim().is_empty() || key.len() > crate::ids::MAX_NAME || key.contains('\0') {
        return Err(FlowError::BadJson {
            what: "the idempotency key",
            problem: "is blank or longer than 255 bytes; leave it out, or give what makes this \
                      trigger unique",
        });
    }
    Ok(())
}

/// Refuses before a statement is sent what PostgreSQL would refuse, for that would abort the caller's
/// transaction.
pub(super) fn check_json(what: &'static str, value: &Value) -> Result<(), FlowError> {
    if !value.is_object() {
        return Err(FlowError::BadJson {
            what,
            problem: "is not a JSON object; write {} for nothing",
        });
    }
    match unkept(value, DEEPEST) {
        Some(problem) => Err(FlowError::BadJson { what, problem }),
        None => Ok(()),
    }
}

/// How many levels deep a value may be nested: workers read it with a parser that has a limit.
const DEEPEST: usize = 100;

const NUL: &str = "holds a NUL character, which PostgreSQL cannot keep; take it out";

pub(super) fn check_text<'a>(
    what: &'static str,
    mut texts: impl Iterator<Item = &'a String>,
) -> Result<(), FlowError> {
    if texts.any(|text| text.contains('\0')) {
        return Err(FlowError::BadJson { what, problem: NUL });
    }
    Ok(())
}

/// Why a value cannot be kept.
fn unkept(value: &Value, levels: usize) -> Option<&'static str> {
    let below = |value| match levels.checked_sub(1) {
        Some(levels) => unkept(value, levels),
        None => Some(
            "is nested deeper than 100 levels; keep what is deeper in a table of your own, and its id here",
        ),
    };
    match value {
        Value::String(text) => text.contains('\0').then_some(NUL),
        Value::Array(items) => items.iter().find_map(below),
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, value)| name.contains('\0').then_some(NUL).or_else(|| below(value))),
        Value::Number(number) => {
            is_huge(number).then_some("holds a number beyond 1e308; write it as a text")
        }
        Value::Null | Value::Bool(_) => None,
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
