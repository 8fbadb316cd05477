//! Ending runs by hand.
use chimeway::{
    FlowError,
    flow::{
        Point,
        workflows::{Cancellation, Stamp},
    },
    ids::{RunId, TenantId},
    store::claims,
};
use chimeway_testkit::{Answer, Story};

use crate::{
    fairness::{claim, slots},
    invariants::audit,
    outcomes::Stopping,
    tools::{self, MENTION, MORNING, lines, place, reasons, tenant, until_somebody_waits},
};

async fn mention() -> Story {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    story
}

/// In a transaction of its own.
async fn cancel_as(
    story: &Story,
    tenant: &TenantId,
    run: RunId,
    stamp: &Stamp,
) -> Result<Cancellation, FlowError> {
    let mut tx = story.pool().begin().await.unwrap();
    let workflows = story.chimeway().workflows();
    let done = workflows.cancel(&mut tx, tenant, run, stamp).await?;
    tx.commit().await.unwrap();
    Ok(done)
}

async fn cancel(story: &Story, run: RunId) -> Cancellation {
    let stamp = Stamp::by("carol").because("sent by mistake");
    cancel_as(story, &tenant(), run, &stamp).await.unwrap()
}

#[tokio::test]
async fn a_waiting_run_ends_and_says_by_whom_when_and_why() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    story.advance("PT1H").await;
    let done = cancel(&story, run).await;
    assert!(done.requested && done.in_flight.is_empty());
    let explained = story.explain(run).await;
    assert_eq!(explained.state, "waiting");
    assert_eq!(
        explained.next,
        "Nothing more is sent: its end was asked for, and a worker is about to end it."
    );
    audit(story.pool()).await;

    story.drain().await;
    assert_eq!(
        place(&story, run).await,
        "stopped in step_wait_for_read: cancelled"
    );
    assert_eq!(
        reasons(&story, run).await[2..],
        ["waiting_for_step_progression", "workflow_cancelled"]
    );
    let explained = story.explain(run).await;
    assert_eq!(explained.next, "Nothing: the run was stopped (cancelled).");
    let stamp = &explained.interventions[0];
    assert_eq!(
        (
            stamp.kind.as_str(),
            stamp.subject.as_str(),
            stamp.made_by.as_str()
        ),
        ("cancel", "run", "carol")
    );
    assert_eq!(stamp.reason.as_deref(), Some("sent by mistake"));
    assert_eq!(stamp.made_at.to_rfc3339(), "2026-03-02T10:00:00+00:00");
    // The reason may hold a name: the history does not.
    assert!(!story.history(run).await.contains("mistake"));
    story.advance("P1D").await;
    assert_eq!(story.sent().len(), 1);
    audit(story.pool()).await;
}

#[tokio::test]
async fn what_a_cancelled_run_had_to_send_is_not_sent() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    cancel(&story, run).await;
    story.drain().await;
    assert_eq!(
        place(&story, run).await,
        "stopped in step_in_app: cancelled"
    );
    assert_eq!(
        tools::deliveries(story.pool()).await,
        "in_app cancelled cancelled attempts=0"
    );
    assert!(story.sent().is_empty());
    audit(story.pool()).await;

    // One that waits for another try.
    let run = story.trigger("mention_escalation", "bob").await;
    story.channel().answer([Answer::Temporary(None)]);
    story.drain().await;
    cancel(&story, run).await;
    story.advance("P1D").await;
    assert_eq!(
        place(&story, run).await,
        "stopped in step_in_app: cancelled"
    );
    assert_eq!(story.sent().len(), 1);
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_message_that_is_being_sent_is_named_and_its_result_is_kept() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    let slow = Stopping::at(Point::AfterSend, &story, "slow");
    let working = slow.start(&story).await;
    let done = cancel(&story, run).await;
    assert_eq!(done.in_flight.len(), 1);
    assert!(
        story
            .explain(run)
            .await
            .next
            .ends_with("One in_app message is still being sent."),
    );
    story.drain().await;
    assert_eq!(
        place(&story, run).await,
        "stopped in step_in_app: cancelled"
    );
    slow.finish(working).await;
    assert_eq!(
        tools::deliveries(story.pool()).await,
        "in_app succeeded attempts=1"
    );
    assert_eq!(
        place(&story, run).await,
        "stopped in step_in_app: cancelled"
    );
    audit(story.pool()).await;
}

