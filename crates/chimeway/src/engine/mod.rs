//! What happens next: pure, no I/O, no clock, no chance.
//!
//! [`decide`] is the whole table. It is told where a run is ([`Run`]) and what happened ([`Input`]),
//! and answers with what must be written ([`Decision`]) or why nothing is ([`Noop`]). It performs
//! nothing: the same arguments give the same answer, so a caller may repeat it freely.
//!
//! Must not: read a clock, make an id, draw a random number, know about rows.
//!
//! To add a step kind: 1. its variant in [`crate::definition::step::StepKind`]; 2. a file here with
//! how it is entered and left; 3. its arrows in [`decide`]; 4. its inputs in `input.rs`; 5. its arm in
//! `tests.rs`, which plays random inputs.

pub mod attempt;
pub mod backoff;
pub mod decision;
pub mod input;
pub mod notify;
pub mod run;
#[cfg(test)]
mod tests;
pub mod wait;

pub use attempt::{AttemptResult, Budget, DeliveryStatus, Settled};
pub use decision::{Decision, Noop, Reason, Transition, Verdict};
pub use input::Input;
pub use run::{Run, RunState, StateName, TerminalReason};

use chrono::{DateTime, Utc};

use crate::definition::{Resolved, StepIndex, step::StepKind};

/// What must happen next, given where the run is and what just happened.
///
/// Total: late, early and repeated inputs are in the table and decide nothing, each by name.
#[must_use]
pub fn decide(run: &Run, input: &Input, now: DateTime<Utc>) -> Verdict {
    use {Input as I, RunState as S};

    match (&run.state, input) {
        (S::Born, I::Started) => Verdict::Move(start(run)),
        (S::Born, _) => Verdict::Noop(Noop::RunNotStarted),

        // Before anything else: whatever is told together with it comes too late.
        (S::Active | S::Waiting { .. }, I::Cancelled) => Verdict::Move(cancel(run)),
        (S::Active | S::Waiting { .. }, I::Moved { to }) => Verdict::Move(move_to(run, *to, now)),

        (S::Active, I::Delivered(result)) => notify::leave(run, result, now),
        (S::Active, I::DeliveryMissing) => notify::plan_again(run),
        (S::Active, I::Due) => wait::enter_late(run, now),
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
        // The result of a delivery that its step did not wait for.
        (S::Waiting { .. }, I::Delivered(_)) => Verdict::Noop(Noop::Superseded),
        (S::Waiting { .. }, I::DeliveryMissing) => Verdict::Noop(Noop::NoActiveStepDelivery),

        (S::Active | S::Waiting { .. }, I::Started) => Verdict::Noop(Noop::AlreadyStarted),
        (S::Completed | S::Stopped(_) | S::Failed(_), _) => Verdict::Noop(Noop::RunNotActive),
    }
}

/// The first two lines of every history.
///
/// A first step that is not a message is only made current: the transaction that creates a run may
/// not enter a wait, for what it would look for it cannot see yet. The run is due at once instead,
/// and a worker enters it.
fn start(run: &Run) -> Vec<Decision> {
    let first = StepIndex::FIRST;
    let mut decisions = vec![Decision::Transition(Transition::new(
        run,
        RunState::Active,
        Reason::WorkflowStarted,
        [("workflow", run.definition.key.as_str().into())],
    ))];
    decisions.extend(activate(run, first));
    decisions
}

/// Ends the run because somebody said so.
fn cancel(run: &Run) -> Vec<Decision> {
    let state = RunState::Stopped(TerminalReason::Cancelled);
    vec![
        Decision::Transition(Transition::new(run, state, Reason::WorkflowCancelled, [])),
        Decision::CancelUnsent,
    ]
}

/// Leaves the current step by hand and enters another one, or the same one anew.
fn move_to(run: &Run, to: StepIndex, now: DateTime<Utc>) -> Vec<Decision> {
    let key = |step| run.definition.step(step).key.as_str().into();
    let facts = [("from_step", key(run.step)), ("to_step", key(to))];
    let line = Transition::new(run, RunState::Active, Reason::MovedByHost, facts);
    let mut reactivated = run.clone();
    reactivated.apply(&line);
    let mut decisions = vec![Decision::Transition(line), Decision::CancelUnsent];
    let leave = Leave {
        run: &reactivated,
        cause: Cause::Host,
        now,
    };
    decisions.extend(leave.to(Resolved::Step(to)));
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
    if let StepKind::Notify(notify) = &current.kind {
        decisions.push(Decision::Plan {
            step,
            visit,
            channel: notify.channel.clone(),
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
}

/// What made a run leave its step.
enum Cause {
    /// A delivery's result.
    Delivery(input::Delivered),
    /// A wait was over, by time or by a signal; its line is already written.
    Wait(TerminalReason),
    /// A host moved it; its line is already written.
    Host,
}

impl Leave<'_> {
    fn to(self, target: Resolved) -> Vec<Decision> {
        match target {
            Resolved::Step(step) => self.enter(step),
            Resolved::Complete => self.end(RunState::Completed, Reason::WorkflowCompleted),
            Resolved::Stop => {
                let reason = match &self.cause {
                    Cause::Delivery(result) => TerminalReason::Outcome(result.outcome),
                    Cause::Wait(reason) => reason.clone(),
                    // It moves a run to steps only.
                    Cause::Host => TerminalReason::Cancelled,
                };
                self.end(RunState::Stopped(reason), Reason::WorkflowStopped)
            }
        }
    }

    fn enter(self, step: StepIndex) -> Vec<Decision> {
        let next = self.run.definition.step(step);
        match (&next.kind, &self.cause) {
            (StepKind::Wait(wait), _) => vec![Decision::Transition(
                wait::entering(
                    self.run,
                    (step, self.run.visit.next()),
                    wait,
                    self.now,
                    self.facts(),
                )
                .by(self.delivery()),
            )],
            (StepKind::Notify(_), Cause::Delivery(_)) => {
                let mut facts = self.facts();
                facts.push(("to_step", next.key.as_str().into()));
                let mut decisions = vec![Decision::Transition(
                    Transition::new(
                        self.run,
                        RunState::Active,
                        Reason::ProgressedOnDeliveryOutcome,
                        facts,
                    )
                    .by(self.delivery()),
                )];
                decisions.extend(activate(self.run, step));
                decisions
            }
            (StepKind::Notify(_), Cause::Wait(_) | Cause::Host) => activate(self.run, step),
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
            Cause::Wait(_) | Cause::Host => None,
        }
    }

    fn facts(&self) -> Vec<(&'static str, serde_json::Value)> {
        match &self.cause {
            Cause::Delivery(result) => vec![
                ("workflow_outcome", result.outcome.as_str().into()),
                ("delivery_status", result.status.as_str().into()),
                (
                    "from_step",
                    self.run.definition.step(self.run.step).key.as_str().into(),
                ),
            ],
            Cause::Wait(_) | Cause::Host => vec![],
        }
    }
}
