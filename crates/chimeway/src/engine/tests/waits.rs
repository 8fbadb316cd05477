//! Waits: how they are entered, what ends them, and where they lead.

use super::*;
use crate::definition::To;

#[test]
fn a_signal_that_releases_a_wait_leads_where_its_condition_says() {
    let asking = |then: To| {
        workflow("ask")
            .wait("pause", "PT1H", |wait| {
                wait.stop_on("gone").release_on("asked", then)
            })
            .notify("next", "log", "next")
            .wait("later", "PT3H", |wait| wait)
            .notify("last", "log", "last")
    };
    let inputs = ["09:00 started", "09:00 due", "09:30 signal 7 asked"];
    let told = |then: To| last(asking(then), &inputs);
    insta::assert_snapshot!(told(To::Next), @r#"
    waiting > active  pause#1  signal_received  signal 7  {"event_name":"asked"}
    active > active  next#2  step_activated  {"step_key":"next"}
    plan  next#2  log
    = active in next#2 after 5 lines: signal_received
    "#);
    insta::assert_snapshot!(told(To::step("last")), @r#"
    waiting > active  pause#1  signal_received  signal 7  {"event_name":"asked"}
    active > active  last#2  step_activated  {"step_key":"last"}
    plan  last#2  log
    = active in last#2 after 5 lines: signal_received
    "#);
    insta::assert_snapshot!(told(To::step("later")), @r#"
    waiting > active  pause#1  signal_received  signal 7  {"event_name":"asked"}
    active > waiting(12:30|)  later#2  waiting_for_step_progression  {"suspended_until":"2026-03-02T12:30:00.000000Z","pending_signals":[]}
    = waiting(12:30|) in later#2 after 5 lines: waiting_for_step_progression, to be woken at 12:30
    "#);
    insta::assert_snapshot!(told(To::Complete), @r#"
    waiting > active  pause#1  signal_received  signal 7  {"event_name":"asked"}
    active > completed  pause#1  workflow_completed  {}
    = completed in pause#1 after 5 lines: workflow_completed
    "#);
    insta::assert_snapshot!(told(To::Stop), @r#"
    waiting > active  pause#1  signal_received  signal 7  {"event_name":"asked"}
    active > stopped(stop_condition:asked)  pause#1  workflow_stopped  {}
    = stopped(stop_condition:asked) in pause#1 after 5 lines: workflow_stopped
    "#);
    let gone = ["09:00 started", "09:00 due", "09:30 signal 7 gone"];
    insta::assert_snapshot!(last(asking(To::Next), &gone), @r#"
    waiting > active  pause#1  signal_received  signal 7  {"event_name":"gone"}
    active > stopped(stop_condition:gone)  pause#1  workflow_stopped  {}
    = stopped(stop_condition:gone) in pause#1 after 5 lines: workflow_stopped
    "#);
}

#[test]
fn time_that_is_over_leads_where_the_step_says() {
    let pausing = |to: To| {
        workflow("pause")
            .wait("pause", "PT1H", |wait| wait.release_on("asked", To::Next))
            .notify("next", "log", "next")
            .wait("later", "PT3H", |wait| wait)
            .on("pause", Outcome::Elapsed, to)
    };
    let inputs = ["09:00 started", "09:00 due", "10:00 due"];
    let told = |to: To| last(pausing(to), &inputs);
    insta::assert_snapshot!(told(To::Next), @r#"
    waiting > active  pause#1  reactivated_from_wait  {"step_key":"pause"}
    active > active  next#2  step_activated  {"step_key":"next"}
    plan  next#2  log
    = active in next#2 after 5 lines: reactivated_from_wait
    "#);
    insta::assert_snapshot!(told(To::step("later")), @r#"
    waiting > active  pause#1  reactivated_from_wait  {"step_key":"pause"}
    active > waiting(13:00|)  later#2  waiting_for_step_progression  {"suspended_until":"2026-03-02T13:00:00.000000Z","pending_signals":[]}
    = waiting(13:00|) in later#2 after 5 lines: waiting_for_step_progression, to be woken at 13:00
    "#);
    insta::assert_snapshot!(told(To::Complete), @r#"
    waiting > active  pause#1  reactivated_from_wait  {"step_key":"pause"}
    active > completed  pause#1  workflow_completed  {}
    = completed in pause#1 after 5 lines: workflow_completed
    "#);
    insta::assert_snapshot!(told(To::Stop), @r#"
    waiting > active  pause#1  reactivated_from_wait  {"step_key":"pause"}
    active > stopped(outcome:elapsed)  pause#1  workflow_stopped  {}
    = stopped(outcome:elapsed) in pause#1 after 5 lines: workflow_stopped
    "#);
}

#[test]
fn a_journey_that_begins_with_a_wait_enters_it_in_the_same_visit() {
    let patient = || {
        workflow("patient")
            .wait("pause", "PT1H", |wait| wait.stop_on("seen"))
            .notify("email", "email", "email")
    };
    let inputs = [
        "09:00 started",
        "09:01 signal 7 seen",
        "09:02 due",
        "10:02 due",
    ];
    insta::assert_snapshot!(last(patient(), &inputs[..1]), @r#"
    new > active  pause#0  workflow_started  {"workflow":"patient"}
    active > active  pause#1  step_activated  {"step_key":"pause"}
    = active in pause#1 after 2 lines: workflow_started, to be woken at 09:00
    "#);
    insta::assert_snapshot!(history(patient(), &inputs), @r#"
    09:00 started
      new > active  pause#0  workflow_started  {"workflow":"patient"}
      active > active  pause#1  step_activated  {"step_key":"pause"}
    09:01 signal 7 seen
      nothing: not_waiting
    09:02 due
      active > waiting(10:02|seen)  pause#1  waiting_for_step_progression  {"suspended_until":"2026-03-02T10:02:00.000000Z","pending_signals":["seen"]}
    10:02 due
      waiting > active  pause#1  reactivated_from_wait  {"step_key":"pause"}
      active > active  email#2  step_activated  {"step_key":"email"}
      plan  email#2  email
    = active in email#2 after 5 lines: reactivated_from_wait
    "#);
}

#[test]
fn a_wait_that_repeats_is_a_new_visit_each_time() {
    let hourly = workflow("hourly")
        .wait("pause", "PT1H", |wait| {
            wait.release_on("again", To::step("pause"))
        })
        .on("pause", Outcome::Elapsed, To::step("pause"));
    let inputs = [
        "09:00 started",
        "09:00 due",
        "10:00 due",
        "10:15 signal 7 again",
        "11:00 due",
    ];
    insta::assert_snapshot!(history(hourly, &inputs), @r#"
    09:00 started
      new > active  pause#0  workflow_started  {"workflow":"hourly"}
      active > active  pause#1  step_activated  {"step_key":"pause"}
    09:00 due
      active > waiting(10:00|again)  pause#1  waiting_for_step_progression  {"suspended_until":"2026-03-02T10:00:00.000000Z","pending_signals":["again"]}
    10:00 due
      waiting > active  pause#1  reactivated_from_wait  {"step_key":"pause"}
      active > waiting(11:00|again)  pause#2  waiting_for_step_progression  {"suspended_until":"2026-03-02T11:00:00.000000Z","pending_signals":["again"]}
    10:15 signal 7 again
      waiting > active  pause#2  signal_received  signal 7  {"event_name":"again"}
      active > waiting(11:15|again)  pause#3  waiting_for_step_progression  {"suspended_until":"2026-03-02T11:15:00.000000Z","pending_signals":["again"]}
    11:00 due
      nothing: wait_not_due
    = waiting(11:15|again) in pause#3 after 7 lines: waiting_for_step_progression, to be woken at 11:15
    "#);
}
