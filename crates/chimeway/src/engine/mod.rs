//! What happens next: pure, no I/O, no clock, no chance.
//!
//! [`decide`] is the whole table. It is told where a run is ([`Run`]) and what happened ([`Input`]),
//! and answers with what must be written ([`Decision`]) or why nothing is ([`Noop`]). It performs
//! nothing: the same arguments give the same answer, so a caller may repeat it freely.
//!
//! Must not: read a clock, make an id, draw a random number, know about rows.
//!
//! `wait.rs`, `notify.rs`, `condition.rs`, `approval.rs` and `action.rs` each say how steps of that kind are
//! entered and left; a host's own kinds are like messages.
//!
//! To add a step kind: 1. its variant in [`crate::definition::step::StepKind`]; 2. a file here with
//! how it is entered and left; 3. its arrows in [`decide`]; 4. its inputs in `input.rs`; 5. its arm in
//! `tests.rs`, which plays random inputs.

mod action;
mod approval;
pub mod attempt;
pub mod backoff;
mod condition;
pub mod decision;
pub mod input;
pub mod notify;
pub mod run;
#[cfg(test)]
mod tests;
pub mod turns;
pub mod wait;

pub use attempt::{AttemptResult, Budget, DeliveryStatus, Settled};
pub use decision::{Asked, Decision, Noop, Reason, Transition, Verdict};
pub use input::{ActionFailure, Executed, Input};
pub use run::{Facts, MAX_CONTEXT, Run, RunState, StateName, TerminalReason};

use chrono::{DateTime, Utc};

use serde_json::Value;

use crate::definition::{Assignee, Resolved, StepIndex, step::StepKind};

/// What must happen next, given where the run is and what just happened.
///
/// Total: late, early and repeated inputs are in the table and decide nothing, each by name.
#[must_use]
pub fn decide(run: &Run, input: &Input, now: DateTime<Utc>) -> Verdict {
    use {Input as I, RunState as S};

    match (&run.state, input) {
        (S::Born, I::Started) => Verdict::Move(start(run)),
        (S::Born, I::Unstartable { code, name }) => {
            Verdict::Move(fail_at_start(run, code, name.as_deref()))
        }
        (S::Born, _) => Verdict::Noop(Noop::RunNotStarted),

        (S::Completed | S::Stopped(_) | S::Failed(_), _) => Verdict::Noop(Noop::RunNotActive),

        // Before anything else: whatever is told together with it comes too late.
        (_, I::Cancelled) => Verdict::Move(cancel(run)),
        (_, I::Moved { to }) => Verdict::Move(move_to(run, *to, now)),
        (_, I::Started | I::Unstartable { .. }) => Verdict::Noop(Noop::AlreadyStarted),

        (S::Active, I::Delivered(result)) => notify::leave(run, result, now),
        (S::Active, I::DeliveryMissing) => notify::plan_again(run),
        (S::Active, I::Due) => look_at(run, now),
        (S::Active, I::Executed(told)) => action::executed(run, told, now),
        // A wait entered later looks for signals that came before it.
        (S::Active, I::Signalled { .. }) => Verdict::Noop(Noop::NotWaiting),

        (S::Waiting { until, .. }, I::Due) if now < *until => Verdict::Noop(Noop::WaitNotDue),
        (S::Waiting { .. }, I::Due) => wait::elapse(run, now),
        (S::Waiting { stop_on, .. }, I::Signalled { name, .. }) if !stop_on.contains(name) => {
            Verdict::Noop(Noop::NotListening)
        }
        (
            S::Waiting { .. },
            I::Signalled {
                signal,
                name,
                delivery,
            },
        ) => wait::signalled(run, (*signal, *delivery), name, now),

        (
            S::AwaitingApproval { .. },
            I::Decided {
                approval,
                visit,
                outcome,
            },
        ) => approval::decided(run, (*approval, *visit, *outcome), now),
        (S::AwaitingApproval { .. }, I::ApprovalMissing) => look_at(run, now),
        // That the time is over is a decision like others: whoever tells it has closed the approval.
        (S::AwaitingApproval { .. }, I::Due) => Verdict::Noop(Noop::ApprovalOpen),
        (S::AwaitingApproval { .. }, I::Signalled { .. }) => Verdict::Noop(Noop::NotListening),

        // What belongs to a step that the run has left, or does not fit the one it is in.
        (S::Waiting { .. } | S::AwaitingApproval { .. }, I::Delivered(_) | I::Executed(_))
        | (S::Active | S::Waiting { .. }, I::Decided { .. } | I::ApprovalMissing) => {
            Verdict::Noop(Noop::Superseded)
        }
        (_, I::DeliveryMissing) => Verdict::Noop(Noop::NoActiveStepDelivery),
        (_, I::Sending) => Verdict::Noop(Noop::DeliveryPending),
    }
}

