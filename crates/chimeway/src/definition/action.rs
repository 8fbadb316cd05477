//! A step that does things: what actions there are and what they are given.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    error::Problem,
    matches::is_huge,
    read::Reader,
    shape::{Node, Object, shown, suggest},
    step::JsonPath,
};
use crate::ids::{ActionName, ChannelName, EntityName, FieldName, SignalName, WorkflowKey};

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
/// Rocket's name for `send_signal`.
const ALIAS: &str = "send_event";
const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];

impl<'a> Reader<'a> {
    pub(super) fn actions(&mut self, node: &Node<'a>) -> Option<Vec<Action>> {
        let actions = node.list(&mut self.mistakes)?;
        if actions.is_empty() {
            self.mistakes.add(&node.pointer, Problem::NoActions, None);
            return None;
        }
        if actions.len() > MAX_ACTIONS {
            let (found, limit) = (actions.len(), MAX_ACTIONS);
            let problem = Problem::TooManyActions { found, limit };
            self.mistakes.add(&node.pointer, problem, None);
        }
        let read = actions
            .iter()
            .take(MAX_ACTIONS)
            .map(|one| self.one_action(one));
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn one_action(&mut self, node: &Node<'a>) -> Option<Action> {
        let action = node.object(&mut self.mistakes)?;
        let kind = action.need("type", &mut self.mistakes)?;
        match kind.text(&mut self.mistakes)? {
            "set_field" => self.set_field(&action),
            "create_record" => self.create_record(&action),
            "webhook" => self.webhook(&action),
            "send_signal" => self.send_signal(&action, "signal"),
            ALIAS => self.send_signal(&action, "event"),
            "start_workflow" => self.start_workflow(&action),
            name => self.custom_action(&action, name, &kind),
        }
    }

    fn set_field(&mut self, action: &Object<'a>) -> Option<Action> {
        let known = ["type", "entity", "record_id", "field", "value"];
        action.only(&known, |_| None, &mut self.mistakes);
        let entity = action.need("entity", &mut self.mistakes);
        let entity = entity.and_then(|entity| self.name(&entity));
        let record = action.need("record_id", &mut self.mistakes);
        let record = record.and_then(|record| self.operand(&record));
        let field = action.need("field", &mut self.mistakes);
        let field = field.and_then(|field| self.name(&field));
        let value = action.need("value", &mut self.mistakes);
        let value = value.and_then(|value| self.operand(&value));
        Some(Action::SetField {
            entity: entity?,
            record: record?,
            field: field?,
            value: value?,
        })
    }

    fn create_record(&mut self, action: &Object<'a>) -> Option<Action> {
        let known = ["type", "entity", "values"];
        action.only(&known, |_| None, &mut self.mistakes);
        let entity = action.need("entity", &mut self.mistakes);
        let entity = entity.and_then(|entity| self.name(&entity));
        let values = action.need("values", &mut self.mistakes);
        let values = values.and_then(|values| self.fields(&values));
        Some(Action::CreateRecord {
            entity: entity?,
            values: values?,
        })
    }

    fn fields(&mut self, node: &Node<'a>) -> Option<BTreeMap<FieldName, Operand>> {
        let entries = node.object(&mut self.mistakes)?;
        let read = entries.entries().map(|(name, node)| {
            let operand = self.operand(&node);
            let field = FieldName::new(name).map_err(|bad| {
                self.mistakes
                    .add(&node.pointer, Problem::BadName(bad), None);
            });
            Some((field.ok()?, operand?))
        });
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn webhook(&mut self, action: &Object<'a>) -> Option<Action> {
        let known = ["type", "url", "method", "headers", "body"];
        action.only(&known, |_| None, &mut self.mistakes);
        let url = action.need("url", &mut self.mistakes);
        let url = url.and_then(|url| self.kept_text(&url));
        let method = match action.get("method") {
            Some(method) => self.method(&method),
            None => Some(METHODS[0].to_owned()),
        };
        let headers = match action.get("headers") {
            Some(headers) => self.headers(&headers),
            None => Some(BTreeMap::new()),
        };
        let body = match action.get("body") {
            Some(body) => self.kept_value(&body).map(Some),
            None => Some(None),
        };
        Some(Action::Webhook(Webhook {
            url: url?,
            method: method?,
            headers: headers?,
            body: body?,
        }))
    }

    fn method(&mut self, node: &Node<'a>) -> Option<String> {
        let method = node.text(&mut self.mistakes)?.to_ascii_uppercase();
        if METHODS.contains(&method.as_str()) {
            return Some(method);
        }
        let hint = suggest(&method, METHODS.into_iter());
        let problem = Problem::UnknownMethod {
            found: shown(&method),
        };
        self.mistakes.add(&node.pointer, problem, Some(hint));
        None
    }

    fn headers(&mut self, node: &Node<'a>) -> Option<BTreeMap<String, String>> {
        let headers = node.object(&mut self.mistakes)?;
        let read = headers.entries().map(|(name, value)| {
            let text = value.text(&mut self.mistakes)?;
            let is_name = !name.is_empty()
                && name
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
            if !is_name || text.chars().any(char::is_control) {
                let problem = Problem::BadHeader { name: shown(name) };
                self.mistakes.add(&value.pointer, problem, None);
                return None;
            }
            Some((name.to_owned(), text.to_owned()))
        });
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn send_signal(&mut self, action: &Object<'a>, key: &'static str) -> Option<Action> {
        let known = ["type", key, "actor", "payload"];
        action.only(&known, |_| None, &mut self.mistakes);
        let signal = action.need(key, &mut self.mistakes);
        let signal = signal.and_then(|signal| self.name(&signal));
        let actor = self.perhaps(action, "actor");
        let payload = self.perhaps_operands(action, "payload");
        Some(Action::SendSignal {
            signal: signal?,
            actor: actor?,
            payload: payload?,
        })
    }

    fn start_workflow(&mut self, action: &Object<'a>) -> Option<Action> {
        let known = ["type", "workflow", "recipient", "params"];
        action.only(&known, |_| None, &mut self.mistakes);
        let workflow = action.need("workflow", &mut self.mistakes);
        let workflow = workflow.and_then(|workflow| self.name(&workflow));
        let recipient = self.perhaps(action, "recipient");
        let params = self.perhaps_operands(action, "params");
        Some(Action::StartWorkflow {
            workflow: workflow?,
            recipient: recipient?,
            params: params?,
        })
    }

    fn custom_action(
        &mut self,
        action: &Object<'a>,
        name: &'a str,
        kind: &Node<'a>,
    ) -> Option<Action> {
        if let Some(known) = self
            .known
            .filter(|known| !known.actions.iter().any(|action| action.as_str() == name))
        {
            let own = known.actions.iter().map(ActionName::as_str);
            let hint = suggest(name, BUILT_IN_ACTIONS.into_iter().chain(own));
            let problem = Problem::UnknownAction { found: shown(name) };
            self.mistakes.add(&kind.pointer, problem, Some(hint));
            return None;
        }
        let kind = self.name(kind);
        let settings = self.settings(action);
        Some(Action::Custom {
            kind: kind?,
            settings: settings?,
        })
    }

    /// Everything but the type, for a host's own kinds.
    pub(super) fn settings(&mut self, object: &Object<'a>) -> Option<Map<String, Value>> {
        let entries = object.entries().filter(|(name, _)| *name != "type");
        let read = entries.map(|(name, node)| {
            let value = self.kept_value(&node)?;
            Some((name.to_owned(), value))
        });
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn perhaps(&mut self, action: &Object<'a>, key: &str) -> Option<Option<Operand>> {
        match action.get(key) {
            Some(node) => self.operand(&node).map(Some),
            None => Some(None),
        }
    }

    fn perhaps_operands(
        &mut self,
        action: &Object<'a>,
        key: &str,
    ) -> Option<BTreeMap<String, Operand>> {
        match action.get(key) {
            Some(node) => self.operands(&node),
            None => Some(BTreeMap::new()),
        }
    }

    fn operands(&mut self, node: &Node<'a>) -> Option<BTreeMap<String, Operand>> {
        let entries = node.object(&mut self.mistakes)?;
        let read = entries.entries().map(|(name, node)| {
            let operand = self.operand(&node)?;
            Some((name.to_owned(), operand))
        });
        read.collect::<Vec<_>>().into_iter().collect()
    }

    /// `context.<path>`, `params.<path>`, `now`, or a value as it is; `{value: ..}` is never a path.
    fn operand(&mut self, node: &Node<'a>) -> Option<Operand> {
        match node.value {
            Value::String(text) if text == "now" => Some(Operand::Now),
            Value::String(text) if text.starts_with("context.") => {
                self.context_path(node).map(Operand::Context)
            }
            Value::String(text) if text.starts_with("params.") => {
                let path = JsonPath::parse(&text["params.".len()..]);
                if path.is_none() {
                    let problem = Problem::BadExpectation { found: shown(text) };
                    let hint = "write `params.<name>`; a text of its own is `{value: <text>}`";
                    self.mistakes
                        .add(&node.pointer, problem, Some(hint.to_owned()));
                }
                path.map(Operand::Params)
            }
            Value::Object(fields) if fields.len() == 1 && fields.contains_key("value") => {
                let object = node.object(&mut self.mistakes)?;
                let value = object.get("value")?;
                self.kept_value(&value).map(Operand::Literal)
            }
            _ => self.kept_value(node).map(Operand::Literal),
        }
    }

    fn kept_text(&mut self, node: &Node<'a>) -> Option<String> {
        node.text(&mut self.mistakes)?;
        let value = self.kept_value(node)?;
        value.as_str().map(ToOwned::to_owned)
    }

    /// A value that PostgreSQL can keep.
    fn kept_value(&mut self, node: &Node<'a>) -> Option<Value> {
        let problem = match unkept(node.value) {
            None => return Some(node.value.clone()),
            Some(problem) => problem,
        };
        self.mistakes
            .add(&node.pointer, problem, Some("take it out".to_owned()));
        None
    }
}

fn unkept(value: &Value) -> Option<Problem> {
    match value {
        Value::String(text) => text.contains('\0').then_some(Problem::NulCharacter),
        Value::Number(number) => is_huge(number).then_some(Problem::HugeNumber),
        Value::Array(items) => items.iter().find_map(unkept),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let name = name.contains('\0').then_some(Problem::NulCharacter);
            name.or_else(|| unkept(value))
        }),
        Value::Null | Value::Bool(_) => None,
    }
}

/// As documents write it.
pub(super) fn written(action: &Action) -> Value {
    let mut value = json!({ "type": action.name() });
    match action {
        Action::SetField {
            entity,
            record,
            field,
            value: new,
        } => {
            value["entity"] = json!(entity);
            value["record_id"] = operand(record);
            value["field"] = json!(field);
            value["value"] = operand(new);
        }
        Action::CreateRecord { entity, values } => {
            value["entity"] = json!(entity);
            let values = values
                .iter()
                .map(|(name, one)| (name.as_str().to_owned(), operand(one)));
            value["values"] = Value::Object(values.collect());
        }
        Action::Webhook(webhook) => {
            value["url"] = json!(webhook.url);
            if webhook.method != METHODS[0] {
                value["method"] = json!(webhook.method);
            }
            if !webhook.headers.is_empty() {
                value["headers"] = json!(webhook.headers);
            }
            if let Some(body) = &webhook.body {
                value["body"] = body.clone();
            }
        }
        Action::SendSignal {
            signal,
            actor,
            payload,
        } => {
            value["signal"] = json!(signal);
            perhaps(&mut value, "actor", actor.as_ref());
            operands(&mut value, "payload", payload);
        }
        Action::StartWorkflow {
            workflow,
            recipient,
            params,
        } => {
            value["workflow"] = json!(workflow);
            perhaps(&mut value, "recipient", recipient.as_ref());
            operands(&mut value, "params", params);
        }
        Action::Custom { settings, .. } => {
            for (name, setting) in settings {
                value[name] = setting.clone();
            }
        }
    }
    value
}

fn perhaps(value: &mut Value, key: &str, one: Option<&Operand>) {
    if let Some(one) = one {
        value[key] = operand(one);
    }
}

fn operands(value: &mut Value, key: &str, all: &BTreeMap<String, Operand>) {
    if !all.is_empty() {
        let all = all.iter().map(|(name, one)| (name.clone(), operand(one)));
        value[key] = Value::Object(all.collect());
    }
}

fn operand(operand: &Operand) -> Value {
    match operand {
        Operand::Context(path) => json!(format!("context.{path}")),
        Operand::Params(path) => json!(format!("params.{path}")),
        Operand::Now => json!("now"),
        Operand::Literal(value) => {
            let is_special = match value {
                Value::String(text) => {
                    text == "now" || text.starts_with("context.") || text.starts_with("params.")
                }
                Value::Object(fields) => fields.len() == 1 && fields.contains_key("value"),
                _ => false,
            };
            if is_special {
                json!({ "value": value })
            } else {
                value.clone()
            }
        }
    }
}