/// The run has not been ended by a worker yet: its message is cancelled all the same.
#[tokio::test]
async fn nothing_is_sent_once_the_cancellation_has_committed() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    let claimed = Stopping::at(Point::BeforeDue, &story, "stops before it looks at runs");
    cancel(&story, run).await;
    let working = claimed.start(&story).await;
    // Another worker that does not look at runs: it only claims and sends.
    sqlx::query("update chimeway.workflow_runs set wake_at = null")
        .execute(story.pool())
        .await
        .unwrap();
    story.drain().await;
    assert!(story.sent().is_empty());
    assert_eq!(
        tools::deliveries(story.pool()).await,
        "in_app cancelled cancelled attempts=0"
    );
    claimed.finish(working).await;
    story.sweep().await;
    story.drain().await;
    assert_eq!(
        place(&story, run).await,
        "stopped in step_in_app: cancelled"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_cancellation_is_asked_for_once_and_an_ended_run_stays_as_it_is() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    assert!(cancel(&story, run).await.requested);
    assert!(!cancel(&story, run).await.requested);
    story.drain().await;
    let stamp = Stamp::default();
    let refused = cancel_as(&story, &tenant(), run, &stamp).await.unwrap_err();
    assert!(matches!(refused, FlowError::RunEnded(ended) if ended == run));
    assert_eq!(refused.code(), "run_not_active");
    let stamps = "select count(*)::text from chimeway.interventions";
    assert_eq!(lines(story.pool(), stamps).await, "1");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_stamp_that_cannot_be_kept_is_refused_and_nothing_happens() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    for stamp in [
        Stamp::by(" "),
        Stamp::by("x".repeat(256)),
        Stamp::by("a\0b"),
        Stamp::default().because(""),
        Stamp::default().because("x".repeat(1_001)),
    ] {
        let refused = cancel_as(&story, &tenant(), run, &stamp).await.unwrap_err();
        assert_eq!(refused.code(), "bad_json", "{stamp:?}");
    }
    story.drain().await;
    assert_eq!(place(&story, run).await, "waiting in step_wait_for_read");
}

#[tokio::test]
async fn a_rolled_back_cancellation_was_never_asked_for() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    let mut tx = story.pool().begin().await.unwrap();
    let workflows = story.chimeway().workflows();
    let stamp = Stamp::default();
    let asked = workflows.cancel(&mut tx, &tenant(), run, &stamp).await;
    assert!(asked.unwrap().requested);
    tx.rollback().await.unwrap();
    story.advance("PT2H").await;
    assert_eq!(
        place(&story, run).await,
        "completed in step_email_escalation: completed"
    );
    audit(story.pool()).await;
}

/// A worker has begun a claim and not committed it: the cancellation waits for it, says what comes of it, and
/// keeps no lock on what was claimed.
#[tokio::test]
async fn a_claim_in_progress_is_waited_for_and_named() {
    for commits in [true, false] {
        let story = mention().await;
        // The test decides how long the claim takes, not the machine.
        sqlx::query("alter function chimeway.await_claims(uuid[]) set lock_timeout = '60s'")
            .execute(story.pool())
            .await
            .unwrap();
        let run = story.trigger("mention_escalation", "ada").await;
        let mut claiming = story.pool().begin().await.unwrap();
        let slots = slots(10, &[]);
        let claim = claim(&slots);
        let claimed = claims::claim(&mut claiming, &claim).await.unwrap();
        assert_eq!(claimed.len(), 1);
        let mut host = story.pool().begin().await.unwrap();
        let cancelling = async {
            let workflows = story.chimeway().workflows();
            let stamp = Stamp::default();
            workflows.cancel(&mut host, &tenant(), run, &stamp).await
        };
        let deciding = async {
            until_somebody_waits(story.pool()).await;
            match commits {
                true => claiming.commit().await.unwrap(),
                false => claiming.rollback().await.unwrap(),
            }
        };
        let (done, ()) = futures::join!(cancelling, deciding);
        assert_eq!(done.unwrap().in_flight.len(), usize::from(commits));
        let unlocked: Vec<bool> =
            sqlx::query_scalar("select true from chimeway.deliveries for update skip locked")
                .fetch_all(story.pool())
                .await
                .unwrap();
        assert_eq!(unlocked.len(), usize::from(commits));
        host.commit().await.unwrap();
        assert_eq!(
            lines(story.pool(), "select status from chimeway.deliveries").await,
            if commits { "dispatched" } else { "cancelled" }
        );
    }
}

