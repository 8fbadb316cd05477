//! Facts that hold for every word of the engine, one row each.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::{
    definition::To,
    engine::{Noop, Reason, StateName, TerminalReason},
};

fn journey() -> WorkflowBuilder {
    workflow("journey")
        .notify("first", "log", "first")
        .wait("pause", "PT1H", |wait| wait.stop_on("seen"))
        .notify("last", "log", "last")
}

fn patient() -> WorkflowBuilder {
    workflow("patient").wait("pause", "PT1H", |wait| wait.stop_on("seen"))
}

#[test]
fn every_input_that_decides_nothing_says_why() {
    let waiting = |input| vec!["09:00 started", "09:00 delivered 1", input];
    let ended = |input| vec!["09:00 started", "09:00 due", "10:00 due", input];
    let table = [
        (Noop::RunNotStarted, journey(), vec!["09:00 due"]),
        (Noop::RunNotStarted, journey(), vec!["09:00 delivered 1"]),
        (Noop::RunNotStarted, journey(), vec!["09:00 signal 7 seen"]),
        (
            Noop::AlreadyStarted,
            journey(),
            vec!["09:00 started", "09:00 started"],
        ),
        (Noop::AlreadyStarted, journey(), waiting("09:01 started")),
        (
            Noop::DeliveryPending,
            journey(),
            vec!["09:00 started", "23:00 due"],
        ),
        (
            Noop::NotWaiting,
            journey(),
            vec!["09:00 started", "09:00 signal 7 seen"],
        ),
        (
            Noop::NotWaiting,
            patient(),
            vec!["09:00 started", "09:00 signal 7 seen"],
        ),
        (
            Noop::NoActiveStepDelivery,
            patient(),
            vec!["09:00 started", "09:00 delivered 1"],
        ),
        (
            Noop::NoProgressRules,
            journey(),
            vec!["09:00 started", "09:00 temporary_failure 1"],
        ),
        (
            Noop::Superseded,
            journey(),
            vec!["09:00 started", "09:00 delivered 2"],
        ),
        (
            Noop::Superseded,
            journey(),
            vec!["09:00 started", "09:00 delivered 0"],
        ),
        (Noop::Superseded, journey(), waiting("09:01 delivered 1")),
        (Noop::Superseded, journey(), waiting("09:01 delivered 2")),
        (Noop::WaitNotDue, journey(), waiting("09:59:59.999999 due")),
        (
            Noop::NotListening,
            journey(),
            waiting("09:01 signal 7 heard"),
        ),
        (
            Noop::NotListening,
            workflow("deaf").wait("pause", "PT1H", |wait| wait),
            vec!["09:00 started", "09:00 due", "09:01 signal 7 seen"],
        ),
        (
            Noop::ApprovalOpen,
            workflow("asking").approval("ask", |ask| ask.user("ada").timeout("1h")),
            vec!["09:00 started", "09:00 due", "09:59 due"],
        ),
        (
            Noop::Superseded,
            workflow("asking").approval("ask", |ask| ask.user("ada")),
            vec!["09:00 started", "09:00 due", "09:01 approved 2"],
        ),
        (
            Noop::DeliveryPending,
            workflow("calling").action("call", |call| call.webhook("https://a.example")),
            vec!["09:00 started", "09:00 due", "09:01 sending"],
        ),
        (
            Noop::NoProgressRules,
            workflow("calling").action("call", |call| call.webhook("https://a.example")),
            vec!["09:00 started", "09:00 due", "09:01 temporary_failure 1"],
        ),
        (Noop::RunNotActive, patient(), ended("10:01 started")),
        (Noop::RunNotActive, patient(), ended("10:01 due")),
        (Noop::RunNotActive, patient(), ended("10:01 delivered 1")),
        (Noop::RunNotActive, patient(), ended("10:01 signal 7 seen")),
        (
            Noop::RunNotActive,
            patient(),
            vec![
                "09:00 started",
                "09:00 due",
                "09:30 signal 7 seen",
                "10:00 due",
            ],
        ),
    ];

    let mut covered = BTreeSet::new();
    for (noop, workflow, inputs) in table {
        let story = tell(workflow, &inputs);
        let (_, answer) = story.answers.last().unwrap();
        assert_eq!(answer, &[format!("nothing: {noop}")], "{inputs:?}");
        covered.insert(noop.as_str());
    }
    let every: BTreeSet<_> = Noop::ALL.iter().map(|noop| noop.as_str()).collect();
    assert_eq!(covered, every, "a word is missing in the table");
}

