//! Journeys from beginning to end, with every decision in its place.

use super::*;
use crate::definition::To;

/// The journey of the guide.
fn mention() -> WorkflowBuilder {
    workflow("mention_escalation")
        .notify("in_app", "in_app", "mention_notification")
        .wait("wait_for_read", "PT2H", |wait| {
            wait.stop_on("notification_read")
        })
        .notify("email", "email", "mention_email")
}

#[test]
fn a_mention_that_nobody_reads_is_escalated() {
    let inputs = [
        "09:00 started",
        "09:01 delivered 1",
        "11:00 due",
        "11:01 due",
        "11:02 delivered 3",
        "11:03 delivered 3",
    ];
    insta::assert_snapshot!(history(mention(), &inputs), @r#"
    09:00 started
      new > active  in_app#0  workflow_started  {"workflow":"mention_escalation"}
      active > active  in_app#1  step_activated  {"step_key":"in_app"}
      plan  in_app#1  in_app
    09:01 delivered 1
      active > waiting(11:01|notification_read)  wait_for_read#2  waiting_for_step_progression  delivery 1  {"workflow_outcome":"delivered","delivery_status":"succeeded","from_step":"in_app","suspended_until":"2026-03-02T11:01:00.000000Z","pending_signals":["notification_read"]}
    11:00 due
      nothing: wait_not_due
    11:01 due
      waiting > active  wait_for_read#2  reactivated_from_wait  {"step_key":"wait_for_read"}
      active > active  email#3  step_activated  {"step_key":"email"}
      plan  email#3  email
    11:02 delivered 3
      active > completed  email#3  workflow_completed  delivery 3  {"workflow_outcome":"delivered","delivery_status":"succeeded","from_step":"email"}
    11:03 delivered 3
      nothing: run_not_active
    = completed in email#3 after 6 lines: workflow_completed
    "#);
}

#[test]
fn a_mention_that_is_read_during_the_wait_goes_no_further() {
    let inputs = [
        "09:00 started",
        "09:01 delivered 1",
        "10:00 signal 7 notification_seen",
        "10:30 signal 8 notification_read",
        "11:01 due",
        "11:02 signal 9 notification_read",
    ];
    insta::assert_snapshot!(history(mention(), &inputs), @r#"
    09:00 started
      new > active  in_app#0  workflow_started  {"workflow":"mention_escalation"}
      active > active  in_app#1  step_activated  {"step_key":"in_app"}
      plan  in_app#1  in_app
    09:01 delivered 1
      active > waiting(11:01|notification_read)  wait_for_read#2  waiting_for_step_progression  delivery 1  {"workflow_outcome":"delivered","delivery_status":"succeeded","from_step":"in_app","suspended_until":"2026-03-02T11:01:00.000000Z","pending_signals":["notification_read"]}
    10:00 signal 7 notification_seen
      nothing: not_listening
    10:30 signal 8 notification_read
      waiting > active  wait_for_read#2  signal_received  signal 8  {"event_name":"notification_read"}
      active > stopped(stop_condition:notification_read)  wait_for_read#2  workflow_stopped  {}
    11:01 due
      nothing: run_not_active
    11:02 signal 9 notification_read
      nothing: run_not_active
    = stopped(stop_condition:notification_read) in wait_for_read#2 after 5 lines: workflow_stopped
    "#);
}

#[test]
fn a_mention_read_before_the_wait_stops_as_soon_as_the_wait_is_entered() {
    // The caller tells the signal again once the run waits for it.
    let inputs = [
        "09:00 started",
        "09:01 signal 7 notification_read",
        "09:02 delivered 1",
        "09:02 signal 7 notification_read",
    ];
    insta::assert_snapshot!(history(mention(), &inputs), @r#"
    09:00 started
      new > active  in_app#0  workflow_started  {"workflow":"mention_escalation"}
      active > active  in_app#1  step_activated  {"step_key":"in_app"}
      plan  in_app#1  in_app
    09:01 signal 7 notification_read
      nothing: not_waiting
    09:02 delivered 1
      active > waiting(11:02|notification_read)  wait_for_read#2  waiting_for_step_progression  delivery 1  {"workflow_outcome":"delivered","delivery_status":"succeeded","from_step":"in_app","suspended_until":"2026-03-02T11:02:00.000000Z","pending_signals":["notification_read"]}
    09:02 signal 7 notification_read
      waiting > active  wait_for_read#2  signal_received  signal 7  {"event_name":"notification_read"}
      active > stopped(stop_condition:notification_read)  wait_for_read#2  workflow_stopped  {}
    = stopped(stop_condition:notification_read) in wait_for_read#2 after 5 lines: workflow_stopped
    "#);
}

#[test]
fn the_end_of_a_wait_is_the_first_instant_at_which_it_is_over() {
    let before = ["09:00 started", "09:01 delivered 1", "11:00:59.999999 due"];
    insta::assert_snapshot!(last(mention(), &before), @r"
    nothing: wait_not_due
    = waiting(11:01|notification_read) in wait_for_read#2 after 3 lines: waiting_for_step_progression, to be woken at 11:01
    ");
    let exactly = ["09:00 started", "09:01 delivered 1", "11:01:00 due"];
    insta::assert_snapshot!(last(mention(), &exactly), @r#"
    waiting > active  wait_for_read#2  reactivated_from_wait  {"step_key":"wait_for_read"}
    active > active  email#3  step_activated  {"step_key":"email"}
    plan  email#3  email
    = active in email#3 after 5 lines: reactivated_from_wait
    "#);
}

#[test]
fn a_bounced_message_skips_the_wait() {
    let bounced = mention().on("in_app", Outcome::Bounced, To::step("email"));
    insta::assert_snapshot!(last(bounced, &["09:00 started", "09:01 bounced 1"]), @r#"
    active > active  in_app#1  progressed_on_delivery_outcome  delivery 1  {"workflow_outcome":"bounced","delivery_status":"cancelled","from_step":"in_app","to_step":"email"}
    active > active  email#2  step_activated  {"step_key":"email"}
    plan  email#2  email
    = active in email#2 after 4 lines: progressed_on_delivery_outcome
    "#);
}

#[test]
fn a_failing_message_may_be_left_behind_while_it_is_tried_again() {
    let impatient = || {
        workflow("impatient")
            .notify("push", "webhook", "push")
            .wait("pause", "PT1H", |wait| wait.stop_on("seen"))
            .notify("email", "email", "email")
            .on("push", Outcome::TemporaryFailure, To::step("email"))
    };
    let inputs = [
        "09:00 started",
        "09:01 temporary_failure 1",
        "09:02 temporary_failure 1",
        "09:03 delivered 1",
        "09:04 delivered 2",
    ];
    insta::assert_snapshot!(history(impatient(), &inputs), @r#"
    09:00 started
      new > active  push#0  workflow_started  {"workflow":"impatient"}
      active > active  push#1  step_activated  {"step_key":"push"}
      plan  push#1  webhook
    09:01 temporary_failure 1
      active > active  push#1  progressed_on_delivery_outcome  delivery 1  {"workflow_outcome":"temporary_failure","delivery_status":"failed","from_step":"push","to_step":"email"}
      active > active  email#2  step_activated  {"step_key":"email"}
      plan  email#2  email
    09:02 temporary_failure 1
      nothing: superseded
    09:03 delivered 1
      nothing: superseded
    09:04 delivered 2
      active > completed  email#2  workflow_completed  delivery 2  {"workflow_outcome":"delivered","delivery_status":"succeeded","from_step":"email"}
      cancel unsent
    = completed in email#2 after 5 lines: workflow_completed
    "#);

    // Into a wait, where the late result is superseded too.
    let waiting = impatient().on("push", Outcome::TemporaryFailure, To::Next);
    let waiting = waiting.on("push", Outcome::Bounced, To::step("email"));
    let inputs = [
        "09:00 started",
        "09:01 temporary_failure 1",
        "09:02 bounced 1",
        "09:03 signal 7 seen",
    ];
    insta::assert_snapshot!(history(waiting, &inputs), @r#"
    09:00 started
      new > active  push#0  workflow_started  {"workflow":"impatient"}
      active > active  push#1  step_activated  {"step_key":"push"}
      plan  push#1  webhook
    09:01 temporary_failure 1
      active > waiting(10:01|seen)  pause#2  waiting_for_step_progression  delivery 1  {"workflow_outcome":"temporary_failure","delivery_status":"failed","from_step":"push","suspended_until":"2026-03-02T10:01:00.000000Z","pending_signals":["seen"]}
    09:02 bounced 1
      nothing: superseded
    09:03 signal 7 seen
      waiting > active  pause#2  signal_received  signal 7  {"event_name":"seen"}
      active > stopped(stop_condition:seen)  pause#2  workflow_stopped  {}
      cancel unsent
    = stopped(stop_condition:seen) in pause#2 after 5 lines: workflow_stopped
    "#);
}

#[test]
fn a_failing_message_that_no_step_names_is_waited_for() {
    let inputs = ["09:00 started", "09:01 temporary_failure 1"];
    insta::assert_snapshot!(last(mention(), &inputs), @r"
    nothing: no_progress_rules
    = active in in_app#1 after 2 lines: workflow_started
    ");
    let inputs = [
        "09:00 started",
        "09:01 temporary_failure 1",
        "09:10 retries_exhausted 1",
    ];
    insta::assert_snapshot!(last(mention(), &inputs), @r#"
    active > waiting(11:10|notification_read)  wait_for_read#2  waiting_for_step_progression  delivery 1  {"workflow_outcome":"retries_exhausted","delivery_status":"cancelled","from_step":"in_app","suspended_until":"2026-03-02T11:10:00.000000Z","pending_signals":["notification_read"]}
    = waiting(11:10|notification_read) in wait_for_read#2 after 3 lines: waiting_for_step_progression, to be woken at 11:10
    "#);
}

#[test]
fn a_loop_sends_its_message_once_a_visit() {
    let reminding = workflow("reminding")
        .notify("remind", "log", "remind")
        .wait("pause", "PT1H", |wait| wait.stop_on("paid"))
        .on("pause", Outcome::Elapsed, To::step("remind"));
    let inputs = [
        "09:00 started",
        "09:00 delivered 1",
        "10:00 due",
        "10:00 delivered 1",
        "10:00 delivered 3",
        "10:01 signal 7 paid",
    ];
    insta::assert_snapshot!(history(reminding, &inputs), @r#"
    09:00 started
      new > active  remind#0  workflow_started  {"workflow":"reminding"}
      active > active  remind#1  step_activated  {"step_key":"remind"}
      plan  remind#1  log
    09:00 delivered 1
      active > waiting(10:00|paid)  pause#2  waiting_for_step_progression  delivery 1  {"workflow_outcome":"delivered","delivery_status":"succeeded","from_step":"remind","suspended_until":"2026-03-02T10:00:00.000000Z","pending_signals":["paid"]}
    10:00 due
      waiting > active  pause#2  reactivated_from_wait  {"step_key":"pause"}
      active > active  remind#3  step_activated  {"step_key":"remind"}
      plan  remind#3  log
    10:00 delivered 1
      nothing: superseded
    10:00 delivered 3
      active > waiting(11:00|paid)  pause#4  waiting_for_step_progression  delivery 3  {"workflow_outcome":"delivered","delivery_status":"succeeded","from_step":"remind","suspended_until":"2026-03-02T11:00:00.000000Z","pending_signals":["paid"]}
    10:01 signal 7 paid
      waiting > active  pause#4  signal_received  signal 7  {"event_name":"paid"}
      active > stopped(stop_condition:paid)  pause#4  workflow_stopped  {}
    = stopped(stop_condition:paid) in pause#4 after 8 lines: workflow_stopped
    "#);
}
