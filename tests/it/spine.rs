//! The main job: the missed-mention journey from beginning to end, exactly as its guide writes it, in
//! the three ways it can be written.

use chimeway::{Document, Trigger, Workflow, WorkflowBuilder, ids::RunId};
use chimeway_testkit::Story;
use serde_json::{Value, json};

use crate::{
    invariants::{audit, audit_signals_made_in_time},
    tools::{MENTION, MORNING, lines, tenant, trigger},
};

const YAML: &str = r#"
key: "mention_escalation"
version: 1
steps:
  - id: "step_in_app"
    action:
      type: notify
      channel: in_app
      render_key: "mention_notification"
  - id: "step_wait_for_read"
    action:
      type: wait
      duration: "PT2H" # Wait 2 hours (ISO 8601 duration)
      stop_conditions:
        - type: signal_received
          signal_type: "notification_read"
  - id: "step_email_escalation"
    action:
      type: notify
      channel: email
      render_key: "mention_email"
"#;

const JSON: &str = r#"{
  "key": "mention_escalation",
  "version": 1,
  "steps": [
    {
      "id": "step_in_app",
      "action": {"type": "notify", "channel": "in_app", "render_key": "mention_notification"}
    },
    {
      "id": "step_wait_for_read",
      "action": {
        "type": "wait",
        "duration": "PT2H",
        "stop_conditions": [{"type": "signal_received", "signal_type": "notification_read"}]
      }
    },
    {
      "id": "step_email_escalation",
      "action": {"type": "notify", "channel": "email", "render_key": "mention_email"}
    }
  ]
}"#;

struct MentionEscalation;

impl Workflow for MentionEscalation {
    fn workflow(&self) -> Document {
        WorkflowBuilder::new("mention_escalation")
            .version(1)
            .notify("step_in_app", "in_app", "mention_notification")
            .wait("step_wait_for_read", "PT2H", |wait| {
                wait.stop_on("notification_read")
            })
            .notify("step_email_escalation", "email", "mention_email")
            .document()
    }
}

#[derive(Debug, Clone, Copy)]
enum Written {
    Yaml,
    Json,
    Rust,
    /// The journey that ships beside the program, which has no version.
    Shipped,
}

const ALL: [Written; 4] = [
    Written::Yaml,
    Written::Json,
    Written::Rust,
    Written::Shipped,
];

/// Triggers the journey as the guide does: the recipient is the actor of the params.
async fn mention(story: &Story, written: Written) -> RunId {
    let document = match written {
        Written::Yaml => Document::from_yaml("guide", YAML).unwrap(),
        Written::Json => Document::from_json("guide", JSON).unwrap(),
        Written::Rust => MentionEscalation.workflow(),
        Written::Shipped => Document::from_yaml("journeys", MENTION).unwrap(),
    };
    let params =
        json!({ "actor_id": "user_123", "tenant_id": "org_456", "document_id": "doc_789" });
    let new = match written {
        Written::Rust => Trigger::of(&MentionEscalation, tenant()).unwrap(),
        Written::Yaml | Written::Json | Written::Shipped => {
            let applied = story.chimeway().apply(story.pool(), &document).await;
            assert_eq!(applied.unwrap().version.0, 1);
            Trigger::new("mention_escalation".parse().unwrap(), tenant())
        }
    };
    let triggered = trigger(story.chimeway(), story.pool(), new.params(params)).await;
    let runs = story.runs_of(triggered.unwrap().event()).await;
    let [run] = runs[..] else {
        panic!("one run, not {runs:?}")
    };
    run
}

