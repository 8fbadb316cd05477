//! What a trigger writes, and what a repeated one does not.

use chimeway::{FlowError, Trigger, Triggered, channels::InApp, flow::Preference, ids::TenantId};
use chimeway_testkit::Story;

use super::{BASE, COUNTS, KEY, begin, jobs, one_step, woken_by_a_trigger};
use crate::{
    fleet::{number, recording},
    invariants::audit,
    tools::{MORNING, actor, attempts, deliveries, lines, tenant, trigger, trigger_of, written},
};

const BOTH: &str = "\
workflow_key: both
workflow_version: 1
steps:
  - step_key: in_app
    step_order: 1
    channel: in_app
    config:
      progress:
        - {kind: on_outcome, outcome: delivered, to_step: email}
        - {kind: on_outcome, outcome: suppressed, to_step: email}
  - {step_key: email, step_order: 2, channel: email}
";

/// Scenarios 21, 24, 52.
#[tokio::test]
async fn one_message_is_sent_once_however_often_its_trigger_is_repeated() {
    let story = Story::builder()
        .channel("in_app", InApp)
        .begin(MORNING)
        .await;
    story.apply(&one_step("")).await;
    let keyed = || trigger_of("one_step", "ada").idempotency_key("comment-7");
    let first = trigger(story.chimeway(), story.pool(), keyed()).await;
    let Ok(Triggered::New(event)) = first else {
        panic!("{first:?}")
    };
    story.drain().await;
    for _ in 0..2 {
        assert_eq!(lines(story.pool(), COUNTS).await, "1 1 1 1");
        let again = trigger(story.chimeway(), story.pool(), keyed()).await;
        assert_eq!(again.unwrap(), Triggered::Already(event));
        story.drain().await;
    }
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app succeeded attempts=1"
    );
    assert_eq!(attempts(story.pool()).await, "in_app 1 succeeded");
    let run = story.explain(story.runs_of(event).await[0]).await;
    assert_eq!(
        (run.state.as_str(), run.current_step_name.as_deref()),
        ("completed", Some("in_app"))
    );
    audit(story.pool()).await;
}

/// Scenario 22.
#[tokio::test]
async fn a_key_may_be_left_out_and_a_tenant_may_not() {
    let (story, _) = begin(BASE, KEY).await;
    let again = trigger(story.chimeway(), story.pool(), trigger_of(KEY, "ada")).await;
    assert!(matches!(again.unwrap(), Triggered::New(_)));
    assert_eq!(
        number(story.pool(), "select count(*) from chimeway.events").await,
        2
    );

    assert_eq!(
        TenantId::new("").unwrap_err().to_string(),
        "the tenant is blank"
    );
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    for sql in [
        "select chimeway.trigger('comment.escalation', '{\"actor_id\": \"ada\"}', null)",
        "select chimeway.trigger('comment.escalation', '{\"actor_id\": \"ada\"}', '')",
    ] {
        let refused = sqlx::query(sql).execute(&mut *conn).await.unwrap_err();
        assert_eq!(
            refused.as_database_error().unwrap().code().unwrap(),
            "CW003"
        );
    }
    assert_eq!(written(&mut conn).await, before);
}

/// Scenario 23.
#[tokio::test]
async fn a_blank_key_is_none() {
    let (story, _) = begin(BASE, KEY).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    let blank = trigger_of(KEY, "ada").idempotency_key("   ");
    let refused = trigger(story.chimeway(), story.pool(), blank)
        .await
        .unwrap_err();
    insta::assert_snapshot!(refused, @"the idempotency key is blank or longer than 255 bytes; leave it out, or give what makes this trigger unique");
    let refused = sqlx::query(
        "select chimeway.trigger('comment.escalation', '{\"actor_id\": \"ada\"}', 'org_456',
            idempotency_key => '   ')",
    );
    let refused = refused.execute(&mut *conn).await.unwrap_err();
    assert_eq!(
        refused.as_database_error().unwrap().code().unwrap(),
        "CW006"
    );
    assert_eq!(written(&mut conn).await, before);
}

/// Scenario 25.
#[tokio::test]
async fn a_repeated_trigger_makes_nothing_due_and_wakes_nobody() {
    let story = Story::begin(MORNING).await;
    story.apply(&one_step("").replace("one_step", KEY)).await;
    let queued = recording(story.channel()).build();
    let woken = woken_by_a_trigger(story.pool(), &queued, "comment-7").await;
    assert_eq!(woken, ["chimeway_delivery"]);
    story.drain().await;
    assert_eq!(jobs(&story).await, 0);
    let woken = woken_by_a_trigger(story.pool(), &queued, "comment-7").await;
    assert!(woken.is_empty(), "{woken:?}");
    assert_eq!(jobs(&story).await, 0);
    assert_eq!(story.sent().len(), 1);
}

