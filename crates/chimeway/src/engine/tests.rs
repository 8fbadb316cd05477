//! The whole engine, told what happens: stories and tables, random plays, and the generated
//! `docs/lifecycle.md`.

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
    AttemptResult, Budget, Decision, DeliveryStatus, Input, Run, RunState, Verdict,
    attempt::settle, decide, input::Delivered,
};
use crate::{
    definition::{Definition, Known, Outcome, StepIndex, WorkflowBuilder, WorkflowPlan},
    ids::{DefinitionId, DeliveryId, RunId, SignalId, SignalName, StepId, Version, Visit},
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
    Input::Delivered(Delivered {
        delivery: DeliveryId(Uuid::from_u128(visit.0.unsigned_abs().into())),
        visit,
        action: 0,
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
/// `10:00 signal 7 paid` and `10:00 bounced 1`, where 2 is a step's place, 7 the signal's number and 1
/// the visit whose delivery ended so.
fn read(line: &str) -> (DateTime<Utc>, Input) {
    let words: Vec<&str> = line.split(' ').collect();
    let input = match words[1..] {
        ["started"] => Input::Started,
        ["due"] => Input::Due,
        ["cancelled"] => Input::Cancelled,
        ["missing"] => Input::DeliveryMissing,
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
    let mut story = Story {
        run: born(workflow),
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
            story.run = story.run.after(decisions);
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
