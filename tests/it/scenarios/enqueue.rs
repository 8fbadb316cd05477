//! Planning a message is making it due: one row, in the host's own transaction.

use std::sync::Arc;

use chimeway::{
    FlowError,
    ids::{DefinitionId, RunId},
    store::run_views::WorkflowRun,
};
use chimeway_testkit::Story;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::sync::Barrier;

use super::{BASE, COUNTS, KEY, begin, jobs, notification_of, woken_by_a_trigger};
use crate::{
    fleet::{execute, recording},
    invariants::audit,
    tools::{MORNING, lines, tenant, trigger_of, written},
};

/// Scenario 35.
#[tokio::test]
async fn the_message_and_its_being_due_are_visible_when_the_host_commits() {
    let story = Story::begin(MORNING).await;
    story.apply(BASE).await;
    let queued = recording(story.channel()).build();
    let mut tx = story.pool().begin().await.unwrap();
    queued
        .trigger(&mut tx, trigger_of(KEY, "ada"))
        .await
        .unwrap();
    assert_eq!(jobs(&story).await, 0);
    tx.commit().await.unwrap();
    let due = "select channel || ' ' || status || ' ' || (next_attempt_at <= chimeway.now())
               from chimeway.deliveries";
    assert_eq!(lines(story.pool(), due).await, "in_app pending true");
    assert_eq!(jobs(&story).await, 1);
}

/// Scenario 36.
#[tokio::test]
async fn a_host_that_fails_leaves_no_message() {
    let story = Story::begin(MORNING).await;
    story.apply(BASE).await;
    execute(story.pool(), "create table comments (id int primary key)").await;
    let queued = recording(story.channel()).build();
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    let mut tx = conn.begin().await.unwrap();
    queued
        .trigger(&mut tx, trigger_of(KEY, "ada"))
        .await
        .unwrap();
    let forced = tx.execute("insert into comments values (1), (1)").await;
    assert!(forced.is_err());
    // It cannot commit any more: PostgreSQL rolls back, whatever it is told.
    let _ = tx.commit().await;
    assert_eq!(written(&mut conn).await, before);
    assert_eq!(jobs(&story).await, 0);
    story.drain().await;
    assert!(story.sent().is_empty());
}

/// Scenario 37.
#[tokio::test]
async fn a_message_that_cannot_be_made_due_is_not_planned() {
    let story = Story::begin(MORNING).await;
    story.apply(BASE).await;
    execute(
        story.pool(),
        "create function refuse() returns trigger language plpgsql as $$
            begin raise exception 'the test said so'; end $$;
         create trigger refuse after insert on chimeway.deliveries
            for each row execute function refuse()",
    )
    .await;
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    let mut tx = conn.begin().await.unwrap();
    let refused = story
        .chimeway()
        .trigger(&mut tx, trigger_of(KEY, "ada"))
        .await;
    assert!(matches!(refused, Err(FlowError::Store(_))), "{refused:?}");
    let went_on = tx.execute("select 1").await;
    assert!(
        went_on.is_err(),
        "the host's transaction cannot commit either"
    );
    tx.rollback().await.unwrap();
    assert_eq!(written(&mut conn).await, before);
}

/// Scenario 39.
#[tokio::test]
async fn the_inline_dispatcher_tells_no_worker() {
    let story = Story::begin(MORNING).await;
    story.apply(BASE).await;
    let inline = woken_by_a_trigger(story.pool(), story.chimeway(), "one").await;
    assert!(inline.is_empty(), "{inline:?}");
    let queued = recording(story.channel()).build();
    let queued = woken_by_a_trigger(story.pool(), &queued, "two").await;
    assert_eq!(queued, ["chimeway_delivery"]);
    // The rows are due either way: whoever looks finds them.
    story.drain().await;
    assert_eq!(story.sent().len(), 2);
}

async fn definition(story: &Story) -> DefinitionId {
    sqlx::query_scalar("select id from chimeway.workflow_definitions")
        .fetch_one(story.pool())
        .await
        .unwrap()
}

/// Plans the run of a notification, as a trigger does by itself.
async fn plan(story: &Story, conn: &mut PgConnection, run: RunId) -> WorkflowRun {
    let (notification, definition) = (notification_of(story, run).await, definition(story).await);
    story
        .chimeway()
        .workflows()
        .create_initial_run(conn, &tenant(), notification, definition, story.now())
        .await
        .unwrap()
}

/// Scenarios 38, 41.
#[tokio::test]
async fn planning_a_notification_again_finds_what_is_planned() {
    let (story, run) = begin(BASE, KEY).await;
    let planned = "select id::text from chimeway.deliveries";
    let first = lines(story.pool(), planned).await;
    for _ in 0..2 {
        let mut tx = story.pool().begin().await.unwrap();
        assert_eq!(plan(&story, &mut tx, run).await.id, run);
        tx.commit().await.unwrap();
        assert_eq!(lines(story.pool(), planned).await, first);
        assert_eq!(jobs(&story).await, 1);
    }
    assert_eq!(first.lines().count(), 1);
    audit(story.pool()).await;
}

/// Scenario 102.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_that_plan_one_notification_at_once_plan_one_message() {
    let (story, run) = begin(BASE, KEY).await;
    let notification = notification_of(&story, run).await;
    let definition = definition(&story).await;
    // As if it had been lost: only the event and the notification are left.
    execute(
        story.pool(),
        "delete from chimeway.deliveries; delete from chimeway.workflow_transitions;
         delete from chimeway.workflow_runs",
    )
    .await;
    let together = Arc::new(Barrier::new(10));
    let mut planners = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut conn = story.db().connect().await;
        let (chimeway, together) = (story.chimeway().clone(), Arc::clone(&together));
        let now = story.now();
        planners.spawn(async move {
            let mut tx = conn.begin().await.unwrap();
            together.wait().await;
            let made = chimeway
                .workflows()
                .create_initial_run(&mut tx, &tenant(), notification, definition, now)
                .await
                .unwrap();
            tx.commit().await.unwrap();
            made.id
        });
    }
    let mut made = planners.join_all().await;
    made.dedup();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(lines(story.pool(), COUNTS).await, "1 1 1 0");
    story.drain().await;
    assert_eq!(story.sent().len(), 1);
    audit(story.pool()).await;
}
