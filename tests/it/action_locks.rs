//! An action step beside host transactions, and through crashes: the host's row is written once, and the host is
//! never in the way of itself.

use std::time::Duration;

use chimeway::{
    Chimeway, Document,
    flow::{Point, Writable},
    ids::RunId,
};
use chimeway_testkit::{Story, TestDb};
use futures::future::join_all;
use sqlx::{Connection as _, Executor as _, PgPool};

use crate::{
    audit::{assert_no_deadlocks, audit},
    fleet::number,
    process::Desk,
    state_changes::ORDERS,
    support::eventually,
    tools::{MORNING, lines, place, until_somebody_waits},
};

/// Notes each write of an order, and approves what is submitted after a signal that is sent.
const APPROVING: &str = "
key: approving
trigger: { entity: orders, field: status, to: submitted }
context: { order: trigger.record_id }
steps:
  - id: act
    action:
      type: action
      actions:
        - { type: send_signal, signal: approving, actor: ada }
        - { type: set_field, entity: orders, record_id: context.order, field: status, value: approved }
  - id: pause
    action: { type: wait, duration: PT0.001S }
";

const WRITES: &str = "
    create table writes (id bigint generated always as identity, status text);
    create function note_write() returns trigger language plpgsql as
        $$ begin insert into writes (status) values (new.status); return null; end $$;
    create trigger note_write after update on orders for each row execute function note_write();";

async fn host(pool: &PgPool) {
    pool.execute(ORDERS).await.unwrap();
    pool.execute(WRITES).await.unwrap();
}

async fn story() -> Story {
    let orders = Writable::parse("orders.status").unwrap();
    let story = Story::builder()
        .with(|builder| builder.writable(orders))
        .begin(MORNING)
        .await;
    host(story.pool()).await;
    story.apply(APPROVING).await;
    story
}

/// An order is submitted, and its run stands before its actions.
async fn submitted(story: &Story) -> RunId {
    story
        .pool()
        .execute("insert into orders (id, tenant_id, status) values (42, 'org_456', 'submitted')")
        .await
        .unwrap();
    // Its run is made, and held where it is.
    let mut holding = story.db().connect().await;
    let mut tx = holding.begin().await.unwrap();
    tx.execute("select from orders where id = 42 for update")
        .await
        .unwrap();
    story.drain().await;
    tx.rollback().await.unwrap();
    let id = sqlx::query_scalar("select id from chimeway.workflow_runs");
    RunId(id.fetch_one(story.pool()).await.unwrap())
}

