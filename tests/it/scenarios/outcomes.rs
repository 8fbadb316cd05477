//! What becomes of a message, and what that means for its workflow.

use chimeway::{
    definition::Outcome,
    engine::{DeliveryStatus as S, attempt::outcome_of},
    flow::{Point, Preference},
};
use chimeway_testkit::{Answer, Story};

use super::{BASE, KEY, begin, emails, progress};
use crate::{
    fleet::execute,
    invariants::audit,
    outcomes::Stopping,
    tools::{MORNING, actor, lines, tenant},
};

/// A message, and a wait that shows how it ended.
const MESSAGE: &str = "
key: message
steps:
  - id: email
    action: { type: notify, channel: email, render_key: hello }
    on_outcome: { temporary_failure: next }
  - { id: pause, action: { type: wait, duration: P7D } }
";

/// Why the newest run went on to its wait, and the try that says so.
const EVIDENCE: &str = "select concat_ws(' ', t.context ->> 'workflow_outcome', '=',
        t.context ->> 'delivery_status', d.status_reason, '|', a.outcome, a.error_class)
    from chimeway.workflow_transitions t
    join chimeway.deliveries d on d.id = t.delivery_id
    left join lateral (
        select outcome, error_class from chimeway.delivery_attempts
        where delivery_id = d.id order by attempt_number desc limit 1
    ) a on true
    where t.reason = 'waiting_for_step_progression' order by d.id desc limit 1";

/// Scenarios 82, 83.
#[tokio::test]
async fn each_result_is_the_outcome_of_its_step_and_keeps_its_evidence() {
    let story = Story::begin(MORNING).await;
    story.apply(MESSAGE).await;
    let patient = MESSAGE.replace("key: message", "key: patient");
    let patient = patient.replace("on_outcome: { temporary_failure: next }", "");
    story.apply(&patient).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let unwanted = [(Preference::Channel("email".parse().unwrap()), false)];
    let preferences = story.chimeway().preferences();
    preferences
        .set(&mut conn, &tenant(), &actor("ada"), &unwanted)
        .await
        .unwrap();
    let mut said = vec![];
    for (workflow, who, answer, tries) in [
        ("message", "bob", Answer::Takes, 1),
        ("message", "ada", Answer::Takes, 1),
        ("message", "bob", Answer::Temporary(None), 1),
        ("patient", "bob", Answer::Temporary(None), 5),
        ("patient", "bob", Answer::Permanent, 1),
        ("patient", "bob", Answer::Bounced, 1),
    ] {
        story.channel().always(answer);
        story.trigger(workflow, who).await;
        story.drain().await;
        for _ in 1..tries {
            story.advance("PT10M").await;
        }
        said.push(lines(story.pool(), EVIDENCE).await);
    }
    insta::assert_snapshot!(said.join("\n"), @"
    delivered = succeeded | succeeded
    suppressed = suppressed channel_disabled |
    temporary_failure = failed | failed temporary
    retries_exhausted = cancelled retries_exhausted | failed temporary
    permanent_failure = cancelled permanent_failure | failed permanent
    bounced = cancelled bounced | failed bounced
    ");
    audit(story.pool()).await;
}

/// Scenarios 84, 85.
#[test]
fn no_workflow_branches_on_a_message_that_has_no_result() {
    for status in [S::Pending, S::Dispatched] {
        for reason in [None, Some("bounced"), Some("retries_exhausted")] {
            assert_eq!(outcome_of(status, reason), None, "{status} {reason:?}");
        }
    }
    assert_eq!(outcome_of(S::Cancelled, Some("superseded")), None);
    // By hand, for whatever reason: the journey goes on.
    for reason in [None, Some("whatever"), Some("")] {
        let outcome = outcome_of(S::Cancelled, reason);
        assert_eq!(outcome, Some(Outcome::Suppressed), "{reason:?}");
    }
}

/// Scenario 84.
#[tokio::test]
async fn a_try_that_is_written_down_is_no_result_yet() {
    let (story, run) = begin(BASE, KEY).await;
    story.channel().answer([Answer::Temporary(None)]);
    story.drain().await;
    // Planned again, whatever its first try says.
    execute(
        story.pool(),
        "update chimeway.deliveries set status = 'pending', next_attempt_at = chimeway.now()",
    )
    .await;
    assert_eq!(progress(&story, run).await, "delivery_pending");
    let sending = Stopping::at(Point::AfterSend, &story, "slow");
    let working = sending.start(&story).await;
    let status = "select status || ' ' || attempts from chimeway.deliveries";
    assert_eq!(lines(story.pool(), status).await, "dispatched 2");
    assert_eq!(progress(&story, run).await, "delivery_pending");
    assert_eq!(emails(&story).await, 0);
    sending.finish(working).await;
    audit(story.pool()).await;
}
