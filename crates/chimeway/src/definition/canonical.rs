//! The one way to write a checked plan down: what is stored, and what versions are compared by.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    action, approval,
    step::{Expected, Match, Step, StepKind, StopCondition, Target, WorkflowPlan},
    trigger,
};

/// SHA-256 of the canonical form, as 64 lower-case hexadecimal digits: equal content, equal hash,
/// however it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContentHash(String);

impl ContentHash {
    pub(crate) fn of(canonical: &Value) -> Self {
        let mut hex = String::with_capacity(64);
        for byte in Sha256::digest(canonical.to_string()) {
            // Writing to a string never fails.
            let _ = write!(hex, "{byte:02x}");
        }
        Self(hex)
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The plan in the shape of the documents: keys sorted, aliases resolved, defaults left out.
pub(super) fn canonical(plan: &WorkflowPlan) -> Value {
    let mut value = json!({
        "key": plan.key,
        "steps": plan.steps.iter().map(step).collect::<Vec<_>>(),
    });
    if let Some(change) = &plan.trigger {
        value["trigger"] = trigger::written(change);
    }
    if !plan.context.is_empty() {
        let sources = plan.context.iter();
        let sources = sources.map(|(name, source)| (name.clone(), json!(source.to_string())));
        value["context"] = Value::Object(sources.collect());
    }
    value.sort_all_objects();
    value
}

fn step(step: &Step) -> Value {
    let mut value = json!({ "id": step.key, "action": kind(step) });
    if !step.on_outcome.is_empty() {
        let entries = step.on_outcome.iter();
        let entries = entries.map(|(outcome, to)| (outcome.as_str().to_owned(), target(to)));
        value["on_outcome"] = Value::Object(entries.collect::<Map<_, _>>());
    }
    value
}

fn kind(step: &Step) -> Value {
    match &step.kind {
        StepKind::Notify(notify) => {
            let mut value = json!({ "type": step.kind.name(), "channel": notify.channel });
            if notify.render_key.as_str() != step.key.as_str() {
                value["render_key"] = json!(notify.render_key);
            }
            if let Some(category) = &notify.category {
                value["category"] = json!(category);
            }
            if notify.unless_read {
                value["unless_read"] = json!(true);
            }
            value
        }
        StepKind::Wait(wait) => {
            let duration = wait.duration.to_string();
            let mut value = json!({ "type": step.kind.name(), "duration": duration });
            if !wait.stop_conditions.is_empty() {
                let conditions = wait.stop_conditions.iter().map(stop_condition);
                value["stop_conditions"] = conditions.collect();
            }
            value
        }
        StepKind::Condition(condition) => {
            json!({ "type": step.kind.name(), "expression": condition.expression.as_str() })
        }
        StepKind::Approval(approval) => {
            let assignee = approval::written(&approval.assignee);
            let mut value = json!({ "type": step.kind.name(), "assignee": assignee });
            if let Some(timeout) = approval.timeout {
                value["timeout"] = json!(timeout.to_string());
            }
            value
        }
        StepKind::Action(actions) => {
            let actions: Value = actions.iter().map(action::written).collect();
            json!({ "type": step.kind.name(), "actions": actions })
        }
        StepKind::Custom(custom) => {
            let mut value = custom.settings.clone();
            value.insert("type".to_owned(), json!(custom.kind));
            Value::Object(value)
        }
    }
}

fn stop_condition(condition: &StopCondition) -> Value {
    let mut value = json!({ "type": "signal_received", "signal_type": condition.signal });
    if !condition.matches.is_empty() {
        let comparisons = condition.matches.iter().map(comparison);
        value["match"] = Value::Object(comparisons.collect());
    }
    if condition.then != Target::Stop {
        value["then"] = target(&condition.then);
    }
    value
}

fn comparison(one: &Match) -> (String, Value) {
    let expected = match &one.expected {
        Expected::Params(path) => json!(format!("params.{path}")),
        Expected::Literal(value @ Value::String(_)) => json!({ "value": value }),
        Expected::Literal(value) => value.clone(),
    };
    (one.payload.to_string(), expected)
}

/// A target as documents name it.
pub(super) fn target(target: &Target) -> Value {
    match target {
        Target::Next => json!("next"),
        Target::Complete => json!("complete"),
        Target::Stop => json!("stop"),
        Target::Goto(key) => json!({ "goto": key }),
    }
}
