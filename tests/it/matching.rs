//! `match` of a stop condition: only the run that a signal is about reacts.

use chimeway_testkit::Story;
use serde_json::{Value, json};

use crate::{
    invariants::{audit, audit_signals_made_in_time},
    tools::{MORNING, place},
};

const DOCUMENTS: &str = r"
key: review
steps:
  - { id: ask, action: { type: notify, channel: in_app, render_key: ask } }
  - id: pause
    action:
      type: wait
      duration: P1D
      stop_conditions:
        - { type: signal_received, signal_type: opened, match: { document_id: params.document.id, kind: { value: review } } }
        - { type: signal_received, signal_type: left }
  - { id: mail, action: { type: notify, channel: email, render_key: remind } }
";

async fn story() -> Story {
    let story = Story::begin(MORNING).await;
    story.apply(DOCUMENTS).await;
    story
}

async fn checked(story: &Story) {
    audit(story.pool()).await;
    audit_signals_made_in_time(story.pool()).await;
}

fn about(id: &Value) -> Value {
    json!({ "document": { "id": id } })
}

const STOPPED: &str = "stopped in pause: stop_condition:opened";

#[tokio::test]
async fn a_signal_stops_the_run_that_it_is_about_and_no_other() {
    let story = story().await;
    let (one, other) = (json!("doc_1"), json!("doc_2"));
    let first = story.trigger_with("review", "ada", about(&one)).await;
    let second = story.trigger_with("review", "ada", about(&other)).await;
    story.drain().await;
    story.advance("PT1H").await;
    let payload = json!({ "document_id": "doc_2", "kind": "review", "more": [1] });
    story.signal_with("ada", "opened", payload).await;
    story.drain().await;
    assert_eq!(place(&story, first).await, "waiting in pause");
    assert_eq!(place(&story, second).await, STOPPED);
    checked(&story).await;
    story.advance("P1D").await;
    assert_eq!(
        story.sent(),
        [
            "in_app ask to ada",
            "in_app ask to ada",
            "email remind to ada"
        ]
    );
    // The payload is compared, never copied.
    assert!(!story.history(second).await.contains("doc_2"));
    checked(&story).await;
}

#[tokio::test]
async fn every_comparison_must_hold_and_nothing_there_never_matches() {
    for (params, payload, stops) in [
        (
            about(&json!(7)),
            json!({ "document_id": 7, "kind": "review" }),
            true,
        ),
        (
            about(&json!(7)),
            json!({ "document_id": 7.0, "kind": "review" }),
            true,
        ),
        (
            about(&json!(7)),
            json!({ "document_id": "7", "kind": "review" }),
            false,
        ),
        (about(&json!(7)), json!({ "document_id": 7 }), false),
        (
            about(&json!(7)),
            json!({ "document_id": 7, "kind": "comment" }),
            false,
        ),
        (json!({}), json!({ "kind": "review" }), false),
        (
            json!({}),
            json!({ "document_id": null, "kind": "review" }),
            false,
        ),
        (
            json!({ "document": "doc" }),
            json!({ "kind": "review" }),
            false,
        ),
        (
            about(&json!({ "a": [1, 2] })),
            json!({ "kind": "review", "document_id": { "a": [1, 2] } }),
            true,
        ),
    ] {
        let story = story().await;
        let run = story.trigger_with("review", "ada", params.clone()).await;
        story.drain().await;
        story.signal_with("ada", "opened", payload.clone()).await;
        story.drain().await;
        let stopped = place(&story, run).await == STOPPED;
        assert_eq!(stopped, stops, "{params} {payload}");
        checked(&story).await;
    }
}

/// Signals that do not match stand in the way of none that does, and an early one counts all the same.
#[tokio::test]
async fn the_oldest_signal_that_matches_counts() {
    let story = story().await;
    let run = story
        .trigger_with("review", "ada", about(&json!("doc_1")))
        .await;
    for id in ["doc_2", "doc_3", "doc_1", "doc_1"] {
        story.pass("PT1S").await;
        let payload = json!({ "document_id": id, "kind": "review" });
        story.signal_with("ada", "opened", payload).await;
    }
    story.drain().await;
    assert_eq!(place(&story, run).await, STOPPED);
    let heard: String = sqlx::query_scalar(
        "select s.payload ->> 'document_id' || ' ' || to_char(s.occurred_at at time zone 'utc', 'SS')
         from chimeway.workflow_transitions t join chimeway.signals s on s.id = t.signal_id",
    )
    .fetch_one(story.pool())
    .await
    .unwrap();
    assert_eq!(heard, "doc_1 03");
    checked(&story).await;
}

#[tokio::test]
async fn a_matching_signal_that_was_not_routed_beats_the_deadline() {
    let story = story().await;
    let run = story
        .trigger_with("review", "ada", about(&json!("doc_1")))
        .await;
    story.drain().await;
    for id in ["doc_2", "doc_1"] {
        let payload = json!({ "document_id": id, "kind": "review" });
        story.signal_with("ada", "opened", payload).await;
    }
    sqlx::query("update chimeway.signals set route_at = route_at + interval '9 days'")
        .execute(story.pool())
        .await
        .unwrap();
    story.advance("P1D").await;
    assert_eq!(place(&story, run).await, STOPPED);
    checked(&story).await;
}

/// A condition without a match listens to every signal of its name.
#[tokio::test]
async fn a_condition_beside_it_matches_as_before() {
    let story = story().await;
    let run = story.trigger("review", "ada").await;
    story.drain().await;
    story.signal("ada", "left").await;
    story.drain().await;
    assert_eq!(
        place(&story, run).await,
        "stopped in pause: stop_condition:left"
    );
    checked(&story).await;
}
