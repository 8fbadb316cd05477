//! A kind of step and an action that the crate does not know: `docs/extending.md` has them.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chimeway::{
    Document, FlowError,
    channels::{Receipt, SendError},
    flow::{ActionCall, ActionError, ActionKind, CustomStep, StepCall},
};
use chimeway_testkit::Story;
use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use crate::{
    invariants::audit,
    tools::{MORNING, attempts, lines, place, reasons},
};

/// Asks another system for a translation: that one is not there at the first try.
#[derive(Clone, Default)]
struct Translation {
    calls: Arc<Mutex<Vec<StepCall>>>,
}

#[async_trait]
impl CustomStep for Translation {
    fn check(&self, settings: &Map<String, Value>) -> Result<(), String> {
        match settings.get("to") {
            Some(Value::String(_)) => Ok(()),
            _ => Err("a translation is `to` a language: `to: de`".to_owned()),
        }
    }

    async fn perform(&self, call: &StepCall) -> Result<Receipt, SendError> {
        self.calls.lock().unwrap().push(call.clone());
        if call.attempt.0 == 1 {
            return Err(SendError::temporary("nobody answers"));
        }
        if call.params.get("text").is_none() {
            return Err(SendError::permanent("there is no text"));
        }
        Ok(Receipt::default())
    }
}

/// Counts in a table of the host's, in the transaction of the run.
struct Count;

#[async_trait]
impl ActionKind for Count {
    async fn perform(
        &self,
        conn: &mut PgConnection,
        call: &ActionCall<'_>,
    ) -> Result<Map<String, Value>, ActionError> {
        let most = call
            .settings
            .get("most")
            .and_then(Value::as_i64)
            .unwrap_or(i64::MAX);
        let count: i64 = sqlx::query_scalar(
            "insert into counts (tenant, n) values ($1, 1)
             on conflict (tenant) do update set n = counts.n + 1 returning n",
        )
        .bind(call.tenant.as_str())
        .fetch_one(conn)
        .await?;
        if count > most {
            return Err(ActionError::Refused("too_many".to_owned()));
        }
        Ok(Map::from_iter([("count".to_owned(), json!(count))]))
    }
}

const DOCUMENT: &str = "
key: translating
steps:
  - {id: translate, action: {type: translation, to: de}, on_outcome: {failed: stop}}
  - {id: count, action: {type: action, actions: [{type: count}, {type: count, most: 3}]},
     on_outcome: {failed: {goto: sorry}}}
  - {id: second, action: {type: condition, expression: context.count == 2}, on_outcome: {unmet: stop}}
  - {id: done, action: {type: notify, channel: email}, on_outcome: {delivered: complete}}
  - {id: sorry, action: {type: notify, channel: email}}
";

async fn story() -> (Story, Translation) {
    let translation = Translation::default();
    let kind = translation.clone();
    let story = Story::builder()
        .with(|builder| {
            let builder = builder.step_kind("translation", kind).unwrap();
            builder.action("count", Count).unwrap()
        })
        .begin(MORNING)
        .await;
    sqlx::query("create table counts (tenant text primary key, n bigint not null)")
        .execute(story.pool())
        .await
        .unwrap();
    story.apply(DOCUMENT).await;
    (story, translation)
}

#[tokio::test]
async fn a_hosts_own_kinds_are_entered_tried_again_and_left() {
    let (story, translation) = story().await;
    let run = story
        .trigger_with("translating", "ada", json!({ "text": "hello" }))
        .await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "active in translate");
    story.advance("PT1H").await;
    assert_eq!(place(&story, run).await, "completed in done: completed");
    assert_eq!(story.sent(), ["email done to ada"]);

    let calls = translation.calls.lock().unwrap().clone();
    let [first, second] = &calls[..] else {
        panic!("{calls:?}");
    };
    // The same work, whatever try it is.
    assert_eq!(first.delivery, second.delivery);
    assert_eq!((first.attempt.0, second.attempt.0), (1, 2));
    assert_eq!(first.settings["to"], "de");
    assert_eq!(second.params["text"], "hello");
    assert_eq!(second.recipient.as_ref().unwrap().as_str(), "ada");
    insta::assert_snapshot!(attempts(story.pool()).await, @r#"
    translation 1 failed temporary {"error": "the channel is not available now"}
    translation 2 succeeded
    email 1 succeeded
    "#);
    insta::assert_snapshot!(reasons(&story, run).await.join("\n"), @r#"
    workflow_started
    step_activated
    progressed_on_delivery_outcome
    step_activated
    actions_performed
    step_activated
    condition_evaluated
    step_activated
    workflow_completed
    "#);
    assert_eq!(
        lines(
            story.pool(),
            "select context::text from chimeway.workflow_runs"
        )
        .await,
        r#"{"count": 2}"#
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn what_cannot_be_done_leads_where_the_step_says_and_leaves_nothing() {
    let (story, _) = story().await;
    let no_text = story.trigger("translating", "ada").await;
    story.advance("PT1H").await;
    assert_eq!(
        place(&story, no_text).await,
        "stopped in translate: outcome:failed"
    );

    let text = json!({ "text": "hello" });
    story.trigger_with("translating", "bob", text.clone()).await;
    story.advance("PT1H").await;
    let refused = story.trigger_with("translating", "cleo", text).await;
    story.advance("PT1H").await;
    assert_eq!(
        place(&story, refused).await,
        "completed in sorry: completed"
    );
    assert!(
        story
            .history(refused)
            .await
            .contains("action_failed count active->active {action_index=1 error=too_many")
    );
    // Its first action was undone with the second.
    assert_eq!(lines(story.pool(), "select n::text from counts").await, "2");
    audit(story.pool()).await;
}

#[tokio::test]
async fn what_a_document_gives_them_is_checked_when_it_is_applied() {
    let (story, _) = story().await;
    let document = Document::from_yaml("bad", &DOCUMENT.replace("to: de", "too: de")).unwrap();
    let refused = story
        .chimeway()
        .apply(story.pool(), &document)
        .await
        .unwrap_err();
    let FlowError::InvalidDefinition(mistakes) = refused else {
        panic!("{refused}");
    };
    let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert_eq!(
        mistakes,
        ["/steps/0/action: a translation is `to` a language: `to: de`"]
    );
}

/// Who only stores documents need not have the kinds themselves; a worker that lacks one tries again later.
#[tokio::test]
async fn a_process_without_them_leaves_the_work_to_others() {
    let story = Story::builder()
        .with(|builder| {
            let builder = builder.extra_step("translation").unwrap();
            builder.extra_action("count").unwrap()
        })
        .begin(MORNING)
        .await;
    story.apply(DOCUMENT).await;
    let run = story.trigger("translating", "ada").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "active in translate");
    insta::assert_snapshot!(attempts(story.pool()).await, @r#"
    translation 1 failed temporary {"error": "this worker has no such kind of step"}
    "#);
}
