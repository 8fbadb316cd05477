//! A step that suspends the run: left by time, or by a signal that meets a stop condition.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::{
    Cause, Decision, Leave, Noop, Reason, Run, RunState, TerminalReason, Transition, Verdict,
};
use crate::{
    definition::{
        StepIndex,
        step::{Outcome, StepKind, Target, Wait},
    },
    ids::{DeliveryId, SignalId, SignalName, Visit},
};

/// The line that enters a wait.
pub(super) fn entering(
    run: &Run,
    (step, visit): (StepIndex, Visit),
    wait: &Wait,
    now: DateTime<Utc>,
    facts: Vec<(&'static str, Value)>,
) -> Transition {
    let stop_on: Vec<SignalName> = wait
        .stop_conditions
        .iter()
        .map(|condition| condition.signal.clone())
        .collect();
    let until = now + wait.duration.to_chrono();
    let suspended = [
        (
            "suspended_until",
            until.to_rfc3339_opts(SecondsFormat::Micros, true).into(),
        ),
        (
            "pending_signals",
            stop_on.iter().map(SignalName::as_str).collect::<Value>(),
        ),
    ];
    Transition::new(
        run,
        RunState::Waiting { until, stop_on },
        Reason::WaitingForStepProgression,
        facts.into_iter().chain(suspended),
    )
    .at(step, visit)
}

/// The time is over.
pub(super) fn elapse(run: &Run, now: DateTime<Utc>) -> Verdict {
    let step = run.definition.step(run.step);
    let target = step.leads(Outcome::Elapsed).unwrap_or(&Target::Next);
    let line = Transition::new(
        run,
        RunState::Active,
        Reason::ReactivatedFromWait,
        [("step_key", step.key.as_str().into())],
    );
    leave(
        run,
        line,
        TerminalReason::Outcome(Outcome::Elapsed),
        target,
        now,
    )
}

/// A signal that the wait listens to.
pub(super) fn signalled(
    run: &Run,
    (signal, delivery): (SignalId, Option<DeliveryId>),
    name: &SignalName,
    now: DateTime<Utc>,
) -> Verdict {
    let target = match &run.definition.step(run.step).kind {
        StepKind::Wait(wait) => wait
            .stop_conditions
            .iter()
            .find(|condition| condition.signal == *name),
        _ => None,
    };
    let Some(condition) = target else {
        return Verdict::Noop(Noop::NotListening);
    };
    let mut line = Transition::new(
        run,
        RunState::Active,
        Reason::SignalReceived,
        [("event_name", name.as_str().into())],
    );
    line.signal = Some(signal);
    line.delivery = delivery;
    leave(
        run,
        line,
        TerminalReason::StopCondition(name.clone()),
        &condition.then,
        now,
    )
}

/// Writes why the wait is over, then goes where its target says.
fn leave(
    run: &Run,
    line: Transition,
    reason: TerminalReason,
    target: &Target,
    now: DateTime<Utc>,
) -> Verdict {
    let resolved = run.definition.resolve(run.step, target);
    let mut reactivated = run.clone();
    reactivated.apply(&line);
    let mut decisions = vec![Decision::Transition(line)];
    decisions.extend(Leave::new(&reactivated, Cause::Written(reason), now).to(resolved));
    Verdict::Move(decisions)
}
