//! What starts a workflow by itself, and what a run's context begins with.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};

use super::{
    error::Problem,
    read::Reader,
    shape::{Node, shown, suggest},
    step::JsonPath,
};
use crate::ids::{EntityName, FieldName};

/// The most names a document may put into the context.
pub const MAX_CONTEXT: usize = 100;

/// A change of a host's record that starts the workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    /// Of which kind of record.
    pub entity: EntityName,
    /// Of which field.
    pub field: FieldName,
    /// The value before; `None`: whatever it was.
    pub from: Option<String>,
    /// The value after.
    pub to: String,
}

/// Where a value of the context is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The id of the record that changed.
    RecordId,
    /// The record that changed, whole.
    Record,
    /// What stands at that place in the record that changed.
    Field(JsonPath),
    /// What stands at that place in the trigger's params.
    Params(JsonPath),
}

impl Source {
    /// Reads `trigger.record_id`, `trigger.record`, `trigger.record.total` (each without `trigger.` too)
    /// and `params.total`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("params.") {
            return JsonPath::parse(path).map(Self::Params);
        }
        match text.strip_prefix("trigger.").unwrap_or(text) {
            "record_id" => Some(Self::RecordId),
            "record" => Some(Self::Record),
            rest => JsonPath::parse(rest.strip_prefix("record.")?).map(Self::Field),
        }
    }

    /// Whether there is such a value only where a record has changed.
    #[must_use]
    pub const fn is_of_a_record(&self) -> bool {
        !matches!(self, Self::Params(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RecordId => f.write_str("trigger.record_id"),
            Self::Record => f.write_str("trigger.record"),
            Self::Field(path) => write!(f, "trigger.record.{path}"),
            Self::Params(path) => write!(f, "params.{path}"),
        }
    }
}

const TRIGGER_KEYS: [&str; 5] = ["type", "entity", "field", "from", "to"];

impl<'a> Reader<'a> {
    pub(super) fn trigger(&mut self, node: &Node<'a>) -> Option<StateChange> {
        let trigger = node.object(&mut self.mistakes)?;
        trigger.only(&TRIGGER_KEYS, |_| None, &mut self.mistakes);
        if let Some(kind) = trigger.get("type")
            && let Some(text) = kind.text(&mut self.mistakes)
            && text != "state_change"
        {
            let problem = Problem::UnknownTrigger { found: shown(text) };
            let hint = suggest(text, ["state_change"].into_iter());
            self.mistakes.add(&kind.pointer, problem, Some(hint));
        }
        let entity = trigger
            .need("entity", &mut self.mistakes)
            .and_then(|entity| self.name(&entity));
        let field = trigger
            .need("field", &mut self.mistakes)
            .and_then(|field| self.name(&field));
        let from = match trigger.get("from") {
            Some(from) => self.state(&from).map(Some),
            None => Some(None),
        };
        let to = trigger
            .need("to", &mut self.mistakes)
            .and_then(|to| self.state(&to));
        Some(StateChange {
            entity: entity?,
            field: field?,
            from: from?,
            to: to?,
        })
    }

    /// The value of a field, as a text.
    fn state(&mut self, node: &Node<'a>) -> Option<String> {
        let text = match node.value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => node.value.to_string(),
            _ => {
                node.wrong_type("a text, a number or a boolean", &mut self.mistakes);
                return None;
            }
        };
        if text.contains('\0') {
            let hint = Some("take it out: no field can hold one".to_owned());
            self.mistakes
                .add(&node.pointer, Problem::NulCharacter, hint);
            return None;
        }
        Some(text)
    }

    /// What the context begins with. Values of a record need a trigger that has one.
    pub(super) fn context(
        &mut self,
        node: &Node<'a>,
        has_trigger: bool,
    ) -> Option<BTreeMap<String, Source>> {
        let entries = node.object(&mut self.mistakes)?;
        let count = entries.entries().count();
        if count > MAX_CONTEXT {
            let (found, limit) = (count, MAX_CONTEXT);
            let problem = Problem::TooManyMappings { found, limit };
            self.mistakes.add(&node.pointer, problem, None);
        }
        let read = entries.entries().take(MAX_CONTEXT);
        let read = read.map(|(name, source)| {
            let source = self.source(&source, has_trigger);
            Some((name.to_owned(), source?))
        });
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn source(&mut self, node: &Node<'a>, has_trigger: bool) -> Option<Source> {
        let text = node.text(&mut self.mistakes)?;
        let source = Source::parse(text);
        let (problem, hint) = match &source {
            None => (
                Problem::BadSource { found: shown(text) },
                "write `trigger.record_id`, `trigger.record.<field>` or `params.<name>`",
            ),
            Some(source) if source.is_of_a_record() && !has_trigger => (
                Problem::NoRecord {
                    found: source.to_string(),
                },
                "give the workflow a `trigger`, or take the value from `params`",
            ),
            Some(_) => return source,
        };
        self.mistakes
            .add(&node.pointer, problem, Some(hint.to_owned()));
        None
    }
}

/// As documents write it.
pub(super) fn written(change: &StateChange) -> Value {
    let mut value = json!({
        "type": "state_change", "entity": change.entity, "field": change.field, "to": change.to,
    });
    if let Some(from) = &change.from {
        value["from"] = json!(from);
    }
    value
}
