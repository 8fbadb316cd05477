//! A plan written in Rocket's shape, where that can say it.

use serde_json::{Map, Value, json};

use crate::definition::{
    action,
    approval::Assignee,
    duration::IsoDuration,
    step::{Outcome, Step, StepKind, Target, WorkflowPlan},
    trigger,
};

use super::{ACTION_WAYS, APPROVAL_WAYS, CONDITION_WAYS, Way};

/// Why a workflow cannot be written in Rocket's shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inexpressible {
    /// No change of a record starts it.
    #[error("the workflow has no trigger, and Rocket's always have one")]
    NoTrigger,
    /// It has a step of a kind that Rocket lacks.
    #[error("the step `{step}` is of the kind `{kind}`, which Rocket does not have")]
    Kind {
        /// Which step.
        step: String,
        /// Its kind.
        kind: String,
    },
    /// A step leads where no step of Rocket's can.
    #[error(
        "where the step `{step}` leads when it ends with `{outcome}` cannot be said in Rocket's shape"
    )]
    Way {
        /// Which step.
        step: String,
        /// How it ends.
        outcome: Outcome,
    },
    /// A time-out in parts of a second.
    #[error("the time-out of the step `{step}` is not in whole seconds")]
    Timeout {
        /// Which step.
        step: String,
    },
}

/// Writes a plan in Rocket's shape; read back, it is the same plan.
///
/// # Errors
///
/// [`Inexpressible`], of the first thing that Rocket's shape cannot say.
pub fn export(plan: &WorkflowPlan) -> Result<Value, Inexpressible> {
    let change = plan.trigger.as_ref().ok_or(Inexpressible::NoTrigger)?;
    let steps = plan.steps.iter().enumerate();
    let steps: Vec<Value> = steps
        .map(|(place, one)| step(plan, place, one))
        .collect::<Result<_, _>>()?;
    let context = plan.context.iter();
    let context = context.map(|(name, source)| (name.clone(), json!(source.to_string())));
    Ok(json!({
        "name": plan.key,
        "trigger": trigger::written(change),
        "context": context.collect::<Map<_, _>>(),
        "steps": steps,
    }))
}

fn step(plan: &WorkflowPlan, place: usize, step: &Step) -> Result<Value, Inexpressible> {
    let mut value = json!({ "id": step.key, "type": step.kind.name() });
    let ways: &[Way] = match &step.kind {
        StepKind::Condition(condition) => {
            value["expression"] = json!(condition.expression.as_str());
            &CONDITION_WAYS
        }
        StepKind::Approval(approval) => {
            value["assignee"] = match &approval.assignee {
                Assignee::User(user) => json!({ "type": "fixed", "user": user }),
                Assignee::Role(role) => json!({ "type": "role", "role": role }),
                Assignee::Path(path) => {
                    json!({ "type": "relation", "path": format!("context.{path}") })
                }
            };
            if let Some(timeout) = approval.timeout {
                value["timeout"] = json!(short(timeout).ok_or_else(|| Inexpressible::Timeout {
                    step: step.key.to_string(),
                })?);
            }
            &APPROVAL_WAYS
        }
        StepKind::Action(actions) => {
            value["actions"] = actions.iter().map(action::written).collect();
            &ACTION_WAYS
        }
        StepKind::Notify(_) | StepKind::Wait(_) | StepKind::Custom(_) => {
            return Err(Inexpressible::Kind {
                step: step.key.to_string(),
                kind: step.kind.name().to_owned(),
            });
        }
    };
    let way = |outcome| Inexpressible::Way {
        step: step.key.to_string(),
        outcome,
    };
    for outcome in step.kind.outcomes() {
        let key = ways.iter().find(|(_, of)| of == outcome);
        let target = match (key, step.leads(*outcome)) {
            // Without a word, one that times out stops; and one that fails, fails.
            (_, Some(Target::Stop)) if *outcome == Outcome::TimedOut => continue,
            (None, None) => continue,
            (None, Some(_)) | (Some(_), None | Some(Target::Stop)) => return Err(way(*outcome)),
            (Some((keys, _)), Some(target)) => (keys[0], target),
        };
        let (key, target) = target;
        value[key] = match (target, plan.steps.get(place + 1)) {
            (Target::Goto(id), _) => json!({ "goto": id }),
            (Target::Next, Some(next)) => json!({ "goto": next.key }),
            _ => json!("end"),
        };
    }
    Ok(value)
}

/// `72h`, `90m`, `45s`.
fn short(duration: IsoDuration) -> Option<String> {
    let millis = duration.as_millis();
    let units = [(3_600_000, 'h'), (60_000, 'm'), (1_000, 's')];
    let (unit, name) = units.into_iter().find(|(unit, _)| millis % unit == 0)?;
    Some(format!("{}{name}", millis / unit))
}
