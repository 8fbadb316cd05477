//! Signals: whenever they come, and however far the router is behind.

use chimeway::{WorkflowBuilder, definition::To, ids::RunId};
use chimeway_testkit::Story;
use serde_json::json;

use crate::{
    invariants::{audit, audit_signals_made_in_time},
    tools::{MENTION, MORNING, lines, place, reasons, signal_of, tenant, trigger_of},
};

async fn mention(at: &str) -> Story {
    let story = Story::begin(at).await;
    story.apply(MENTION).await;
    story
}

async fn stopped_by_read(story: &Story, run: RunId) {
    assert_eq!(
        place(story, run).await,
        "stopped in step_wait_for_read: stop_condition:notification_read"
    );
    assert_eq!(
        reasons(story, run).await[2..],
        [
            "waiting_for_step_progression",
            "signal_received",
            "workflow_stopped"
        ]
    );
    audit(story.pool()).await;
    audit_signals_made_in_time(story.pool()).await;
}

#[tokio::test]
async fn a_signal_that_came_before_the_wait_ends_it_as_it_begins() {
    let story = mention(MORNING).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.pass("PT1S").await;
    story.signal("ada", "notification_read").await;
    story.drain().await;
    stopped_by_read(&story, run).await;
    assert_eq!(story.sent().len(), 1);
    insta::assert_snapshot!(story.history(run).await, @r#"
    03-02 09:00:00 workflow_started step_in_app -->active {workflow=mention_escalation}
    03-02 09:00:00 step_activated step_in_app active->active {step_key=step_in_app}
    03-02 09:00:01 waiting_for_step_progression step_wait_for_read active->waiting {delivery_status=succeeded from_step=step_in_app pending_signals=["notification_read"] suspended_until=2026-03-02T11:00:01.000000Z workflow_outcome=delivered}
    03-02 09:00:01 signal_received step_wait_for_read waiting->active {event_name=notification_read}
    03-02 09:00:01 workflow_stopped step_wait_for_read active->stopped {}
    "#);
}

#[tokio::test]
async fn a_signal_that_was_routed_before_the_wait_ends_it_as_it_begins() {
    let story = mention(MORNING).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.pass("PT1S").await;
    // The only message is still to be tried again when the signal is routed.
    story
        .channel()
        .answer([chimeway_testkit::Answer::Temporary(None)]);
    story.signal("ada", "notification_read").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "active in step_in_app");
    assert_eq!(
        lines(
            story.pool(),
            "select (routed_at is not null)::text from chimeway.signals"
        )
        .await,
        "true"
    );
    story.advance("PT15S").await;
    stopped_by_read(&story, run).await;
}

#[tokio::test]
async fn a_signal_at_the_very_instant_of_the_start_counts() {
    let story = mention(MORNING).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.signal("ada", "notification_read").await;
    story.drain().await;
    stopped_by_read(&story, run).await;
}

#[tokio::test]
async fn a_signal_in_the_transaction_of_the_trigger_counts() {
    let story = mention(MORNING).await;
    let mut tx = story.pool().begin().await.unwrap();
    let event = story
        .chimeway()
        .trigger(&mut tx, trigger_of("mention_escalation", "ada"))
        .await
        .unwrap()
        .event();
    let signal = signal_of("ada", "notification_read");
    story.chimeway().track(&mut tx, signal).await.unwrap();
    tx.commit().await.unwrap();
    story.drain().await;
    stopped_by_read(&story, story.runs_of(event).await[0]).await;
}

#[tokio::test]
async fn a_signal_from_before_the_start_does_not_count() {
    let story = mention(MORNING).await;
    story.signal("ada", "notification_read").await;
    story.pass("PT0.001S").await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "waiting in step_wait_for_read");
    story.advance("PT2H").await;
    assert_eq!(story.sent().len(), 2);
    audit(story.pool()).await;
}

/// The router was behind: at the deadline the signal is there and has not been shown to anybody.
#[tokio::test]
async fn an_unrouted_signal_beats_the_deadline() {
    for (name, made_after) in [
        ("in time", "PT1H59M59S"),
        ("late, before any worker looked", "PT3H"),
    ] {
        let story = mention(MORNING).await;
        let run = story.trigger("mention_escalation", "ada").await;
        story.drain().await;
        story.pass(made_after).await;
        let signal = story.signal("ada", "notification_read").await;
        // Nobody routes it until long after the deadline.
        sqlx::query(
            "update chimeway.signals set route_at = route_at + interval '1 day' where id = $1",
        )
        .bind(signal.0)
        .execute(story.pool())
        .await
        .unwrap();
        story.advance("PT4H").await;
        stopped_by_read(&story, run).await;
        assert_eq!(story.sent().len(), 1, "{name}");
        // Routed at last, it does nothing more.
        story.advance("P1D").await;
        stopped_by_read(&story, run).await;
    }
}

