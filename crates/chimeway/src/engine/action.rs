//! A step that does things: its actions are performed in order, in transactions of their own; one that
//! leaves the database is a delivery, and the step goes on with its result.
//!
//! Where the step has got to is nowhere but in those deliveries: all before one of them was performed.

use std::ops::Range;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    Cause, Decision, Leave, Noop, Reason, Run, RunState, TerminalReason, Transition, Verdict, fail,
    input::{Delivered, Executed},
};
use crate::definition::{Action, Outcome, StepKind};

/// The run's context would be larger than it may be.
const CONTEXT_TOO_LARGE: &str = "context_too_large";

/// A worker looks at a run that has entered an action step.
pub(super) fn begin(run: &Run, actions: &[Action]) -> Verdict {
    if run.sent {
        return Verdict::Noop(Noop::DeliveryPending);
    }
    Verdict::Move(go_on(run, actions, 0))
}

/// What comes next: actions up to the next delivery, or that delivery.
fn go_on(run: &Run, actions: &[Action], from: usize) -> Vec<Decision> {
    let next = up_to_delivery(actions, from);
    if !next.is_empty() {
        return vec![execute(run, next)];
    }
    let Some((action, channel)) = actions
        .get(from)
        .and_then(|action| Some((action, action.channel()?)))
    else {
        return vec![];
    };
    let facts = [
        ("step_key", step_key(run)),
        ("action", action.name().into()),
        ("action_index", from.into()),
    ];
    vec![
        Decision::Transition(Transition::new(
            run,
            RunState::Active,
            Reason::ActionSent,
            facts,
        )),
        Decision::Plan {
            step: run.step,
            visit: run.visit,
            action: from,
            channel,
        },
    ]
}

/// The actions from there on that are to be performed before the next delivery.
fn up_to_delivery(actions: &[Action], from: usize) -> Range<usize> {
    let next = actions.iter().skip(from).position(Action::is_delivery);
    from..next.map_or(actions.len(), |place| from + place)
}

fn execute(run: &Run, actions: Range<usize>) -> Decision {
    Decision::Execute {
        step: run.step,
        visit: run.visit,
        actions,
    }
}

/// Actions were performed, or could not be.
pub(super) fn executed(run: &Run, told: &Executed, now: DateTime<Utc>) -> Verdict {
    if told.visit != run.visit {
        return Verdict::Noop(Noop::Superseded);
    }
    let StepKind::Action(actions) = &run.definition.step(run.step).kind else {
        return Verdict::Noop(Noop::Superseded);
    };
    let added = match &told.result {
        Ok(added) => added,
        Err(failure) => {
            let facts = vec![
                ("step_key", step_key(run)),
                ("action_index", failure.action.into()),
                ("error", failure.code.as_str().into()),
            ];
            let line = Transition::new(run, RunState::Active, Reason::ActionFailed, facts);
            return Verdict::Move(left(run, line, Outcome::Failed, &failure.code, now));
        }
    };
    let mut remembering = run.clone();
    let mut decisions = vec![];
    if !added.is_empty() {
        if !remembering.remember(added) {
            return Verdict::Move(fail(run, CONTEXT_TOO_LARGE, []));
        }
        decisions.push(Decision::Remember(added.clone()));
    }
    if told.actions.is_empty() {
        return Verdict::Move(go_on(run, actions, told.actions.end));
    }
    let facts = [
        ("step_key", step_key(run)),
        ("actions", told.actions.len().into()),
    ];
    let line = Transition::new(
        &remembering,
        RunState::Active,
        Reason::ActionsPerformed,
        facts,
    );
    if told.actions.end >= actions.len() {
        decisions.extend(left(&remembering, line, Outcome::Succeeded, "", now));
    } else {
        let mut performed = remembering;
        performed.apply(&line);
        decisions.push(Decision::Transition(line));
        decisions.extend(go_on(&performed, actions, told.actions.end));
    }
    Verdict::Move(decisions)
}

/// The result of an action that is a delivery.
pub(super) fn delivered(
    run: &Run,
    result: &Delivered,
    actions: &[Action],
    now: DateTime<Utc>,
) -> Verdict {
    match result.outcome {
        _ if !actions.get(result.action).is_some_and(Action::is_delivery) => {
            Verdict::Noop(Noop::Superseded)
        }
        Outcome::TemporaryFailure => Verdict::Noop(Noop::NoProgressRules),
        // It may have been told before: only the run's own transaction knows what else is on its way, and
        // so goes on there even where there is nothing to perform.
        Outcome::Delivered if result.action + 1 < actions.len() => {
            let next = up_to_delivery(actions, result.action + 1);
            Verdict::Move(vec![execute(run, next)])
        }
        outcome => leave_work(run, result, outcome == Outcome::Delivered, now),
    }
}

/// A step that did its work through a delivery is left as that one ended.
pub(super) fn leave_work(
    run: &Run,
    result: &Delivered,
    succeeded: bool,
    now: DateTime<Utc>,
) -> Verdict {
    let outcome = if succeeded {
        Outcome::Succeeded
    } else {
        Outcome::Failed
    };
    let Some(target) = run.definition.step(run.step).leads(outcome) else {
        let mut decisions = fail(
            run,
            result.outcome.as_str(),
            [("delivery_status", result.status.as_str().into())],
        );
        if let Some(Decision::Transition(line)) = decisions.first_mut() {
            line.delivery = Some(result.delivery);
        }
        return Verdict::Move(decisions);
    };
    let told = Delivered {
        outcome,
        ..result.clone()
    };
    let resolved = run.definition.resolve(run.step, target);
    Verdict::Move(Leave::new(run, Cause::Delivery(told), now).to(resolved))
}

/// Writes how the step ended, then goes where that leads; `code` is why the run fails where it leads
/// nowhere.
fn left(
    run: &Run,
    line: Transition,
    outcome: Outcome,
    code: &str,
    now: DateTime<Utc>,
) -> Vec<Decision> {
    let mut ended = run.clone();
    ended.apply(&line);
    let mut decisions = vec![Decision::Transition(line)];
    match run.definition.step(run.step).leads(outcome) {
        None => decisions.extend(fail(&ended, code, [])),
        Some(target) => {
            let cause = Cause::Written(TerminalReason::Outcome(outcome));
            let resolved = run.definition.resolve(run.step, target);
            decisions.extend(Leave::new(&ended, cause, now).to(resolved));
        }
    }
    decisions
}

fn step_key(run: &Run) -> Value {
    run.definition.step(run.step).key.as_str().into()
}
