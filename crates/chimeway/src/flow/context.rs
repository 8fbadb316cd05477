//! What a run's context begins with: what its document takes from the trigger.

use serde_json::{Map, Value, json};

use crate::{
    definition::{JsonPath, Source, WorkflowPlan},
    engine::MAX_CONTEXT,
    ids::ActorId,
    store::events::Given,
};

/// The name of a mapping that says who a record's run is for.
const ACTOR: &str = "actor_id";

/// What a run's context begins with, or why it cannot begin.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Begun {
    values: Map<String, Value>,
    actor: Option<String>,
    problem: Option<Unbegun>,
}

/// Why a run cannot begin. Names places, never values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unbegun {
    /// Nothing stands at this place of the trigger.
    Missing(String),
    /// `actor_id` is no name.
    NoActor,
    /// More than [`MAX_CONTEXT`].
    TooLarge,
    /// The trigger holds what this program cannot read.
    Unreadable,
}

impl Unbegun {
    /// In a word, for `failed:<code>`.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "context_missing_path",
            Self::NoActor => "context_no_actor",
            Self::TooLarge => "context_too_large",
            Self::Unreadable => "context_unreadable",
        }
    }

    /// The place that is missing.
    pub(super) fn path(&self) -> Option<&str> {
        match self {
            Self::Missing(path) => Some(path),
            Self::NoActor | Self::TooLarge | Self::Unreadable => None,
        }
    }
}

impl Begun {
    fn failed(problem: Unbegun) -> Self {
        Self {
            problem: Some(problem),
            ..Self::default()
        }
    }

    /// The context as it is stored.
    pub(super) fn into_value(self) -> Value {
        Value::Object(self.values)
    }

    /// Who a record's run is for, where its document says so.
    pub(super) fn actor(&self) -> Option<String> {
        self.actor.clone()
    }

    /// Why the run cannot begin.
    pub(super) fn problem(&self) -> Option<&Unbegun> {
        self.problem.as_ref()
    }
}

/// Of a trigger by name, whose params are at hand.
pub(super) fn of_params(plan: &WorkflowPlan, params: &Value) -> Begun {
    taken(plan, None, params)
}

/// Of a stored event.
pub(super) fn begin(plan: &WorkflowPlan, given: &Given) -> Begun {
    match given.params.read() {
        Some(params) => taken(plan, given.record_id.as_deref(), params),
        None if plan.context.is_empty() && given.record_id.is_none() => Begun::default(),
        None => Begun::failed(Unbegun::Unreadable),
    }
}

/// A record's run whose document takes nothing has the record and its id.
fn taken(plan: &WorkflowPlan, record_id: Option<&str>, params: &Value) -> Begun {
    let record = params.get("record");
    let mut values = Map::new();
    if let (Some(id), true) = (record_id, plan.context.is_empty()) {
        values.insert("record_id".to_owned(), json!(id));
        values.insert(
            "record".to_owned(),
            record.cloned().unwrap_or_else(|| json!({})),
        );
    }
    for (name, source) in &plan.context {
        let value = match source {
            Source::RecordId => record_id.map(|id| json!(id)),
            Source::Record => record_id.and(record).cloned(),
            Source::Field(path) => record_id
                .and(record)
                .and_then(|record| at(record, path))
                .cloned(),
            Source::Params(path) => at(params, path).cloned(),
        };
        let Some(value) = value else {
            return Begun::failed(Unbegun::Missing(source.to_string()));
        };
        values.insert(name.clone(), value);
    }
    if !fits(&values) {
        return Begun::failed(Unbegun::TooLarge);
    }
    let actor = match (record_id, values.get(ACTOR)) {
        (Some(_), Some(value)) => match actor(value) {
            Some(actor) => Some(actor),
            None => return Begun::failed(Unbegun::NoActor),
        },
        _ => None,
    };
    Begun {
        values,
        actor,
        problem: None,
    }
}