#[tokio::test]
async fn a_signal_after_the_escalation_changes_nothing() {
    let story = mention(MORNING).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    story.advance("PT2H").await;
    let before = story.history(run).await;
    story.signal("ada", "notification_read").await;
    assert_eq!(story.advance("PT1M").await.signals, 1);
    assert_eq!(story.history(run).await, before);
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_signal_reaches_nobody_but_its_actor_in_its_tenant() {
    let story = mention(MORNING).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    story.signal("bob", "notification_read").await;
    story.signal("ada", "notification_seen").await;
    let mut elsewhere = signal_of("ada", "notification_read");
    elsewhere.tenant = "org_999".parse().unwrap();
    let mut conn = story.pool().acquire().await.unwrap();
    story.chimeway().track(&mut conn, elsewhere).await.unwrap();
    drop(conn);
    assert_eq!(story.drain().await.signals, 3);
    assert_eq!(place(&story, run).await, "waiting in step_wait_for_read");
    audit(story.pool()).await;
}

#[tokio::test]
async fn one_signal_ends_the_waits_of_all_runs_of_its_actor() {
    let story = mention(MORNING).await;
    let mut runs = vec![];
    for _ in 0..3 {
        runs.push(story.trigger("mention_escalation", "ada").await);
        story.pass("PT1M").await;
    }
    story.drain().await;
    story.signal("ada", "notification_read").await;
    story.drain().await;
    for run in runs {
        stopped_by_read(&story, run).await;
    }
}

const TWO_CONDITIONS: &str = r"
key: two_conditions
steps:
  - { id: hello, action: { type: notify, channel: in_app, render_key: hello } }
  - id: pause
    action:
      type: wait
      duration: PT1H
      stop_conditions:
        - { type: signal_received, signal_type: read }
        - { type: signal_received, signal_type: asked, then: { goto: answer } }
    on_outcome: { elapsed: complete }
  - { id: answer, action: { type: notify, channel: email, render_key: answer } }
";

#[tokio::test]
async fn of_two_signals_the_older_one_counts() {
    let mut ends = vec![];
    for first in ["read", "asked"] {
        let second = if first == "read" { "asked" } else { "read" };
        for when in ["before the wait", "during it", "unrouted at the deadline"] {
            let story = Story::begin(MORNING).await;
            story.apply(TWO_CONDITIONS).await;
            let run = story.trigger("two_conditions", "ada").await;
            if when != "before the wait" {
                story.drain().await;
            }
            story.pass("PT1M").await;
            story.signal("ada", first).await;
            story.pass("PT0.001S").await;
            story.signal("ada", second).await;
            if when == "unrouted at the deadline" {
                story.pass("PT2H").await;
            }
            story.drain().await;
            ends.push(format!("{first}, {when}: {}", place(&story, run).await));
            audit(story.pool()).await;
            audit_signals_made_in_time(story.pool()).await;
        }
    }
    insta::assert_snapshot!(ends.join("\n"), @r#"
    read, before the wait: stopped in pause: stop_condition:read
    read, during it: stopped in pause: stop_condition:read
    read, unrouted at the deadline: stopped in pause: stop_condition:read
    asked, before the wait: completed in answer: completed
    asked, during it: completed in answer: completed
    asked, unrouted at the deadline: completed in answer: completed
    "#);
}

#[tokio::test]
async fn a_repeated_signal_acts_once() {
    let story = mention(MORNING).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    for _ in 0..3 {
        story.signal("ada", "notification_read").await;
    }
    story.drain().await;
    stopped_by_read(&story, run).await;
}

/// A release: the signal leads on instead of ending the run.
#[tokio::test]
async fn a_stop_condition_may_lead_on() {
    let story = Story::begin(MORNING).await;
    story.apply(TWO_CONDITIONS).await;
    let run = story.trigger("two_conditions", "ada").await;
    story.drain().await;
    story.advance("PT10M").await;
    story.signal("ada", "asked").await;
    story.drain().await;
    assert_eq!(story.sent(), ["in_app hello to ada", "email answer to ada"]);
    insta::assert_snapshot!(story.history(run).await, @r#"
    03-02 09:00:00 workflow_started hello -->active {workflow=two_conditions}
    03-02 09:00:00 step_activated hello active->active {step_key=hello}
    03-02 09:00:00 waiting_for_step_progression pause active->waiting {delivery_status=succeeded from_step=hello pending_signals=["read","asked"] suspended_until=2026-03-02T10:00:00.000000Z workflow_outcome=delivered}
    03-02 09:10:00 signal_received pause waiting->active {event_name=asked}
    03-02 09:10:00 step_activated answer active->active {step_key=answer}
    03-02 09:10:00 workflow_completed answer active->completed {delivery_status=succeeded from_step=answer workflow_outcome=delivered}
    "#);
    audit(story.pool()).await;
}

const SNOOZE: &str = r"
key: snooze
steps:
  - { id: remind, action: { type: notify, channel: email, render_key: reminder } }
  - id: pause
    action:
      type: wait
      duration: PT1H
      stop_conditions:
        - { type: signal_received, signal_type: snooze, then: { goto: pause } }
        - { type: signal_received, signal_type: again, then: { goto: remind } }
        - { type: signal_received, signal_type: done }
";

/// The floor of a loop is the instant its step was last left: what had ended the wait before does not
/// end it again, and what came while the run was elsewhere counts.
#[tokio::test]
async fn a_signal_ends_one_wait_of_a_loop_and_not_the_next() {
    let story = Story::begin(MORNING).await;
    story.apply(SNOOZE).await;
    let run = story.trigger("snooze", "ada").await;
    story.drain().await;

    story.advance("PT10M").await;
    story.signal("ada", "snooze").await;
    story.pass("PT1S").await;
    story.drain().await;
    let explained = story.explain(run).await;
    assert_eq!((explained.state.as_str(), explained.visit), ("waiting", 3));
    assert_eq!(
        explained.suspended_until.unwrap().to_rfc3339(),
        "2026-03-02T10:10:01+00:00"
    );
    audit(story.pool()).await;

    story.advance("PT10M").await;
    story.signal("ada", "again").await;
    story.drain().await;
    assert_eq!(story.sent().len(), 2);
    assert_eq!(place(&story, run).await, "waiting in pause");
    audit(story.pool()).await;

    // While the message is being tried again, the run is not in its wait.
    story
        .channel()
        .answer([chimeway_testkit::Answer::Temporary(None)]);
    story.signal("ada", "again").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "active in remind");
    story.pass("PT1S").await;
    story.signal("ada", "done").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "active in remind");
    story.advance("PT15S").await;
    assert_eq!(
        place(&story, run).await,
        "stopped in pause: stop_condition:done"
    );
    insta::assert_snapshot!(reasons(&story, run).await.join("\n"), @r#"
    workflow_started
    step_activated
    waiting_for_step_progression
    signal_received
    waiting_for_step_progression
    signal_received
    step_activated
    waiting_for_step_progression
    signal_received
    step_activated
    waiting_for_step_progression
    signal_received
    workflow_stopped
    "#);
    audit(story.pool()).await;
    audit_signals_made_in_time(story.pool()).await;
}

/// The clock of a story stands still, so that the signal, its routing and the next entering of the
/// wait have one instant: the signal that brought the run there is not heard a second time.
#[tokio::test]
async fn a_signal_is_not_heard_again_by_the_wait_that_it_leads_to() {
    let story = Story::begin(MORNING).await;
    story.apply(SNOOZE).await;
    let run = story.trigger("snooze", "ada").await;
    story.drain().await;
    story.advance("PT10M").await;
    story.signal("ada", "snooze").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "waiting in pause");
    assert_eq!(story.explain(run).await.visit, 3);
    audit(story.pool()).await;
}

/// Two waits that lead to each other, and several signals that all came before: each acts once, and
/// those from before a wait was left do not count for its next visit.
#[tokio::test]
async fn early_signals_in_a_loop_of_waits_act_once_each() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: ping_pong
steps:
  - id: left
    action: { type: wait, duration: PT1H, stop_conditions: [{ type: signal_received, signal_type: ping, then: next }] }
  - id: right
    action: { type: wait, duration: PT1H, stop_conditions: [{ type: signal_received, signal_type: pong, then: { goto: left } }] }
",
        )
        .await;
    let run = story.trigger("ping_pong", "ada").await;
    for name in ["ping", "pong", "ping", "pong"] {
        story.pass("PT1S").await;
        story.signal("ada", name).await;
    }
    story.pass("PT1S").await;
    story.drain().await;
    // Left at one instant for the first ping and the first pong; the second ones came before it.
    assert_eq!(
        reasons(&story, run).await[2..],
        [
            "waiting_for_step_progression",
            "signal_received",
            "waiting_for_step_progression",
            "signal_received",
            "waiting_for_step_progression",
        ]
    );
    assert_eq!(place(&story, run).await, "waiting in left");
    audit(story.pool()).await;
}

