//! From message to message, by what became of them.

use chimeway::flow::workflows::Stamp;
use chimeway_testkit::Answer;

use super::{BASE, KEY, begin, emails, hold_emails, one_step, progress};
use crate::{
    fleet::execute,
    invariants::audit,
    tools::{deliveries, lines, place, reasons, tenant},
};

/// Scenario 42.
#[tokio::test]
async fn a_delivered_message_leads_into_its_wait() {
    let (story, run) = begin(BASE, KEY).await;
    story.drain().await;
    let explained = story.explain(run).await;
    assert_eq!(
        (explained.state.as_str(), explained.status_reason.as_str()),
        ("waiting", "waiting_for_step_progression")
    );
    let entered =
        "select concat_ws(' ', s.step_key, t.from_state, t.to_state, t.delivery_id = d.id)
                   from chimeway.workflow_transitions t
                   join chimeway.workflow_steps s on s.id = t.workflow_step_id
                   cross join chimeway.deliveries d
                   where t.reason = 'waiting_for_step_progression'";
    assert_eq!(
        lines(story.pool(), entered).await,
        "in_app.wait active waiting t"
    );
    assert_eq!(emails(&story).await, 0);
    audit(story.pool()).await;
}

/// Scenario 43.
#[tokio::test]
async fn a_wait_is_counted_from_the_result_of_its_message() {
    let (story, run) = begin(BASE, KEY).await;
    story.pass("PT7M").await;
    story.drain().await;
    let facts = "select concat_ws(' ', extract(epoch from r.suspended_until - d.updated_at)::int,
                    d.updated_at at time zone 'utc', t.delivery_id = d.id)
                 from chimeway.workflow_runs r
                 join chimeway.deliveries d on d.workflow_run_id = r.id
                 join chimeway.workflow_transitions t on t.workflow_run_id = r.id and t.to_state = 'waiting'";
    assert_eq!(
        lines(story.pool(), facts).await,
        "1800 2026-03-02 09:07:00 t"
    );
    insta::assert_snapshot!(story.history(run).await.lines().last().unwrap(), @"03-02 09:07:00 waiting_for_step_progression in_app.wait active->waiting {delivery_status=succeeded from_step=in_app pending_signals=[] suspended_until=2026-03-02T09:37:00.000000Z workflow_outcome=delivered}");
}

/// Scenarios 45, 46, 59.
#[tokio::test]
async fn a_bounced_message_leads_to_one_email() {
    let (story, run) = begin(BASE, KEY).await;
    hold_emails(&story).await;
    story.channel().answer([Answer::Bounced]);
    story.drain().await;
    assert_eq!(place(&story, run).await, "active in email");
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app cancelled bounced attempts=1\nemail pending attempts=0"
    );
    let linked = "select concat_ws(' ', d.workflow_run_id = r.id, d.workflow_step_id = r.current_step_id, s.step_key)
                  from chimeway.workflow_runs r cross join chimeway.deliveries d
                  join chimeway.workflow_steps s on s.id = d.workflow_step_id
                  where d.channel = 'email'";
    assert_eq!(lines(story.pool(), linked).await, "t t email");
    insta::assert_snapshot!(story.history(run).await, @"
    03-02 09:00:00 workflow_started in_app -->active {workflow=comment.escalation}
    03-02 09:00:00 step_activated in_app active->active {step_key=in_app}
    03-02 09:00:00 progressed_on_delivery_outcome in_app active->active {delivery_status=cancelled from_step=in_app to_step=email workflow_outcome=bounced}
    03-02 09:00:00 step_activated email active->active {step_key=email}
    ");

    let before = story.history(run).await;
    for _ in 0..3 {
        assert_eq!(progress(&story, run).await, "delivery_pending");
        story.sweep().await;
        story.drain().await;
    }
    assert_eq!(emails(&story).await, 1);
    // Tried once and due again: not a result that its step would branch on.
    story.channel().answer([Answer::Temporary(None)]);
    story.advance("PT1H").await;
    assert_eq!(progress(&story, run).await, "delivery_pending");
    assert_eq!(story.history(run).await, before);
    assert_eq!(emails(&story).await, 1);
    audit(story.pool()).await;
}

