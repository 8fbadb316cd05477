//! What rows tell of a run afterwards.

use chimeway::{
    flow::{Preference, workflows::Stamp},
    ids::RunId,
    store::run_views::{self, RunFilter},
};
use chimeway_testkit::{Answer, Story};

use super::{BASE, KEY, begin, one_step};
use crate::{
    fleet::execute,
    invariants::audit,
    tools::{MORNING, actor, lines, tenant},
};

/// Scenario 116.
#[tokio::test]
async fn what_is_not_there_is_not_found_and_what_nobody_has_is_empty() {
    let (story, _) = begin(BASE, KEY).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let workflows = story.chimeway().workflows();
    let unknown = RunId::fresh();
    let explained = workflows.explain(&mut conn, &tenant(), unknown).await;
    assert!(explained.unwrap().is_none());
    let refused = workflows
        .retry(&mut conn, &tenant(), unknown.0, &Stamp::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), "not_found");
    for (who, count) in [("ada", 1), ("nobody", 0)] {
        let filter = RunFilter {
            recipient: Some(who.to_owned()),
            ..RunFilter::default()
        };
        let found = run_views::list(&mut conn, &filter, 10).await.unwrap();
        assert_eq!(found.len(), count, "{who}");
    }
    assert!(
        story
            .runs_of(chimeway::ids::EventId::fresh())
            .await
            .is_empty()
    );
}

/// Scenario 117.
#[tokio::test]
async fn a_delivered_message_is_a_chain_of_rows() {
    let (story, run) = begin(&one_step(""), "one_step").await;
    story.pass("PT1S").await;
    story.drain().await;
    let delivery = &story.explain(run).await.deliveries[0];
    assert_eq!(delivery.last_outcome.as_deref(), Some("succeeded"));
    let timeline = "select to_char(at at time zone 'utc', 'HH24:MI:SS ') || what from (
            select 1 n, inserted_at at, 'event created' what from chimeway.events
            union all select 2, inserted_at, 'notification created' from chimeway.notifications
            union all select 3, inserted_at, 'delivery planned' from chimeway.deliveries
            union all select 4, started_at, 'attempt ' || outcome from chimeway.delivery_attempts
        ) t order by at, n";
    insta::assert_snapshot!(lines(story.pool(), timeline).await, @"
    09:00:00 event created
    09:00:00 notification created
    09:00:00 delivery planned
    09:00:01 attempt succeeded
    ");
}

/// Scenario 118.
#[tokio::test]
async fn a_suppressed_message_says_why_and_has_no_try() {
    let story = Story::begin(MORNING).await;
    story.apply(&one_step("")).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let unwanted = [(Preference::Channel("in_app".parse().unwrap()), false)];
    let preferences = story.chimeway().preferences();
    preferences
        .set(&mut conn, &tenant(), &actor("ada"), &unwanted)
        .await
        .unwrap();
    let run = story.trigger("one_step", "ada").await;
    story.drain().await;
    let explained = story.explain(run).await;
    let [delivery] = &explained.deliveries[..] else {
        panic!("one delivery")
    };
    assert_eq!(
        (
            delivery.status.as_str(),
            delivery.status_reason.as_deref(),
            &delivery.last_outcome
        ),
        ("suppressed", Some("channel_disabled"), &None)
    );
    insta::assert_snapshot!(explained.next, @"Nothing: the run is completed. Nothing was sent over in_app: the recipient does not want messages over that channel.");
    audit(story.pool()).await;
}

/// Scenario 119.
#[tokio::test]
async fn a_message_that_was_given_up_says_why_and_when() {
    let story = Story::begin(MORNING).await;
    story.apply(&one_step("")).await;
    for answer in [Answer::Temporary(None), Answer::Permanent, Answer::Bounced] {
        story.channel().always(answer);
        story.trigger("one_step", "ada").await;
        for _ in 0..5 {
            story.advance("PT10M").await;
        }
    }
    let mut said = vec![];
    let runs = "select id from chimeway.workflow_runs order by id";
    let runs: Vec<RunId> = sqlx::query_scalar(runs)
        .fetch_all(story.pool())
        .await
        .unwrap();
    for run in runs {
        for delivery in story.explain(run).await.deliveries {
            let reason = delivery.status_reason.unwrap_or_default();
            said.push(format!("{} {reason}", delivery.status));
        }
    }
    assert_eq!(
        said,
        [
            "cancelled retries_exhausted",
            "cancelled permanent_failure",
            "cancelled bounced"
        ]
    );
    let ended = "select (t.inserted_at = d.updated_at)::text
                 from chimeway.workflow_transitions t join chimeway.deliveries d on d.id = t.delivery_id
                 where t.reason = 'workflow_completed' and t.context ->> 'delivery_status' = d.status";
    assert_eq!(lines(story.pool(), ended).await, "true\ntrue\ntrue");
}

