//! Waits that end by time.

use chimeway_testkit::Story;
use sqlx::Executor as _;

use crate::{
    invariants::audit,
    tools::{MENTION, MORNING, lines, place, reasons},
};

#[tokio::test]
async fn a_wait_counts_from_the_moment_it_is_entered() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.pass("PT10M").await;
    story.drain().await;
    let explained = story.explain(run).await;
    assert_eq!(
        explained.started_at.to_rfc3339(),
        "2026-03-02T09:00:00+00:00"
    );
    assert_eq!(
        explained.suspended_until.unwrap().to_rfc3339(),
        "2026-03-02T11:10:00+00:00"
    );
    assert_eq!(explained.status_reason, "waiting_for_step_progression");
    assert_eq!(explained.pending_signals, ["notification_read"]);
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_wait_that_is_not_due_is_left_alone() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    let before = story.history(run).await;
    // Looked at before its time: as after a clock that went back, or a row that was due and is not.
    story
        .pool()
        .execute("update chimeway.workflow_runs set wake_at = chimeway.now()")
        .await
        .unwrap();
    assert_eq!(story.drain().await.runs, 1);
    assert_eq!(story.history(run).await, before);
    // It is looked at again when it is due, and no earlier.
    audit(story.pool()).await;
    assert_eq!(story.drain().await, Default::default());
    story.advance("PT2H").await;
    assert_eq!(story.sent().len(), 2);
}

#[tokio::test]
async fn a_timer_that_is_served_late_goes_on_from_then() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: two_waits
steps:
  - { id: hello, action: { type: notify, channel: in_app, render_key: hello } }
  - { id: hour, action: { type: wait, duration: PT1H } }
  - { id: day, action: { type: wait, duration: P1D } }
