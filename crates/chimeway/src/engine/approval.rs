//! A step that asks a person: entered by opening an approval, left by the decision or the deadline.
//!
//! Who decided, and what they said, stays in the approval's row: here only how it ended is known.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::{
    Cause, Decision, Leave, Noop, Reason, Run, RunState, TerminalReason, Transition, Verdict,
    decision::Asked, fail,
};
use crate::{
    definition::{Approval, Assignee, Outcome, StepIndex, Target},
    ids::{ActorId, ApprovalId, Visit},
};

/// Why a path names nobody.
const NOBODY: &str = "assignee_missing";

/// Opens an approval, or fails the run where the path to its assignee leads nowhere.
pub(super) fn enter(
    run: &Run,
    (step, visit): (StepIndex, Visit),
    approval: &Approval,
    now: DateTime<Utc>,
    facts: Vec<(&'static str, Value)>,
) -> Vec<Decision> {
    let assignee = match &approval.assignee {
        Assignee::User(user) => Asked::User(user.clone()),
        Assignee::Role(role) => Asked::Role(role.clone()),
        Assignee::Path(path) => {
            let found = run.facts.as_ref().and_then(|facts| facts.context_at(path));
            let named = found.and_then(Value::as_str);
            match named.and_then(|text| ActorId::new(text).ok()) {
                Some(user) => Asked::User(user),
                None => {
                    let name = format!("context.{path}");
                    let mut entered = run.clone();
                    (entered.step, entered.visit) = (step, visit);
                    return fail(&entered, NOBODY, [("name", name.into())]);
                }
            }
        }
    };
    let until = approval.timeout.map(|timeout| now + timeout.to_chrono());
    let deadline = until.map(|until| {
        (
            "suspended_until",
            until.to_rfc3339_opts(SecondsFormat::Micros, true).into(),
        )
    });
    let line = Transition::new(
        run,
        RunState::AwaitingApproval { until },
        Reason::WaitingForApproval,
        facts.into_iter().chain(deadline),
    );
    let mut line = line.at(step, visit);
    // An approval that has gone missing is opened anew in the midst of its wait.
    line.from = run.state.name();
    vec![
        Decision::Transition(line),
        Decision::Ask {
            step,
            visit,
            assignee,
            until,
        },
    ]
}

/// The decision, or that the time for it is over.
pub(super) fn decided(
    run: &Run,
    (approval, visit, outcome): (ApprovalId, Visit, Outcome),
    now: DateTime<Utc>,
) -> Verdict {
    if visit != run.visit {
        return Verdict::Noop(Noop::Superseded);
    }
    let step = run.definition.step(run.step);
    let mut line = Transition::new(
        run,
        RunState::Active,
        Reason::ApprovalDecided,
        [
            ("step_key", step.key.as_str().into()),
            ("workflow_outcome", outcome.as_str().into()),
        ],
    );
    line.approval = Some(approval);
    let mut reactivated = run.clone();
    reactivated.apply(&line);
    let target = step.leads(outcome).unwrap_or(&Target::Stop);
    let leave = Leave::new(
        &reactivated,
        Cause::Written(TerminalReason::Outcome(outcome)),
        now,
    );
    let mut decisions = vec![Decision::Transition(line)];
    decisions.extend(leave.to(run.definition.resolve(run.step, target)));
    Verdict::Move(decisions)
}