/// Scenario 26.
#[tokio::test]
async fn a_recipient_needs_no_type_but_a_name() {
    let (story, _) = begin(BASE, KEY).await;
    let types =
        "select recipient || ' ' || coalesce(recipient_type, 'null') from chimeway.notifications";
    assert_eq!(lines(story.pool(), types).await, "ada null");
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    let refused = sqlx::query(
        "select chimeway.trigger('comment.escalation', '{}', 'org_456', '[{\"type\": \"user\"}]')",
    );
    let refused = refused.execute(&mut *conn).await.unwrap_err();
    assert_eq!(
        refused.as_database_error().unwrap().code().unwrap(),
        "CW005"
    );
    let nobody = Trigger::new(KEY.parse().unwrap(), tenant());
    let refused = trigger(story.chimeway(), story.pool(), nobody).await;
    assert!(
        matches!(refused, Err(FlowError::NoRecipient)),
        "{refused:?}"
    );
    assert_eq!(written(&mut conn).await, before);
}

/// Scenario 27.
#[tokio::test]
async fn each_channel_has_a_message_and_each_that_is_wanted_a_try() {
    let (story, _) = begin(BOTH, "both").await;
    story.drain().await;
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app succeeded attempts=1\nemail succeeded attempts=1"
    );
    assert_eq!(
        attempts(story.pool()).await,
        "in_app 1 succeeded\nemail 1 succeeded"
    );

    let mut conn = story.pool().acquire().await.unwrap();
    let unwanted = [(Preference::Channel("in_app".parse().unwrap()), false)];
    let preferences = story.chimeway().preferences();
    preferences
        .set(&mut conn, &tenant(), &actor("bob"), &unwanted)
        .await
        .unwrap();
    story.pass("PT1S").await;
    story.trigger("both", "bob").await;
    story.drain().await;
    let bobs = deliveries(story.pool()).await;
    let bobs: Vec<_> = bobs.lines().skip(2).collect();
    assert_eq!(
        bobs,
        [
            "in_app suppressed channel_disabled attempts=0",
            "email succeeded attempts=1"
        ]
    );
    assert_eq!(attempts(story.pool()).await.lines().count(), 3);
    audit(story.pool()).await;
}

/// Scenario 29.
#[tokio::test]
async fn a_correlation_id_leads_to_the_event_and_its_messages() {
    let story = Story::begin(MORNING).await;
    story.apply(BOTH).await;
    let correlated = trigger_of("both", "ada").correlation_id("request-9");
    trigger(story.chimeway(), story.pool(), trigger_of("both", "bob"))
        .await
        .unwrap();
    let event = trigger(story.chimeway(), story.pool(), correlated)
        .await
        .unwrap()
        .event();
    story.drain().await;
    let found = "select id::text from chimeway.events
                 where tenant_id = 'org_456' and correlation_id = 'request-9'";
    assert_eq!(lines(story.pool(), found).await, event.to_string());
    let [run] = story.runs_of(event).await[..] else {
        panic!("one run")
    };
    let explained = story.explain(run).await;
    let mut ids: Vec<String> = explained
        .deliveries
        .iter()
        .map(|one| one.id.to_string())
        .collect();
    ids.sort_unstable();
    let stored = "select d.id::text from chimeway.deliveries d
                  join chimeway.workflow_runs r on r.id = d.workflow_run_id
                  where r.actor_id = 'ada' order by d.id";
    assert_eq!(ids.join("\n"), lines(story.pool(), stored).await);
    assert_eq!(ids.len(), 2);
}

/// Scenarios 31, 32.
#[tokio::test]
async fn the_run_its_first_lines_and_its_first_message_commit_with_the_notification() {
    let (story, run) = begin(BASE, KEY).await;
    let explained = story.explain(run).await;
    assert_eq!(
        (explained.state.as_str(), explained.status_reason.as_str()),
        ("active", "workflow_started")
    );
    let facts = "select concat_ws(' ', (select count(*) from chimeway.workflow_runs), s.step_order, s.step_key,
                    d.workflow_run_id = r.id, d.workflow_step_id = s.id, d.status)
                 from chimeway.workflow_runs r
                 join chimeway.workflow_steps s on s.id = r.current_step_id
                 cross join chimeway.deliveries d";
    assert_eq!(lines(story.pool(), facts).await, "1 1 in_app t t pending");
    insta::assert_snapshot!(story.history(run).await, @"
    03-02 09:00:00 workflow_started in_app -->active {workflow=comment.escalation}
    03-02 09:00:00 step_activated in_app active->active {step_key=in_app}
    ");
    let transactions = "select count(distinct x) from (
            select xmin::text x from chimeway.events union all
            select xmin::text from chimeway.notifications union all
            select xmin::text from chimeway.workflow_runs union all
            select xmin::text from chimeway.workflow_transitions union all
            select xmin::text from chimeway.deliveries
        ) rows";
    assert_eq!(number(story.pool(), transactions).await, 1);
}

/// Scenario 33.
#[tokio::test]
async fn a_channel_of_the_hosts_keeps_its_name() {
    let story = Story::builder()
        .recorded("webhook_partner")
        .begin(MORNING)
        .await;
    story
        .apply(&one_step("").replace("channel: in_app", "channel: webhook_partner"))
        .await;
    let run = story.trigger("one_step", "ada").await;
    story.drain().await;
    assert_eq!(
        story.sent(),
        ["webhook_partner one_step.webhook_partner to ada"]
    );
    let explained = story.explain(run).await;
    assert_eq!(
        (
            explained.deliveries[0].channel.as_str(),
            explained.deliveries[0].status.as_str()
        ),
        ("webhook_partner", "succeeded")
    );
}
