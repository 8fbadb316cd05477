//! Where a run is, why, and what comes next: in every situation it can be in.

use chimeway::{
    flow::{Explanation, Point},
    ids::RunId,
    store::run_views,
};
use chimeway_testkit::{Answer, Story};
use serde_json::Value;

use crate::{
    outcomes::Stopping,
    tools::{MENTION, MORNING, tenant},
};

const JOURNEY: &str = r"
key: journey
steps:
  - { id: mail, action: { type: notify, channel: email, render_key: mail } }
  - id: pause
    action:
      type: wait
      duration: PT1H
      stop_conditions:
        - { type: signal_received, signal_type: read }
        - { type: signal_received, signal_type: seen, then: complete }
        - { type: signal_received, signal_type: done, then: { goto: nap } }
  - { id: nap, action: { type: wait, duration: PT30M } }
";

async fn journey() -> (Story, RunId) {
    let story = Story::begin(MORNING).await;
    story.apply(JOURNEY).await;
    let run = story.trigger("journey", "ada").await;
    (story, run)
}

/// What comes next; and that the facts are those of the SQL function.
async fn next(story: &Story, run: RunId) -> String {
    let explained = story.explain(run).await;
    let sql: Value = sqlx::query_scalar("select chimeway.explain($1, $2)")
        .bind(tenant().as_str())
        .bind(run.0)
        .fetch_one(story.pool())
        .await
        .unwrap();
    let mut facts = serde_json::to_value(&explained).unwrap();
    let read: Explanation = serde_json::from_value(sql.clone()).unwrap();
    let mut same = serde_json::to_value(&read).unwrap();
    for value in [&mut facts, &mut same] {
        value.as_object_mut().unwrap().remove("next");
    }
    assert_eq!(facts, same);
    // The sentence is Rust's, and the two instants it is made with are SQL's.
    let names = |value: &Value| {
        let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        names.sort_unstable();
        names
    };
    let mut known = names(&facts);
    known.extend(["now".to_owned(), "wake_at".to_owned()]);
    known.sort_unstable();
    assert_eq!(names(&sql), known);
    explained.next
}

#[tokio::test]
async fn a_message_on_its_way() {
    let (story, run) = journey().await;
    let mut said = vec![next(&story, run).await];
    let sending = Stopping::at(Point::BeforeSend, &story, "gone");
    let working = sending.start(&story).await;
    said.push(next(&story, run).await);
    // Its worker vanishes.
    working.abort();
    story.pass("PT30S").await;
    said.push(next(&story, run).await);
    story.advance("PT2S").await;
    said.push(next(&story, run).await);
    story.pass("PT15S").await;
    said.push(next(&story, run).await);
    story.drain().await;
    said.push(next(&story, run).await);
    // When a try that was closed is repeated has a part of chance.
    let said: Vec<_> = said.iter().map(|text| without_instant(text)).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    The email message is about to be sent.
    The email message is being sent (try 1).
    The worker that was sending the email message has vanished; it may have been sent, and is about to be tried again.
    The email message is tried again at ; 1 try so far. The last try may have been sent: its worker vanished.
    The email message is about to be tried again; 1 try so far. The last try may have been sent: its worker vanished.
    Waits until , then goes on; the signal `read`, `seen` or `done` ends the wait before that.
    "#);
}