#[tokio::test]
async fn a_row_that_a_host_holds_is_tried_again_later() {
    let story = story().await;
    let run = submitted(&story).await;
    assert_eq!(place(&story, run).await, "active in act");
    let next = story.explain(run).await.next;
    assert!(next.contains("another session held a row"), "{next}");
    let written =
        "select (select count(*) from writes) || ' ' || (select count(*) from chimeway.signals)";
    assert_eq!(lines(story.pool(), written).await, "0 0");
    audit(story.pool()).await;
    story.advance("PT1M").await;
    assert_eq!(place(&story, run).await, "completed in pause: completed");
    assert_eq!(lines(story.pool(), written).await, "1 1");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_row_that_is_held_for_ever_fails_the_step_in_the_end() {
    let story = story().await;
    let run = submitted(&story).await;
    story
        .pool()
        .execute("update chimeway.workflow_runs set tries = 20")
        .await
        .unwrap();
    let mut holding = story.db().connect().await;
    let mut tx = holding.begin().await.unwrap();
    tx.execute("select from orders where id = 42 for update")
        .await
        .unwrap();
    story.advance("PT10M").await;
    assert_eq!(
        place(&story, run).await,
        "failed in act: failed:record_is_locked"
    );
    tx.rollback().await.unwrap();
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_host_that_holds_the_row_and_wants_the_run_is_never_the_deadlocks_victim() {
    let story = story().await;
    let run = submitted(&story).await;
    story.pass("PT10M").await;
    let mut host = story.db().connect().await;
    let mut tx = host.begin().await.unwrap();
    tx.execute("update orders set total = total + 1 where id = 42")
        .await
        .unwrap();
    let (chimeway, pool) = (story.chimeway().clone(), story.pool().clone());
    let worker = tokio::spawn(async move { chimeway.settle(&pool).await });
    until_somebody_waits(story.pool()).await;
    // The worker holds the run and waits for the order; now the host waits for the run.
    let locked = sqlx::query("select from chimeway.workflow_runs where id = $1 for update")
        .bind(run.0)
        .execute(&mut *tx)
        .await;
    assert!(locked.is_ok(), "{locked:?}");
    let written = "select count(*)::text from writes where status = 'approved'";
    assert_eq!(lines(story.pool(), written).await, "0");
    tx.commit().await.unwrap();
    drop(host);
    worker.await.unwrap().unwrap();
    story.pass("PT10M").await;
    story.drain().await;
    story.advance("PT1M").await;
    assert_eq!(place(&story, run).await, "completed in pause: completed");
    audit(story.pool()).await;
    assert_no_deadlocks(story.db()).await;
}

#[tokio::test]
async fn a_cancellation_comes_before_the_actions() {
    let story = story().await;
    let run = submitted(&story).await;
    sqlx::query("select chimeway.cancel('org_456', $1)")
        .bind(run.0)
        .execute(story.pool())
        .await
        .unwrap();
    story.advance("PT10M").await;
    assert_eq!(place(&story, run).await, "stopped in act: cancelled");
    assert_eq!(
        lines(story.pool(), "select status from orders").await,
        "submitted"
    );
    audit(story.pool()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_crash_between_any_two_statements_of_a_step_changes_the_row_once() {
    const POINTS: [&str; 6] = [
        "actions_locked",
        "actions_read",
        "action_performed",
        "before_actions_commit",
        "after_actions_commit",
        "before_due",
    ];
    assert!(
        POINTS
            .iter()
            .all(|name| Point::ALL.iter().any(|point| point.as_str() == *name))
    );
    join_all(POINTS.map(crash_at)).await;
}

async fn crash_at(point: &str) {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    host(pool).await;
    let document = Document::from_yaml("approving", APPROVING).unwrap();
    Chimeway::builder()
        .build()
        .apply(pool, &document)
        .await
        .unwrap();
    let worker = || {
        desk.worker(&db.url())
            .with("--allow-write", "orders.status")
    };
    let mut first = worker().failpoint(point, "abort").start().await;
    pool.execute(
        "insert into orders (id, tenant_id, status) values (42, 'org_456', 'draft');
         update orders set status = 'submitted'",
    )
    .await
    .unwrap();
    assert!(!first.ended().await.success(), "{point}");

    let second = worker().start().await;
    eventually("the run ends", async || {
        let ended = "select count(*) from chimeway.workflow_runs where state = 'completed'";
        (number(pool, ended).await == 1).then_some(())
    })
    .await;
    second.stop().await;
    let writes = "select string_agg(status, ' ' order by id) from writes";
    assert_eq!(lines(pool, writes).await, "submitted approved", "{point}");
    assert_eq!(
        number(pool, "select count(*) from chimeway.signals").await,
        1,
        "{point}"
    );
    audit(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_workers_share_the_actions_of_many_runs() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    host(pool).await;
    let document = Document::from_yaml("approving", APPROVING).unwrap();
    Chimeway::builder()
        .build()
        .apply(pool, &document)
        .await
        .unwrap();
    let worker = || {
        desk.worker(&db.url())
            .with("--allow-write", "orders.status")
    };
    let workers = join_all([worker().start(), worker().start()]).await;
    pool.execute(
        "insert into orders (id, tenant_id, status) select n, 'org_456', 'draft' from generate_series(1, 200) n;
         update orders set status = 'submitted'",
    )
    .await
    .unwrap();
    // Beside them a host that touches the same rows, one after the other.
    for id in 1..=40_i64 {
        let mut tx = pool.begin().await.unwrap();
        sqlx::query("update orders set total = total + 1 where id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        tx.commit().await.unwrap();
    }
    eventually("all have ended", async || {
        let ended = "select count(*) from chimeway.workflow_runs where state = 'completed'";
        (number(pool, ended).await == 200).then_some(())
    })
    .await;
    for worker in workers {
        worker.stop().await;
    }
    let approved = "select count(*) from writes where status = 'approved'";
    // Each once by its run, and some again by the host's own updates of approved rows.
    assert!(number(pool, approved).await >= 200);
    assert_eq!(
        number(
            pool,
            "select count(*) from orders where status = 'approved'"
        )
        .await,
        200
    );
    audit(pool).await;
    assert_no_deadlocks(&db).await;
}
