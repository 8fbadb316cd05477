//! What is wrong with a document in the rule dialect.

use super::{BASE, WAIT, accept, check, with_rules};

#[track_caller]
fn refuse(yaml: &str) -> String {
    check(yaml).expect_err(yaml)
}

/// The rules one by one, each in a document that is sound but for it.
fn refuse_rules(rules: &[&str]) -> String {
    let refused = rules.iter().map(|rule| refuse(&with_rules(&[rule])));
    refused.collect::<Vec<_>>().join("\n")
}

/// Scenarios 2, 3, 7, 8, 18.
#[test]
fn a_workflow_has_a_key_a_version_and_steps() {
    insta::assert_snapshot!(refuse("workflow_key: k"), @"
    `workflow_version` is missing
    `steps` is missing
    ");
    insta::assert_snapshot!(refuse("workflow_version: 1"), @"
    `workflow_key` is missing
    `steps` is missing
    ");
    insta::assert_snapshot!(refuse("{workflow_key: ' ', workflow_version: 0, steps: []}"), @"
    /workflow_key: the workflow key is blank
    /workflow_version: a version is a whole number from 1 to 2147483647, found 0
    /steps: a workflow needs at least one step
    ");
    insta::assert_snapshot!(refuse("{workflow_key: 1, workflow_version: '1', steps: {}, source: notifier}"), @r#"
    /workflow_key: expected a string, found 1
    /workflow_version: a version is a whole number from 1 to 2147483647, found "1"
    /steps: expected a list, found an object
    "#);
    insta::assert_snapshot!(refuse("
workflow_key: k
workflow_version: 1
steps:
  - {step_key: a, step_order: 1, channel: ' '}
"), @"/steps/0/channel: the channel is blank");
}

/// Scenarios 4, 5, 6.
#[test]
fn step_keys_and_orders_are_given_once_and_without_gaps() {
    let steps = |steps: &str| {
        refuse(&format!(
            "workflow_key: k\nworkflow_version: 1\nsteps: [{steps}]"
        ))
    };
    insta::assert_snapshot!(steps(
        "{step_key: email, step_order: 1, channel: log}, {step_key: ' email', step_order: 2, channel: log}"
    ), @"/steps/1/step_key: the step id `email` is taken by /steps/0/step_key");
    insta::assert_snapshot!(steps(
        "{step_key: a, step_order: 1, channel: log}, {step_key: b, step_order: 1, channel: log}"
    ), @"/steps/1/step_order: the step order 1 is taken by /steps/0/step_order");
    insta::assert_snapshot!(steps("{step_key: a, step_order: 3, channel: log}"), @"/steps/0/step_order: a step order is a whole number from 1 to the number of steps (1), found 3; number the steps 1, 2, 3 .. without gaps");
    insta::assert_snapshot!(steps(
        "{step_key: '', step_order: 0, channel: log}, {step_key: b, step_order: 1.5, channel: log},
         {step_key: c, step_order: '3', channel: log}, {channel: log}"
    ), @r#"
    /steps/0/step_key: the step id is blank
    /steps/0/step_order: a step order is a whole number from 1 to the number of steps (4), found 0; number the steps 1, 2, 3 .. without gaps
    /steps/1/step_order: a step order is a whole number from 1 to the number of steps (4), found 1.5; number the steps 1, 2, 3 .. without gaps
    /steps/2/step_order: a step order is a whole number from 1 to the number of steps (4), found "3"; number the steps 1, 2, 3 .. without gaps
    /steps/3: `step_key` is missing
    /steps/3: `step_order` is missing
    "#);
}

/// Scenarios 10, 11, 12, 13, 14.
#[test]
fn a_rule_is_of_one_kind_and_has_exactly_its_keys() {
    insta::assert_snapshot!(refuse_rules(&[
        &WAIT.replace("prior_delivery_terminal_at", "comment_created_at"),
        "{kind: on_outcome, outcome: delayed, to_step: email}",
        "{kind: on_outcome, outcome: elapsed, to_step: email}",
        "{kind: on_outcome, outcome: bounced, to_step: ''}",
        &WAIT.replace('}', ", outcome: bounced}"),
        "{kind: stop, outcome: bounced, to_step: email}",
        "{kind: on_outcome, outcome: bounced, to_step: email, delay: 3}",
        "{kind: sleep, delay_seconds: 3, delay: 3}",
        "{kind: wait-until}",
        "{kind: wait_until}",
        "{kind: 3}",
        "{}",
        "stop",
    ]), @r#"
    /steps/0/config/progress/0/anchor: unknown anchor `comment_created_at`; known: prior_delivery_terminal_at
    /steps/0/config/progress/0/outcome: unknown outcome `delayed`; did you mean `delivered`?
    /steps/0/config/progress/0/outcome: unknown outcome `elapsed`; known: delivered, suppressed, temporary_failure, retries_exhausted, permanent_failure, bounced
    /steps/0/config/progress/0/to_step: the step id is blank
    /steps/0/config/progress/0/outcome: `outcome` is not a key of a `wait_until` rule but of another kind; a `wait_until` rule has: kind, anchor, delay_seconds, to_step, cancel_signals
    /steps/0/config/progress/0/to_step: `to_step` is not a key of a `stop` rule but of another kind; a `stop` rule has: kind, outcome
    /steps/0/config/progress/0/delay: unknown key `delay`; known: kind, outcome, to_step
    /steps/0/config/progress/0/kind: unknown kind of rule `sleep`; known: wait_until, on_outcome, stop
    /steps/0/config/progress/0/delay: unknown key `delay`; no kind of rule has it
    /steps/0/config/progress/0/kind: unknown kind of rule `wait-until`; did you mean `wait_until`?
    /steps/0/config/progress/0: `anchor` is missing
    /steps/0/config/progress/0: `delay_seconds` is missing
    /steps/0/config/progress/0: `to_step` is missing
    /steps/0/config/progress/0/kind: expected a string, found 3
    /steps/0/config/progress/0: `kind` is missing
    /steps/0/config/progress/0: expected an object, found "stop"
    "#);
}

/// Scenario 14.
#[test]
fn a_delay_is_whole_seconds() {
    let delays = [
        "0",
        "-1",
        "1.5",
        "'1800'",
        "PT30M",
        "PT0.5S",
        "null",
        "315360001",
        "99999999999999999999",
    ];
    let refused = delays.map(|delay| refuse_rules(&[&WAIT.replace("60", delay)]));
    insta::assert_snapshot!(refused.join("\n"), @r#"
    /steps/0/config/progress/0/delay_seconds: a delay is a whole number of seconds from 1 to 315360000, found 0
    /steps/0/config/progress/0/delay_seconds: a delay is a whole number of seconds from 1 to 315360000, found -1
    /steps/0/config/progress/0/delay_seconds: a delay is a whole number of seconds from 1 to 315360000, found 1.5
    /steps/0/config/progress/0/delay_seconds: a delay is a whole number of seconds from 1 to 315360000, found "1800"
    /steps/0/config/progress/0/delay_seconds: a delay is a whole number of seconds from 1 to 315360000, found "PT30M"; write `1800`
    /steps/0/config/progress/0/delay_seconds: a delay is a whole number of seconds from 1 to 315360000, found "PT0.5S"
    /steps/0/config/progress/0/delay_seconds: a delay is a whole number of seconds from 1 to 315360000, found nothing
    /steps/0/config/progress/0/delay_seconds: a delay is a whole number of seconds from 1 to 315360000, found 315360001
    /steps/0/config/progress/0/delay_seconds: a delay is a whole number of seconds from 1 to 315360000, found 1e+20
    "#);
    accept(&with_rules(&[&WAIT.replace("60", "315360000")]));
}

/// Scenario 14.
#[test]
fn cancel_signals_are_at_most_ten_names() {
    let signals =
        |list: &str| refuse_rules(&[&WAIT.replace('}', &format!(", cancel_signals: {list}}}"))]);
    let lists = [
        "[a, b, c, d, e, f, g, h, i, j, k]",
        "[a, ' ', ' ']",
        "[3, null, a, a]",
        "a",
        "null",
        "[\"a\\u0007\"]",
    ];
    insta::assert_snapshot!(lists.map(signals).join("\n"), @r#"
    /steps/0/config/progress/0/cancel_signals: 11 cancel signals are too many, at most 10 are allowed
    /steps/0/config/progress/0/cancel_signals/1: the signal name is blank
    /steps/0/config/progress/0/cancel_signals/2: the signal name is blank
    /steps/0/config/progress/0/cancel_signals/0: expected a string, found 3
    /steps/0/config/progress/0/cancel_signals/1: expected a string, found nothing
    /steps/0/config/progress/0/cancel_signals: expected a list, found "a"
    /steps/0/config/progress/0/cancel_signals: expected a list, found nothing
    /steps/0/config/progress/0/cancel_signals/0: the signal name holds a control character
    "#);
}

/// Scenario 181.
#[test]
fn a_rule_leads_to_a_step_of_the_document() {
    insta::assert_snapshot!(refuse_rules(&[
        "{kind: on_outcome, outcome: bounced, to_step: emial}",
        &WAIT.replace("to_step: email", "to_step: sms"),
        // A wait is no step of the document.
        &WAIT.replace("to_step: email", "to_step: in_app.wait"),
    ]), @"
    /steps/0/config/progress/0/to_step: there is no step named `emial`; did you mean `email`?
    /steps/0/config/progress/0/to_step: there is no step named `sms`
    /steps/0/config/progress/0/to_step: there is no step named `in_app.wait`; did you mean `in_app`?
    ");
}

#[test]
fn a_step_has_one_rule_for_an_outcome_and_one_that_waits() {
    let rules = [
        "{kind: on_outcome, outcome: bounced, to_step: email}",
        WAIT,
        "{kind: stop, outcome: bounced}",
        WAIT,
        "{kind: stop, outcome: suppressed}",
    ];
    insta::assert_snapshot!(refuse(&with_rules(&rules)), @"
    /steps/0/config/progress/2: a rule for `bounced` is given already by /steps/0/config/progress/0; keep one of them
    /steps/0/config/progress/3: a `wait_until` rule is given already by /steps/0/config/progress/1; a step waits once
    ");
    // Also where the first one has a mistake of its own.
    let broken = [
        "{kind: on_outcome, outcome: bounced, to_step: sms}",
        "{kind: stop, outcome: bounced}",
    ];
    insta::assert_snapshot!(refuse(&with_rules(&broken)), @"
    /steps/0/config/progress/0/to_step: there is no step named `sms`
    /steps/0/config/progress/1: a rule for `bounced` is given already by /steps/0/config/progress/0; keep one of them
    ");
}

#[test]
fn the_name_of_a_wait_is_taken_or_too_long() {
    let taken = with_rules(&[WAIT]).replace("email", "in_app.wait");
    let taken = taken.replace("channel: in_app.wait", "channel: email");
    insta::assert_snapshot!(refuse(&taken), @"/steps/0/config/progress/0: the wait of this rule is the step `in_app.wait`, and that name is taken by /steps/1/step_key; rename that step");
    let long = "x".repeat(251);
    let long =
        refuse(&with_rules(&[WAIT]).replace("step_key: in_app", &format!("step_key: {long}")));
    insta::assert_snapshot!(long, @"/steps/0/config/progress/0: the step id is longer than 255 bytes; the wait is the step `<step_key>.wait`; shorten the `step_key`");
    accept(&with_rules(&[WAIT]).replace(
        "step_key: in_app",
        &format!("step_key: {}", "x".repeat(250)),
    ));
    let long = refuse(&BASE.replace("comment.escalation", &"x".repeat(249)));
    insta::assert_snapshot!(long, @"/steps/0: the render key is longer than 255 bytes; the workflow key and the channel make it; give the step a `render_key`");
}

#[test]
fn every_step_is_reached_and_a_loop_takes_time() {
    // Nothing leads from the first step.
    insta::assert_snapshot!(refuse(&with_rules(&[])), @"/steps/1: nothing leads to the step `email`; name it as `to_step` in a rule of another step, or delete it");
    // The place in the file counts, not the one in the plan; and a step is reported with its wait.
    insta::assert_snapshot!(refuse("
workflow_key: k
workflow_version: 1
steps:
  - step_key: b
    step_order: 2
    channel: log
    config: {progress: [{kind: wait_until, anchor: prior_delivery_terminal_at, delay_seconds: 1, to_step: c}]}
  - {step_key: c, step_order: 3, channel: log}
  - {step_key: a, step_order: 1, channel: log}
"), @"
    /steps/0: nothing leads to the step `b`; name it as `to_step` in a rule of another step, or delete it
    /steps/1: nothing leads to the step `c`; name it as `to_step` in a rule of another step, or delete it
    ");
    // Each outcome has a rule, so that the wait never begins.
    let all = [
        "delivered",
        "suppressed",
        "retries_exhausted",
        "permanent_failure",
        "bounced",
    ];
    let mut rules = all
        .map(|outcome| format!("{{kind: on_outcome, outcome: {outcome}, to_step: email}}"))
        .to_vec();
    rules.push(WAIT.to_owned());
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    insta::assert_snapshot!(refuse(&with_rules(&rules)), @"/steps/0/config/progress/5: nothing leads to the step `in_app.wait`; each outcome of its step has another rule; delete one of those, or this one");
    accept(&with_rules(&rules[1..]));
    // Back and forth with no wait.
    insta::assert_snapshot!(refuse("
workflow_key: k
workflow_version: 1
steps:
  - step_key: b
    step_order: 2
    channel: log
    config: {progress: [{kind: on_outcome, outcome: bounced, to_step: a}]}
  - step_key: a
    step_order: 1
    channel: log
    config: {progress: [{kind: on_outcome, outcome: bounced, to_step: b}]}
"), @"/steps/1: `a`, `b` can repeat forever with no wait between; let a `wait_until` rule lead back");
}

#[test]
fn a_document_is_written_in_one_way() {
    insta::assert_snapshot!(refuse(&BASE.replace("workflow_key", "key")), @"/key: `key` and `workflow_version` belong to different ways of writing a workflow; write `workflow_key`");
    insta::assert_snapshot!(refuse(&BASE.replace("channel: email", "channel: email, id: x, on: {bounced: end}")), @"
    /steps/1/id: `id` and `workflow_key` belong to different ways of writing a workflow; write `step_key`
    /steps/1/on: `on` and `workflow_key` belong to different ways of writing a workflow; write it as rules in `config.progress`
    ");
    insta::assert_snapshot!(refuse("
key: k
steps:
  - {id: a, step_order: 1, action: {type: notify, channel: log}}
"), @"/steps/0/step_order: `step_order` and `key` belong to different ways of writing a workflow; delete it: the steps are in the order of the list");
    insta::assert_snapshot!(refuse("
workflow_key: k
workflow_version: 1
steps:
  - {id: a, action: {type: notify, channel: log}, on_outcome: {delivered: end}}
"), @"
    /workflow_key: `workflow_key` and `id` belong to different ways of writing a workflow; write `key`
    /workflow_version: `workflow_version` and `id` belong to different ways of writing a workflow; write `version`
    ");
    insta::assert_snapshot!(refuse("{workflow_key: k, key: k, version: 1, workflow_version: 1}"), @"
    /key: `key` and `workflow_key` belong to different ways of writing a workflow; write `workflow_key`
    /version: `version` and `workflow_key` belong to different ways of writing a workflow; write `workflow_version`
    ");
}

#[test]
fn every_mistake_is_reported_in_the_order_of_the_document() {
    insta::assert_snapshot!(refuse("
steps:
  - step_key: in_app
    step_order: 4
    chanel: in_app
    progress: []
    config:
      delay_minutes: 3
      to_step: email
      progress:
        - {kind: wait_until, anchor: now, delay_seconds: 0, to_step: emial, cancel_signals: [a, '', 3], outcome: bounced}
        - {kind: on_outcome, outcome: bounced}
        - {kind: stop, outcome: bounced}
        - {kind: stop, outcome: bounce}
        - {kind: sleep}
        - stop
  - {step_key: email, step_order: 1, channel: emial, render_key: '', config: []}
  - {step_key: email, step_order: 1, channel: 3, config: {progress: {}}}
  - {step_order: 2, channel: log, config:}
  - nothing
workflow_version: 0
workflow_kee: x
"), @r#"
    `workflow_key` is missing
    /steps/0: `channel` is missing
    /steps/0/chanel: unknown key `chanel`; did you mean `channel`?
    /steps/0/progress: unknown key `progress`; it belongs under `config`
    /steps/0/config/delay_minutes: unknown key `delay_minutes`; known: progress
    /steps/0/config/to_step: unknown key `to_step`; it belongs in a rule of the list `progress`
    /steps/0/config/progress/0/anchor: unknown anchor `now`; known: prior_delivery_terminal_at
    /steps/0/config/progress/0/delay_seconds: a delay is a whole number of seconds from 1 to 315360000, found 0
    /steps/0/config/progress/0/to_step: there is no step named `emial`; did you mean `email`?
    /steps/0/config/progress/0/cancel_signals/1: the signal name is blank
    /steps/0/config/progress/0/cancel_signals/2: expected a string, found 3
    /steps/0/config/progress/0/outcome: `outcome` is not a key of a `wait_until` rule but of another kind; a `wait_until` rule has: kind, anchor, delay_seconds, to_step, cancel_signals
    /steps/0/config/progress/1: `to_step` is missing
    /steps/0/config/progress/2: a rule for `bounced` is given already by /steps/0/config/progress/1; keep one of them
    /steps/0/config/progress/3/outcome: unknown outcome `bounce`; did you mean `bounced`?
    /steps/0/config/progress/4/kind: unknown kind of rule `sleep`; known: wait_until, on_outcome, stop
    /steps/0/config/progress/5: expected an object, found "stop"
    /steps/1/channel: unknown channel `emial`; did you mean `email`?
    /steps/1/render_key: the render key is blank
    /steps/1/config: expected an object, found a list
    /steps/2/step_key: the step id `email` is taken by /steps/1/step_key
    /steps/2/step_order: the step order 1 is taken by /steps/1/step_order
    /steps/2/channel: expected a string, found 3
    /steps/2/config/progress: expected a list, found an object
    /steps/3: `step_key` is missing
    /steps/3/config: expected an object, found nothing
    /steps/4: expected an object, found "nothing"
    /workflow_version: a version is a whole number from 1 to 2147483647, found 0
    /workflow_kee: unknown key `workflow_kee`; did you mean `workflow_key`?
    "#);
}
