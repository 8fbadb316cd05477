//! Duties: each tick once in the whole fleet.

use std::time::Duration;

use chimeway::{Chimeway, flow::workers::Workers, queue::QueueName, store::cron};
use chimeway_testkit::TestDb;
use sqlx::Connection as _;

use crate::support::eventually;

#[tokio::test]
async fn two_processes_sweep_each_tick_once() {
    let db = TestDb::create().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let mut running = vec![];
    for name in ["one", "other"] {
        let chimeway = Chimeway::builder().worker_name(name).build();
        let mut workers = Workers::new(chimeway, db.pool().clone())
            .sweep("* * * * * *".parse().unwrap())
            .listen(None);
        for queue in [
            QueueName::Delivery,
            QueueName::Signals,
            QueueName::Workflows,
        ] {
            workers = workers.limit(queue, 0);
        }
        running.push(tokio::spawn(workers.run(stop.clone().cancelled_owned())));
    }
    let count = || async {
        sqlx::query_scalar::<_, i64>("select count(*) from chimeway.cron_ticks")
            .fetch_one(db.pool())
            .await
            .unwrap()
    };
    eventually("three ticks are swept", async || {
        (count().await >= 3).then_some(())
    })
    .await;
    stop.cancel();
    for one in running {
        tokio::time::timeout(Duration::from_secs(5), one)
            .await
            .unwrap()
            .unwrap();
    }
    // A tick is its row's key, so that no two processes have it; and none was missed by both.
    let ticks: Vec<chrono::DateTime<chrono::Utc>> = sqlx::query_scalar(
        "select tick from chimeway.cron_ticks where schedule = 'progression_sweep' order by tick",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    let (first, last) = (ticks[0].timestamp(), ticks[ticks.len() - 1].timestamp());
    assert_eq!(last - first + 1, i64::try_from(ticks.len()).unwrap());
}

#[tokio::test]
async fn a_tick_is_free_again_when_the_process_that_took_it_rolls_back() {
    let db = TestDb::create().await;
    let (mut one, mut other) = (db.connect().await, db.connect().await);
    let tick = "2026-03-02T09:00:00Z".parse().unwrap();

    let mut taken = one.begin().await.unwrap();
    assert!(cron::take_tick(&mut taken, "duty", tick).await.unwrap());
    // Not waited for: the duty is in good hands.
    let mut late = other.begin().await.unwrap();
    assert!(!cron::take_tick(&mut late, "duty", tick).await.unwrap());
    late.rollback().await.unwrap();
    taken.rollback().await.unwrap();

    let mut again = other.begin().await.unwrap();
    assert!(cron::take_tick(&mut again, "duty", tick).await.unwrap());
    again.commit().await.unwrap();
    let mut once_more = one.begin().await.unwrap();
    assert!(!cron::take_tick(&mut once_more, "duty", tick).await.unwrap());
}
