//! Tries: how often, how they end, what each keeps.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chimeway::{
    Chimeway, Dispatcher,
    channels::{Channel, Message, Receipt, SendError},
    flow::{Point, workflows::RunUpdate},
};
use chimeway_testkit::{Answer, Story};
use serde_json::json;
use sqlx::Executor as _;

use super::{BASE, KEY, begin, one_step};
use crate::{
    fleet::execute,
    invariants::audit,
    outcomes::Stopping,
    tools::{MORNING, attempts, deliveries, lines, place},
};

async fn message() -> (Story, chimeway::ids::RunId) {
    begin(&one_step(""), "one_step").await
}

/// Scenarios 87, 108.
#[tokio::test]
async fn a_message_that_was_taken_is_not_sent_again() {
    let (story, _) = message().await;
    for _ in 0..3 {
        story.drain().await;
        assert_eq!(
            deliveries(story.pool()).await,
            "in_app succeeded attempts=1"
        );
        assert_eq!(attempts(story.pool()).await, "in_app 1 succeeded");
        story.sweep().await;
        story.pass("P1D").await;
    }
    assert_eq!(story.sent().len(), 1);
    audit(story.pool()).await;
}

/// Scenarios 88, 91.
#[tokio::test]
async fn a_message_that_failed_once_is_tried_again() {
    let (story, run) = message().await;
    story.channel().answer([Answer::Temporary(None)]);
    story.drain().await;
    let row = "select concat_ws(' ', status, coalesce(status_reason, 'null'), next_attempt_at > chimeway.now())
               from chimeway.deliveries";
    assert_eq!(lines(story.pool(), row).await, "failed null t");
    let tries = "select concat_ws(' ', attempt_number, outcome, error_class)
                 from chimeway.delivery_attempts order by attempt_number";
    assert_eq!(lines(story.pool(), tries).await, "1 failed temporary");
    assert_eq!(place(&story, run).await, "active in in_app");
    story.advance("PT15S").await;
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app succeeded attempts=2"
    );
    assert_eq!(
        lines(story.pool(), tries).await,
        "1 failed temporary\n2 succeeded"
    );
    assert_eq!(place(&story, run).await, "completed in in_app: completed");
    audit(story.pool()).await;
}

/// Scenarios 89, 96.
#[tokio::test]
async fn a_channel_that_always_fails_is_called_five_times() {
    let (story, run) = message().await;
    story.channel().always(Answer::Temporary(None));
    for _ in 0..10 {
        story.advance("PT10M").await;
    }
    assert_eq!(story.sent().len(), 5);
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app cancelled retries_exhausted attempts=5"
    );
    let tries =
        "select string_agg(attempt_number || ' ' || error_class, ', ' order by attempt_number)
                 from chimeway.delivery_attempts";
    assert_eq!(
        lines(story.pool(), tries).await,
        "1 temporary, 2 temporary, 3 temporary, 4 temporary, 5 temporary"
    );
    assert_eq!(place(&story, run).await, "completed in in_app: completed");
    audit(story.pool()).await;
}

/// Scenario 90.
#[tokio::test]
async fn the_count_of_tries_decides_and_not_the_rows_of_tries() {
    let (story, _) = message().await;
    execute(story.pool(), "update chimeway.deliveries set attempts = 4").await;
    story.channel().answer([Answer::Temporary(None)]);
    story.drain().await;
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app cancelled retries_exhausted attempts=5"
    );
    let tries = "select attempt_number || ' ' || error_class from chimeway.delivery_attempts";
    assert_eq!(lines(story.pool(), tries).await, "5 temporary");
}

/// Scenarios 97, 182.
#[tokio::test]
async fn a_message_that_was_cancelled_by_hand_is_not_sent_and_its_run_goes_on() {
    let (story, run) = begin(BASE, KEY).await;
    execute(
        story.pool(),
        "update chimeway.deliveries set status = 'cancelled', next_attempt_at = null",
    )
    .await;
    story.drain().await;
    assert!(story.sent().is_empty());
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app cancelled attempts=0"
    );
    // Nobody has told the run; the minute's sweep finds it.
    story.sweep().await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "waiting in in_app.wait");
    story.advance("PT30M").await;
    assert_eq!(place(&story, run).await, "completed in email: completed");
    assert_eq!(story.sent(), ["email comment.escalation.email to ada"]);
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app cancelled attempts=0\nemail succeeded attempts=1"
    );
    audit(story.pool()).await;
}