/// A worker looks at a run in a step that it has not entered yet: the run's start could not, or there was
/// more to do than one transaction does.
fn look_at(run: &Run, now: DateTime<Utc>) -> Verdict {
    let here = (run.step, run.visit);
    match &run.definition.step(run.step).kind {
        StepKind::Wait(wait) => {
            let line = wait::entering(run, here, wait, now, vec![]);
            Verdict::Move(vec![Decision::Transition(line)])
        }
        StepKind::Condition(condition) => {
            Verdict::Move(condition::evaluate(run, condition, now, 0))
        }
        StepKind::Approval(approval) => {
            Verdict::Move(approval::enter(run, here, approval, now, vec![]))
        }
        StepKind::Action(actions) => action::begin(run, actions),
        StepKind::Notify(_) | StepKind::Custom(_) => Verdict::Noop(Noop::DeliveryPending),
    }
}

/// The run cannot go on, for a reason in a word.
fn fail(
    run: &Run,
    code: &str,
    facts: impl IntoIterator<Item = (&'static str, Value)>,
) -> Vec<Decision> {
    let step = run.definition.step(run.step).key.as_str();
    let known = [("step_key", step.into()), ("error", code.into())];
    let state = RunState::Failed(TerminalReason::Failed(code.to_owned()));
    let facts = known.into_iter().chain(facts);
    let line = Transition::new(run, state, Reason::WorkflowFailed, facts);
    let mut decisions = vec![Decision::Transition(line)];
    if run.definition.moves_early() {
        decisions.push(Decision::CancelUnsent);
    }
    decisions
}

/// The first two lines of every history.
///
/// A first step that is not a message is only made current: the transaction that creates a run may
/// not enter a wait or an approval, for what it would look for it cannot see yet. The run is due at once
/// instead, and a worker enters it.
fn start(run: &Run) -> Vec<Decision> {
    let mut decisions = vec![Decision::Transition(started(run))];
    decisions.extend(activate(run, StepIndex::FIRST));
    decisions
}

fn started(run: &Run) -> Transition {
    let facts = [("workflow", run.definition.key.as_str().into())];
    Transition::new(run, RunState::Active, Reason::WorkflowStarted, facts)
}

/// A run that cannot begin has a history all the same: it says why.
fn fail_at_start(run: &Run, code: &str, name: Option<&str>) -> Vec<Decision> {
    let line = started(run);
    let mut begun = run.clone();
    begun.apply(&line);
    let mut decisions = vec![Decision::Transition(line)];
    decisions.extend(fail(&begun, code, name.map(|name| ("name", name.into()))));
    decisions
}

/// Ends the run because somebody said so.
fn cancel(run: &Run) -> Vec<Decision> {
    let state = RunState::Stopped(TerminalReason::Cancelled);
    let line = Transition::new(run, state, Reason::WorkflowCancelled, []);
    let mut decisions = vec![Decision::Transition(line)];
    decisions.extend(withdraw(run));
    decisions.push(Decision::CancelUnsent);
    decisions
}

/// An approval that the run leaves without a decision.
fn withdraw(run: &Run) -> Option<Decision> {
    matches!(run.state, RunState::AwaitingApproval { .. }).then_some(Decision::Withdraw)
}

/// Leaves the current step by hand and enters another one, or the same one anew.
fn move_to(run: &Run, to: StepIndex, now: DateTime<Utc>) -> Vec<Decision> {
    let key = |step| run.definition.step(step).key.as_str().into();
    let facts = [("from_step", key(run.step)), ("to_step", key(to))];
    let line = Transition::new(run, RunState::Active, Reason::MovedByHost, facts);
    let mut reactivated = run.clone();
    reactivated.apply(&line);
    let mut decisions = vec![Decision::Transition(line)];
    decisions.extend(withdraw(run));
    decisions.push(Decision::CancelUnsent);
    decisions.extend(Leave::new(&reactivated, Cause::Host, now).to(Resolved::Step(to)));
    decisions
}

/// Makes a step current, and plans its message if it is one.
fn activate(run: &Run, step: StepIndex) -> Vec<Decision> {
    let visit = run.visit.next();
    let current = run.definition.step(step);
    let mut decisions = vec![Decision::Transition(
        Transition::new(
            run,
            RunState::Active,
            Reason::StepActivated,
            [("step_key", current.key.as_str().into())],
        )
        .at(step, visit),
    )];
    if let Some(channel) = notify::channel(&current.kind) {
        decisions.push(Decision::Plan {
            step,
            visit,
            action: 0,
            channel,
        });
    }
    decisions
}

/// Where a run goes, and why: what the lines of its history say.
struct Leave<'a> {
    run: &'a Run,
    /// How the step ended.
    cause: Cause,
    now: DateTime<Utc>,
    /// How many steps this decision has entered before.
    entered: usize,
}

