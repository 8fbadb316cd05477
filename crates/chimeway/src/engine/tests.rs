//! The whole engine, told what happens: stories and tables, random plays, and the generated
//! `docs/lifecycle.md`.

mod business;
mod lifecycle;
mod model;
mod plays;
mod properties;
mod stories;
mod tables;
mod waits;

use std::{fmt::Write as _, sync::Arc};

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{
    ActionFailure, AttemptResult, Budget, Decision, DeliveryStatus, Executed, Facts, Input, Run,
    RunState, Verdict, attempt::settle, decide, input::Delivered,
};
use crate::{
    definition::{Definition, Known, Outcome, StepIndex, WorkflowBuilder, WorkflowPlan},
    ids::{
        ApprovalId, DefinitionId, DeliveryId, RunId, SignalId, SignalName, StepId, Version, Visit,
    },
};

fn workflow(key: &str) -> WorkflowBuilder {
    WorkflowBuilder::new(key)
}

fn stored(plan: WorkflowPlan) -> Arc<Definition> {
    let step_ids = (0..plan.steps.len())
        .map(|place| StepId(Uuid::from_u128(100 + place as u128)))
        .collect();
    let id = DefinitionId(Uuid::from_u128(1));
    Arc::new(Definition::new(id, Version(1), plan, step_ids).unwrap())
}

fn born(workflow: WorkflowBuilder) -> Run {
    let checked = workflow
        .build(&Known::default())
        .unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    Run::born(RunId(Uuid::from_u128(2)), stored(checked.plan))
}

/// A time of the one day that the stories play on.
fn at(time: &str) -> DateTime<Utc> {
    let day = NaiveDate::from_ymd_opt(2026, 3, 2).unwrap();
    day.and_time(time.parse::<NaiveTime>().unwrap()).and_utc()
}

/// The delivery of a visit has that visit's number.
fn result(visit: Visit, outcome: Outcome) -> Input {
    result_of((visit, 0), outcome)
}

fn result_of((visit, action): (Visit, usize), outcome: Outcome) -> Input {
    Input::Delivered(Delivered {
        delivery: DeliveryId(Uuid::from_u128(visit.0.unsigned_abs().into())),
        visit,
        action,
        outcome,
        status: status_of(outcome),
    })
}

fn status_of(outcome: Outcome) -> DeliveryStatus {
    let settled = |result, attempts| settle(result, attempts, 0, Budget::default(), 0.0).status;
    let temporary = AttemptResult::Temporary { retry_after: None };
    match outcome {
        Outcome::Delivered => settled(AttemptResult::Succeeded, 1),
        Outcome::TemporaryFailure => settled(temporary, 1),
        Outcome::RetriesExhausted => settled(temporary, 5),
        Outcome::PermanentFailure => settled(AttemptResult::Permanent, 1),
        Outcome::Bounced => settled(AttemptResult::Bounced, 1),
        Outcome::Suppressed => DeliveryStatus::Suppressed,
        _ => panic!("no delivery ends so"),
    }
}

/// Reads `10:00 started`, `10:00 due`, `10:00 cancelled`, `10:00 missing`, `10:00 moved 2`,
/// `10:00 signal 7 paid`, `10:00 bounced 1` and `10:00 bounced 1 action 3`, where 2 is a step's place, 7 the
/// signal's number, 1 the visit whose delivery ended so and 3 the place of its action; `10:00 approved 2`,
/// where 2 is the visit that asked; `10:00 performed 2 0 1 {"a":1}` and `10:00 refused 2 0 1 code`, for the
/// actions from 0 to 1 of the visit 2; `10:00 sending`, `10:00 unasked`.
fn read(line: &str) -> (DateTime<Utc>, Input) {
    let words: Vec<&str> = line.split(' ').collect();
    let input = match words[1..] {
        ["started"] => Input::Started,
        ["due"] => Input::Due,
        ["cancelled"] => Input::Cancelled,
        ["missing"] => Input::DeliveryMissing,
        ["sending"] => Input::Sending,
        ["unasked"] => Input::ApprovalMissing,
        [outcome @ ("approved" | "rejected" | "timed_out"), visit] => Input::Decided {
            approval: ApprovalId(Uuid::from_u128(visit.parse().unwrap())),
            visit: Visit(visit.parse().unwrap()),
            outcome: Outcome::parse(outcome).unwrap(),
        },
        ["performed", visit, from, to, added] => Input::Executed(Executed {
            visit: Visit(visit.parse().unwrap()),
            actions: from.parse().unwrap()..to.parse().unwrap(),
            result: Ok(serde_json::from_str(added).unwrap()),
        }),
        ["refused", visit, from, to, code] => Input::Executed(Executed {
            visit: Visit(visit.parse().unwrap()),
            actions: from.parse().unwrap()..to.parse().unwrap(),
            result: Err(ActionFailure {
                action: from.parse().unwrap(),
                code: code.to_owned(),
            }),
        }),
        [outcome, visit, "action", place] => {
            let outcome = Outcome::parse(outcome).unwrap();
            result_of(
                (Visit(visit.parse().unwrap()), place.parse().unwrap()),
                outcome,
            )
        }
        ["moved", place] => Input::Moved {
            to: StepIndex(place.parse().unwrap()),
        },
        ["signal", number, name] => Input::Signalled {
            signal: SignalId(Uuid::from_u128(number.parse().unwrap())),
            name: name.parse().unwrap(),
            delivery: None,
        },
        [outcome, visit] => result(
            Visit(visit.parse().unwrap()),
            Outcome::parse(outcome).unwrap(),
        ),
        _ => panic!("not an input: `{line}`"),
    };
    (at(words[0]), input)
}

