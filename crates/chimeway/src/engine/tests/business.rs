//! Conditions, approvals, actions and a host's own kinds, with every decision in its place.

use serde_json::json;

use super::*;
use crate::definition::To;

fn history_of(workflow: WorkflowBuilder, context: Value, inputs: &[&str]) -> String {
    let story = tell_of(workflow, context, inputs);
    let mut text = String::new();
    for (input, lines) in &story.answers {
        writeln!(text, "{input}").unwrap();
        for line in lines {
            writeln!(text, "  {line}").unwrap();
        }
    }
    text + "= " + &story.place()
}

/// The purchase of the seed: large ones need the manager.
fn purchase() -> WorkflowBuilder {
    workflow("purchase")
        .condition("large", "context.amount > 1000")
        .approval("manager", |ask| ask.role("manager").timeout("72h"))
        .action("accept", |work| {
            work.set_field("order", "context.order", "status", "approved")
        })
        .action("refuse", |work| {
            work.set_field("order", "context.order", "status", "rejected")
        })
        .on("large", Outcome::Unmet, To::step("accept"))
        .on("manager", Outcome::Rejected, To::step("refuse"))
        .on("accept", Outcome::Succeeded, To::Complete)
}

#[test]
fn a_large_purchase_waits_for_the_manager() {
    let inputs = [
        "09:00 started",
        "09:00 due",
        "10:00 due",
        "11:00 approved 2",
        "11:00 due",
        "11:00 performed 3 0 1 {}",
    ];
    let context = json!({ "amount": 1500, "order": 7 });
    insta::assert_snapshot!(history_of(purchase(), context, &inputs), @r#"
    09:00 started
      new > active  large#0  workflow_started  {"workflow":"purchase"}
      active > active  large#1  step_activated  {"step_key":"large"}
    09:00 due
      active > active  large#1  condition_evaluated  {"step_key":"large","workflow_outcome":"met"}
      active > asking(09:00)  manager#2  waiting_for_approval  {"suspended_until":"2026-03-05T09:00:00.000000Z"}
      ask  manager#2  Role(RoleName("manager"))  until 09:00
    10:00 due
      nothing: approval_open
    11:00 approved 2
      waiting > active  manager#2  approval_decided  approval 2  {"step_key":"manager","workflow_outcome":"approved"}
      active > active  accept#3  step_activated  {"step_key":"accept"}
    11:00 due
      execute  accept#3  0..1
    11:00 performed 3 0 1 {}
      active > active  accept#3  actions_performed  {"step_key":"accept","actions":1}
      active > completed  accept#3  workflow_completed  {}
    = completed in accept#3 after 8 lines: workflow_completed
    "#);
}

#[test]
fn a_small_purchase_needs_nobody() {
    let inputs = ["09:00 started", "09:00 due", "09:00 due"];
    let context = json!({ "amount": 15, "order": 7 });
    insta::assert_snapshot!(history_of(purchase(), context, &inputs), @r#"
    09:00 started
      new > active  large#0  workflow_started  {"workflow":"purchase"}
      active > active  large#1  step_activated  {"step_key":"large"}
    09:00 due
      active > active  large#1  condition_evaluated  {"step_key":"large","workflow_outcome":"unmet"}
      active > active  accept#2  step_activated  {"step_key":"accept"}
    09:00 due
      execute  accept#2  0..1
    = active in accept#2 after 4 lines: condition_evaluated, to be woken at 09:00
    "#);
}

#[test]
fn what_nobody_decides_in_time_stops() {
    let inputs = [
        "09:00 started",
        "09:00 due",
        "23:00 timed_out 2",
        "23:01 approved 2",
    ];
    let context = json!({ "amount": 1500 });
    insta::assert_snapshot!(history_of(purchase(), context, &inputs), @r#"
    09:00 started
      new > active  large#0  workflow_started  {"workflow":"purchase"}
      active > active  large#1  step_activated  {"step_key":"large"}
    09:00 due
      active > active  large#1  condition_evaluated  {"step_key":"large","workflow_outcome":"met"}
      active > asking(09:00)  manager#2  waiting_for_approval  {"suspended_until":"2026-03-05T09:00:00.000000Z"}
      ask  manager#2  Role(RoleName("manager"))  until 09:00
    23:00 timed_out 2
      waiting > active  manager#2  approval_decided  approval 2  {"step_key":"manager","workflow_outcome":"timed_out"}
      active > stopped(outcome:timed_out)  manager#2  workflow_stopped  {}
    23:01 approved 2
      nothing: run_not_active
    = stopped(outcome:timed_out) in manager#2 after 6 lines: workflow_stopped
    "#);
}

#[test]
fn an_approval_that_is_left_is_withdrawn() {
    let waiting = ["09:00 started", "09:00 due"];
    for (input, ends) in [("09:01 cancelled", true), ("09:01 moved 2", false)] {
        let inputs = [&waiting[..], &[input]].concat();
        let story = tell_of(purchase(), json!({ "amount": 1500 }), &inputs);
        let (_, lines) = story.answers.last().unwrap();
        assert!(lines.contains(&"withdraw".to_owned()), "{lines:?}");
        assert_eq!(story.run.state.is_terminal(), ends);
    }
}

#[test]
fn a_condition_that_cannot_be_told_fails_its_run() {
    let table = [
        (json!({}), "expression_missing_name", "amount"),
        (json!({ "amount": "1500" }), "expression_type_error", "_>_"),
        (json!({ "amount": null }), "expression_type_error", "_>_"),
    ];
    for (context, code, name) in table {
        let story = tell_of(purchase(), context.clone(), &["09:00 started", "09:00 due"]);
        assert_eq!(
            state(&story.run.state),
            format!("failed(failed:{code})"),
            "{context}"
        );
        let (_, lines) = story.answers.last().unwrap();
        let said = lines.last().unwrap();
        assert!(said.contains(name) && said.contains(code), "{said}");
        // Names, no values.
        assert!(!said.contains("1500"), "{said}");
    }
}

#[test]
fn an_assignee_is_looked_up_in_the_context() {
    let workflow = || workflow("k").approval("ask", |ask| ask.path("context.order.manager"));
    let inputs = ["09:00 started", "09:00 due"];
    let context = json!({ "order": { "manager": "ada" } });
    insta::assert_snapshot!(history_of(workflow(), context, &inputs), @r#"
    09:00 started
      new > active  ask#0  workflow_started  {"workflow":"k"}
      active > active  ask#1  step_activated  {"step_key":"ask"}
    09:00 due
      active > asking(-)  ask#1  waiting_for_approval  {}
      ask  ask#1  User(ActorId("ada"))  until -
    = asking(-) in ask#1 after 3 lines: waiting_for_approval
    "#);
    for context in [
        json!({}),
        json!({ "order": { "manager": 7 } }),
        json!({ "order": { "manager": " " } }),
    ] {
        let story = tell_of(workflow(), context, &inputs);
        assert_eq!(state(&story.run.state), "failed(failed:assignee_missing)");
    }
}

#[test]
fn an_action_step_goes_on_with_what_its_message_came_to() {
    let work = workflow("k").action("work", |work| {
        work.send_signal("a", json!({}))
            .webhook("https://a.example")
            .send_signal("b", json!({}))
            .webhook("https://b.example")
    });
    let inputs = [
        "09:00 started",
        "09:00 due",
        "09:00 performed 1 0 1 {\"a\":1}",
        "09:01 temporary_failure 1 action 1",
        "09:02 delivered 1 action 1",
        "09:02 performed 1 2 3 {}",
        "09:03 delivered 1 action 3",
    ];
    insta::assert_snapshot!(history_of(work, json!({}), &inputs), @r#"
    09:00 started
      new > active  work#0  workflow_started  {"workflow":"k"}
      active > active  work#1  step_activated  {"step_key":"work"}
    09:00 due
      execute  work#1  0..1
    09:00 performed 1 0 1 {"a":1}
      remember  {"a":1}
      active > active  work#1  actions_performed  {"step_key":"work","actions":1}
      active > active  work#1  action_sent  {"step_key":"work","action":"webhook","action_index":1}
      plan  work#1  webhook  action 1
    09:01 temporary_failure 1 action 1
      nothing: no_progress_rules
    09:02 delivered 1 action 1
      execute  work#1  2..3
    09:02 performed 1 2 3 {}
      active > active  work#1  actions_performed  {"step_key":"work","actions":1}
      active > active  work#1  action_sent  {"step_key":"work","action":"webhook","action_index":3}
      plan  work#1  webhook  action 3
    09:03 delivered 1 action 3
      active > completed  work#1  workflow_completed  delivery 1  {"workflow_outcome":"succeeded","delivery_status":"succeeded","from_step":"work"}
    = completed in work#1 after 7 lines: workflow_completed
    "#);
}

#[test]
fn an_action_that_fails_leads_on_or_fails_the_run() {
    let work = || {
        workflow("k")
            .action("work", |work| work.webhook("https://a.example"))
            .notify("told", "log", "told")
    };
    let failing = ["09:00 started", "09:00 due", "09:01 permanent_failure 1"];
    let story = tell_of(work(), json!({}), &failing);
    assert_eq!(state(&story.run.state), "failed(failed:permanent_failure)");

    let leads = work().on("work", Outcome::Failed, To::step("told"));
    let story = tell_of(leads, json!({}), &failing);
    assert_eq!(step(&story.run, story.run.step, story.run.visit), "told#2");

    let refused = [
        "09:00 started",
        "09:00 due",
        "09:00 refused 1 0 1 not_allowed",
    ];
    let write = workflow("k").action("work", |work| work.set_field("order", 1, "status", "done"));
    let story = tell_of(write, json!({}), &refused);
    assert_eq!(state(&story.run.state), "failed(failed:not_allowed)");
}

#[test]
fn what_is_performed_is_remembered_and_bounded() {
    let work = || {
        workflow("k")
            .action("work", |work| work.send_signal("a", json!({})))
            .condition("paid", "context.paid")
    };
    let paid = [
        "09:00 started",
        "09:00 due",
        "09:00 performed 1 0 1 {\"paid\":true}",
    ];
    insta::assert_snapshot!(tell_of(work(), json!({}), &paid).last(), @r#"
    remember  {"paid":true}
    active > active  work#1  actions_performed  {"step_key":"work","actions":1}
    active > active  paid#2  step_activated  {"step_key":"paid"}
    active > active  paid#2  condition_evaluated  {"step_key":"paid","workflow_outcome":"met"}
    active > completed  paid#2  workflow_completed  {}
    = completed in paid#2 after 6 lines: workflow_completed
    "#);

    let much = format!(
        "09:00 performed 1 0 1 {{\"much\":\"{}\"}}",
        "x".repeat(70_000)
    );
    let story = tell_of(work(), json!({}), &["09:00 started", "09:00 due", &much]);
    assert_eq!(state(&story.run.state), "failed(failed:context_too_large)");
}

#[test]
fn a_long_chain_of_conditions_takes_more_than_one_transaction() {
    let chain = (0..80).fold(workflow("k"), |workflow, place| {
        workflow.condition(format!("c{place}"), "true")
    });
    let mut story = tell_of(chain, json!({}), &["09:00 started", "09:00 due"]);
    assert_eq!(story.run.state, RunState::Active);
    assert_eq!(story.run.visit, Visit(34));
    assert_eq!(story.run.wake_at(at("09:00")), Some(at("09:00")));
    for _ in 0..2 {
        let Verdict::Move(decisions) = decide(&story.run, &Input::Due, at("09:00")) else {
            panic!("it goes on");
        };
        story.run = story.run.after(&decisions);
    }
    assert_eq!(story.run.state, RunState::Completed);
}

#[test]
fn without_what_it_looks_into_a_step_is_entered_later() {
    let born = born(purchase());
    let story = tell_run(born, &["09:00 started"]);
    assert_eq!(
        story.place(),
        "active in large#1 after 2 lines: workflow_started, to be woken at 09:00"
    );
}