/// More than one transaction takes: the rest follows at once, in order.
#[tokio::test]
async fn a_long_chain_of_waits_is_gone_through_by_early_signals() {
    let story = Story::begin(MORNING).await;
    let waits = (1..=80).fold(WorkflowBuilder::new("chain"), |workflow, place| {
        workflow.wait(format!("wait_{place}"), "PT1H", |wait| {
            wait.release_on("go_on", To::Next)
        })
    });
    let applied = story
        .chimeway()
        .apply(story.pool(), &waits.document())
        .await;
    applied.unwrap();
    let run = story.trigger("chain", "ada").await;
    for _ in 0..79 {
        story.pass("PT0.001S").await;
        story.signal("ada", "go_on").await;
    }
    story.drain().await;
    assert_eq!(place(&story, run).await, "waiting in wait_80");
    let heard = lines(
        story.pool(),
        "select count(*) || ' ' || bool_and(t.place = s.place) || ' ' || (count(distinct t.xmin::text) > 2)
         from (
            select signal_id, xmin, row_number() over (order by sequence) as place
            from chimeway.workflow_transitions where signal_id is not null
         ) t
         join (
            select id, row_number() over (order by occurred_at) as place from chimeway.signals
         ) s on s.id = t.signal_id",
    );
    assert_eq!(heard.await, "79 true true");
    audit(story.pool()).await;
    story.signal("ada", "go_on").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "completed in wait_80: completed");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_signal_about_a_notification_ends_the_wait_of_its_run_alone() {
    let story = mention(MORNING).await;
    let first = story.trigger("mention_escalation", "ada").await;
    story.pass("PT1S").await;
    let second = story.trigger("mention_escalation", "ada").await;
    let notification = lines(
        story.pool(),
        "select id::text from chimeway.notifications order by id limit 1",
    )
    .await;
    story.drain().await;
    let payload = json!({ "notification_id": notification });
    story
        .signal_with("ada", "notification_read", payload.clone())
        .await;
    story.drain().await;
    stopped_by_read(&story, first).await;
    assert_eq!(place(&story, second).await, "waiting in step_wait_for_read");

    // Early, for a run that is not waiting yet: the same.
    let third = story.trigger("mention_escalation", "ada").await;
    story.signal_with("ada", "notification_read", payload).await;
    story.drain().await;
    assert_eq!(place(&story, third).await, "waiting in step_wait_for_read");
    // What names no notification of ours is about all of them.
    let payload = json!({ "notification_id": "not one of ours", "document_id": 7 });
    story.signal_with("ada", "notification_read", payload).await;
    story.drain().await;
    stopped_by_read(&story, second).await;
    stopped_by_read(&story, third).await;
}