fn step(run: &Run, index: StepIndex, visit: Visit) -> String {
    format!("{}#{visit}", run.definition.step(index).key)
}

fn state(state: &RunState) -> String {
    match state {
        RunState::Born => "new".to_owned(),
        RunState::Active => "active".to_owned(),
        RunState::Waiting { until, stop_on } => {
            let signals: Vec<_> = stop_on.iter().map(SignalName::as_str).collect();
            format!("waiting({}|{})", until.format("%H:%M"), signals.join(","))
        }
        RunState::AwaitingApproval { until } => {
            let until = until.map_or("-".to_owned(), |until| until.format("%H:%M").to_string());
            format!("asking({until})")
        }
        RunState::Completed => "completed".to_owned(),
        RunState::Stopped(reason) => format!("stopped({reason})"),
        RunState::Failed(reason) => format!("failed({reason})"),
    }
}

fn decision(run: &Run, decision: &Decision) -> String {
    match decision {
        Decision::Transition(line) => {
            let from = line.from.map_or("new", |from| from.as_str());
            let mut text = format!(
                "{from} > {}  {}  {}",
                state(&line.to),
                step(run, line.step, line.visit),
                line.reason
            );
            if let Some(delivery) = line.delivery {
                write!(text, "  delivery {}", delivery.0.as_u128()).unwrap();
            }
            if let Some(approval) = line.approval {
                write!(text, "  approval {}", approval.0.as_u128()).unwrap();
            }
            if let Some(signal) = line.signal {
                write!(text, "  signal {}", signal.0.as_u128()).unwrap();
            }
            write!(text, "  {}", Value::Object(line.context.clone())).unwrap();
            text
        }
        Decision::Plan {
            step: index,
            visit,
            action,
            channel,
        } => {
            let of_action = if *action > 0 {
                format!("  action {action}")
            } else {
                String::new()
            };
            format!("plan  {}  {channel}{of_action}", step(run, *index, *visit))
        }
        Decision::Ask {
            step: index,
            visit,
            assignee,
            until,
        } => {
            let until = until.map_or("-".to_owned(), |until| until.format("%H:%M").to_string());
            format!(
                "ask  {}  {assignee:?}  until {until}",
                step(run, *index, *visit)
            )
        }
        Decision::Withdraw => "withdraw".to_owned(),
        Decision::Execute {
            step: index,
            visit,
            actions,
        } => format!("execute  {}  {actions:?}", step(run, *index, *visit)),
        Decision::Remember(added) => format!("remember  {}", Value::Object(added.clone())),
        Decision::CancelUnsent => "cancel unsent".to_owned(),
    }
}

/// A run that is told one thing after another, and what it answered.
struct Story {
    run: Run,
    /// Each input as it was written, and the lines of its answer.
    answers: Vec<(String, Vec<String>)>,
    now: DateTime<Utc>,
}

fn tell(workflow: WorkflowBuilder, inputs: &[&str]) -> Story {
    tell_run(born(workflow), inputs)
}

/// As [`tell`], of a run whose context and params are these.
fn tell_of(workflow: WorkflowBuilder, context: Value, inputs: &[&str]) -> Story {
    let params = serde_json::json!({ "kind": "order" });
    let facts = Some(Arc::new(Facts { context, params }));
    let run = Run {
        facts,
        ..born(workflow)
    };
    tell_run(run, inputs)
}

fn tell_run(run: Run, inputs: &[&str]) -> Story {
    let mut story = Story {
        run,
        answers: vec![],
        now: at("00:00"),
    };
    for text in inputs {
        let (now, input) = read(text);
        let verdict = decide(&story.run, &input, now);
        let lines = match &verdict {
            Verdict::Move(decisions) => decisions
                .iter()
                .map(|made| decision(&story.run, made))
                .collect(),
            Verdict::Noop(noop) => vec![format!("nothing: {noop}")],
        };
        if let Verdict::Move(decisions) = &verdict {
            for made in decisions {
                match made {
                    Decision::Transition(line) => story.run.apply(line),
                    Decision::Remember(added) => assert!(story.run.remember(added)),
                    _ => {}
                }
            }
        }
        story.answers.push(((*text).to_owned(), lines));
        story.now = now;
    }
    story
}

impl Story {
    /// Where the run is, and why.
    fn place(&self) -> String {
        let run = &self.run;
        let wake = run.wake_at(self.now).map_or_else(String::new, |wake| {
            format!(", to be woken at {}", wake.format("%H:%M"))
        });
        format!(
            "{} in {} after {} lines: {}{wake}",
            state(&run.state),
            step(run, run.step, run.visit),
            run.sequence,
            run.status_reason
        )
    }

    /// The answer to the last input, and where the run is then.
    fn last(&self) -> String {
        let (_, lines) = self.answers.last().unwrap();
        format!("{}\n= {}", lines.join("\n"), self.place())
    }
}

/// Every input with its answer, and where the run is at the end.
fn history(workflow: WorkflowBuilder, inputs: &[&str]) -> String {
    let story = tell(workflow, inputs);
    let mut text = String::new();
    for (input, lines) in &story.answers {
        writeln!(text, "{input}\n  {}", lines.join("\n  ")).unwrap();
    }
    text + "= " + &story.place()
}

/// The answer to the last input, and where the run is then.
fn last(workflow: WorkflowBuilder, inputs: &[&str]) -> String {
    tell(workflow, inputs).last()
}
