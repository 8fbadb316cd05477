//! Waits: entered, left by time, and looked at by many.

use std::sync::Arc;

use chimeway_testkit::Story;
use sqlx::{Connection as _, Executor as _};
use tokio::sync::Barrier;

use super::{BASE, KEY, begin, emails, hold_emails, listening, progress, progress_in};
use crate::{
    fleet::{execute, number},
    invariants::audit,
    tools::{MORNING, lines, place, reasons},
};

/// Scenarios 55, 56.
#[tokio::test]
async fn a_wait_that_is_over_leads_to_one_email() {
    let (story, run) = begin(BASE, KEY).await;
    story.drain().await;
    hold_emails(&story).await;
    story.pass("PT30M1S").await;
    assert_eq!(progress(&story, run).await, "moved");
    assert_eq!(place(&story, run).await, "active in email");
    assert_eq!(
        story.explain(run).await.status_reason,
        "reactivated_from_wait"
    );
    let planned = "select s.step_key from chimeway.deliveries d
                   join chimeway.workflow_steps s on s.id = d.workflow_step_id where d.channel = 'email'";
    assert_eq!(lines(story.pool(), planned).await, "email");
    assert_eq!(
        reasons(&story, run).await[3..],
        ["reactivated_from_wait", "step_activated"]
    );
    story.pass("PT1M").await;
    assert_eq!(progress(&story, run).await, "delivery_pending");
    story.drain().await;
    assert_eq!(emails(&story).await, 1);
    audit(story.pool()).await;
}

/// Scenario 58.
#[tokio::test]
async fn a_wait_that_is_looked_at_too_early_goes_on() {
    let (story, run) = begin(BASE, KEY).await;
    story.drain().await;
    let before = story.history(run).await;
    story.pass("PT29M59S").await;
    assert_eq!(progress(&story, run).await, "wait_not_due");
    execute(
        story.pool(),
        "update chimeway.workflow_runs set wake_at = chimeway.now()",
    )
    .await;
    assert_eq!(story.drain().await.runs, 1, "a worker looked");
    assert_eq!(story.history(run).await, before);
    assert_eq!(place(&story, run).await, "waiting in in_app.wait");
    assert_eq!(emails(&story).await, 0);
    story.advance("PT1S").await;
    assert_eq!(emails(&story).await, 1);
}

/// Scenarios 60, 61.
#[tokio::test]
async fn a_wait_listens_to_what_its_rule_names() {
    let story = Story::begin(MORNING).await;
    for (key, document) in [
        ("deaf", BASE.to_owned()),
        ("two", listening("invoice.paid, promised")),
        // What the original's inbox tells has our inbox's name.
        ("read", listening("chimeway.notification.read")),
    ] {
        story.apply(&document.replace(KEY, key)).await;
        story.trigger(key, "ada").await;
    }
    story.drain().await;
    let pending = "select pending_signals::text from chimeway.workflow_runs
                   where state = 'waiting' order by id";
    assert_eq!(
        lines(story.pool(), pending).await,
        "{}\n{invoice.paid,promised}\n{notification_read}"
    );
}

/// Scenario 62.
#[tokio::test]
async fn the_end_of_a_wait_is_due_with_the_wait_itself() {
    let (story, _) = begin(BASE, KEY).await;
    story.drain().await;
    let due = "select concat_ws(' ', wake_at = suspended_until, wake_at at time zone 'utc')
               from chimeway.workflow_runs";
    assert_eq!(lines(story.pool(), due).await, "t 2026-03-02 09:30:00");
    // Nothing but the run's own row says so.
    let others =
        "select (select count(*) from chimeway.deliveries where next_attempt_at is not null)
                    + (select count(*) from chimeway.signals)
                    + (select count(*) from chimeway.events where expand_at is not null)";
    assert_eq!(number(story.pool(), others).await, 0);
}

/// Scenario 64.
#[tokio::test]
async fn a_wait_without_its_end_cannot_be_stored_and_is_set_aside_where_it_is() {
    let (story, run) = begin(BASE, KEY).await;
    story.drain().await;
    let lose = "update chimeway.workflow_runs set suspended_until = null, wake_at = chimeway.now()";
    let refused = story.pool().execute(lose).await.unwrap_err();
    let refused = refused.as_database_error().unwrap();
    assert_eq!(refused.constraint(), Some("workflow_runs_waiting"));

    execute(
        story.pool(),
        "alter table chimeway.workflow_runs drop constraint workflow_runs_waiting",
    )
    .await;
    execute(story.pool(), lose).await;
    let before = story.history(run).await;
    assert_eq!(progress(&story, run).await, "does_not_decode");
    for _ in 0..4 {
        story.advance("PT1M").await;
    }
    assert_eq!(story.history(run).await, before);
    assert_eq!(emails(&story).await, 0);
    insta::assert_snapshot!(story.explain(run).await.next, @"Nothing happens by itself: the run was set aside (does_not_decode).");
}

/// Scenario 105.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_that_look_at_a_wait_at_once_are_told_that_it_is_not_over() {
    let (story, run) = begin(BASE, KEY).await;
    story.drain().await;
    story.pass("PT29M59S").await;
    let before = story.history(run).await;
    assert_eq!(at_once(&story, run).await, ["wait_not_due"; 10]);
    assert_eq!(story.history(run).await, before);
    assert_eq!(place(&story, run).await, "waiting in in_app.wait");
    assert_eq!(emails(&story).await, 0);

    // Of ten that come when it is over, one moves the run.
    hold_emails(&story).await;
    story.pass("PT1S").await;
    let mut told = at_once(&story, run).await;
    told.sort_unstable();
    let mut expected = vec!["delivery_pending"; 9];
    expected.push("moved");
    assert_eq!(told, expected);
    assert_eq!(emails(&story).await, 1);
    audit(story.pool()).await;
}

/// Ten sessions that each let the run go on; what each was told.
async fn at_once(story: &Story, run: chimeway::ids::RunId) -> Vec<&'static str> {
    let together = Arc::new(Barrier::new(10));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut conn = story.db().connect().await;
        let (chimeway, together) = (story.chimeway().clone(), Arc::clone(&together));
        callers.spawn(async move {
            together.wait().await;
            let mut tx = conn.begin().await.unwrap();
            let told = progress_in(&mut tx, &chimeway, run).await.unwrap();
            tx.commit().await.unwrap();
            told.noop().unwrap_or("moved")
        });
    }
    callers.join_all().await
}

/// Scenario 169.
#[tokio::test]
async fn what_comes_after_a_wait_is_sent_by_itself() {
    let (story, run) = begin(BASE, KEY).await;
    story.drain().await;
    story.advance("PT30M").await;
    assert_eq!(
        story.sent(),
        [
            "in_app comment.escalation.in_app to ada",
            "email comment.escalation.email to ada"
        ]
    );
    assert_eq!(place(&story, run).await, "completed in email: completed");
    audit(story.pool()).await;
}
