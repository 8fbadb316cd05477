//! Trying again by hand, and freeing what was set aside.

use chimeway::{
    FlowError,
    flow::workflows::{Retried, Stamp},
};
use chimeway_testkit::{Answer, Story};
use sqlx::types::Uuid;

use crate::{
    invariants::audit,
    tools::{MENTION, MORNING, deliveries, lines, place, tenant},
};

const MAIL: &str = r"
key: mail
steps:
  - { id: mail, action: { type: notify, channel: email, render_key: mail } }
";

async fn mail() -> Story {
    let story = Story::begin(MORNING).await;
    story.apply(MAIL).await;
    story
}

async fn retry(story: &Story, id: Uuid) -> Result<Retried, FlowError> {
    let mut tx = story.pool().begin().await.unwrap();
    let stamp = Stamp::by("carol").because("the server is back");
    let workflows = story.chimeway().workflows();
    let done = workflows.retry(&mut tx, &tenant(), id, &stamp).await?;
    tx.commit().await.unwrap();
    Ok(done)
}

async fn refused(story: &Story, id: Uuid) -> String {
    retry(story, id)
        .await
        .unwrap_err()
        .to_string()
        .replace(&id.to_string(), "ID")
}

async fn the_id(story: &Story, sql: &'static str) -> Uuid {
    lines(story.pool(), sql).await.parse().unwrap()
}

const DELIVERY: &str = "select id::text from chimeway.deliveries";

#[tokio::test]
async fn a_message_that_waits_for_its_next_try_is_tried_now() {
    let story = mail().await;
    story.channel().answer([Answer::Temporary(None)]);
    let run = story.trigger("mail", "ada").await;
    story.drain().await;
    assert_eq!(deliveries(story.pool()).await, "email failed attempts=1");
    let done = retry(&story, the_id(&story, DELIVERY).await).await.unwrap();
    assert_eq!(done.subject, "delivery");
    story.drain().await;
    assert_eq!(deliveries(story.pool()).await, "email succeeded attempts=2");
    let explained = story.explain(run).await;
    let stamp = &explained.interventions[0];
    assert_eq!(
        (
            stamp.kind.as_str(),
            stamp.made_by.as_str(),
            stamp.reason.as_deref()
        ),
        ("retry", "carol", Some("the server is back"))
    );
    audit(story.pool()).await;
}

/// Five tries are a message's budget, whoever asks for them.
#[tokio::test]
async fn tries_by_hand_count() {
    let story = mail().await;
    story.channel().always(Answer::Temporary(None));
    story.trigger("mail", "ada").await;
    story.drain().await;
    let id = the_id(&story, DELIVERY).await;
    for tries in 2..=5 {
        retry(&story, id).await.unwrap();
        story.drain().await;
        assert_eq!(story.sent().len(), tries);
    }
    insta::assert_snapshot!(refused(&story, id).await, @"the delivery ID is not retried: every try failed, and its journey has gone on; trigger the workflow again where the message is still wanted");
    audit(story.pool()).await;
}

#[tokio::test]
async fn what_has_its_result_is_not_sent_again() {
    let story = mail().await;
    story.trigger("mail", "ada").await;
    story.drain().await;
    let id = the_id(&story, DELIVERY).await;
    insta::assert_snapshot!(refused(&story, id).await, @"the delivery ID is not retried: it was delivered");
    sqlx::query(
        "update chimeway.deliveries set status = 'dispatched', next_attempt_at = chimeway.now(),
            lease_until = chimeway.now() + interval '30 seconds', lease_owner = 'w'",
    )
    .execute(story.pool())
    .await
    .unwrap();
    insta::assert_snapshot!(refused(&story, id).await, @"the delivery ID is not retried: it is being sent at this moment");
    sqlx::query(
        "update chimeway.deliveries set status = 'cancelled', status_reason = 'bounced',
            next_attempt_at = null, lease_until = null, lease_owner = null",
    )
    .execute(story.pool())
    .await
    .unwrap();
    insta::assert_snapshot!(refused(&story, id).await, @"the delivery ID is not retried: it is cancelled (bounced), and its journey has gone on; trigger the workflow again where the message is still wanted");
    let run = the_id(&story, "select id::text from chimeway.workflow_runs").await;
    insta::assert_snapshot!(refused(&story, run).await, @"the run ID is not retried: it has ended (completed)");
    let missing = retry(&story, Uuid::nil()).await.unwrap_err();
    assert_eq!(missing.code(), "not_found");
    assert_eq!(
        lines(
            story.pool(),
            "select count(*)::text from chimeway.interventions"
        )
        .await,
        "0"
    );
}

#[tokio::test]
async fn a_run_that_was_set_aside_is_freed_with_the_results_it_is_owed() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    // A value that no version of ours knows: the row does not decode.
    let break_it = "alter table chimeway.workflow_runs drop constraint workflow_runs_state";
    sqlx::query(break_it).execute(story.pool()).await.unwrap();
    sqlx::query("update chimeway.workflow_runs set state = 'napping', wake_at = chimeway.now()")
        .execute(story.pool())
        .await
        .unwrap();
    for _ in 0..4 {
        story.advance("PT1M").await;
    }
    let explained = story.explain(run).await;
    assert_eq!(
        explained.quarantine_reason.as_deref(),
        Some("does_not_decode")
    );
    assert_eq!(story.sent().len(), 1);
    assert!(explained.deliveries[0].progress_owed);

    sqlx::query("update chimeway.workflow_runs set state = 'active'")
        .execute(story.pool())
        .await
        .unwrap();
    assert_eq!(retry(&story, run.0).await.unwrap().subject, "run");
    story.drain().await;
    assert_eq!(place(&story, run).await, "waiting in step_wait_for_read");
    audit(story.pool()).await;
}

#[tokio::test]
async fn an_event_and_a_signal_that_were_set_aside_are_freed() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    sqlx::query(
        "select chimeway.trigger('mention_escalation', '{\"actor_id\": \"ada\"}', 'org_456')",
    )
    .execute(story.pool())
    .await
    .unwrap();
    sqlx::query(
        "update chimeway.events set expand_at = null, quarantine_reason = '22000', tries = 3",
    )
    .execute(story.pool())
    .await
    .unwrap();
    let event = the_id(&story, "select id::text from chimeway.events").await;
    assert_eq!(retry(&story, event).await.unwrap().subject, "event");
    story.drain().await;
    assert_eq!(story.sent().len(), 1);

    let signal = story.signal("ada", "notification_read").await;
    sqlx::query(
        "update chimeway.signals set route_at = null, quarantine_reason = '22000', tries = 3",
    )
    .execute(story.pool())
    .await
    .unwrap();
    story.drain().await;
    assert_eq!(retry(&story, signal.0).await.unwrap().subject, "signal");
    story.drain().await;
    assert_eq!(
        lines(
            story.pool(),
            "select terminal_reason from chimeway.workflow_runs"
        )
        .await,
        "stop_condition:notification_read"
    );
    insta::assert_snapshot!(refused(&story, signal.0).await, @"the signal ID is not retried: it was not set aside; it goes on by itself");
    audit(story.pool()).await;
}