#[tokio::test]
async fn a_rolled_back_signal_was_never_made() {
    let story = mention(MORNING).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    let mut tx = story.pool().begin().await.unwrap();
    let signal = signal_of("ada", "notification_read");
    story.chimeway().track(&mut tx, signal).await.unwrap();
    tx.rollback().await.unwrap();
    story.advance("PT2H").await;
    assert_eq!(
        place(&story, run).await,
        "completed in step_email_escalation: completed"
    );
}

#[tokio::test]
async fn the_instant_of_a_signal_is_that_of_its_call() {
    let story = mention(MORNING).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    // A host's transaction that began before the deadline, made its signal after it, and committed
    // after the escalation: too late, and nothing is undone.
    let mut tx = story.pool().begin().await.unwrap();
    sqlx::query("select 1").execute(&mut *tx).await.unwrap();
    story.advance("PT2H").await;
    let signal = signal_of("ada", "notification_read");
    let signal = story.chimeway().track(&mut tx, signal).await.unwrap();
    tx.commit().await.unwrap();
    story.drain().await;
    let at: String =
        sqlx::query_scalar("select occurred_at::text from chimeway.signals where id = $1")
            .bind(signal.0)
            .fetch_one(story.pool())
            .await
            .unwrap();
    assert!(at.starts_with("2026-03-02 11:00:00"), "{at}");
    assert_eq!(
        place(&story, run).await,
        "completed in step_email_escalation: completed"
    );
    assert_eq!(story.explain(run).await.tenant_id, tenant().as_str());
    audit(story.pool()).await;
}
