//! How soon work begins, and how exactly waits end. These measure: they run one at a time.

use std::time::Duration;

use chimeway_testkit::TestDb;
use sqlx::PgPool;

use crate::{
    fleet::{Host, execute, number},
    process::{Desk, WorkerCommand},
};

/// Triggers three times into an idle fleet; the longest time from a trigger to its first send.
async fn longest_start(pool: &PgPool, worker: WorkerCommand) -> i64 {
    let host = Host::with_journey(pool, "PT1H").await;
    let worker = worker.start().await;
    for n in 0..3 {
        // Longer than the queues need to come to their longest pause between two looks.
        tokio::time::sleep(Duration::from_millis(1500 + 130 * n)).await;
        host.trigger(&format!("user_{n}")).await;
        host.until(&format!("user_{n}"), "waiting").await;
    }
    worker.stop().await;
    let longest = "select (max(extract(epoch from a.started_at - r.started_at)) * 1000)::bigint
                   from chimeway.delivery_attempts a
                   join chimeway.deliveries d on d.id = a.delivery_id
                   join chimeway.workflow_runs r on r.id = d.workflow_run_id";
    number(pool, longest).await
}

#[tokio::test]
async fn heavy_work_starts_at_once_in_an_idle_fleet() {
    let (db, desk) = (TestDb::create().await, Desk::new());
    let longest = longest_start(db.pool(), desk.worker(&db.url())).await;
    assert!(longest < 200, "it took {longest} ms");
}

#[tokio::test]
async fn heavy_work_starts_within_about_a_second_without_listening() {
    let (db, desk) = (TestDb::create().await, Desk::new());
    let worker = desk.worker(&db.url()).without_listening();
    let longest = longest_start(db.pool(), worker).await;
    assert!(longest < 1200, "it took {longest} ms");
}

#[tokio::test]
async fn heavy_work_starts_within_about_a_second_without_notify() {
    let (db, desk) = (TestDb::create().await, Desk::new());
    execute(db.pool(), "update chimeway.settings set notify = false").await;
    let longest = longest_start(db.pool(), desk.worker(&db.url())).await;
    assert!(longest < 1200, "it took {longest} ms");
}

#[tokio::test]
async fn heavy_a_wait_ends_at_its_instant_in_a_process_that_did_not_begin_it() {
    const WAITS: i32 = 50;
    let (db, desk) = (TestDb::create().await, Desk::new());
    let pool = db.pool();
    let host = Host::with_journey(pool, "PT1.5S").await;
    let sender = desk
        .worker(&db.url())
        .only(&[("chimeway_delivery", 20)])
        .start()
        .await;
    let timer = desk
        .worker(&db.url())
        .only(&[("chimeway_workflows", 5)])
        .start()
        .await;
    for n in 0..WAITS {
        host.trigger(&format!("user_{n}")).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    host.until_ended(50).await;
    sender.stop().await;
    timer.stop().await;
    let late = "select percentile_disc(0.95) within group (
                    order by (extract(epoch from ended.inserted_at - began.inserted_at) * 1000)::bigint - 1500
                ) from chimeway.workflow_transitions began
                join chimeway.workflow_transitions ended using (workflow_run_id)
                where began.to_state = 'waiting' and ended.from_state = 'waiting'";
    let late = number(pool, late).await;
    assert!((0..100).contains(&late), "{late} ms late");
}
