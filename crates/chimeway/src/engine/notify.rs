//! A step that sends one message: entered by planning its delivery, left by the delivery's result.

use chrono::{DateTime, Utc};

use super::{
    Cause, Decision, Leave, Noop, Reason, Run, RunState, Transition, Verdict, action,
    input::Delivered,
};
use crate::{
    definition::step::{Outcome, StepKind},
    ids::ChannelName,
};

/// The current visit has no message although its step is one: it is made anew.
pub(super) fn plan_again(run: &Run) -> Verdict {
    let step = run.definition.step(run.step);
    let Some(channel) = channel(&step.kind) else {
        return Verdict::Noop(Noop::NoActiveStepDelivery);
    };
    let facts = [("step_key", step.key.as_str().into())];
    let line = Transition::new(run, RunState::Active, Reason::DeliveryPlannedAgain, facts);
    Verdict::Move(vec![
        Decision::Transition(line),
        Decision::Plan {
            step: run.step,
            visit: run.visit,
            action: 0,
            channel,
        },
    ])
}

/// The channel of a step that is one message, or that does its work through one.
pub(super) fn channel(kind: &StepKind) -> Option<ChannelName> {
    match kind {
        StepKind::Notify(notify) => Some(notify.channel.clone()),
        StepKind::Custom(custom) => custom.channel(),
        StepKind::Wait(_)
        | StepKind::Condition(_)
        | StepKind::Approval(_)
        | StepKind::Action(_) => None,
    }
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
    match &step.kind {
        StepKind::Notify(_) => {}
        StepKind::Action(actions) => return action::delivered(run, result, actions, now),
        StepKind::Custom(_) if result.outcome == Outcome::TemporaryFailure => {
            return Verdict::Noop(Noop::NoProgressRules);
        }
        StepKind::Custom(_) => {
            return action::leave_work(run, result, result.outcome == Outcome::Delivered, now);
        }
        StepKind::Wait(_) | StepKind::Condition(_) | StepKind::Approval(_) => {
            return Verdict::Noop(Noop::NoActiveStepDelivery);
        }
    }
    let Some(target) = step.leads(result.outcome) else {
        return Verdict::Noop(Noop::NoProgressRules);
    };
    let resolved = run.definition.resolve(run.step, target);
    Verdict::Move(Leave::new(run, Cause::Delivery(result.clone()), now).to(resolved))
}
