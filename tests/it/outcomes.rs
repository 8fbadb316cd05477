//! What a channel answers, and what becomes of the message.

use std::{sync::Arc, time::Duration};

use chimeway::{
    Chimeway, Dispatcher,
    channels::Receipt,
    flow::{Point, Timing},
};
use chimeway_testkit::{Answer, Story};
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::{
    invariants::audit,
    tools::{MENTION, MORNING, attempts, deliveries, lines, place},
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

/// Steps of 0.1 s until the channel has been called once more; how long that took.
async fn until_sent(story: &Story, patience: u32) -> Duration {
    let before = story.sent().len();
    for tenths in 1..=patience * 10 {
        story.advance("PT0.1S").await;
        if story.sent().len() > before {
            return Duration::from_millis(100) * tenths;
        }
    }
    panic!("not sent again within {patience} s")
}

#[tokio::test]
async fn a_temporary_failure_is_tried_again_after_the_backoff() {
    let story = mail().await;
    story.channel().always(Answer::Temporary(None));
    let run = story.trigger("mail", "ada").await;
    story.drain().await;
    assert_eq!(deliveries(story.pool()).await, "email failed attempts=1");
    let waited = until_sent(&story, 16).await.as_secs_f64();
    assert!((12.0..=15.1).contains(&waited), "{waited}");
    assert_eq!(place(&story, run).await, "active in mail");
    audit(story.pool()).await;

    story.channel().always(Answer::Takes);
    let waited = until_sent(&story, 31).await.as_secs_f64();
    assert!((24.0..=30.1).contains(&waited), "{waited}");
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    insta::assert_snapshot!(attempts(story.pool()).await, @r#"
    email 1 failed temporary {"error": "the channel is not available now"}
    email 2 failed temporary {"error": "the channel is not available now"}
    email 3 succeeded
    "#);
    audit(story.pool()).await;
}

#[tokio::test]
async fn after_five_failures_the_message_is_given_up_and_the_journey_goes_on() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: fallback
steps:
  - id: mail
    action: { type: notify, channel: email, render_key: mail }
    on_outcome: { retries_exhausted: { goto: in_app }, delivered: complete }
  - { id: in_app, action: { type: notify, channel: in_app, render_key: instead } }
",
        )
        .await;
    story.channel().answer(vec![Answer::Temporary(None); 5]);
    let run = story.trigger("fallback", "ada").await;
    story.drain().await;
    for (longest, tries) in [("PT15S", 2), ("PT30S", 3), ("PT1M", 4)] {
        assert_eq!(place(&story, run).await, "active in mail");
        story.advance(longest).await;
        assert_eq!(story.sent().len(), tries);
    }
    // 120 s, less a fifth at most, from a try that came up to 12 s ago.
    story.advance("PT1M20S").await;
    assert_eq!(story.sent().len(), 4);
    story.advance("PT40S").await;
    assert_eq!(place(&story, run).await, "completed in in_app: completed");
    assert_eq!(
        deliveries(story.pool()).await,
        "email cancelled retries_exhausted attempts=5\nin_app succeeded attempts=1"
    );
    insta::assert_snapshot!(attempts(story.pool()).await, @r#"
    email 1 failed temporary {"error": "the channel is not available now"}
    email 2 failed temporary {"error": "the channel is not available now"}
    email 3 failed temporary {"error": "the channel is not available now"}
    email 4 failed temporary {"error": "the channel is not available now"}
    email 5 failed temporary {"error": "the channel is not available now"}
    in_app 1 succeeded
    "#);
    story.advance("P1D").await;
    assert_eq!(story.sent().len(), 6);
    let tokens: std::collections::BTreeSet<_> = story.channel().sent()[..5]
        .iter()
        .map(chimeway::channels::Message::token)
        .collect();
    assert_eq!(tokens.len(), 1, "every try has the same token");
    audit(story.pool()).await;
}

#[tokio::test]
async fn the_receivers_wish_is_kept_where_it_is_longer_than_the_backoff() {
    for (wish, early, then) in [
        (Duration::from_secs(90), "PT1M29S", "PT1S"),
        // Shorter: the backoff counts.
        (Duration::from_secs(1), "PT11S", "PT4S"),
        // No longer than a day.
        (Duration::from_secs(864_000), "PT23H59M59S", "PT1S"),
    ] {
        let story = mail().await;
        story.channel().answer([Answer::Temporary(Some(wish))]);
        story.trigger("mail", "ada").await;
        story.drain().await;
        story.advance(early).await;
        assert_eq!(story.sent().len(), 1, "{wish:?}");
        story.advance(then).await;
        assert_eq!(story.sent().len(), 2, "{wish:?}");
        audit(story.pool()).await;
    }
}

/// Scenarios 92, 93.
#[tokio::test]
async fn permanent_and_bounced_are_final_at_once() {
    let story = mail().await;
    for answer in [Answer::Permanent, Answer::Bounced] {
        story.channel().answer([answer]);
        story.trigger("mail", "ada").await;
        story.drain().await;
        story.pass("PT1S").await;
    }
    story.advance("P1D").await;
    assert_eq!(story.sent().len(), 2);
    assert_eq!(
        deliveries(story.pool()).await,
        "email cancelled permanent_failure attempts=1\nemail cancelled bounced attempts=1"
    );
    insta::assert_snapshot!(attempts(story.pool()).await, @r#"
    email 1 failed permanent {"error": "the channel refused the message"}
    email 1 failed bounced {"error": "the message bounced"}
    "#);
    audit(story.pool()).await;
}

/// Scenario 94.
#[tokio::test]
async fn a_channel_that_panics_or_hangs_has_failed_for_now() {
    let timing = Timing {
        send: Duration::from_millis(40),
        ..Timing::default()
    };
    let story = Story::builder()
        .with(|builder| builder.timing(timing))
        .begin(MORNING)
        .await;
    story.apply(MAIL).await;
    story.channel().answer([Answer::Panics, Answer::Hangs]);
    let run = story.trigger("mail", "ada").await;
    story.drain().await;
    story.advance("PT15S").await;
    story.advance("PT30S").await;
    insta::assert_snapshot!(attempts(story.pool()).await, @r#"
    email 1 failed temporary {"error": "the channel panicked"}
    email 2 failed temporary {"error": "no answer in time"}
    email 3 succeeded
    "#);
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    let took = lines(
        story.pool(),
        "select (finished_at - started_at >= interval '40 ms')::text
         from chimeway.delivery_attempts where attempt_number = 2",
    );
    assert_eq!(took.await, "true");
    audit(story.pool()).await;
}

#[tokio::test]
async fn one_bad_channel_does_not_take_the_messages_beside_it() {
    let story = mail().await;
    story
        .channel()
        .answer([Answer::Panics, Answer::Takes, Answer::Permanent]);
    for who in ["ada", "bob", "cleo", "dan"] {
        story.trigger("mail", who).await;
    }
    story.drain().await;
    assert_eq!(
        deliveries(story.pool()).await,
        "email failed attempts=1\nemail succeeded attempts=1\n\
         email cancelled permanent_failure attempts=1\nemail succeeded attempts=1"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_channel_that_this_worker_lacks_is_tried_again() {
    let story = Story::builder()
        .with(|builder| builder.extra_channel("sms").unwrap())
        .begin(MORNING)
        .await;
    story
        .apply("{ key: sms, steps: [{ id: sms, action: { type: notify, channel: sms, render_key: hello } }] }")
        .await;
    let run = story.trigger("sms", "ada").await;
    story.drain().await;
    assert_eq!(
        attempts(story.pool()).await,
        r#"sms 1 failed temporary {"error": "this worker has no such channel"}"#
    );
    audit(story.pool()).await;

    // Another worker has it.
    let equipped = Chimeway::builder()
        .channel("sms", story.channel().clone())
        .unwrap()
        .dispatcher(Dispatcher::Inline)
        .build();
    story.pass("PT15S").await;
    equipped.settle(story.pool()).await.unwrap();
    assert_eq!(story.sent(), ["sms hello to ada"]);
    assert_eq!(place(&story, run).await, "completed in sms: completed");
    audit(story.pool()).await;
}

#[tokio::test]
async fn what_a_provider_answers_is_kept_small_and_without_nul() {
    let story = mail().await;
    let receipt = |id: &str, response| Receipt {
        provider_message_id: Some(id.to_owned()),
        response: Some(response),
    };
    story.channel().answer([
        Answer::With(receipt(
            "m\0essage-1",
            serde_json::json!({ "co\0de": "25\0 0 ok" }),
        )),
        Answer::With(receipt(
            &"x".repeat(5_000),
            serde_json::json!("x".repeat(100_000)),
        )),
    ]);
    story.trigger("mail", "ada").await;
    story.trigger("mail", "bob").await;
    story.drain().await;
    assert_eq!(
        lines(
            story.pool(),
            "select left(a.provider_message_id, 12) || ' ' || length(a.provider_message_id) || ' ' || a.response
             from chimeway.delivery_attempts a join chimeway.deliveries d on d.id = a.delivery_id
             order by d.id"
        )
        .await,
        "message-1 9 {\"code\": \"25 0 ok\"}\nxxxxxxxxxxxx 512 {\"left_out\": \"100002 bytes\"}"
    );
    audit(story.pool()).await;
}

/// Where a worker stops after its channel has answered, until it is let go.
struct Gate {
    reached: Semaphore,
    open: Semaphore,
}

/// A worker that stops there.
pub(crate) struct Stopping {
    gate: Arc<Gate>,
    chimeway: Chimeway,
}

impl Stopping {
    pub(crate) fn at(point: Point, story: &Story, name: &str) -> Self {
        let gate = Arc::new(Gate {
            reached: Semaphore::new(0),
            open: Semaphore::new(0),
        });
        let at_gate = Arc::clone(&gate);
        let hook = Arc::new(move |reached| {
            let gate = Arc::clone(&at_gate);
            let stops: futures::future::BoxFuture<'static, ()> = Box::pin(async move {
                if reached == point {
                    gate.reached.add_permits(1);
                    gate.open.acquire().await.unwrap().forget();
                }
            });
            stops
        });
        let chimeway = ["in_app", "email"]
            .into_iter()
            .fold(Chimeway::builder(), |builder, channel| {
                builder.channel(channel, story.channel().clone()).unwrap()
            });
        let chimeway = chimeway
            .dispatcher(Dispatcher::Inline)
            .worker_name(name)
            .hook(hook)
            .build();
        Self { gate, chimeway }
    }

    /// Works until it stops at its point.
    pub(crate) async fn start(&self, story: &Story) -> JoinHandle<()> {
        let (chimeway, pool) = (self.chimeway.clone(), story.pool().clone());
        let working = tokio::spawn(async move {
            chimeway.settle(&pool).await.unwrap();
        });
        let reached = tokio::time::timeout(Duration::from_secs(10), self.gate.reached.acquire());
        reached.await.unwrap().unwrap().forget();
        working
    }

    /// Lets it go on to its end.
    pub(crate) async fn finish(&self, working: JoinHandle<()>) {
        self.gate.open.add_permits(1);
        working.await.unwrap();
    }
}

/// Everything about a delivery and its tries that a late record may touch.
async fn delivery_rows(story: &Story) -> String {
    let delivery = lines(
        story.pool(),
        "select concat_ws(' ', status, 'attempts=' || attempts, 'crashes=' || crashes,
            'claim_no=' || claim_no, 'owner=' || lease_owner)
         from chimeway.deliveries",
    );
    let tries = lines(
        story.pool(),
        "select concat_ws(' ', attempt_number, outcome, error_class, worker, provider_message_id)
         from chimeway.delivery_attempts order by attempt_number",
    );
    format!("{}\n{}", delivery.await, tries.await)
}

fn taken_as(id: &str) -> Answer {
    Answer::With(Receipt {
        provider_message_id: Some(id.to_owned()),
        response: None,
    })
}

#[tokio::test]
async fn a_result_that_comes_after_its_lease_was_closed_replaces_the_unknown() {
    let story = mail().await;
    let run = story.trigger("mail", "ada").await;
    story.channel().answer([taken_as("first")]);
    let slow = Stopping::at(Point::AfterSend, &story, "slow");
    let working = slow.start(&story).await;
    assert_eq!(
        delivery_rows(&story).await,
        "dispatched attempts=1 crashes=0 claim_no=1 owner=slow\n"
    );
    audit(story.pool()).await;
    // The lease is over, and its grace nearly.
    assert_eq!(story.advance("PT31.9S").await, Default::default());
    story.advance("PT0.1S").await;
    assert_eq!(
        delivery_rows(&story).await,
        "failed attempts=1 crashes=1 claim_no=1\n1 unknown unknown slow"
    );
    audit(story.pool()).await;
    slow.finish(working).await;
    assert_eq!(
        delivery_rows(&story).await,
        "succeeded attempts=1 crashes=1 claim_no=1\n1 succeeded slow first"
    );
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    story.advance("P1D").await;
    assert_eq!(story.sent().len(), 1);
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_result_under_an_old_claim_changes_its_own_try_alone() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story
        .channel()
        .answer([taken_as("first"), taken_as("second")]);
    let first = Stopping::at(Point::AfterSend, &story, "first");
    let second = Stopping::at(Point::AfterSend, &story, "second");
    let first_working = first.start(&story).await;
    story.advance("PT32S").await;
    story.pass("PT15S").await;
    let second_working = second.start(&story).await;
    assert_eq!(
        delivery_rows(&story).await,
        "dispatched attempts=2 crashes=1 claim_no=2 owner=second\n1 unknown unknown first"
    );
    first.finish(first_working).await;
    assert_eq!(
        delivery_rows(&story).await,
        "dispatched attempts=2 crashes=1 claim_no=2 owner=second\n1 succeeded first first"
    );
    assert_eq!(place(&story, run).await, "active in step_in_app");
    audit(story.pool()).await;
    second.finish(second_working).await;
    assert_eq!(
        delivery_rows(&story).await,
        "succeeded attempts=2 crashes=1 claim_no=2\n1 succeeded first first\n2 succeeded second second"
    );
    assert_eq!(place(&story, run).await, "waiting in step_wait_for_read");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_late_failure_is_recorded_as_what_it_was() {
    let story = mail().await;
    story.trigger("mail", "ada").await;
    story.channel().answer([Answer::Permanent]);
    let slow = Stopping::at(Point::AfterSend, &story, "slow");
    let working = slow.start(&story).await;
    story.advance("PT32S").await;
    slow.finish(working).await;
    assert_eq!(
        delivery_rows(&story).await,
        "cancelled attempts=1 crashes=1 claim_no=1\n1 failed permanent slow"
    );
    story.advance("P1D").await;
    assert_eq!(story.sent().len(), 1);
    audit(story.pool()).await;
}

/// Scenario 176.
#[tokio::test]
async fn a_message_whose_workers_vanish_is_set_aside_after_five_and_the_journey_goes_on() {
    let story = mail().await;
    let run = story.trigger("mail", "ada").await;
    for crash in 1..=5 {
        let doomed = Stopping::at(Point::BeforeSend, &story, "doomed");
        let working = doomed.start(&story).await;
        working.abort();
        assert!(working.await.unwrap_err().is_cancelled());
        story.pass("PT32S").await;
        // Closes the lease of the one before, and has nothing to send yet.
        story.drain().await;
        let status = if crash < 5 {
            "failed"
        } else {
            "cancelled quarantined"
        };
        assert_eq!(
            deliveries(story.pool()).await,
            format!("email {status} attempts={crash}")
        );
        audit(story.pool()).await;
        story.pass("PT2M").await;
    }
    assert!(story.sent().is_empty());
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    assert!(
        story
            .history(run)
            .await
            .contains("workflow_outcome=permanent_failure")
    );
    audit(story.pool()).await;
}

/// Its run has ended between the claim and the send: nothing is sent, and no try is counted.
#[tokio::test]
async fn nothing_is_claimed_for_a_run_that_was_ended_meanwhile() {
    let story = mail().await;
    story.trigger("mail", "ada").await;
    // As a cancellation will do it, but without ending the delivery: the claim itself must look.
    sqlx::query(
        "update chimeway.workflow_runs set state = 'stopped', ended_at = chimeway.now(),
            terminal_reason = 'cancelled', wake_at = null",
    )
    .execute(story.pool())
    .await
    .unwrap();
    story.drain().await;
    assert!(story.sent().is_empty());
    assert_eq!(
        deliveries(story.pool()).await,
        "email cancelled superseded attempts=0"
    );
    assert_eq!(attempts(story.pool()).await, "");
}