/// Scenario 47.
#[tokio::test]
async fn a_message_that_is_not_sent_yet_moves_nothing() {
    let (story, run) = begin(BASE, KEY).await;
    let before = story.history(run).await;
    assert_eq!(progress(&story, run).await, "delivery_pending");
    assert_eq!(story.history(run).await, before);
    assert_eq!(emails(&story).await, 0);
}

/// Scenario 48.
#[tokio::test]
async fn a_message_that_was_superseded_moves_nothing() {
    let (story, run) = begin(BASE, KEY).await;
    execute(
        story.pool(),
        "update chimeway.deliveries
         set status = 'cancelled', status_reason = 'superseded', next_attempt_at = null",
    )
    .await;
    let before = story.history(run).await;
    for _ in 0..2 {
        assert_eq!(progress(&story, run).await, "delivery_pending");
        story.sweep().await;
        story.drain().await;
    }
    assert_eq!(story.history(run).await, before);
    assert_eq!(emails(&story).await, 0);
    // Who wrote that by hand may end the run by hand.
    let mut tx = story.pool().begin().await.unwrap();
    let workflows = story.chimeway().workflows();
    workflows
        .cancel(&mut tx, &tenant(), run, &Stamp::default())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    story.drain().await;
    assert_eq!(place(&story, run).await, "stopped in in_app: cancelled");
    audit(story.pool()).await;
}

/// Scenario 49.
#[tokio::test]
async fn a_rule_stops_the_run() {
    let (story, run) = begin(&one_step("{kind: stop, outcome: bounced}"), "one_step").await;
    story.channel().answer([Answer::Bounced]);
    story.drain().await;
    assert_eq!(
        place(&story, run).await,
        "stopped in in_app: outcome:bounced"
    );
    insta::assert_snapshot!(story.history(run).await.lines().last().unwrap(), @"03-02 09:00:00 workflow_stopped in_app active->stopped {delivery_status=cancelled from_step=in_app workflow_outcome=bounced}");
    assert_eq!(progress(&story, run).await, "run_not_active");
    assert_eq!(reasons(&story, run).await[2..], ["workflow_stopped"]);
    audit(story.pool()).await;
}

/// Scenario 50.
#[tokio::test]
async fn a_last_message_that_bounced_completes_the_run() {
    let (story, run) = begin(&one_step(""), "one_step").await;
    story.channel().answer([Answer::Bounced]);
    story.drain().await;
    assert_eq!(place(&story, run).await, "completed in in_app: completed");
    insta::assert_snapshot!(story.history(run).await.lines().last().unwrap(), @"03-02 09:00:00 workflow_completed in_app active->completed {delivery_status=cancelled from_step=in_app workflow_outcome=bounced}");
    assert_eq!(progress(&story, run).await, "run_not_active");
    assert_eq!(reasons(&story, run).await[2..], ["workflow_completed"]);
    audit(story.pool()).await;
}

/// Scenario 51.
#[tokio::test]
async fn a_last_message_that_is_not_sent_yet_leaves_the_run_active() {
    let (story, run) = begin(&one_step(""), "one_step").await;
    assert_eq!(progress(&story, run).await, "delivery_pending");
    assert_eq!(place(&story, run).await, "active in in_app");
}

/// Scenario 54.
#[tokio::test]
async fn a_message_that_is_not_there_is_planned_anew() {
    let (story, run) = begin(BASE, KEY).await;
    execute(story.pool(), "delete from chimeway.deliveries").await;
    assert_eq!(progress(&story, run).await, "moved");
    assert_eq!(progress(&story, run).await, "delivery_pending");
    assert_eq!(reasons(&story, run).await[2..], ["delivery_planned_again"]);
    story.drain().await;
    assert_eq!(story.sent().len(), 1);
    assert_eq!(place(&story, run).await, "waiting in in_app.wait");
    audit(story.pool()).await;
}
