//! What the rules mean in our model. `docs/definitions.md` has it as a table.

use std::collections::BTreeMap;

use super::{RuleStep, rule::WaitUntil};
use crate::{
    definition::step::{Notify, Outcome, Step, StepKind, StopCondition, Target, Wait},
    ids::{ChannelName, RenderKey, SignalName, StepKey},
};

/// The steps of the plan, and where each was written. The steps read are those of one document: each
/// order from 1 on is there once.
pub(super) fn steps(mut read: Vec<RuleStep>) -> (Vec<Step>, Vec<String>) {
    read.sort_by_key(|step| step.order);
    let following: Vec<Option<StepKey>> = read
        .iter()
        .skip(1)
        .map(|step| Some(step.key.clone()))
        .chain([None])
        .collect();
    let (mut steps, mut pointers) = (vec![], vec![]);
    for (step, next) in read.into_iter().zip(following) {
        let mut on_outcome = step.rules.on_outcome;
        // In the original a run ends where no rule leads on. With us it goes on to the next step, so
        // the end has to be said; not where that step is the wait, nor where there is none.
        if step.rules.wait.is_none() && next.is_some() {
            for outcome in Outcome::NOTIFY {
                // Only a rule of its own makes a temporary failure an end.
                if outcome != Outcome::TemporaryFailure {
                    on_outcome.entry(outcome).or_insert(Target::Complete);
                }
            }
        }
        pointers.push(step.pointer);
        steps.push(Step {
            key: step.key,
            kind: notify(step.channel, step.render_key),
            on_outcome,
        });
        if let Some(rule) = step.rules.wait {
            pointers.push(rule.pointer.clone());
            steps.push(wait(rule, next.as_ref()));
        }
    }
    (steps, pointers)
}

fn wait(rule: WaitUntil, next: Option<&StepKey>) -> Step {
    let on_outcome = if next == Some(&rule.to_step) {
        BTreeMap::new()
    } else {
        BTreeMap::from([(Outcome::Elapsed, Target::Goto(rule.to_step))])
    };
    Step {
        key: rule.key,
        kind: StepKind::Wait(Wait {
            duration: rule.duration,
            stop_conditions: rule.cancel_signals.into_iter().map(stop_on).collect(),
        }),
        on_outcome,
    }
}

/// The one place that makes the action of a notify step.
fn notify(channel: ChannelName, render_key: RenderKey) -> StepKind {
    StepKind::Notify(Notify {
        channel,
        render_key,
        category: None,
        unless_read: false,
    })
}

/// The one place that makes a stop condition.
fn stop_on(signal: SignalName) -> StopCondition {
    StopCondition {
        signal,
        matches: vec![],
        then: Target::Stop,
    }
}