/// Scenario 98.
#[tokio::test]
async fn a_class_of_error_that_is_none_is_refused() {
    let (story, _) = message().await;
    story.channel().answer([Answer::Temporary(None)]);
    story.drain().await;
    let refused = story
        .pool()
        .execute("update chimeway.delivery_attempts set error_class = 'odd'")
        .await
        .unwrap_err();
    let refused = refused.as_database_error().unwrap();
    assert_eq!(refused.constraint(), Some("delivery_attempts_error_class"));
}

/// A channel with settings of its own.
#[derive(Clone)]
struct Gateway {
    name: &'static str,
    sender: &'static str,
    sent: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Channel for Gateway {
    fn adapter(&self) -> &str {
        self.name
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        let line = format!("{} from {}", message.channel, self.sender);
        self.sent.lock().unwrap().push(line);
        Ok(Receipt::default())
    }
}

/// Scenario 99.
#[tokio::test]
async fn each_try_keeps_the_adapter_that_was_called() {
    let (story, _) = message().await;
    story.channel().answer([Answer::Temporary(None)]);
    story.drain().await;
    let gateway = Gateway {
        name: "other_provider",
        sender: "-",
        sent: Arc::default(),
    };
    let other = Chimeway::builder()
        .channel("in_app", gateway)
        .unwrap()
        .dispatcher(Dispatcher::Inline)
        .build();
    story.pass("PT15S").await;
    other.settle(story.pool()).await.unwrap();
    let adapters = "select attempt_number || ' ' || adapter from chimeway.delivery_attempts
                    order by attempt_number";
    assert_eq!(
        lines(story.pool(), adapters).await,
        "1 recording\n2 other_provider"
    );
}

/// Scenario 100.
#[tokio::test]
async fn a_channel_has_the_settings_it_was_registered_with() {
    let sent = Arc::<Mutex<Vec<String>>>::default();
    let gateway = |sender| Gateway {
        name: "gateway",
        sender,
        sent: Arc::clone(&sent),
    };
    let story = Story::builder()
        .channel("sms", gateway("Acme"))
        .channel("sms_custom", gateway("Acme Billing"))
        .begin(MORNING)
        .await;
    for channel in ["sms_custom", "sms"] {
        let document = one_step("")
            .replace("channel: in_app", &format!("channel: {channel}"))
            .replace(
                "workflow_key: one_step",
                &format!("workflow_key: {channel}"),
            );
        story.apply(&document).await;
        story.trigger(channel, "ada").await;
        story.drain().await;
    }
    assert_eq!(
        *sent.lock().unwrap(),
        ["sms_custom from Acme Billing", "sms from Acme"]
    );
}

/// Scenario 107.
#[tokio::test]
async fn what_a_host_writes_while_a_message_is_sent_survives_its_record() {
    let (story, run) = begin(BASE, KEY).await;
    story.channel().answer([Answer::Permanent]);
    let slow = Stopping::at(Point::AfterSend, &story, "slow");
    let working = slow.start(&story).await;
    let mut tx = story.pool().begin().await.unwrap();
    let workflows = story.chimeway().workflows();
    let locked = workflows.lock_run(&mut tx, run).await.unwrap();
    let update = RunUpdate {
        context: Some(json!({ "ticket": 42 })),
        ..RunUpdate::default()
    };
    workflows.update_run(&mut tx, locked, update).await.unwrap();
    tx.execute("update chimeway.notifications set seen_at = chimeway.now()")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    slow.finish(working).await;
    let row = "select concat_ws(' ', r.state, r.context, n.seen_at is not null, d.status, d.status_reason)
               from chimeway.workflow_runs r
               join chimeway.notifications n on n.id = r.notification_id
               join chimeway.deliveries d on d.workflow_run_id = r.id";
    assert_eq!(
        lines(story.pool(), row).await,
        r#"waiting {"ticket": 42} t cancelled permanent_failure"#
    );
    audit(story.pool()).await;
}