#[test]
fn whatever_becomes_of_a_message_the_journey_goes_on() {
    for outcome in Outcome::NOTIFY {
        let result = format!("09:01 {outcome} 1");
        let story = tell(journey(), &["09:00 started", &result]);
        let goes_on = outcome != Outcome::TemporaryFailure;
        let reason = if goes_on {
            Reason::WaitingForStepProgression
        } else {
            Reason::WorkflowStarted
        };
        assert_eq!(story.run.status_reason, reason.as_str(), "{outcome}");
        assert_eq!(story.run.visit, Visit(1 + i32::from(goes_on)), "{outcome}");
    }
}

#[test]
fn a_message_may_end_a_journey_and_says_how() {
    for outcome in Outcome::NOTIFY {
        for (to, expected) in [
            (To::Complete, RunState::Completed),
            (
                To::Stop,
                RunState::Stopped(TerminalReason::Outcome(outcome)),
            ),
        ] {
            let result = format!("09:01 {outcome} 1");
            let workflow = journey().on("first", outcome, to);
            let story = tell(workflow, &["09:00 started", &result]);
            assert_eq!(story.run.state, expected, "{outcome}");

            // Only a message that is still being tried can be left behind.
            let (_, answer) = story.answers.last().unwrap();
            let left_behind = outcome == Outcome::TemporaryFailure;
            assert_eq!(
                answer.contains(&"cancel unsent".to_owned()),
                left_behind,
                "{outcome}"
            );
        }
    }
}

