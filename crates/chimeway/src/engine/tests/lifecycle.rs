//! Makes `docs/lifecycle.md`: every situation of a run, told every input.

use std::collections::BTreeSet;

use super::*;
use crate::{
    definition::To,
    engine::{Noop, Reason, StateName, TerminalReason, Transition},
};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lifecycle.md");

const HEAD: &str = "\
# The lifecycle of a run

The engine's test `lifecycle` writes this file by asking `decide` every question there is, so it
says what the code does. To change it, change the engine, run

    INSTA_UPDATE=always cargo test -p chimeway --lib engine::tests::lifecycle

and read the difference.

A run is in one of five states. An arrow is a line of its history and carries the line's reason.
";

const TABLES: &str = "
What a run answers depends on where it is and on what it is told. An answer is written in one
transaction, or it is nothing and has a name that says why. Where a step leads is what its document
says: `next` and `goto` lead to another step, and after the last step `next` completes. A step of a
host's own kind is entered and left like a message; a condition is left as soon as it is entered.
";

/// Where a step leads, and how that is said.
type Lead = (&'static str, fn() -> To);

const TARGETS: [Lead; 7] = [
    ("a message", || To::step("next_message")),
    ("a wait", || To::step("next_wait")),
    ("a condition", || To::step("next_condition")),
    ("an approval", || To::step("next_approval")),
    ("actions", || To::step("next_work")),
    ("`complete`", || To::Complete),
    ("`stop`", || To::Stop),
];

/// What a run is asked. The wait it may be in lasts from 09:00 to 10:00.
struct Question {
    text: &'static str,
    /// Whether the message names `temporary_failure`.
    impatient: bool,
    input: fn(&Run) -> Input,
    now: &'static str,
}

const QUESTIONS: [Question; 18] = [
    ask("it is started", "10:00", |_| Input::Started),
    ask("a result of this visit's message", "10:00", |run| {
        result(run.visit, Outcome::Delivered)
    }),
    ask(
        "a temporary failure that the step does not name",
        "10:00",
        |run| result(run.visit, Outcome::TemporaryFailure),
    ),
    Question {
        impatient: true,
        ..ask("a temporary failure that the step names", "10:00", |run| {
            result(run.visit, Outcome::TemporaryFailure)
        })
    },
    ask("a result of another visit's message", "10:00", |run| {
        result(Visit(run.visit.0 - 1), Outcome::Delivered)
    }),
    ask("it is looked at before its time", "09:59", |_| Input::Due),
    ask("it is looked at when it is due", "10:00", |_| Input::Due),
    ask("a signal that the wait listens to", "09:30", |_| {
        signal("listened")
    }),
    ask("another signal", "09:30", |_| signal("other")),
    ask("somebody asks for its end", "09:30", |_| Input::Cancelled),
    ask("its message has gone missing", "09:30", |_| {
        Input::DeliveryMissing
    }),
    ask("a decision about this visit's approval", "09:30", |run| {
        decided(run.visit)
    }),
    ask(
        "a decision about another visit's approval",
        "09:30",
        |run| decided(Visit(run.visit.0 - 1)),
    ),
    ask("its approval has gone missing", "09:30", |_| {
        Input::ApprovalMissing
    }),
    ask("its actions were performed", "09:30", |run| {
        executed(run, Ok(serde_json::Map::new()))
    }),
    ask(
        "one of its actions could not be performed",
        "09:30",
        |run| {
            let code = "code".to_owned();
            executed(run, Err(ActionFailure { action: 0, code }))
        },
    ),
    ask("its message is still on its way", "09:30", |_| {
        Input::Sending
    }),
    ask("a host moves it to a message", "09:30", |run| {
        Input::Moved {
            to: run
                .definition
                .index_of_key(&"next_message".parse().unwrap())
                .unwrap(),
        }
    }),
];

const fn ask(text: &'static str, now: &'static str, input: fn(&Run) -> Input) -> Question {
    Question {
        text,
        impatient: false,
        input,
        now,
    }
}

fn decided(visit: Visit) -> Input {
    Input::Decided {
        approval: ApprovalId(Uuid::from_u128(8)),
        visit,
        outcome: Outcome::Approved,
    }
}

fn executed(run: &Run, result: Result<serde_json::Map<String, Value>, ActionFailure>) -> Input {
    Input::Executed(Executed {
        visit: run.visit,
        actions: 0..1,
        result,
    })
}

fn signal(name: &str) -> Input {
    Input::Signalled {
        signal: SignalId(Uuid::from_u128(7)),
        name: name.parse().unwrap(),
        delivery: None,
    }
}

/// A new kind of input needs a question here, and then its arm.
fn is_asked(input: &Input) -> bool {
    match input {
        Input::Started
        | Input::Delivered(_)
        | Input::Due
        | Input::Signalled { .. }
        | Input::Cancelled
        | Input::DeliveryMissing
        | Input::Decided { .. }
        | Input::ApprovalMissing
        | Input::Executed(_)
        | Input::Sending
        | Input::Moved { .. } => true,
    }
}

/// A journey whose first two steps lead to `to`. What else leads from them only makes every step
/// reachable.
fn leading(first: &str, to: fn() -> To, impatient: bool) -> WorkflowBuilder {
    let message = |workflow: WorkflowBuilder| workflow.notify("message", "log", "message");
    let pause = |workflow: WorkflowBuilder| {
        workflow.wait("pause", "PT1H", |wait| {
            wait.release_on("listened", to())
                .release_on("to_message", To::step("message"))
        })
    };
    let begun = match first {
        "condition" | "untold" => workflow("journey")
            .condition(
                "first",
                if first == "untold" {
                    "context.missing"
                } else {
                    "context.yes"
                },
            )
            .on("first", Outcome::Met, to())
            .on("first", Outcome::Unmet, To::step("message")),
        "approval" => workflow("journey")
            .approval("first", |ask| ask.user("ada").timeout("PT1H"))
            .on("first", Outcome::Approved, to())
            .on("first", Outcome::Rejected, To::step("message")),
        "actions" => workflow("journey")
            .action("first", |work| work.send_signal("a", serde_json::json!({})))
            .on("first", Outcome::Succeeded, to())
            .on("first", Outcome::Failed, To::step("message")),
        "call" => workflow("journey")
            .action("first", |work| work.webhook("https://a.example"))
            .on("first", Outcome::Succeeded, to())
            .on("first", Outcome::Failed, To::step("message")),
        _ => workflow("journey"),
    };
    let workflow = match first {
        "wait" => message(pause(begun)),
        _ => pause(message(begun)),
    };
    let workflow = workflow
        .notify("next_message", "log", "message")
        .wait("next_wait", "PT2H", |wait| wait)
        .condition("next_condition", "context.yes")
        .approval("next_approval", |ask| ask.user("ada"))
        .action("next_work", |work| {
            work.send_signal("a", serde_json::json!({}))
        })
        .on("message", Outcome::Delivered, to())
        .on("message", Outcome::Suppressed, To::step("pause"))
        .on("message", Outcome::Bounced, To::step("next_message"))
        .on("pause", Outcome::Elapsed, to());
    if impatient {
        workflow.on("message", Outcome::TemporaryFailure, to())
    } else {
        workflow
    }
}

/// Every place where a run can be.
fn situations(to: fn() -> To, impatient: bool) -> Vec<(&'static str, Run)> {
    let run = |first, inputs: &[&str]| {
        let context = serde_json::json!({ "yes": true });
        tell_of(leading(first, to, impatient), context, inputs).run
    };
    let ended = |state| Run {
        state,
        ..run("message", &["09:00 started"])
    };
    let code = || TerminalReason::Failed("code".to_owned());
    vec![
        ("not started, a message comes first", run("message", &[])),
        ("not started, a wait comes first", run("wait", &[])),
        ("`active` in a message", run("message", &["09:00 started"])),
        (
            "`active` in a wait that is to be entered",
            run("wait", &["09:00 started"]),
        ),
        ("`waiting`", run("wait", &["09:00 started", "09:00 due"])),
        (
            "`active` in a condition that is to be told",
            run("condition", &["09:00 started"]),
        ),
        (
            "`active` in a condition that cannot be told",
            run("untold", &["09:00 started"]),
        ),
        (
            "`active` in an approval that is to be opened",
            run("approval", &["09:00 started"]),
        ),
        (
            "`waiting` for an approval",
            run("approval", &["09:00 started", "09:00 due"]),
        ),
        (
            "`active` in actions that are to be performed",
            run("actions", &["09:00 started"]),
        ),
        (
            "`active` in an action that is to be sent",
            run("call", &["09:00 started"]),
        ),
        (
            "`active` in an action that is on its way",
            run("call", &["09:00 started", "09:00 due"]),
        ),
        ("`completed`", ended(RunState::Completed)),
        ("`stopped`", ended(RunState::Stopped(code()))),
        ("`failed`", ended(RunState::Failed(code()))),
    ]
}

/// An answer: what is written and where the run is then, or why nothing is.
#[derive(Clone, PartialEq, Eq)]
enum Answer {
    Writes { what: String, then: String },
    Nothing(Noop),
}

/// What the whole questioning brought to light.
#[derive(Default)]
struct Lifecycle {
    arrows: Vec<(Option<StateName>, StateName, Reason)>,
    /// Places with the same answers to everything, and these.
    sections: Vec<(Vec<&'static str>, String)>,
}

impl Lifecycle {
    fn explored() -> Self {
        let mut lifecycle = Self::default();
        let places = TARGETS.map(|(_, to)| [false, true].map(|named| situations(to, named)));
        for (number, (place, _)) in places[0][0].iter().enumerate() {
            let answers = QUESTIONS.map(|question| {
                let answers = places.each_ref().map(|leading| {
                    let (_, run) = &leading[usize::from(question.impatient)][number];
                    lifecycle.answer(run, &question)
                });
                (question.text, answers)
            });
            let section = section(&answers);
            match lifecycle.sections.last_mut() {
                Some((places, same)) if *same == section => places.push(place),
                _ => lifecycle.sections.push((vec![place], section)),
            }
        }
        let order = |state: StateName| StateName::ALL.iter().position(|known| *known == state);
        lifecycle
            .arrows
            .sort_by_key(|(from, to, _)| (from.and_then(order), order(*to)));
        lifecycle
    }

    fn answer(&mut self, run: &Run, question: &Question) -> Answer {
        let (input, now) = ((question.input)(run), at(question.now));
        assert!(is_asked(&input));
        let decisions = match decide(run, &input, now) {
            Verdict::Move(decisions) => decisions,
            Verdict::Noop(noop) => return Answer::Nothing(noop),
        };
        let mut what = vec![];
        for decision in &decisions {
            what.push(match decision {
                Decision::Transition(line) => {
                    self.arrow(line);
                    format!("`{}`", line.reason)
                }
                Decision::Plan { .. } => "a message is planned".to_owned(),
                Decision::CancelUnsent => "unsent messages are cancelled".to_owned(),
                Decision::Ask { .. } => "an approval is opened".to_owned(),
                Decision::Withdraw => "the approval is withdrawn".to_owned(),
                Decision::Execute { .. } => "its actions are to be performed".to_owned(),
                Decision::Remember(_) => "the context grows".to_owned(),
            });
        }
        let after = run.after(&decisions);
        let state = after.state.name().unwrap().as_str();
        Answer::Writes {
            what: what.join(", "),
            then: format!("`{state}`, `{}`", after.status_reason),
        }
    }

    fn arrow(&mut self, line: &Transition) {
        let arrow = (line.from, line.to.name().unwrap(), line.reason);
        if !self.arrows.contains(&arrow) {
            self.arrows.push(arrow);
        }
    }

    fn diagram(&self) -> String {
        let mut text = "\n```mermaid\nstateDiagram-v2\n".to_owned();
        for (from, to, reason) in &self.arrows {
            let from = from.map_or("[*]", StateName::as_str);
            writeln!(text, "    {from} --> {}: {reason}", to.as_str()).unwrap();
        }
        let mut unreached = vec![];
        for state in StateName::ALL {
            let reached = self.arrows.iter().any(|(_, to, _)| *to == state);
            let left = self.arrows.iter().any(|(from, _, _)| *from == Some(state));
            if reached && !left {
                writeln!(text, "    {} --> [*]", state.as_str()).unwrap();
            }
            if !reached {
                unreached.push(format!("`{}`", state.as_str()));
            }
        }
        text += "```\n";
        if !unreached.is_empty() {
            writeln!(text, "\nNothing leads to {} yet.", unreached.join(", ")).unwrap();
        }
        text
    }

    fn document(&self) -> String {
        let mut text = HEAD.to_owned() + &self.diagram() + TABLES;
        for (places, rows) in &self.sections {
            let mut heading = places.join(", ");
            heading[..1].make_ascii_uppercase();
            write!(text, "\n## {heading}\n\n{rows}").unwrap();
        }
        text
    }
}

/// The answers of one place as tables: what is written, and what decides nothing. Rows that differ
/// only in what was told are one row.
fn section(answers: &[(&str, [Answer; TARGETS.len()])]) -> String {
    let (mut writes, mut nothing) = (Rows::default(), Rows::default());
    for (question, answers) in answers {
        let same = answers.iter().all(|answer| *answer == answers[0]);
        for ((target, _), answer) in TARGETS.iter().zip(answers) {
            let target = if same { "wherever" } else { target };
            match answer {
                Answer::Writes { what, then } => {
                    writes.add(question, format!("{target} | {what} | {then}"));
                }
                Answer::Nothing(noop) => nothing.add(question, format!("`{noop}`")),
            }
        }
    }
    let rest = if writes.0.is_empty() {
        "anything"
    } else {
        "anything else"
    };
    if let [(told, _)] = nothing.0.as_mut_slice() {
        *told = vec![rest];
    }
    let mut text = String::new();
    if !writes.0.is_empty() {
        text += "| told | leads to | writes | and is then |\n|---|---|---|---|\n";
        writes.write(&mut text);
        text += "\n";
    }
    text += "| told | decides nothing |\n|---|---|\n";
    nothing.write(&mut text);
    text
}

/// What was told, and the rest of the row.
#[derive(Default)]
struct Rows<'a>(Vec<(Vec<&'a str>, String)>);

