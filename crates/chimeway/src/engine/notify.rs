//! A step that sends one message: entered by planning its delivery, left by the delivery's result.

use chrono::{DateTime, Utc};

use super::{
    Cause, Decision, Leave, Noop, Reason, Run, RunState, Transition, Verdict, input::Delivered,
};
use crate::definition::step::{Outcome, StepKind, Target};

/// The current visit has no message although its step is one: it is made anew.
pub(super) fn plan_again(run: &Run) -> Verdict {
    let step = run.definition.step(run.step);
    let StepKind::Notify(notify) = &step.kind else {
        return Verdict::Noop(Noop::NoActiveStepDelivery);
    };
    let facts = [("step_key", step.key.as_str().into())];
    let line = Transition::new(run, RunState::Active, Reason::DeliveryPlannedAgain, facts);
    Verdict::Move(vec![
        Decision::Transition(line),
        Decision::Plan {
            step: run.step,
            visit: run.visit,
            channel: notify.channel.clone(),
        },
    ])
}

/// The result of the current step's delivery.
///
/// A failed message never stalls a journey: whatever the outcome, the run goes to the next step
/// unless the document says otherwise. Only a temporary failure, which will be tried again, moves
/// nothing unless the step names it.
pub(super) fn leave(run: &Run, result: &Delivered, now: DateTime<Utc>) -> Verdict {
    if result.visit != run.visit {
        return Verdict::Noop(Noop::Superseded);
    }
    let step = run.definition.step(run.step);
    if !matches!(step.kind, StepKind::Notify(_)) {
        return Verdict::Noop(Noop::NoActiveStepDelivery);
    }
    let target = match (step.on_outcome.get(&result.outcome), result.outcome) {
        (Some(target), _) => target,
        (None, Outcome::TemporaryFailure) => return Verdict::Noop(Noop::NoProgressRules),
        (None, _) => &Target::Next,
    };
    let resolved = run.definition.resolve(run.step, target);
    Verdict::Move(
        Leave {
            run,
            cause: Cause::Delivery(result.clone()),
            now,
        }
        .to(resolved),
    )
}