/// Where a run is and why, without what differs from story to story.
async fn explained(story: &Story, run: RunId) -> String {
    let mut explained = serde_json::to_value(story.explain(run).await).unwrap();
    explained.as_object_mut().unwrap().shift_remove("id");
    for delivery in explained["deliveries"].as_array_mut().unwrap() {
        delivery.as_object_mut().unwrap().shift_remove("id");
    }
    let facts = explained.as_object().unwrap();
    let line = |(name, value): (&String, &Value)| match value {
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            let items: Vec<_> = items.iter().map(|item| format!("\n  {item}")).collect();
            format!("{name}:{}", items.concat())
        }
        other => format!("{name}: {other}"),
    };
    facts.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn somebody_who_does_not_read_gets_the_email() {
    for written in ALL {
        let story = Story::begin(MORNING).await;
        let run = mention(&story, written).await;
        story.drain().await;
        assert_eq!(story.sent(), ["in_app mention_notification to user_123"]);

        story.advance("PT1H59M59S").await;
        assert_eq!(story.sent().len(), 1);
        story.advance("PT1S").await;
        assert_eq!(story.sent()[1..], ["email mention_email to user_123"]);
        assert_eq!(story.channel().sent()[1].params["document_id"], "doc_789");

        let (history, explained) = (story.history(run).await, explained(&story, run).await);
        insta::allow_duplicates! {
            insta::assert_snapshot!(history, @r#"
            03-02 09:00:00 workflow_started step_in_app -->active {workflow=mention_escalation}
            03-02 09:00:00 step_activated step_in_app active->active {step_key=step_in_app}
            03-02 09:00:00 waiting_for_step_progression step_wait_for_read active->waiting {delivery_status=succeeded from_step=step_in_app pending_signals=["notification_read"] suspended_until=2026-03-02T11:00:00.000000Z workflow_outcome=delivered}
            03-02 11:00:00 reactivated_from_wait step_wait_for_read waiting->active {step_key=step_wait_for_read}
            03-02 11:00:00 step_activated step_email_escalation active->active {step_key=step_email_escalation}
            03-02 11:00:00 workflow_completed step_email_escalation active->completed {delivery_status=succeeded from_step=step_email_escalation workflow_outcome=delivered}
            "#);
            insta::assert_snapshot!(explained, @r#"
            tenant_id: "org_456"
            workflow: "mention_escalation"
            version: 1
            state: "completed"
            status_reason: "workflow_completed"
            current_step_name: "step_email_escalation"
            suspended_until: null
            pending_signals: []
            terminal_reason: "completed"
            quarantine_reason: null
            visit: 3
            started_at: "2026-03-02T09:00:00Z"
            ended_at: "2026-03-02T11:00:00Z"
            cancel_requested_at: null
            interventions: []
            approvals: []
            deliveries:
              {"channel":"in_app","status":"succeeded","status_reason":null,"checkpoint":null,"attempts":1,"next_attempt_at":null,"step":"step_in_app","visit":1,"lease_until":null,"progress_owed":false,"last_outcome":"succeeded"}
              {"channel":"email","status":"succeeded","status_reason":null,"checkpoint":null,"attempts":1,"next_attempt_at":null,"step":"step_email_escalation","visit":3,"lease_until":null,"progress_owed":false,"last_outcome":"succeeded"}
            next: "Nothing: the run is completed."
            "#);
        }
        audit(story.pool()).await;
        assert_eq!(story.advance("P7D").await, Default::default());
    }
}

#[tokio::test]
async fn somebody_who_reads_in_time_gets_no_email() {
    for written in ALL {
        let story = Story::begin(MORNING).await;
        let run = mention(&story, written).await;
        story.drain().await;
        story.advance("PT30M").await;
        let payload = json!({ "document_id": "doc_789" });
        story
            .signal_with("user_123", "notification_read", payload)
            .await;
        story.drain().await;
        assert_eq!(story.advance("PT3H").await, Default::default());
        assert_eq!(story.sent(), ["in_app mention_notification to user_123"]);

        let (history, explained) = (story.history(run).await, explained(&story, run).await);
        insta::allow_duplicates! {
            insta::assert_snapshot!(history, @r#"
            03-02 09:00:00 workflow_started step_in_app -->active {workflow=mention_escalation}
            03-02 09:00:00 step_activated step_in_app active->active {step_key=step_in_app}
            03-02 09:00:00 waiting_for_step_progression step_wait_for_read active->waiting {delivery_status=succeeded from_step=step_in_app pending_signals=["notification_read"] suspended_until=2026-03-02T11:00:00.000000Z workflow_outcome=delivered}
            03-02 09:30:00 signal_received step_wait_for_read waiting->active {event_name=notification_read}
            03-02 09:30:00 workflow_stopped step_wait_for_read active->stopped {}
            "#);
            insta::assert_snapshot!(explained, @r#"
            tenant_id: "org_456"
            workflow: "mention_escalation"
            version: 1
            state: "stopped"
            status_reason: "workflow_stopped"
            current_step_name: "step_wait_for_read"
            suspended_until: null
            pending_signals: []
            terminal_reason: "stop_condition:notification_read"
            quarantine_reason: null
            visit: 2
            started_at: "2026-03-02T09:00:00Z"
            ended_at: "2026-03-02T09:30:00Z"
            cancel_requested_at: null
            interventions: []
            approvals: []
            deliveries:
              {"channel":"in_app","status":"succeeded","status_reason":null,"checkpoint":null,"attempts":1,"next_attempt_at":null,"step":"step_in_app","visit":1,"lease_until":null,"progress_owed":false,"last_outcome":"succeeded"}
            next: "Nothing: the run was stopped (stop_condition:notification_read)."
            "#);
        }
        audit(story.pool()).await;
        audit_signals_made_in_time(story.pool()).await;
    }
}

#[tokio::test]
async fn the_three_ways_to_write_it_are_one_version() {
    let story = Story::begin(MORNING).await;
    for written in ALL {
        mention(&story, written).await;
    }
    let stored = lines(
        story.pool(),
        "select concat_ws(' ', d.workflow_key, d.workflow_version, s.step_order, s.step_key, s.kind, s.channel)
         from chimeway.workflow_definitions d
         join chimeway.workflow_steps s on s.workflow_definition_id = d.id order by s.step_order",
    )
    .await;
    insta::assert_snapshot!(stored, @r#"
    mention_escalation 1 1 step_in_app notify in_app
    mention_escalation 1 2 step_wait_for_read wait
    mention_escalation 1 3 step_email_escalation notify email
    "#);
}
