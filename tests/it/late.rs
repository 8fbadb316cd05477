//! Results that come late, or to a run that is just being ended: what they may still change. The model
//! (`docs/model.md`) has every order of these; here they happen to real rows.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use chimeway::{
    Chimeway, Dispatcher,
    channels::BoxError,
    flow::{
        AddressBook, Contact, Point,
        workflows::{Progressed, Stamp},
    },
    ids::{ActorId, TenantId},
};
use chimeway_testkit::{Answer, Story};
use sqlx::Executor as _;
use tokio::sync::Semaphore;

use crate::{
    invariants::audit,
    outcomes::Stopping,
    recipients::{Letter, MAIL as LETTER},
    tools::{MENTION, MORNING, deliveries, lines, place, tenant},
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

/// Knows nobody, and takes its time.
#[derive(Clone)]
struct SlowBook {
    asked: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

#[async_trait]
impl AddressBook for SlowBook {
    async fn look_up(
        &self,
        _tenant: &TenantId,
        _recipients: &[ActorId],
    ) -> Result<HashMap<ActorId, Contact>, BoxError> {
        self.asked.add_permits(1);
        self.answers.acquire().await?.forget();
        Ok(HashMap::new())
    }
}

/// Its try has a row by then, which says that it may have been sent.
#[tokio::test]
async fn that_there_is_no_address_may_come_after_the_lease_was_closed() {
    let book = SlowBook {
        asked: Arc::new(Semaphore::new(0)),
        answers: Arc::new(Semaphore::new(0)),
    };
    let story = Story::builder()
        .channel("letter", Letter::default())
        .with(|builder| builder.address_book(book.clone()))
        .begin(MORNING)
        .await;
    story.apply(LETTER).await;
    let run = story.trigger("mail", "ada").await;
    let working = {
        let (chimeway, pool) = (story.chimeway().clone(), story.pool().clone());
        tokio::spawn(async move { chimeway.settle(&pool).await.unwrap() })
    };
    book.asked.acquire().await.unwrap().forget();
    story.pass("PT32S").await;
    story.sweep().await;
    assert_eq!(deliveries(story.pool()).await, "letter failed attempts=1");
    audit(story.pool()).await;
    book.answers.add_permits(10);
    working.await.unwrap();
    assert_eq!(
        deliveries(story.pool()).await,
        "letter suppressed no_address attempts=1"
    );
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    audit(story.pool()).await;
}

fn slow(story: &Story, name: &str) -> Stopping {
    Stopping::at(Point::AfterSend, story, name)
}

/// The first try had succeeded, and said so only when the second one was on its way.
#[tokio::test]
async fn what_is_known_to_have_succeeded_is_not_sent_a_third_time() {
    let story = mail().await;
    let run = story.trigger("mail", "ada").await;
    story
        .channel()
        .answer([Answer::Takes, Answer::Temporary(None)]);
    let (first, second) = (slow(&story, "first"), slow(&story, "second"));
    let first_working = first.start(&story).await;
    story.pass("PT32S").await;
    story.sweep().await;
    story.pass("PT15S").await;
    let second_working = second.start(&story).await;
    first.finish(first_working).await;
    second.finish(second_working).await;
    assert_eq!(deliveries(story.pool()).await, "email failed attempts=2");
    story.advance("PT1M").await;
    assert_eq!(story.sent().len(), 2);
    assert_eq!(deliveries(story.pool()).await, "email succeeded attempts=2");
    let tries = lines(
        story.pool(),
        "select attempt_number || ' ' || outcome from chimeway.delivery_attempts order by 1",
    );
    assert_eq!(tries.await, "1 succeeded\n2 failed");
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    audit(story.pool()).await;
}

/// While a host's transaction is ending the run, a try fails for now: a retry is planned, for nobody
/// knows how that transaction ends.
#[tokio::test]
async fn a_retry_that_was_planned_while_its_run_was_being_ended_ends_with_it() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.channel().answer([Answer::Temporary(None)]);
    let sending = slow(&story, "slow");
    let working = sending.start(&story).await;
    let workflows = story.chimeway().workflows();
    let mut host = story.pool().begin().await.unwrap();
    let stamp = Stamp::default();
    let asked = workflows.cancel(&mut host, &tenant(), run, &stamp).await;
    asked.unwrap();
    let ended = workflows.progress(&mut host, &tenant(), run).await;
    assert_eq!(ended.unwrap(), Progressed::Moved);
    sending.finish(working).await;
    assert_eq!(deliveries(story.pool()).await, "in_app failed attempts=1");
    host.commit().await.unwrap();
    story.pass("PT0.1S").await;
    story.drain().await;
    assert_eq!(
        deliveries(story.pool()).await,
        "in_app cancelled superseded attempts=1"
    );
    assert_eq!(
        place(&story, run).await,
        "stopped in step_in_app: cancelled"
    );
    audit(story.pool()).await;
}

/// Puts another document into the one definition, past the triggers that forbid it; returns the one it had.
async fn replace_document(story: &Story, document: &str) -> String {
    let mut tx = story.pool().begin().await.unwrap();
    tx.execute("set local session_replication_role = replica")
        .await
        .unwrap();
    let before = sqlx::query_scalar(
        "with before as (select id, document from chimeway.workflow_definitions)
         update chimeway.workflow_definitions d set document = $1::jsonb
         from before where before.id = d.id
         returning before.document::text",
    )
    .bind(document)
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    before
}

/// A newer version's document, say, while old workers still run.
#[tokio::test]
async fn a_worker_that_cannot_read_a_definition_leaves_its_messages_to_others() {
    let story = mail().await;
    let run = story.trigger("mail", "ada").await;
    let document = replace_document(&story, r#"{"newer": true}"#).await;
    let old_worker = Chimeway::builder()
        .channel("email", story.channel().clone())
        .unwrap()
        .dispatcher(Dispatcher::Inline)
        .build();
    old_worker.settle(story.pool()).await.unwrap();
    assert_eq!(deliveries(story.pool()).await, "email failed attempts=1");
    assert!(story.sent().is_empty());
    let explained = story.explain(run).await;
    assert_eq!(explained.state, "active");

    replace_document(&story, &document).await;
    story.advance("PT2M").await;
    assert_eq!(story.sent(), ["email mail to ada"]);
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    audit(story.pool()).await;
}

/// The channel took it, and the run's definition did not decode where that was recorded.
#[tokio::test]
async fn a_result_of_a_run_whose_definition_does_not_decode_is_kept_for_it() {
    let story = mail().await;
    let run = story.trigger("mail", "ada").await;
    // It knows the definition when it claims; a process that records for it does not.
    let sending = slow(&story, "slow");
    let working = sending.start(&story).await;
    let document = replace_document(&story, r#"{"newer": true}"#).await;
    story.pass("PT32S").await;
    let other = Chimeway::builder().dispatcher(Dispatcher::Inline).build();
    other.sweep(story.pool()).await.unwrap();
    assert_eq!(deliveries(story.pool()).await, "email failed attempts=1");
    sending.finish(working).await;
    replace_document(&story, &document).await;
    story.advance("PT2M").await;
    assert_eq!(story.sent().len(), 1);
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    audit(story.pool()).await;
}
