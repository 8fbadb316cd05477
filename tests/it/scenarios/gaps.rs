//! What the original leaves open.

use chimeway::{Recipient, Trigger};
use chimeway_testkit::{Answer, Story};

use super::begin;
use crate::{
    invariants::audit,
    tools::{MORNING, actor, deliveries, lines, place, tenant, trigger},
};

/// Scenario 173.
#[tokio::test]
async fn a_fallback_for_exhausted_tries_is_planned_once_they_are_exhausted() {
    let document = "
workflow_key: exhausting
workflow_version: 1
steps:
  - step_key: email
    step_order: 1
    channel: email
    config: {progress: [{kind: on_outcome, outcome: retries_exhausted, to_step: in_app}]}
  - {step_key: in_app, step_order: 2, channel: in_app}
";
    let (story, run) = begin(document, "exhausting").await;
    story.channel().answer(vec![Answer::Temporary(None); 5]);
    story.drain().await;
    for tries in 1..=4 {
        assert_eq!(
            deliveries(story.pool()).await,
            format!("email failed attempts={tries}")
        );
        assert_eq!(place(&story, run).await, "active in email");
        story.pass("PT5M").await;
        story.drain().await;
    }
    assert_eq!(
        deliveries(story.pool()).await,
        "email cancelled retries_exhausted attempts=5\nin_app succeeded attempts=1"
    );
    assert_eq!(place(&story, run).await, "completed in in_app: completed");
    story.advance("P1D").await;
    assert_eq!(story.sent().len(), 6);
    audit(story.pool()).await;
}

/// Scenario 185.
#[tokio::test]
async fn waits_that_end_at_once_are_left_in_batches() {
    let story = Story::begin(MORNING).await;
    story
        .apply("{ key: nap, steps: [{ id: pause, action: { type: wait, duration: PT1H } }] }")
        .await;
    let mut many = Trigger::new("nap".parse().unwrap(), tenant());
    for number in 0..1_000 {
        let who = Recipient::new(actor(&format!("user_{number}")));
        many.recipients.push(who);
    }
    for _ in 0..2 {
        let many = many.clone();
        trigger(story.chimeway(), story.pool(), many).await.unwrap();
        story.drain().await;
        story.pass("PT30M").await;
    }
    // An hour after the first thousand began, and half an hour before the others are due.
    assert_eq!(story.drain().await.runs, 1_000);
    let batches = "select count(*)::text from chimeway.workflow_transitions
                   where reason = 'reactivated_from_wait' group by xmin::text";
    assert_eq!(lines(story.pool(), batches).await, "500\n500");
    let states =
        "select state || ' ' || count(*) from chimeway.workflow_runs group by state order by state";
    assert_eq!(
        lines(story.pool(), states).await,
        "completed 1000\nwaiting 1000"
    );
    audit(story.pool()).await;
}