",
        )
        .await;
    let run = story.trigger("two_waits", "ada").await;
    story.drain().await;
    // No worker ran for ten hours.
    story.pass("PT10H").await;
    story.drain().await;
    insta::assert_snapshot!(story.history(run).await, @r#"
    03-02 09:00:00 workflow_started hello -->active {workflow=two_waits}
    03-02 09:00:00 step_activated hello active->active {step_key=hello}
    03-02 09:00:00 waiting_for_step_progression hour active->waiting {delivery_status=succeeded from_step=hello pending_signals=[] suspended_until=2026-03-02T10:00:00.000000Z workflow_outcome=delivered}
    03-02 19:00:00 reactivated_from_wait hour waiting->active {step_key=hour}
    03-02 19:00:00 waiting_for_step_progression day active->waiting {pending_signals=[] suspended_until=2026-03-03T19:00:00.000000Z}
    "#);
    story.advance("P1D").await;
    assert_eq!(place(&story, run).await, "completed in day: completed");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_journey_may_begin_with_a_wait() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: later
steps:
  - { id: pause, action: { type: wait, duration: PT1H, stop_conditions: [{ type: signal_received, signal_type: done }] } }
  - { id: remind, action: { type: notify, channel: email, render_key: reminder } }
",
        )
        .await;
    let rust = story.trigger("later", "ada").await;
    // The transaction that makes a run never enters a wait: it could not see what it must look for.
    assert_eq!(place(&story, rust).await, "active in pause");
    assert_eq!(
        story.explain(rust).await.next,
        "A worker is about to enter the current step."
    );
    story.drain().await;
    assert_eq!(place(&story, rust).await, "waiting in pause");
    audit(story.pool()).await;

    sqlx::query("select chimeway.trigger('later', '{\"actor_id\": \"bob\"}', 'org_456')")
        .execute(story.pool())
        .await
        .unwrap();
    assert_eq!(story.drain().await.events, 1);
    story.signal("ada", "done").await;
    story.drain().await;
    assert_eq!(
        place(&story, rust).await,
        "stopped in pause: stop_condition:done"
    );
    story.advance("PT1H").await;
    assert_eq!(story.sent(), ["email reminder to bob"]);
    let both = lines(
        story.pool(),
        "select r.actor_id || ': ' || string_agg(t.reason, ' ' order by t.sequence)
         from chimeway.workflow_transitions t
         join chimeway.workflow_runs r on r.id = t.workflow_run_id
         group by r.id order by r.id",
    )
    .await;
    insta::assert_snapshot!(both, @r#"
    ada: workflow_started step_activated waiting_for_step_progression signal_received workflow_stopped
    bob: workflow_started step_activated waiting_for_step_progression reactivated_from_wait step_activated workflow_completed
    "#);
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_wait_leads_where_the_document_says() {
    let story = Story::begin(MORNING).await;
    for (key, target) in [
        ("next", "next"),
        ("complete", "complete"),
        ("stop", "stop"),
        ("goto", "{ goto: last }"),
    ] {
        story
            .apply(&format!(
                r"
key: {key}
steps:
  - {{ id: hello, action: {{ type: notify, channel: in_app, render_key: hello }} }}
  - id: pause
    action:
      type: wait
      duration: PT1H
      stop_conditions:
        - {{ type: signal_received, signal_type: go_on, then: next }}
        - {{ type: signal_received, signal_type: go_to_the_end, then: {{ goto: last }} }}
    on_outcome: {{ elapsed: {target} }}
  - {{ id: middle, action: {{ type: notify, channel: email, render_key: middle }} }}
  - {{ id: last, action: {{ type: notify, channel: email, render_key: last }} }}
"
            ))
            .await;
    }
    let mut ends = vec![];
    for key in ["next", "complete", "stop", "goto"] {
        let run = story.trigger(key, "ada").await;
        story.drain().await;
        let before = story.sent().len();
        story.advance("PT1H").await;
        let sent = story.sent()[before..].join(", ");
        ends.push(format!("{key}: {} [{sent}]", place(&story, run).await));
    }
    insta::assert_snapshot!(ends.join("\n"), @r#"
    next: completed in last: completed [email middle to ada, email last to ada]
    complete: completed in pause: completed []
    stop: stopped in pause: outcome:elapsed []
    goto: completed in last: completed [email last to ada]
    "#);
    audit(story.pool()).await;
}

/// Scenario 76.
#[tokio::test]
async fn a_wait_without_stop_conditions_ends_by_time_alone() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: pause
steps:
  - { id: hello, action: { type: notify, channel: in_app, render_key: hello } }
  - { id: hour, action: { type: wait, duration: PT1H } }
",
        )
        .await;
    let run = story.trigger("pause", "ada").await;
    story.drain().await;
    story.signal("ada", "notification_read").await;
    assert_eq!(story.drain().await.signals, 1);
    assert_eq!(place(&story, run).await, "waiting in hour");
    story.advance("PT1H").await;
    assert_eq!(
        reasons(&story, run).await[3..],
        ["reactivated_from_wait", "workflow_completed"]
    );
    audit(story.pool()).await;
}

/// A loop through a wait: each round is a visit of its own, with a message of its own.
#[tokio::test]
async fn a_loop_reminds_until_it_is_told_to_stop() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: nagging
steps:
  - { id: remind, action: { type: notify, channel: email, render_key: reminder } }
  - id: pause
    action: { type: wait, duration: P1D, stop_conditions: [{ type: signal_received, signal_type: done }] }
    on_outcome: { elapsed: { goto: remind } }
",
        )
        .await;
    let run = story.trigger("nagging", "ada").await;
    story.drain().await;
    for days in 1..=9 {
        story.advance("P1D").await;
        assert_eq!(story.sent().len(), days + 1);
    }
    audit(story.pool()).await;
    story.signal("ada", "done").await;
    story.drain().await;
    assert_eq!(
        place(&story, run).await,
        "stopped in pause: stop_condition:done"
    );
    assert_eq!(story.explain(run).await.visit, 20);
    story.advance("P10D").await;
    assert_eq!(story.sent().len(), 10);
    audit(story.pool()).await;
}
