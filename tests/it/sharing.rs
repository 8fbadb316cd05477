//! Processes that share the work.

use std::collections::HashMap;

use chimeway_testkit::TestDb;

use crate::{
    audit::{assert_no_deadlocks, assert_recorded, audit},
    fleet::{Host, number},
    process::Desk,
};

#[tokio::test]
async fn heavy_two_processes_share_two_thousand_journeys() {
    const JOURNEYS: usize = 2000;
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT0.5S").await;
    let worker = |name: &str| desk.worker(&db.url()).with("--name", name).start();
    let workers = [worker("one").await, worker("other").await];
    host.trigger_many(JOURNEYS).await;
    host.until_ended(JOURNEYS).await;
    for worker in workers {
        worker.stop().await;
    }

    let sends = desk.sends();
    assert_eq!(sends.len(), 2 * JOURNEYS);
    for (delivery, tries) in &sends {
        assert_eq!(tries.len(), 1, "{delivery} was sent {tries:?}");
    }
    assert_recorded(pool, &sends).await;
    let by_worker: HashMap<String, i64> =
        sqlx::query_as("select worker, count(*) from chimeway.delivery_attempts group by worker")
            .fetch_all(pool)
            .await
            .unwrap()
            .into_iter()
            .collect();
    assert_eq!(by_worker.len(), 2, "{by_worker:?}");
    assert!(
        by_worker.values().all(|count| *count > 200),
        "{by_worker:?}"
    );
    let completed = "select count(*) from chimeway.workflow_runs where state = 'completed'";
    assert_eq!(number(pool, completed).await, 2000);
    audit(pool).await;
    assert_no_deadlocks(&db).await;
}
