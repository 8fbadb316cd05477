//! The one checker: from a [`Document`] to a plan that the engine may trust.

use serde_json::Value;

use super::{
    canonical::{ContentHash, canonical},
    document::Document,
    error::DefinitionError,
    graph::{self, Places},
    known::Known,
    read::Reader,
    step::WorkflowPlan,
};
use crate::ids::Version;

/// A document that has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// What the engine runs.
    pub plan: WorkflowPlan,
    /// The version that the document gives itself.
    pub version: Option<Version>,
    /// What is stored: the canonical form, without the version.
    pub document: Value,
    /// Of the canonical form: equal content has an equal hash, however it was written.
    pub hash: ContentHash,
    places: Places,
}

impl Validated {
    /// Where the document that was checked says what a step does, or one of its actions.
    pub(crate) fn pointer(&self, place: usize, action: Option<usize>) -> String {
        let step = self.places.pointer(place);
        match (action, self.places == Places::Steps) {
            (Some(action), true) => format!("{step}/action/actions/{action}"),
            (Some(action), false) => format!("{step}/actions/{action}"),
            (None, true) => format!("{step}/action"),
            (None, false) => step,
        }
    }

    /// Where the document that was checked says which content a notify step has.
    pub(crate) fn content_pointer(&self, place: usize) -> String {
        let step = self.places.pointer(place);
        if self.places != Places::Steps {
            return step;
        }
        let written = format!("{step}/action/render_key");
        match self.document.pointer(&written) {
            Some(_) => written,
            None => format!("{step}/action"),
        }
    }
}

/// Checks everything about a document that can be checked without a database.
///
/// # Errors
///
/// Every mistake found, in document order; never empty. Paths through the steps are looked at only
/// where there is no other mistake.
pub fn validate(document: &Document, known: &Known) -> Result<Validated, Vec<DefinitionError>> {
    let (plan, version, places) = check(document, Some(known))?;
    let document = canonical(&plan);
    let hash = ContentHash::of(&document);
    Ok(Validated {
        plan,
        version,
        document,
        hash,
        places,
    })
}

/// Reads a canonical document back from where it was stored. Every channel is taken as known: what
/// this process has registered says nothing about what was checked when the document was stored.
///
/// # Errors
///
/// As [`validate`]; it means that the stored document was changed by hand.
pub fn read_stored(document: &Value) -> Result<WorkflowPlan, Vec<DefinitionError>> {
    check(&Document::from_value(document.clone()), None).map(|(plan, ..)| plan)
}