/// Somebody who is not claiming holds the message: it is not waited for longer than a moment, and whoever
/// claims it later finds that it is not wanted.
#[tokio::test]
async fn a_cancellation_does_not_wait_for_a_host_that_holds_the_message() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    let mut host = story.pool().begin().await.unwrap();
    sqlx::query("select from chimeway.deliveries for update")
        .execute(&mut *host)
        .await
        .unwrap();
    let done = cancel(&story, run).await;
    assert!(done.requested && done.in_flight.is_empty());
    host.rollback().await.unwrap();
    story.drain().await;
    assert!(story.sent().is_empty());
    assert_eq!(
        place(&story, run).await,
        "stopped in step_in_app: cancelled"
    );
    audit(story.pool()).await;
}

/// A host's transaction that has cancelled and stays open holds the run, and nobody waits for it.
#[tokio::test]
async fn an_open_cancellation_holds_its_run_and_no_other() {
    let story = mention().await;
    let held = story.trigger("mention_escalation", "ada").await;
    let slow = Stopping::at(Point::AfterSend, &story, "slow");
    let working = slow.start(&story).await;
    let unsent = story.trigger("mention_escalation", "cleo").await;
    let other = story.trigger("mention_escalation", "bob").await;
    let mut tx = story.pool().begin().await.unwrap();
    let workflows = story.chimeway().workflows();
    let stamp = Stamp::default();
    for (run, out) in [(held, 1), (unsent, 0)] {
        let asked = workflows.cancel(&mut tx, &tenant(), run, &stamp).await;
        assert_eq!(asked.unwrap().in_flight.len(), out);
    }
    story.drain().await;
    assert_eq!(place(&story, other).await, "waiting in step_wait_for_read");
    // What was out is recorded, and its run is owed the result; what was not waits.
    slow.finish(working).await;
    assert_eq!(story.sent().len(), 2);
    assert!(
        story
            .explain(held)
            .await
            .next
            .contains("another session lets go")
    );
    tx.commit().await.unwrap();
    story.advance("PT1S").await;
    for run in [held, unsent] {
        assert_eq!(
            place(&story, run).await,
            "stopped in step_in_app: cancelled"
        );
    }
    assert_eq!(story.sent().len(), 2);
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_signal_that_comes_with_a_cancellation_comes_too_late() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: release
steps:
  - id: pause
    action: { type: wait, duration: PT1H, stop_conditions: [{ type: signal_received, signal_type: go, then: next }] }
  - { id: mail, action: { type: notify, channel: email, render_key: mail } }
",
        )
        .await;
    let run = story.trigger("release", "ada").await;
    story.drain().await;
    story.signal("ada", "go").await;
    cancel(&story, run).await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "stopped in pause: cancelled");
    assert_eq!(tools::deliveries(story.pool()).await, "");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_run_that_does_not_decode_can_be_ended() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    sqlx::query("update chimeway.workflow_runs set pending_signals = '{\"\"}'")
        .execute(story.pool())
        .await
        .unwrap();
    for _ in 0..4 {
        story.advance("PT2H").await;
    }
    let explained = story.explain(run).await;
    assert_eq!(
        explained.quarantine_reason.as_deref(),
        Some("does_not_decode")
    );
    cancel(&story, run).await;
    story.drain().await;
    let ended = story.explain(run).await;
    assert_eq!(ended.terminal_reason.as_deref(), Some("cancelled"));
    assert_eq!(ended.quarantine_reason, None);
    audit(story.pool()).await;
}