/// How many steps one decision enters: the next transaction goes on.
const MOST_STEPS: usize = 32;

/// What made a run leave its step.
enum Cause {
    /// A delivery's result.
    Delivery(input::Delivered),
    /// A step ended without a delivery, and its line is written: why the run ends if it stops there.
    Written(TerminalReason),
    /// A host moved it; its line is already written.
    Host,
}

impl<'a> Leave<'a> {
    fn new(run: &'a Run, cause: Cause, now: DateTime<Utc>) -> Self {
        Self {
            run,
            cause,
            now,
            entered: 0,
        }
    }

    fn to(self, target: Resolved) -> Vec<Decision> {
        match target {
            Resolved::Step(step) => self.enter(step),
            Resolved::Complete => self.end(RunState::Completed, Reason::WorkflowCompleted),
            Resolved::Stop => {
                let reason = match &self.cause {
                    Cause::Delivery(result) => TerminalReason::Outcome(result.outcome),
                    Cause::Written(reason) => reason.clone(),
                    // It moves a run to steps only.
                    Cause::Host => TerminalReason::Cancelled,
                };
                self.end(RunState::Stopped(reason), Reason::WorkflowStopped)
            }
        }
    }

    fn enter(self, step: StepIndex) -> Vec<Decision> {
        let next = self.run.definition.step(step);
        let there = (step, self.run.visit.next());
        match &next.kind {
            StepKind::Wait(wait) => {
                let line = wait::entering(self.run, there, wait, self.now, self.facts());
                vec![Decision::Transition(line.by(self.delivery()))]
            }
            StepKind::Approval(approval) if self.sees(step) => {
                let facts = self.facts();
                let mut decisions = approval::enter(self.run, there, approval, self.now, facts);
                if let Some(Decision::Transition(line)) = decisions.first_mut() {
                    line.delivery = self.delivery();
                }
                decisions
            }
            _ => self.activate(step),
        }
    }

    /// Makes a step current, and evaluates it if it is a condition.
    fn activate(self, step: StepIndex) -> Vec<Decision> {
        let next = self.run.definition.step(step);
        let mut decisions = vec![];
        if let Cause::Delivery(_) = &self.cause {
            let mut facts = self.facts();
            facts.push(("to_step", next.key.as_str().into()));
            let reason = Reason::ProgressedOnDeliveryOutcome;
            let line = Transition::new(self.run, RunState::Active, reason, facts);
            decisions.push(Decision::Transition(line.by(self.delivery())));
        }
        decisions.extend(activate(self.run, step));
        if let StepKind::Condition(condition) = &next.kind
            && self.sees(step)
            && self.entered < MOST_STEPS
        {
            let current = self.run.after(&decisions);
            let entered = self.entered + 1;
            decisions.extend(condition::evaluate(&current, condition, self.now, entered));
        }
        decisions
    }

    /// Whether what the step looks into is at hand; else a worker enters it that has read it.
    fn sees(&self, step: StepIndex) -> bool {
        self.run.facts.is_some()
            || match &self.run.definition.step(step).kind {
                StepKind::Condition(_) => false,
                StepKind::Approval(approval) => !matches!(approval.assignee, Assignee::Path(_)),
                _ => true,
            }
    }

    fn end(self, state: RunState, reason: Reason) -> Vec<Decision> {
        let moves_early = self.run.definition.moves_early();
        let mut decisions = vec![Decision::Transition(
            Transition::new(self.run, state, reason, self.facts()).by(self.delivery()),
        )];
        // Elsewhere the one delivery of the visit has ended, and there is nothing to cancel.
        if moves_early {
            decisions.push(Decision::CancelUnsent);
        }
        decisions
    }

    fn delivery(&self) -> Option<crate::ids::DeliveryId> {
        match &self.cause {
            Cause::Delivery(result) => Some(result.delivery),
            Cause::Written(_) | Cause::Host => None,
        }
    }

    fn facts(&self) -> Vec<(&'static str, Value)> {
        match &self.cause {
            Cause::Delivery(result) => vec![
                ("workflow_outcome", result.outcome.as_str().into()),
                ("delivery_status", result.status.as_str().into()),
                (
                    "from_step",
                    self.run.definition.step(self.run.step).key.as_str().into(),
                ),
            ],
            Cause::Written(_) | Cause::Host => vec![],
        }
    }
}