fn check(
    document: &Document,
    known: Option<&Known>,
) -> Result<(WorkflowPlan, Option<Version>, Places), Vec<DefinitionError>> {
    let mut reader = Reader::new(known);
    let read = reader.workflow(document.value());
    let (places, mut mistakes) = (reader.places, reader.mistakes);
    for stray in &document.stray {
        mistakes.add(&stray.pointer, stray.problem.clone(), stray.hint.clone());
    }
    if let Some((plan, _)) = &read
        && mistakes.is_empty()
    {
        graph::check(plan, &places, &mut mistakes);
    }
    match read {
        Some((plan, version)) if mistakes.is_empty() => Ok((plan, version, places)),
        _ => Err(mistakes.in_order_of(document.value())),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::definition::{Notify, StepKind, StopCondition, Target, Wait};

    const SEED: &str = "\
key: mention_escalation
version: 1
steps:
  - id: step_in_app
    action:
      type: notify
      channel: in_app
      render_key: mention_notification
  - id: step_wait_for_read
    action:
      type: wait
      duration: PT2H # Wait 2 hours (ISO 8601 duration)
      stop_conditions:
        - type: signal_received
          signal_type: notification_read
  - id: step_email_escalation
    action:
      type: notify
      channel: email
      render_key: mention_email
";

    fn accept(yaml: &str) -> Validated {
        let document = Document::from_yaml("test", yaml).unwrap();
        validate(&document, &Known::default()).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
    }

    fn refuse(yaml: &str) -> String {
        let document = Document::from_yaml("test", yaml).unwrap();
        let mistakes = validate(&document, &Known::default()).expect_err(yaml);
        mistakes.iter().fold(String::new(), |mut all, mistake| {
            writeln!(all, "{mistake}").unwrap();
            all
        })
    }

    /// The mistakes of a workflow whose steps are sound but for these.
    fn refuse_steps(steps: &str) -> String {
        refuse(&format!("key: k\nsteps:\n{steps}"))
    }

    #[test]
    fn the_example_of_the_guide_is_valid_as_it_stands() {
        let checked = accept(SEED);
        assert_eq!(checked.version, Some(Version(1)));
        insta::assert_snapshot!(format!("{:#}", checked.document), @r#"
    {
      "key": "mention_escalation",
      "steps": [
        {
          "action": {
            "channel": "in_app",
            "render_key": "mention_notification",
            "type": "notify"
          },
          "id": "step_in_app"
        },
        {
          "action": {
            "duration": "PT2H",
            "stop_conditions": [
              {
                "signal_type": "notification_read",
                "type": "signal_received"
              }
            ],
            "type": "wait"
          },
          "id": "step_wait_for_read"
        },
        {
          "action": {
            "channel": "email",
            "render_key": "mention_email",
            "type": "notify"
          },
          "id": "step_email_escalation"
        }
      ]
    }
"#);
        insta::assert_snapshot!(checked.hash, @"98a6cfae255e3ae33ff20a1c10cc4324f12c3f600e9387970461cd5181c76d6c");
        let wait = Wait {
            duration: "PT2H".parse().unwrap(),
            stop_conditions: vec![StopCondition {
                signal: "notification_read".parse().unwrap(),
                matches: vec![],
                then: Target::Stop,
            }],
        };
        assert_eq!(checked.plan.steps[1].kind, StepKind::Wait(wait));
        let email = Notify {
            channel: "email".parse().unwrap(),
            render_key: "mention_email".parse().unwrap(),
            category: None,
            unless_read: false,
        };
        assert_eq!(checked.plan.steps[2].kind, StepKind::Notify(email));
    }

    #[test]
    fn the_example_has_one_hash_in_yaml_in_json_and_in_rust() {
        let json = r#"{"version":1,"steps":[
            {"action":{"channel":"in_app","render_key":"mention_notification","type":"notify"},"id":"step_in_app"},
            {"action":{"stop_conditions":[{"signal_type":"notification_read","type":"signal_received"}],
              "duration":"PT2H","type":"wait"},"id":"step_wait_for_read"},
            {"action":{"type":"notify","channel":"email","render_key":"mention_email"},"id":"step_email_escalation"}
        ],"key":"mention_escalation"}"#;
        let json = Document::from_json("seed.json", json).unwrap();
        let json = validate(&json, &Known::default()).unwrap();
        let rust = crate::definition::WorkflowBuilder::new("mention_escalation")
            .version(1)
            .notify("step_in_app", "in_app", "mention_notification")
            .wait("step_wait_for_read", "PT2H", |wait| {
                wait.stop_on("notification_read")
            })
            .notify("step_email_escalation", "email", "mention_email")
            .build(&Known::default())
            .unwrap();
        let yaml = accept(SEED);
        assert_eq!(yaml, json);
        assert_eq!(yaml, rust);
        // Not the version but the content is hashed.
        assert_eq!(accept(&SEED.replace("version: 1\n", "")).hash, yaml.hash);
        assert_ne!(accept(&SEED.replace("PT2H", "PT3H")).hash, yaml.hash);
    }

    #[test]
    fn defaults_and_aliases_are_another_way_to_write_the_same() {
        let long = accept(
            "
key: k
steps:
  - {id: a, action: {type: notify, channel: log, render_key: a},
     on_outcome: {delivered: next, bounced: end, temporary_failure: next, suppressed: {goto: c}}}
  - {id: b, action: {type: wait, duration: 72h, stop_conditions: [
      {type: signal_received, signal_type: s, then: stop},
      {type: signal_received, signal_type: t, then: complete}]}}
  - {id: c, action: {type: wait, duration: P1W, stop_conditions: []}, on_outcome: {}}
",
        );
        let short = accept(
            "
key: k
steps:
  - {id: a, action: {type: notify, channel: log},
     on: {temporary_failure: next, suppressed: {goto: c}, bounced: complete}}
  - {id: b, action: {type: wait, duration: P3D, stop_conditions: [
      {type: signal_received, signal_type: s},
      {type: signal_received, signal_type: t, then: end}]}}
  - {id: c, action: {type: wait, duration: 7d}}
",
        );
        assert_eq!(long, short);
        insta::assert_snapshot!(format!("{:#}", long.document), @r#"
    {
      "key": "k",
      "steps": [
        {
          "action": {
            "channel": "log",
            "type": "notify"
          },
          "id": "a",
          "on_outcome": {
            "bounced": "complete",
            "suppressed": {
              "goto": "c"
            },
            "temporary_failure": "next"
          }
        },
        {
          "action": {
            "duration": "P3D",
            "stop_conditions": [
              {
                "signal_type": "s",
                "type": "signal_received"
              },
              {
                "signal_type": "t",
                "then": "complete",
                "type": "signal_received"
              }
            ],
            "type": "wait"
          },
          "id": "b"
        },
        {
          "action": {
            "duration": "P7D",
            "type": "wait"
          },
          "id": "c"
        }
      ]
    }
"#);
    }

    #[test]
    fn every_mistake_is_reported_in_the_order_of_the_document() {
        insta::assert_snapshot!(refuse("
steps:
  - id: in_app
    chanel: email
    type: notify
    action: {type: notify, channel: emial, render_key: 3}
    on_outcome: {deliverd: next, elapsed: stop, bounced: {goto: remnd}, suppressed: finish}
    on: {permanent_failure: 3}
  - id: remind
    action:
      type: wait
      duration: 3 days
      stop_conditions:
        - {type: signal_recieved, signal_type: read}
        - {type: signal_received, signal_type: read, then: remind}
        - {type: signal_received, match: {}}
        - read
      on_outcome: {elapsed: end}
    on: {signalled: end}
  - id: in_app
    action: {type: aproval, assignee: bob}
  - {id: '  ', action: {type: wait, duration: P1M}}
  - {id: last, action: notify}
  - nothing
version: 0
kee: x
"), @r#"
    `key` is missing
    /steps/0/chanel: unknown key `chanel`; known: id, action, on_outcome, on
    /steps/0/type: unknown key `type`; it belongs under `action`
    /steps/0/action/channel: unknown channel `emial`; did you mean `email`?
    /steps/0/action/render_key: expected a string, found 3
    /steps/0/on_outcome/deliverd: unknown outcome `deliverd`; did you mean `delivered`?
    /steps/0/on_outcome/elapsed: a notify step never ends with `elapsed`; known: delivered, suppressed, temporary_failure, retries_exhausted, permanent_failure, bounced
    /steps/0/on_outcome/bounced/goto: there is no step named `remnd`; did you mean `remind`?
    /steps/0/on_outcome/suppressed: unknown target `finish`; known: next, complete, stop, {goto: <step id>}
    /steps/0/on: `on` and `on_outcome` mean the same and stand side by side; keep `on_outcome`
    /steps/0/on/permanent_failure: expected a target, found 3
    /steps/1/action/duration: the duration `3 days` is not an ISO 8601 duration; write `P3D`
    /steps/1/action/stop_conditions/0/type: unknown type of stop condition `signal_recieved`; did you mean `signal_received`?
    /steps/1/action/stop_conditions/1/signal_type: the signal `read` is named already by /steps/1/action/stop_conditions/0/signal_type
    /steps/1/action/stop_conditions/1/then: unknown target `remind`; to go to that step write `{goto: remind}`
    /steps/1/action/stop_conditions/2: `signal_type` is missing
    /steps/1/action/stop_conditions/3: expected an object, found "read"
    /steps/1/action/on_outcome: unknown key `on_outcome`; it belongs beside `action`
    /steps/1/on/signalled: unknown outcome `signalled`; a signal goes where `then` of its stop condition says
    /steps/2/id: the step id `in_app` is taken by /steps/0/id
    /steps/2/action/type: unknown step type `aproval`; did you mean `approval`?
    /steps/3/id: the step id is blank
    /steps/3/action/duration: the duration `P1M` counts years or months, which differ in length; count days or weeks: `P30D`, `P52W`
    /steps/4/action: expected an object, found "notify"
    /steps/5: expected an object, found "nothing"
    /version: a version is a whole number from 1 to 2147483647, found 0; leave it out to have versions counted for you
    /kee: unknown key `kee`; did you mean `key`?
    "#);
    }

    #[test]
    fn what_is_not_a_workflow_at_all() {
        insta::assert_snapshot!(refuse("[]"), @"expected an object, found a list");
        insta::assert_snapshot!(refuse(""), @"expected an object, found nothing");
        insta::assert_snapshot!(refuse("{}"), @r#"
    `key` is missing
    `steps` is missing
"#);
        insta::assert_snapshot!(refuse("{key: '', version: '1', steps: []}"), @r#"
    /key: the workflow key is blank
    /version: a version is a whole number from 1 to 2147483647, found "1"; leave it out to have versions counted for you
    /steps: a workflow needs at least one step
"#);
        insta::assert_snapshot!(refuse("{key: 7, version: 1.5, steps: {a: 1}}"), @r#"
    /key: expected a string, found 7
    /version: a version is a whole number from 1 to 2147483647, found 1.5; leave it out to have versions counted for you
    /steps: expected a list, found an object
"#);
        insta::assert_snapshot!(refuse("key: k\nsteps: [{}, {id: a, action: {}}]\n\"a/b~\\n\": 1"), @r#"
    /steps/0: `id` is missing
    /steps/0: `action` is missing
    /steps/1/action: `type` is missing
    /a~1b~0\n: unknown key `a/b~\n`; known: key, version, trigger, context, steps
    "#);
    }

    #[test]
    fn the_limits() {
        let step = |n: usize| format!("- {{id: s{n}, action: {{type: wait, duration: 1h}}}}\n");
        let steps = |count: usize| (0..count).map(step).collect::<String>();
        accept(&format!("key: k\nsteps:\n{}", steps(100)));
        insta::assert_snapshot!(refuse_steps(&steps(101)), @"/steps: 101 steps are too many, at most 100 are allowed");

        let wait = |count: usize| {
            let condition = |n| format!("{{type: signal_received, signal_type: s{n}}}");
            let conditions = (0..count).map(condition).collect::<Vec<_>>().join(", ");
            format!(
                "- {{id: w, action: {{type: wait, duration: 1h, stop_conditions: [{conditions}]}}}}\n"
            )
        };
        accept(&format!("key: k\nsteps:\n{}", wait(10)));
        insta::assert_snapshot!(refuse_steps(&wait(11)), @"/steps/0/action/stop_conditions: 11 stop conditions are too many, at most 10 are allowed");
    }

    #[test]
    fn a_hosts_own_channel_is_known_once_it_says_so() {
        let yaml = "key: k\nsteps: [{id: a, action: {type: notify, channel: sms}}]";
        insta::assert_snapshot!(refuse(yaml), @"/steps/0/action/channel: unknown channel `sms`; known: email, in_app, log, webhook");
        let known = Known::default().with_channels(["sms".parse().unwrap()]);
        let document = Document::from_yaml("test", yaml).unwrap();
        let checked = validate(&document, &known).unwrap();
        assert_eq!(read_stored(&checked.document), Ok(checked.plan));
    }
}