#[tokio::test]
async fn all_runs_of_a_workflow_in_one_tenant_are_cancelled() {
    let story = mention().await;
    story
        .apply("{ key: other, steps: [{ id: pause, action: { type: wait, duration: PT1H } }] }")
        .await;
    let mut runs = vec![];
    for who in ["ada", "bob", "cleo"] {
        runs.push(story.trigger("mention_escalation", who).await);
    }
    let other = story.trigger("other", "ada").await;
    // Another version, and another tenant.
    story.apply(&MENTION.replace("PT2H", "PT3H")).await;
    runs.push(story.trigger("mention_escalation", "dan").await);
    sqlx::query(
        "select chimeway.trigger('mention_escalation', '{\"actor_id\": \"eve\"}', 'org_999')",
    )
    .execute(story.pool())
    .await
    .unwrap();
    story.drain().await;
    let mut tx = story.pool().begin().await.unwrap();
    let workflows = story.chimeway().workflows();
    let key = "mention_escalation".parse().unwrap();
    let stamp = Stamp::by("carol");
    let asked = workflows
        .cancel_workflow(&mut tx, &tenant(), &key, &stamp)
        .await;
    assert_eq!(asked.unwrap(), runs);
    let again = workflows
        .cancel_workflow(&mut tx, &tenant(), &key, &stamp)
        .await;
    assert_eq!(again.unwrap(), []);
    tx.commit().await.unwrap();
    story.drain().await;
    for run in runs {
        assert_eq!(
            place(&story, run).await,
            "stopped in step_wait_for_read: cancelled"
        );
    }
    assert_eq!(place(&story, other).await, "waiting in pause");
    let elsewhere = "select state from chimeway.workflow_runs where tenant_id = 'org_999'";
    assert_eq!(lines(story.pool(), elsewhere).await, "waiting");
    audit(story.pool()).await;
}

#[tokio::test]
async fn sql_cancels_in_the_callers_transaction_and_keeps_its_role() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    let asked = async |run: RunId, tenant: &str| {
        let asked = sqlx::query_scalar("select chimeway.cancel($2, $1, 'by mistake')");
        let asked: bool = asked
            .bind(run.0)
            .bind(tenant)
            .fetch_one(story.pool())
            .await
            .unwrap();
        asked
    };
    assert!(!asked(run, "org_999").await, "another tenant's run");
    assert!(asked(run, "org_456").await);
    assert!(!asked(run, "org_456").await, "a second time");
    assert!(!asked(RunId::fresh(), "org_456").await, "no run");
    story.drain().await;
    assert_eq!(
        place(&story, run).await,
        "stopped in step_wait_for_read: cancelled"
    );
    assert!(!asked(run, "org_456").await, "an ended run");
    let stamp =
        "select concat_ws(' ', kind, made_by = session_user, reason) from chimeway.interventions";
    assert_eq!(lines(story.pool(), stamp).await, "cancel t by mistake");
    audit(story.pool()).await;
}

/// Two people cancel one run at once: the second waits, and is told that it was asked for.
#[tokio::test]
async fn of_two_cancellations_at_once_one_is_stamped() {
    let story = mention().await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    let workflows = story.chimeway().workflows();
    let mut first = story.pool().begin().await.unwrap();
    let stamp = Stamp::by("carol");
    let asked = workflows.cancel(&mut first, &tenant(), run, &stamp).await;
    assert!(asked.unwrap().requested);
    let second = {
        let (workflows, pool) = (workflows.clone(), story.pool().clone());
        tokio::spawn(async move {
            let mut tx = pool.begin().await.unwrap();
            let stamp = Stamp::by("dave");
            let asked = workflows.cancel(&mut tx, &tenant(), run, &stamp).await;
            tx.commit().await.unwrap();
            asked.unwrap().requested
        })
    };
    until_somebody_waits(story.pool()).await;
    first.commit().await.unwrap();
    assert!(!second.await.unwrap());
    let stamps = "select made_by from chimeway.interventions";
    assert_eq!(lines(story.pool(), stamps).await, "carol");
}
