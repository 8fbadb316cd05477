//! Steps that send: one message per visit, in order, and what its result does to the run.

use chimeway_testkit::{Answer, Story};

use crate::{
    invariants::audit,
    tools::{MORNING, attempts, deliveries, place, reasons},
};

#[tokio::test]
async fn messages_without_a_wait_between_are_sent_one_after_the_other() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: both
steps:
  - { id: first, action: { type: notify, channel: in_app, render_key: hello } }
  - { id: second, action: { type: notify, channel: email, render_key: hello_by_mail } }
",
        )
        .await;
    let run = story.trigger("both", "ada").await;
    assert!(story.sent().is_empty(), "a trigger sends nothing itself");
    assert_eq!(deliveries(story.pool()).await, "in_app pending attempts=0");
    let settled = story.drain().await;
    assert_eq!(settled.deliveries, 2);
    assert_eq!(
        story.sent(),
        ["in_app hello to ada", "email hello_by_mail to ada"]
    );
    insta::assert_snapshot!(story.history(run).await, @r#"
    03-02 09:00:00 workflow_started first -->active {workflow=both}
    03-02 09:00:00 step_activated first active->active {step_key=first}
    03-02 09:00:00 progressed_on_delivery_outcome first active->active {delivery_status=succeeded from_step=first to_step=second workflow_outcome=delivered}
    03-02 09:00:00 step_activated second active->active {step_key=second}
    03-02 09:00:00 workflow_completed second active->completed {delivery_status=succeeded from_step=second workflow_outcome=delivered}
    "#);
    assert_eq!(story.drain().await, Default::default());
    audit(story.pool()).await;
}

#[tokio::test]
async fn two_steps_on_one_channel_are_two_messages() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: twice
steps:
  - { id: first, action: { type: notify, channel: email, render_key: one } }
  - { id: second, action: { type: notify, channel: email, render_key: two } }
",
        )
        .await;
    story.trigger("twice", "ada").await;
    story.drain().await;
    assert_eq!(story.sent(), ["email one to ada", "email two to ada"]);
    let sent = story.channel().sent();
    assert_ne!(sent[0].token(), sent[1].token());
    audit(story.pool()).await;
}

/// Scenario 179.
#[tokio::test]
async fn a_message_of_a_later_step_does_not_exist_before_its_step_is_entered() {
    let story = Story::begin(MORNING).await;
    story.apply(crate::tools::MENTION).await;
    story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    story.advance("PT1H59M59.999S").await;
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app succeeded attempts=1"
    );
    story.advance("PT0.001S").await;
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app succeeded attempts=1\nemail succeeded attempts=1"
    );
}

#[tokio::test]
async fn a_step_goes_where_the_document_says_for_its_outcome() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: branching
steps:
  - id: mail
    action: { type: notify, channel: email, render_key: mail }
    on_outcome:
      delivered: complete
      bounced: { goto: in_app_instead }
      permanent_failure: stop
  - { id: skipped, action: { type: notify, channel: email, render_key: skipped } }
  - { id: in_app_instead, action: { type: notify, channel: in_app, render_key: instead } }
",
        )
        .await;
    let mut ends = vec![];
    for answer in [Answer::Takes, Answer::Bounced, Answer::Permanent] {
        story.channel().answer([answer]);
        let run = story.trigger("branching", "ada").await;
        story.drain().await;
        ends.push(place(&story, run).await);
    }
    assert_eq!(
        ends,
        [
            "completed in mail: completed",
            "completed in in_app_instead: completed",
            "stopped in mail: outcome:permanent_failure",
        ]
    );
    assert_eq!(
        story.sent()[1..],
        [
            "email mail to ada",
            "in_app instead to ada",
            "email mail to ada",
        ]
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_failed_message_does_not_stall_its_journey() {
    let story = Story::begin(MORNING).await;
    story.apply(crate::tools::MENTION).await;
    story
        .channel()
        .answer([Answer::Permanent, Answer::Takes, Answer::Bounced]);
    for who in ["ada", "bob"] {
        story.trigger("mention_escalation", who).await;
    }
    let [bob, ada] = runs(&story).await[..] else {
        panic!("two runs")
    };
    story.drain().await;
    assert_eq!(place(&story, ada).await, "waiting in step_wait_for_read");
    story.advance("PT2H").await;
    assert_eq!(
        place(&story, ada).await,
        "completed in step_email_escalation: completed"
    );
    assert_eq!(
        place(&story, bob).await,
        "completed in step_email_escalation: completed"
    );
    insta::assert_snapshot!(attempts(story.pool()).await, @r#"
    in_app 1 failed permanent {"error": "the channel refused the message"}
    in_app 1 succeeded
    email 1 failed bounced {"error": "the message bounced"}
    email 1 succeeded
    "#);
    audit(story.pool()).await;
}

/// With `temporary_failure` named, the journey goes on at the first failure while the message is still
/// being tried; its later result moves nothing.
/// Scenario 86.
#[tokio::test]
async fn a_step_may_move_on_at_the_first_failure() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: impatient
steps:
  - id: mail
    action: { type: notify, channel: email, render_key: mail }
    on_outcome: { temporary_failure: { goto: in_app }, delivered: complete }
  - { id: in_app, action: { type: notify, channel: in_app, render_key: instead } }
  - { id: pause, action: { type: wait, duration: PT1H } }
",
        )
        .await;
    story.channel().answer([Answer::Temporary(None)]);
    let run = story.trigger("impatient", "ada").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "waiting in pause");
    assert_eq!(
        deliveries(story.pool()).await,
        "email failed attempts=1\nin_app succeeded attempts=1"
    );
    story.advance("PT15S").await;
    assert_eq!(
        deliveries(story.pool()).await,
        "email succeeded attempts=2\nin_app succeeded attempts=1"
    );
    assert_eq!(place(&story, run).await, "waiting in pause");
    audit(story.pool()).await;
    story.advance("PT1H").await;
    assert_eq!(place(&story, run).await, "completed in pause: completed");
    insta::assert_snapshot!(reasons(&story, run).await.join("\n"), @r#"
    workflow_started
    step_activated
    progressed_on_delivery_outcome
    step_activated
    waiting_for_step_progression
    reactivated_from_wait
    workflow_completed
    "#);
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_message_that_is_still_being_tried_ends_with_its_run() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: impatient
steps:
  - id: mail
    action: { type: notify, channel: email, render_key: mail }
    on_outcome: { temporary_failure: next }
  - { id: in_app, action: { type: notify, channel: in_app, render_key: instead } }
",
        )
        .await;
    story.channel().answer([Answer::Temporary(None)]);
    let run = story.trigger("impatient", "ada").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "completed in in_app: completed");
    assert_eq!(
        deliveries(story.pool()).await,
        "email cancelled superseded attempts=1\nin_app succeeded attempts=1"
    );
    story.advance("PT1H").await;
    assert_eq!(story.sent().len(), 2);
    audit(story.pool()).await;
}

async fn runs(story: &Story) -> Vec<chimeway::ids::RunId> {
    let mut conn = story.pool().acquire().await.unwrap();
    let all = chimeway::store::run_views::list(&mut conn, &Default::default(), 100).await;
    all.unwrap().into_iter().map(|run| run.id).collect()
}
