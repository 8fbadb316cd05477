//! Crashes at every named point of the handlers.

use chimeway::flow::Point;
use chimeway_testkit::TestDb;
use futures::future::join_all;

use crate::{
    audit::{assert_recorded, audit},
    fleet::{Host, end_backoffs, number, texts},
    process::Desk,
    support::eventually,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_crash_at_any_point_costs_at_most_a_repeated_try() {
    let unknown_end = ["1 unknown", "2 succeeded"].as_slice();
    let nothing_lost = ["1 succeeded"].as_slice();
    join_all(Point::ALL.into_iter().filter_map(|point| {
        let (tries, end) = match point {
            Point::Claimed | Point::BeforeSend | Point::AfterSend | Point::BeforeRecordCommit => {
                (unknown_end, "completed")
            }
            Point::AfterRecordCommit | Point::BeforeDue => (nothing_lost, "completed"),
            Point::BeforeRoute => (nothing_lost, "stopped"),
            // The journey has no action: tests/it/actions.rs crashes there.
            Point::ActionsLocked
            | Point::ActionsRead
            | Point::ActionPerformed
            | Point::BeforeActionsCommit
            | Point::AfterActionsCommit => return None,
        };
        Some(crash_at(point, tries, end))
    }))
    .await;
}

async fn crash_at(point: Point, tries: &[&str], end: &str) {
    let name = point.as_str();
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT2S").await;
    let worker = || desk.worker(&db.url()).with_short_leases();
    let mut first = worker().failpoint(name, "abort").start().await;
    host.trigger("user_1").await;
    if point == Point::BeforeRoute {
        host.until("user_1", "waiting").await;
        host.read("user_1").await;
    }
    assert!(!first.ended().await.success());

    let second = worker().start().await;
    eventually("the journey ends", async || {
        end_backoffs(pool).await;
        let live = "select count(*) from chimeway.workflow_runs where ended_at is null";
        (number(pool, live).await == 0).then_some(())
    })
    .await;
    second.stop().await;
    assert_eq!(
        host.state_of("user_1").await.as_deref(),
        Some(end),
        "{name}"
    );
    let in_app = "select a.attempt_number || ' ' || a.outcome from chimeway.delivery_attempts a
                  join chimeway.deliveries d on d.id = a.delivery_id
                  where d.channel = 'in_app' order by a.attempt_number";
    assert_eq!(texts(pool, in_app).await, tries, "{name}");
    assert_recorded(pool, &desk.sends()).await;
    audit(pool).await;
}