/// Scenario 120.
#[tokio::test]
async fn the_last_try_is_the_one_with_the_highest_number() {
    let (story, run) = begin(&one_step(""), "one_step").await;
    story
        .channel()
        .answer([Answer::Temporary(None), Answer::Temporary(None)]);
    story.drain().await;
    let delivery = story.explain(run).await.deliveries[0].id;
    for _ in 0..2 {
        let mut tx = story.pool().begin().await.unwrap();
        let workflows = story.chimeway().workflows();
        workflows
            .retry(&mut tx, &tenant(), delivery.0, &Stamp::by("somebody"))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        story.drain().await;
    }
    // All three at one instant, which a story's clock gives but for some microseconds.
    execute(
        story.pool(),
        "update chimeway.delivery_attempts set
            started_at = (select min(started_at) from chimeway.delivery_attempts),
            finished_at = (select max(finished_at) from chimeway.delivery_attempts)",
    )
    .await;
    let delivery = &story.explain(run).await.deliveries[0];
    assert_eq!(
        (delivery.attempts, delivery.last_outcome.as_deref()),
        (3, Some("succeeded"))
    );
}

/// Scenario 121.
#[tokio::test]
async fn a_run_that_a_bounced_message_stopped_says_so() {
    let (story, run) = begin(&one_step("{kind: stop, outcome: bounced}"), "one_step").await;
    story.channel().answer([Answer::Bounced]);
    story.drain().await;
    insta::assert_snapshot!(story.history(run).await.lines().last().unwrap(), @"03-02 09:00:00 workflow_stopped in_app active->stopped {delivery_status=cancelled from_step=in_app workflow_outcome=bounced}");
    assert_eq!(
        story.explain(run).await.terminal_reason.as_deref(),
        Some("outcome:bounced")
    );
}

/// Scenario 122.
#[tokio::test]
async fn a_step_that_led_on_says_where_from_and_where_to() {
    let (story, run) = begin(
        "
workflow_key: both
workflow_version: 1
steps:
  - step_key: in_app
    step_order: 1
    channel: in_app
    config: {progress: [{kind: on_outcome, outcome: delivered, to_step: email}]}
  - {step_key: email, step_order: 2, channel: email}
",
        "both",
    )
    .await;
    story.drain().await;
    insta::assert_snapshot!(story.history(run).await.lines().nth(2).unwrap(), @"03-02 09:00:00 progressed_on_delivery_outcome in_app active->active {delivery_status=succeeded from_step=in_app to_step=email workflow_outcome=delivered}");
}

/// Scenario 125.
#[tokio::test]
async fn what_became_of_all_messages_is_counted_by_their_columns() {
    let story = Story::begin(MORNING).await;
    story.apply(&one_step("")).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let unwanted = [(Preference::Channel("in_app".parse().unwrap()), false)];
    let preferences = story.chimeway().preferences();
    preferences
        .set(&mut conn, &tenant(), &actor("cleo"), &unwanted)
        .await
        .unwrap();
    story.channel().answer(vec![Answer::Temporary(None); 5]);
    story.trigger("one_step", "exhausted").await;
    for _ in 0..5 {
        story.advance("PT10M").await;
    }
    for who in ["ada", "bob", "cleo"] {
        story.trigger("one_step", who).await;
    }
    story.drain().await;
    story.channel().answer([Answer::Temporary(None)]);
    story.trigger("one_step", "failing").await;
    story.drain().await;
    let counted = "select concat_ws(' ', count(*), status, status_reason) from chimeway.deliveries
                   where tenant_id = 'org_456' group by status, status_reason order by status";
    insta::assert_snapshot!(lines(story.pool(), counted).await, @"
    1 cancelled retries_exhausted
    1 failed
    2 succeeded
    1 suppressed channel_disabled
    ");
}
