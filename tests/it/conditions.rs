//! Steps that go one way or the other, and loops.

use chimeway_testkit::Story;
use serde_json::json;

use crate::{
    invariants::audit,
    tools::{MORNING, lines, place, reasons},
};

const SORTING: &str = "
key: sorting
steps:
  - {id: large, action: {type: condition, expression: 'params.amount > 1000'},
     on_outcome: {met: {goto: warn}, unmet: {goto: quiet}}}
  - {id: warn, action: {type: notify, channel: email}, on_outcome: {delivered: complete}}
  - {id: quiet, action: {type: notify, channel: in_app}}
";

#[tokio::test]
async fn a_run_goes_where_its_expression_says() {
    let story = Story::begin(MORNING).await;
    story.apply(SORTING).await;
    let large = story
        .trigger_with("sorting", "ada", json!({ "amount": 1500 }))
        .await;
    let small = story
        .trigger_with("sorting", "bob", json!({ "amount": 15 }))
        .await;
    let exact = story
        .trigger_with("sorting", "cleo", json!({ "amount": 1000.5 }))
        .await;
    story.drain().await;
    assert_eq!(place(&story, large).await, "completed in warn: completed");
    assert_eq!(place(&story, small).await, "completed in quiet: completed");
    assert_eq!(place(&story, exact).await, "completed in warn: completed");
    assert_eq!(
        reasons(&story, large).await[2..4],
        ["condition_evaluated", "step_activated"]
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn what_cannot_be_told_fails_the_run_and_says_why() {
    let story = Story::begin(MORNING).await;
    story.apply(SORTING).await;
    for (params, code, named) in [
        (json!({}), "expression_missing_name", "name=amount"),
        (
            json!({ "amount": "a secret" }),
            "expression_type_error",
            "operator=_>_",
        ),
    ] {
        let run = story.trigger_with("sorting", "ada", params).await;
        story.drain().await;
        assert_eq!(
            place(&story, run).await,
            format!("failed in large: failed:{code}")
        );
        let history = story.history(run).await;
        assert!(
            history.contains(named) && !history.contains("secret"),
            "{history}"
        );
        let next = story.explain(run).await.next;
        assert_eq!(next, format!("Nothing: the run failed (failed:{code})."));
    }
    assert!(story.sent().is_empty());
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_loop_with_a_wait_turns_ten_thousand_times_and_does_not_grow() {
    const LAPS: u32 = 5_000;
    let story = Story::begin(MORNING).await;
    story
        .apply(
            "{key: lap, steps: [{id: rest, action: {type: wait, duration: PT1S, stop_conditions: \
             [{type: signal_received, signal_type: stop}]}}, {id: again, action: {type: condition, \
             expression: 'true'}, on_outcome: {met: {goto: rest}}}]}",
        )
        .await;
    let run = story.trigger("lap", "ada").await;
    story.drain().await;
    for _ in 0..LAPS {
        story.pass("PT1S").await;
        story.drain().await;
    }
    assert_eq!(place(&story, run).await, "waiting in rest");
    let shape = "select concat_ws(' ', visit, transition_count, pg_column_size(status_context) < 300, context)
                 from chimeway.workflow_runs";
    let visits = 1 + 2 * LAPS;
    let expected = format!("{visits} {} t {{}}", 3 + 4 * LAPS);
    assert_eq!(lines(story.pool(), shape).await, expected);
    story.signal("ada", "stop").await;
    story.drain().await;
    assert_eq!(
        place(&story, run).await,
        "stopped in rest: stop_condition:stop"
    );
    audit(story.pool()).await;
}
