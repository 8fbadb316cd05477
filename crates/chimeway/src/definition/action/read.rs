//! Reading the actions of a step.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Action, BUILT_IN_ACTIONS, MAX_ACTIONS, METHODS, Operand, Webhook};
use crate::{
    definition::{
        error::Problem,
        matches::is_huge,
        read::Reader,
        shape::{Node, Object, shown, suggest},
        step::JsonPath,
    },
    ids::{ActionName, FieldName},
};

/// Rocket's name for `send_signal`.
const ALIAS: &str = "send_event";

impl<'a> Reader<'a> {
    pub(in crate::definition) fn actions(&mut self, node: &Node<'a>) -> Option<Vec<Action>> {
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
    pub(in crate::definition) fn settings(
        &mut self,
        object: &Object<'a>,
    ) -> Option<Map<String, Value>> {
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