#[test]
fn a_named_temporary_failure_moves_on_even_to_the_next_step() {
    let workflow = journey().on("first", Outcome::TemporaryFailure, To::Next);
    let inputs = ["09:00 started", "09:01 temporary_failure 1"];
    insta::assert_snapshot!(last(workflow, &inputs), @r#"
    active > waiting(10:01|seen)  pause#2  waiting_for_step_progression  delivery 1  {"workflow_outcome":"temporary_failure","delivery_status":"failed","from_step":"first","suspended_until":"2026-03-02T10:01:00.000000Z","pending_signals":["seen"]}
    = waiting(10:01|seen) in pause#2 after 3 lines: waiting_for_step_progression, to be woken at 10:01
    "#);
}

#[test]
fn why_a_run_is_where_it_is_never_is_that_a_step_became_current() {
    let table = [
        (Reason::WorkflowStarted, vec!["09:00 started"]),
        (
            Reason::WaitingForStepProgression,
            vec!["09:00 started", "09:01 delivered 1"],
        ),
        (
            Reason::ReactivatedFromWait,
            vec!["09:00 started", "09:01 delivered 1", "10:01 due"],
        ),
        (
            Reason::SignalReceived,
            vec!["09:00 started", "09:01 delivered 1", "10:00 signal 7 asked"],
        ),
        (
            Reason::ProgressedOnDeliveryOutcome,
            vec!["09:00 started", "09:01 bounced 1"],
        ),
        (
            Reason::WorkflowStopped,
            vec!["09:00 started", "09:01 delivered 1", "10:00 signal 7 seen"],
        ),
        (
            Reason::WorkflowCompleted,
            vec!["09:00 started", "09:01 bounced 1", "09:02 delivered 2"],
        ),
        (
            Reason::WorkflowCancelled,
            vec!["09:00 started", "09:01 cancelled"],
        ),
        (
            Reason::DeliveryPlannedAgain,
            vec!["09:00 started", "09:01 missing"],
        ),
        (
            Reason::MovedByHost,
            vec!["09:00 started", "09:01 delivered 1", "09:02 moved 2"],
        ),
    ];
    let mut covered = BTreeSet::from([Reason::StepActivated.as_str()]);
    for (reason, inputs) in [
        (Reason::ActionsPerformed, vec!["09:01 performed 1 0 1 {}"]),
        (Reason::ActionSent, vec!["09:01 performed 1 0 1 {}"]),
        (Reason::ActionFailed, vec!["09:01 refused 1 0 1 no"]),
        (
            Reason::WaitingForApproval,
            vec!["09:01 performed 1 0 1 {}", "09:02 delivered 1 action 1"],
        ),
        (
            Reason::ApprovalDecided,
            vec![
                "09:01 performed 1 0 1 {}",
                "09:02 delivered 1 action 1",
                "09:03 approved 2",
            ],
        ),
        (
            Reason::ConditionEvaluated,
            vec![
                "09:01 performed 1 0 1 {}",
                "09:02 delivered 1 action 1",
                "09:03 rejected 2",
            ],
        ),
        (
            Reason::WorkflowFailed,
            vec![
                "09:01 performed 1 0 1 {}",
                "09:02 delivered 1 action 1",
                "09:03 timed_out 2",
            ],
        ),
    ] {
        let workflow = workflow("business")
            .action("work", |work| {
                work.send_signal("a", json!({}))
                    .webhook("https://a.example")
            })
            .approval("ask", |ask| ask.user("ada"))
            .condition("urgent", "context.urgent")
            .condition("missing", "context.missing")
            .action("end", |work| work.send_signal("b", json!({})))
            .on("work", Outcome::Failed, To::step("end"))
            .on("ask", Outcome::Approved, To::step("end"))
            .on("ask", Outcome::Rejected, To::step("urgent"))
            .on("ask", Outcome::TimedOut, To::step("missing"))
            .on("urgent", Outcome::Met, To::step("end"));
        let inputs = [vec!["09:00 started"], inputs].concat();
        let story = tell_of(workflow, json!({ "urgent": true }), &inputs);
        let (_, lines) = story.answers.last().unwrap();
        let said = lines.iter().any(|line| line.contains(reason.as_str()));
        assert!(said, "{inputs:?}: {lines:?}");
        assert_ne!(story.run.status_reason, "step_activated");
        covered.insert(reason.as_str());
    }
    for (reason, inputs) in table {
        let workflow = workflow("journey")
            .notify("first", "log", "first")
            .wait("pause", "PT1H", |wait| {
                wait.stop_on("seen").release_on("asked", To::Next)
            })
            .notify("last", "log", "last")
            .on("first", Outcome::Bounced, To::step("last"));
        let story = tell(workflow, &inputs);
        assert_eq!(story.run.status_reason, reason.as_str(), "{inputs:?}");
        covered.insert(reason.as_str());
    }
    let every: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(covered, every, "a word is missing in the table");
}

#[test]
fn a_terminal_reason_reads_back_as_it_was_written() {
    let signal = |name: &str| TerminalReason::StopCondition(name.parse().unwrap());
    let failed = |code: &str| TerminalReason::Failed(code.to_owned());
    let mut table = vec![
        (TerminalReason::Completed, "completed".to_owned()),
        (TerminalReason::Cancelled, "cancelled".to_owned()),
        (
            signal("notification_read"),
            "stop_condition:notification_read".to_owned(),
        ),
        (
            signal("invoice:paid: twice"),
            "stop_condition:invoice:paid: twice".to_owned(),
        ),
        (failed("bad_expression"), "failed:bad_expression".to_owned()),
        (failed("a:b"), "failed:a:b".to_owned()),
    ];
    let others = Outcome::CONDITION.into_iter().chain(Outcome::APPROVAL);
    let all = Outcome::NOTIFY
        .into_iter()
        .chain(Outcome::WAIT)
        .chain(others);
    for outcome in all.chain(Outcome::WORK) {
        table.push((
            TerminalReason::Outcome(outcome),
            format!("outcome:{outcome}"),
        ));
    }
    for (reason, text) in table {
        assert_eq!(reason.to_string(), text);
        assert_eq!(TerminalReason::parse(&text), Some(reason), "{text}");
    }
    for text in [
        "",
        "complete",
        "completed:",
        "stop_condition",
        "stop_condition:",
        "outcome:",
        "outcome:lost",
        "failed",
        "cancelled_by:me",
    ] {
        assert_eq!(TerminalReason::parse(text), None, "{text}");
    }
}

#[test]
fn every_word_of_a_row_reads_back() {
    for word in Reason::ALL {
        assert_eq!(Reason::parse(word.as_str()), Some(*word));
    }
    for word in Noop::ALL {
        assert_eq!(Noop::parse(word.as_str()), Some(*word));
    }
    for word in DeliveryStatus::ALL {
        assert_eq!(DeliveryStatus::parse(word.as_str()), Some(*word));
    }
    for word in StateName::ALL {
        assert_eq!(StateName::parse(word.as_str()), Some(word));
    }
    assert_eq!(StateName::parse("born"), None);
    assert_eq!(Reason::parse("Workflow_started"), None);
}
