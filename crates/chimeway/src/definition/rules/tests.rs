//! What the rule dialect accepts, what it means, and what it refuses.

mod mistakes;
pub(in crate::definition) mod properties;

use serde_json::{Value, json};

use crate::{
    definition::{Document, Known, Outcome, StepKind, Target, Validated, read_stored, validate},
    ids::{ChannelName, StepKey, Version},
};

/// The journey of the original's own tests: in the app, half an hour, then mail; mail at once where
/// the app does not take it.
const BASE: &str = "\
workflow_key: comment.escalation
workflow_version: 3
steps:
  - step_key: in_app
    step_order: 1
    channel: in_app
    config:
      progress:
        - {kind: wait_until, anchor: prior_delivery_terminal_at, delay_seconds: 1800, to_step: email}
        - {kind: on_outcome, outcome: bounced, to_step: email}
  - {step_key: email, step_order: 2, channel: email, config: {}}
";

fn check(yaml: &str) -> Result<Validated, String> {
    let document = Document::from_yaml("test", yaml).unwrap();
    validate(&document, &Known::default()).map_err(|mistakes| {
        let lines: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })
}

#[track_caller]
fn accept(yaml: &str) -> Validated {
    let checked = check(yaml).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    // What is stored is ours, and reads back as the same.
    assert_eq!(
        read_stored(&checked.document).as_ref(),
        Ok(&checked.plan),
        "{yaml}"
    );
    checked
}

/// The same workflow, wherever its steps were written.
#[track_caller]
fn assert_same(one: &Validated, other: &Validated) {
    assert_eq!(one.plan, other.plan);
    assert_eq!(one.hash, other.hash);
    assert_eq!(
        (&one.version, &one.document),
        (&other.version, &other.document)
    );
}

/// The base journey with these rules in its first step.
fn with_rules(rules: &[&str]) -> String {
    let rules = rules.join(", ");
    format!(
        "
workflow_key: k
workflow_version: 1
steps:
  - {{step_key: in_app, step_order: 1, channel: in_app, config: {{progress: [{rules}]}}}}
  - {{step_key: email, step_order: 2, channel: email}}
"
    )
}

const WAIT: &str =
    "{kind: wait_until, anchor: prior_delivery_terminal_at, delay_seconds: 60, to_step: email}";

/// The steps of the plan as lines: `key kind outcome->target ..`.
fn plan(checked: &Validated) -> String {
    let line = |step: &crate::definition::Step| {
        let what = match &step.kind {
            StepKind::Notify(notify) => format!("{} {}", notify.channel, notify.render_key),
            StepKind::Wait(wait) => {
                let signals = wait.stop_conditions.iter();
                let signals = signals.map(|it| format!(" !{}->{:?}", it.signal, it.then));
                format!("{}{}", wait.duration, signals.collect::<String>())
            }
            other => panic!("the dialect has no {} steps", other.name()),
        };
        let leads = step.on_outcome.iter().map(|(outcome, to)| match to {
            Target::Goto(key) => format!(" {outcome}->{key}"),
            to => format!(" {outcome}->{to:?}"),
        });
        format!("{}: {what}{}", step.key, leads.collect::<String>())
    };
    let lines: Vec<_> = checked.plan.steps.iter().map(line).collect();
    lines.join("\n")
}