impl<'a> Rows<'a> {
    fn add(&mut self, question: &'a str, rest: String) {
        match self.0.iter_mut().find(|row| row.1 == rest) {
            Some((told, _)) if told.contains(&question) => {}
            Some((told, _)) => told.push(question),
            None => self.0.push((vec![question], rest)),
        }
    }

    fn write(&self, text: &mut String) {
        for (told, rest) in &self.0 {
            writeln!(text, "| {} | {rest} |", told.join("; ")).unwrap();
        }
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the switch that rewrites snapshots is an environment variable"
)]
fn the_document_says_what_the_engine_does() {
    let text = Lifecycle::explored().document();
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(PATH, &text).unwrap();
    }
    let written = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        written == text,
        "docs/lifecycle.md is out of date; its first lines say how to write it anew. Now:\n\n{text}"
    );
}

#[test]
fn the_document_has_every_word_of_the_engine() {
    let text = Lifecycle::explored().document();
    let reasons = Reason::ALL.iter().map(|word| word.as_str());
    let noops = Noop::ALL.iter().map(|word| word.as_str());
    let states = StateName::ALL.iter().map(|word| word.as_str());
    let missing: BTreeSet<_> = reasons
        .chain(noops)
        .chain(states)
        .filter(|word| !text.contains(&format!("`{word}`")))
        .collect();
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn every_arrow_of_the_diagram_is_one_line_of_history() {
    let mut arrows = Lifecycle::explored().diagram();
    arrows.truncate(arrows.find("\nNothing").unwrap_or(arrows.len()));
    insta::assert_snapshot!(arrows, @r#"
    ```mermaid
    stateDiagram-v2
        [*] --> active: workflow_started
        active --> active: step_activated
        active --> active: progressed_on_delivery_outcome
        active --> active: condition_evaluated
        active --> active: delivery_planned_again
        active --> active: moved_by_host
        active --> active: actions_performed
        active --> active: action_failed
        active --> active: action_sent
        active --> waiting: waiting_for_step_progression
        active --> waiting: waiting_for_approval
        active --> completed: workflow_completed
        active --> stopped: workflow_stopped
        active --> stopped: workflow_cancelled
        active --> failed: workflow_failed
        waiting --> active: reactivated_from_wait
        waiting --> active: signal_received
        waiting --> active: moved_by_host
        waiting --> active: approval_decided
        waiting --> waiting: waiting_for_approval
        waiting --> stopped: workflow_cancelled
        completed --> [*]
        stopped --> [*]
        failed --> [*]
    ```
    "#);
}
