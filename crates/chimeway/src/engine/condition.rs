//! A step that goes one way or the other: evaluated as it is entered.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{Cause, Decision, Leave, Reason, Run, RunState, TerminalReason, Transition, fail};
use crate::definition::{Condition, Outcome, Target, Unevaluated};

/// Evaluates the condition that the run is in, and goes where it leads. `entered` counts the steps that
/// this decision has entered before.
pub(super) fn evaluate(
    run: &Run,
    condition: &Condition,
    now: DateTime<Utc>,
    entered: usize,
) -> Vec<Decision> {
    let facts = run.facts.clone().unwrap_or_default();
    let step = run.definition.step(run.step);
    let outcome = match condition.expression.holds(&facts.context, &facts.params) {
        Ok(true) => Outcome::Met,
        Ok(false) => Outcome::Unmet,
        Err(why) => {
            let name = match &why {
                Unevaluated::Missing(name) => Some(("name", Value::from(name.as_str()))),
                Unevaluated::Types(operator) => Some(("operator", operator.as_str().into())),
                _ => None,
            };
            return fail(run, why.code(), name);
        }
    };
    let line = Transition::new(
        run,
        RunState::Active,
        Reason::ConditionEvaluated,
        [
            ("step_key", step.key.as_str().into()),
            ("workflow_outcome", outcome.as_str().into()),
        ],
    );
    let mut decided = run.clone();
    decided.apply(&line);
    let target = step.leads(outcome).unwrap_or(&Target::Next);
    let leave = Leave {
        entered,
        ..Leave::new(
            &decided,
            Cause::Written(TerminalReason::Outcome(outcome)),
            now,
        )
    };
    let mut decisions = vec![Decision::Transition(line)];
    decisions.extend(leave.to(run.definition.resolve(run.step, target)));
    decisions
}