#[test]
fn the_base_journey_is_a_message_a_wait_and_a_message() {
    let checked = accept(BASE);
    assert_eq!(checked.version, Some(Version(3)));
    assert_eq!(checked.plan.key.as_str(), "comment.escalation");
    insta::assert_snapshot!(plan(&checked), @"
    in_app: in_app comment.escalation.in_app bounced->email
    in_app.wait: PT30M
    email: email comment.escalation.email
    ");
    insta::assert_snapshot!(format!("{:#}", checked.document), @r#"
    {
      "key": "comment.escalation",
      "steps": [
        {
          "action": {
            "channel": "in_app",
            "render_key": "comment.escalation.in_app",
            "type": "notify"
          },
          "id": "in_app",
          "on_outcome": {
            "bounced": {
              "goto": "email"
            }
          }
        },
        {
          "action": {
            "duration": "PT30M",
            "type": "wait"
          },
          "id": "in_app.wait"
        },
        {
          "action": {
            "channel": "email",
            "render_key": "comment.escalation.email",
            "type": "notify"
          },
          "id": "email"
        }
      ]
    }
    "#);
}

#[test]
fn a_workflow_has_one_hash_in_both_ways_of_writing_it() {
    let ours = "
key: comment.escalation
version: 3
steps:
  - id: in_app
    action: {type: notify, channel: in_app, render_key: comment.escalation.in_app}
    on_outcome:
      bounced: {goto: email}
      permanent_failure: stop
  - id: in_app.wait
    action:
      type: wait
      duration: PT30M
      stop_conditions: [{type: signal_received, signal_type: notification_read}]
    on_outcome:
      elapsed: {goto: sms}
  - id: email
    action: {type: notify, channel: email, render_key: comment_mail}
    on_outcome:
      delivered: complete
      suppressed: complete
      retries_exhausted: {goto: sms}
      permanent_failure: complete
      bounced: complete
  - id: sms
    action: {type: notify, channel: log, render_key: comment.escalation.log}
";
    let theirs = "
steps:
  - {step_key: sms, step_order: 3, channel: log}
  - step_key: email
    step_order: 2
    channel: email
    render_key: comment_mail
    config: {progress: [{kind: on_outcome, outcome: retries_exhausted, to_step: sms}]}
  - step_key: in_app
    step_order: 1
    channel: in_app
    config:
      progress:
        - {kind: on_outcome, outcome: bounced, to_step: email}
        - kind: wait_until
          anchor: prior_delivery_terminal_at
          delay_seconds: 1800
          to_step: sms
          cancel_signals: [chimeway.notification.read]
        - {kind: stop, outcome: permanent_failure}
workflow_version: 3
workflow_key: comment.escalation
";
    assert_same(&accept(ours), &accept(theirs));
}

#[test]
fn the_example_in_the_documents_is_the_workflow_that_they_say_it_is() {
    let page = include_str!("../../../../../docs/definitions.md");
    let (_, dialect) = page.split_once("## The rule dialect").unwrap();
    let (dialect, _) = dialect.split_once("## Rocket's shape").unwrap();
    let examples: Vec<Validated> = dialect
        .split("```yaml\n")
        .skip(1)
        .map(|rest| accept(rest.split("```").next().unwrap()))
        .collect();
    assert_eq!(examples.len(), 2);
    assert_same(&examples[0], &examples[1]);
}

/// Scenario 1.
#[test]
fn steps_come_in_the_order_of_their_numbers() {
    let checked = accept(
        "
workflow_key: k
workflow_version: 1
steps:
  - {step_key: email, step_order: 2, channel: email}
  - step_key: in_app
    step_order: 1
    channel: in_app
    config: {progress: [{kind: on_outcome, outcome: delivered, to_step: email}]}
",
    );
    insta::assert_snapshot!(plan(&checked), @"
    in_app: in_app k.in_app delivered->email suppressed->Complete retries_exhausted->Complete permanent_failure->Complete bounced->Complete
    email: email k.email
    ");
}

/// Scenario 9.
#[test]
fn a_wait_and_an_outcome_keep_exactly_their_own() {
    let signals = WAIT.replace('}', ", cancel_signals: [a, b]}");
    let outcome = "{kind: on_outcome, outcome: bounced, to_step: email}";
    insta::assert_snapshot!(plan(&accept(&with_rules(&[&signals, outcome]))), @"
    in_app: in_app k.in_app bounced->email
    in_app.wait: PT1M !a->Stop !b->Stop
    email: email k.email
    ");
    // The order of the rules means nothing.
    let one = accept(&with_rules(&[&signals, outcome]));
    assert_same(&one, &accept(&with_rules(&[outcome, &signals])));
}

/// Scenario 15.
#[test]
fn cancel_signals_are_trimmed_and_named_once() {
    let signals = |list: &str| {
        let rule = WAIT.replace('}', &format!(", cancel_signals: {list}}}"));
        accept(&with_rules(&[&rule]))
    };
    assert_eq!(signals("[' a ', a]"), signals("[a]"));
    assert_eq!(signals("[]"), accept(&with_rules(&[WAIT])));
    insta::assert_snapshot!(plan(&signals("[' b', a, 'b ']")), @"
    in_app: in_app k.in_app
    in_app.wait: PT1M !b->Stop !a->Stop
    email: email k.email
    ");
    // What the original's inbox tells is what ours tells.
    assert_eq!(
        signals("[chimeway.notification.read, notification_read]"),
        signals("[notification_read]")
    );
    // Eleven of which two are one.
    signals("[a, b, c, d, e, f, g, h, i, j, ' a']");
}

#[test]
fn names_are_trimmed() {
    let blank = "
workflow_key: ' k '
workflow_version: 1
steps:
  - {step_key: ' a', step_order: 1, channel: ' log ', config: {progress: [
      {kind: on_outcome, outcome: bounced, to_step: 'b '}]}}
  - {step_key: 'b ', step_order: 2, channel: log}
";
    let names = ["' k '", "' a'", "' log '", "'b '"].into_iter();
    let bare = names.fold(blank.to_owned(), |text, name| {
        text.replace(name, name.trim_matches(['\'', ' ']))
    });
    let bare = accept(&bare);
    assert_eq!(accept(blank), bare);
    assert_eq!(bare.plan.key.as_str(), "k");
}

/// Scenario 19.
#[test]
fn content_is_named_for_workflow_and_channel_unless_the_step_names_it() {
    let named = BASE.replace(
        "channel: in_app\n",
        "channel: in_app\n    render_key: mention\n",
    );
    let render_keys = |yaml: &str| -> Vec<String> {
        let notify = |step: crate::definition::Step| match step.kind {
            StepKind::Notify(notify) => Some(notify.render_key.into()),
            _ => None,
        };
        accept(yaml)
            .plan
            .steps
            .into_iter()
            .filter_map(notify)
            .collect()
    };
    let by_default = ["comment.escalation.in_app", "comment.escalation.email"];
    assert_eq!(render_keys(BASE), by_default);
    assert_eq!(render_keys(&named), ["mention", "comment.escalation.email"]);
}

/// The rules of scenarios 49, 50 and 86.
#[test]
fn what_no_rule_names_waits_or_else_completes() {
    let table = [
        with_rules(&[WAIT]),
        with_rules(&["{kind: on_outcome, outcome: bounced, to_step: email}"]),
        with_rules(&[
            "{kind: on_outcome, outcome: temporary_failure, to_step: email}",
            "{kind: stop, outcome: bounced}",
        ]),
        with_rules(&[WAIT, "{kind: stop, outcome: temporary_failure}"]),
    ];
    let plans = table.iter().map(|yaml| plan(&accept(yaml)));
    insta::assert_snapshot!(plans.collect::<Vec<_>>().join("\n--\n"), @"
    in_app: in_app k.in_app
    in_app.wait: PT1M
    email: email k.email
    --
    in_app: in_app k.in_app delivered->Complete suppressed->Complete retries_exhausted->Complete permanent_failure->Complete bounced->email
    email: email k.email
    --
    in_app: in_app k.in_app delivered->Complete suppressed->Complete temporary_failure->email retries_exhausted->Complete permanent_failure->Complete bounced->Stop
    email: email k.email
    --
    in_app: in_app k.in_app temporary_failure->Stop
    in_app.wait: PT1M
    email: email k.email
    ");
}

#[test]
fn the_last_step_may_wait_and_lead_back() {
    let checked = accept(
        "
workflow_key: reminder
workflow_version: 1
steps:
  - step_key: remind
    step_order: 1
    channel: log
    config:
      progress:
        - {kind: wait_until, anchor: prior_delivery_terminal_at, delay_seconds: 86400, to_step: remind,
           cancel_signals: [done]}
        - {kind: stop, outcome: suppressed}
",
    );
    insta::assert_snapshot!(plan(&checked), @"
    remind: log reminder.log suppressed->Stop
    remind.wait: P1D !done->Stop elapsed->remind
    ");
}

/// Scenario 17.
#[test]
fn other_rules_are_other_content() {
    let base = accept(BASE);
    assert_ne!(base.hash, accept(&BASE.replace("1800", "1801")).hash);
    assert_ne!(
        base.hash,
        accept(&BASE.replace("bounced", "suppressed")).hash
    );
    // Equal steps are equal, in whatever order the file has them.
    let mut document = Document::from_yaml("b", BASE).unwrap().value().clone();
    document["steps"].as_array_mut().unwrap().reverse();
    let turned = validate(&Document::from_value(document), &Known::default()).unwrap();
    assert_same(&turned, &base);
    // Only where they stand differs.
    assert_eq!(
        [0, 1, 2].map(|place| base.content_pointer(place)),
        ["/steps/0", "/steps/0/config/progress/0", "/steps/1"]
    );
    assert_eq!(turned.content_pointer(0), "/steps/1");
}

#[test]
fn a_plan_holds_a_hundred_steps_its_waits_among_them() {
    let chain = |steps: usize, waits: usize| {
        let step = |n: usize| {
            let to = format!("s{}", n % steps + 1);
            let mut rules =
                vec![json!({ "kind": "on_outcome", "outcome": "bounced", "to_step": to })];
            if n == steps {
                rules.clear();
            }
            if n <= waits {
                rules.push(json!({
                    "kind": "wait_until", "anchor": "prior_delivery_terminal_at",
                    "delay_seconds": n, "to_step": to,
                }));
            }
            json!({ "step_key": format!("s{n}"), "step_order": n, "channel": "log",
                "config": { "progress": rules } })
        };
        let steps: Vec<Value> = (1..=steps).map(step).collect();
        json!({ "workflow_key": "k", "workflow_version": 1, "steps": steps }).to_string()
    };
    assert_eq!(accept(&chain(100, 0)).plan.steps.len(), 100);
    assert_eq!(accept(&chain(60, 40)).plan.steps.len(), 100);
    insta::assert_snapshot!(check(&chain(101, 0)).unwrap_err(), @"/steps: 101 steps are too many, at most 100 are allowed");
    insta::assert_snapshot!(check(&chain(60, 41)).unwrap_err(), @"/steps: 101 steps are too many, at most 100 are allowed; each `wait_until` is a step as well");
}

#[test]
fn a_hosts_own_channel_is_known_once_it_says_so() {
    let yaml = BASE.replace("channel: email", "channel: ' sms '");
    insta::assert_snapshot!(check(&yaml).unwrap_err(), @"/steps/1/channel: unknown channel `sms`; known: email, in_app, log, webhook");
    let sms: ChannelName = "sms".parse().unwrap();
    let document = Document::from_yaml("test", &yaml).unwrap();
    let checked = validate(&document, &Known::default().with_channels([sms])).unwrap();
    let email: StepKey = "email".parse().unwrap();
    assert_eq!(checked.plan.position(&email), Some(2));
    let first = &checked.plan.steps[0];
    assert_eq!(first.on_outcome[&Outcome::Bounced], Target::Goto(email));
}