#[tokio::test]
async fn a_message_that_failed() {
    let (story, run) = journey().await;
    story.channel().answer([
        Answer::Temporary(Some(std::time::Duration::from_secs(60))),
        Answer::Temporary(None),
    ]);
    story.drain().await;
    let mut said = vec![next(&story, run).await];
    story.pass("PT1M").await;
    said.push(next(&story, run).await);
    story.drain().await;
    said.push(without_instant(&next(&story, run).await));
    insta::assert_snapshot!(said.join("\n"), @r#"
    The email message is tried again at 2026-03-02T09:01:00Z; 1 try so far.
    The email message is about to be tried again; 1 try so far.
    The email message is tried again at ; 2 tries so far.
    "#);
}

#[tokio::test]
async fn a_wait() {
    let (story, run) = journey().await;
    story.drain().await;
    let mut said = vec![next(&story, run).await];
    story.pass("PT1H").await;
    said.push(next(&story, run).await);
    story.drain().await;
    said.push(next(&story, run).await);
    story.advance("PT30M").await;
    said.push(next(&story, run).await);
    story.apply(MENTION).await;
    let one_signal = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    said.push(next(&story, one_signal).await);
    insta::assert_snapshot!(said.join("\n"), @r#"
    Waits until 2026-03-02T10:00:00Z, then goes on; the signal `read`, `seen` or `done` ends the wait before that.
    The wait ended at 2026-03-02T10:00:00Z; a worker is about to go on.
    Waits until 2026-03-02T10:30:00Z, then goes on.
    Nothing: the run is completed.
    Waits until 2026-03-02T12:30:00Z, then goes on; the signal `notification_read` ends the wait before that.
    "#);
}

#[tokio::test]
async fn a_wait_that_comes_first() {
    let story = Story::begin(MORNING).await;
    story
        .apply("{ key: later, steps: [{ id: pause, action: { type: wait, duration: PT1H } }] }")
        .await;
    let run = story.trigger("later", "ada").await;
    assert_eq!(
        next(&story, run).await,
        "A worker is about to enter the current step."
    );
}

#[tokio::test]
async fn an_end() {
    let mut said = vec![];
    for signal in ["read", "seen"] {
        let (story, run) = journey().await;
        story.signal("ada", signal).await;
        story.drain().await;
        said.push(next(&story, run).await);
    }
    insta::assert_snapshot!(said.join("\n"), @r#"
    Nothing: the run was stopped (stop_condition:read).
    Nothing: the run is completed.
    "#);
}

#[tokio::test]
async fn an_end_while_a_message_is_still_being_sent() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            r"
key: impatient
steps:
  - id: mail
    action: { type: notify, channel: email, render_key: mail }
    on_outcome: { temporary_failure: next }
  - { id: pause, action: { type: wait, duration: PT15S, stop_conditions: [{ type: signal_received, signal_type: read }] } }
",
        )
        .await;
    story.channel().answer([Answer::Temporary(None)]);
    let run = story.trigger("impatient", "ada").await;
    story.drain().await;
    story.pass("PT14.999S").await;
    let sending = Stopping::at(Point::AfterSend, &story, "slow");
    // The second try may be due a little earlier or later than the end of the wait.
    sqlx::query(
        "update chimeway.deliveries set next_attempt_at = chimeway.now() where status = 'failed'",
    )
    .execute(story.pool())
    .await
    .unwrap();
    let working = sending.start(&story).await;
    story.signal("ada", "read").await;
    story.drain().await;
    assert_eq!(
        next(&story, run).await,
        "Nothing: the run was stopped (stop_condition:read). One email message is still being sent."
    );
    sending.finish(working).await;
    assert_eq!(
        next(&story, run).await,
        "Nothing: the run was stopped (stop_condition:read)."
    );
    crate::invariants::audit(story.pool()).await;
}

/// Another session holds the run's row while the message gets its result.
#[tokio::test]
async fn a_result_that_the_run_was_not_told_yet() {
    let (story, run) = journey().await;
    let mut host = story.pool().begin().await.unwrap();
    sqlx::query("select from chimeway.workflow_runs for update")
        .execute(&mut *host)
        .await
        .unwrap();
    story.drain().await;
    insta::assert_snapshot!(next(&story, run).await, @"The message has its result; the run goes on as soon as another session lets go of its row.");
    crate::invariants::audit(story.pool()).await;
    host.rollback().await.unwrap();
    story.advance("PT1S").await;
    insta::assert_snapshot!(next(&story, run).await, @"Waits until 2026-03-02T10:00:00Z, then goes on; the signal `read`, `seen` or `done` ends the wait before that.");
    crate::invariants::audit(story.pool()).await;
}

#[tokio::test]
async fn a_run_that_was_set_aside() {
    let (story, run) = journey().await;
    story.drain().await;
    let mut conn = story.pool().acquire().await.unwrap();
    for _ in 0..3 {
        sqlx::query(
            "alter table chimeway.workflow_runs drop constraint if exists workflow_runs_state",
        )
        .execute(&mut *conn)
        .await
        .unwrap();
        sqlx::query(
            "update chimeway.workflow_runs set state = 'napping', wake_at = chimeway.now()",
        )
        .execute(&mut *conn)
        .await
        .unwrap();
        story.drain().await;
        story.pass("PT1M").await;
    }
    insta::assert_snapshot!(next(&story, run).await, @"Nothing happens by itself: the run was set aside (does_not_decode).");
}

#[tokio::test]
async fn nobody_sees_a_run_of_another_tenant() {
    let (story, run) = journey().await;
    story.drain().await;
    let mut conn = story.pool().acquire().await.unwrap();
    let elsewhere = "org_999".parse().unwrap();
    let chimeway = story.chimeway();
    for (tenant, run) in [(&elsewhere, run), (&tenant(), RunId::fresh())] {
        let explained = chimeway
            .workflows()
            .explain(&mut conn, tenant, run)
            .await
            .unwrap();
        assert!(explained.is_none());
        let traces = chimeway
            .workflows()
            .list_traces(&mut conn, tenant, run, None)
            .await
            .unwrap();
        assert!(traces.is_none());
        let sql: Option<Value> = sqlx::query_scalar("select chimeway.explain($1, $2)")
            .bind(tenant.as_str())
            .bind(run.0)
            .fetch_one(&mut *conn)
            .await
            .unwrap();
        assert_eq!(sql, None);
    }
    let filter = run_views::RunFilter {
        tenant: Some("org_999".to_owned()),
        ..Default::default()
    };
    assert!(
        run_views::list(&mut conn, &filter, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn the_newest_lines_of_a_history_may_be_asked_for() {
    let (story, run) = journey().await;
    story.drain().await;
    let mut conn = story.pool().acquire().await.unwrap();
    let mut sequences = vec![];
    for limit in [None, Some(2), Some(0)] {
        let traces = story
            .chimeway()
            .workflows()
            .list_traces(&mut conn, &tenant(), run, limit)
            .await;
        let lines = traces.unwrap().unwrap();
        sequences.push(lines.iter().map(|line| line.sequence).collect::<Vec<_>>());
    }
    assert_eq!(sequences, [vec![1, 2, 3], vec![2, 3], vec![]]);
}

/// The sentence with its instants left out.
fn without_instant(text: &str) -> String {
    let words = text
        .split(' ')
        .map(|word| match word.strip_prefix("2026-") {
            Some(rest) => rest.trim_start_matches(|c: char| c != ';' && c != ',' && c != '.'),
            None => word,
        });
    words.collect::<Vec<_>>().join(" ")
}