/// What stands at a place of a JSON object.
pub(super) fn at<'a>(value: &'a Value, path: &JsonPath) -> Option<&'a Value> {
    let mut names = path.names().iter();
    names.try_fold(value, |value, name| value.get(name))
}

/// Whether a context of these is small enough.
fn fits(values: &Map<String, Value>) -> bool {
    // Writing a JSON value to a string never fails.
    serde_json::to_string(values).is_ok_and(|text| text.len() <= MAX_CONTEXT)
}

/// A name, or a whole number, as keys often are.
fn actor(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return None,
    };
    ActorId::new(text).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        definition::{Document, Known, validate},
        ids::EventId,
        store::json::Kept,
    };

    fn plan(context: Value) -> WorkflowPlan {
        let mut document = json!({
            "key": "k", "steps": [{ "id": "tell", "action": { "type": "notify", "channel": "log" } }],
            "trigger": { "entity": "orders", "field": "status", "to": "submitted" },
        });
        if context != json!({}) {
            document["context"] = context;
        }
        validate(&Document::from_value(document), &Known::default())
            .unwrap()
            .plan
    }

    fn begun(context: Value, record: &Value) -> Begun {
        let given = Given {
            event: EventId::fresh(),
            params: Kept::Read(json!({ "record_id": "42", "record": record })),
            entity: Some("orders".to_owned()),
            record_id: Some("42".to_owned()),
            field: Some("status".to_owned()),
            from: None,
            to: Some("submitted".to_owned()),
        };
        begin(&plan(context), &given)
    }

    #[test]
    fn a_context_takes_what_its_document_names() {
        let record = json!({ "total": 1500, "buyer": { "name": "Ada" } });
        let table = [
            (json!({}), json!({ "record_id": "42", "record": record })),
            (
                json!({ "id": "trigger.record_id", "amount": "trigger.record.total" }),
                json!({ "id": "42", "amount": 1500 }),
            ),
            (
                json!({ "who": "record.buyer.name", "again": "params.record.total" }),
                json!({ "who": "Ada", "again": 1500 }),
            ),
            (json!({ "all": "trigger.record" }), json!({ "all": record })),
        ];
        for (context, expected) in table {
            let begun = begun(context.clone(), &record);
            assert_eq!(begun.problem(), None, "{context}");
            assert_eq!(begun.into_value(), expected, "{context}");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_is_begun() {
        let record = json!({ "total": 1500, "note": "x".repeat(MAX_CONTEXT) });
        let table = [
            (
                json!({ "a": "trigger.record.totl" }),
                "context_missing_path",
                Some("trigger.record.totl"),
            ),
            (
                json!({ "a": "record.total.cents" }),
                "context_missing_path",
                Some("trigger.record.total.cents"),
            ),
            (
                json!({ "a": "params.nothing" }),
                "context_missing_path",
                Some("params.nothing"),
            ),
            (json!({ "a": "record.note" }), "context_too_large", None),
            (json!({}), "context_too_large", None),
        ];
        for (context, code, path) in table {
            let begun = begun(context.clone(), &record);
            let problem = begun
                .problem()
                .map(|problem| (problem.code(), problem.path()));
            assert_eq!(problem, Some((code, path)), "{context}");
            assert_eq!(begun.into_value(), json!({}), "{context}");
        }
    }

    #[test]
    fn a_mapping_says_who_the_run_is_for() {
        let record = json!({ "buyer": "ada", "number": 7, "list": [] });
        let who = |from: &str| {
            let begun = begun(json!({ "actor_id": from }), &record);
            (begun.actor(), begun.problem().map(Unbegun::code))
        };
        assert_eq!(who("record.buyer"), (Some("ada".to_owned()), None));
        assert_eq!(who("record.number"), (Some("7".to_owned()), None));
        assert_eq!(who("record.list"), (None, Some("context_no_actor")));
    }
}
