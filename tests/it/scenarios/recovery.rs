//! What was lost by hand or by a fault is found and made again: by the minute's sweep, with no help
//! of an operator's.

use chimeway_testkit::{Answer, Story};

use super::{BASE, COUNTS, KEY, begin, emails, progress};
use crate::{
    fleet::execute,
    invariants::audit,
    tools::{deliveries, lines, place, reasons},
};

async fn lose_the_messages(story: &Story) {
    execute(story.pool(), "delete from chimeway.deliveries").await;
}

/// Scenarios 126, 131.
#[tokio::test]
async fn a_message_that_was_lost_is_planned_again_for_its_run_and_step() {
    let (story, run) = begin(BASE, KEY).await;
    lose_the_messages(&story).await;
    story.advance("PT1M1S").await;
    assert!(story.sent().is_empty(), "nothing is due, and nobody knows");
    story.sweep().await;
    story.drain().await;
    assert_eq!(story.sent(), ["in_app comment.escalation.in_app to ada"]);
    let linked = "select concat_ws(' ', d.workflow_run_id = r.id, s.step_key, d.visit)
                  from chimeway.workflow_runs r cross join chimeway.deliveries d
                  join chimeway.workflow_steps s on s.id = d.workflow_step_id";
    assert_eq!(lines(story.pool(), linked).await, "t in_app 1");
    insta::assert_snapshot!(story.history(run).await, @"
    03-02 09:00:00 workflow_started in_app -->active {workflow=comment.escalation}
    03-02 09:00:00 step_activated in_app active->active {step_key=in_app}
    03-02 09:01:01 delivery_planned_again in_app active->active {step_key=in_app}
    03-02 09:01:01 waiting_for_step_progression in_app.wait active->waiting {delivery_status=succeeded from_step=in_app pending_signals=[] suspended_until=2026-03-02T09:31:01.000000Z workflow_outcome=delivered}
    ");
    assert_eq!(lines(story.pool(), COUNTS).await, "1 1 1 1");
    audit(story.pool()).await;
}

/// Scenarios 127, 130.
#[tokio::test]
async fn what_has_its_message_is_not_recovered() {
    let (story, run) = begin(BASE, KEY).await;
    story.channel().answer([Answer::Temporary(None)]);
    let swept = async || story.chimeway().sweep(story.pool()).await.unwrap();
    assert_eq!(swept().await, 0, "its message is about to be sent");
    story.drain().await;
    story.pass("PT1S").await;
    assert_eq!(swept().await, 0, "its message is to be tried again");
    assert_eq!(story.drain().await, Default::default());
    story.advance("PT15S").await;
    assert_eq!(swept().await, 0, "its wait will end");
    assert_eq!(place(&story, run).await, "waiting in in_app.wait");
    story.advance("PT30M").await;
    assert_eq!(swept().await, 0, "it has ended");
    assert_eq!(story.drain().await, Default::default());
    assert_eq!(lines(story.pool(), COUNTS).await, "1 1 2 3");
    audit(story.pool()).await;
}

/// Scenario 129.
#[tokio::test]
async fn a_recovery_that_fails_leaves_nothing_and_is_tried_again() {
    let (story, run) = begin(BASE, KEY).await;
    lose_the_messages(&story).await;
    execute(
        story.pool(),
        "create function refuse() returns trigger language plpgsql as $$
            begin raise exception 'the test said so'; end $$;
         create trigger refuse before insert on chimeway.deliveries
            for each row execute function refuse()",
    )
    .await;
    let before = story.history(run).await;
    story.sweep().await;
    story.drain().await;
    assert_eq!(story.history(run).await, before);
    assert_eq!(deliveries(story.pool()).await, "");
    let due = "select concat_ws(' ', tries, wake_at > chimeway.now(), quarantine_reason)
               from chimeway.workflow_runs";
    assert_eq!(lines(story.pool(), due).await, "1 t");
    execute(story.pool(), "drop trigger refuse on chimeway.deliveries").await;
    story.advance("PT1M").await;
    assert_eq!(reasons(&story, run).await[2], "delivery_planned_again");
    assert_eq!(story.sent().len(), 1);
    assert_eq!(progress(&story, run).await, "wait_not_due");
    assert_eq!(emails(&story).await, 0);
    audit(story.pool()).await;
}
