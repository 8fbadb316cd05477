//! Workers that die.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chimeway::flow::Point;
use rand::RngExt as _;

use super::{cell::Cell, load::Load, supervisor::Supervisor, verdict::Faults};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn kill_at_random() {
    let mut cell = Cell::begin("kill -9 at random").await;
    let mut rng = cell.rng("kills");
    let worker = cell.worker();
    let workers = Supervisor::start(3, move |_| worker());
    let load = Load::start(&cell);
    cell.starts();
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..450))).await;
        workers.kill(&mut rng).await;
    }
    let verdict = cell.verdict(load, workers, Faults::Kills).await;
    assert!(verdict.tally.killed > 10, "{:?}", verdict.tally);
    let unknown =
        cell.count("select count(*) from chimeway.delivery_attempts where outcome = 'unknown'");
    assert!(
        unknown.await > 0,
        "no worker died in the middle of something"
    );
}

/// Each point of claim, send and record, and of the batches: whoever comes there for a certain time dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn kill_at_each_point() {
    let mut cell = Cell::begin("killed at each failpoint").await;
    let points = [
        Point::Claimed,
        Point::BeforeSend,
        Point::AfterSend,
        Point::BeforeRecordCommit,
        Point::AfterRecordCommit,
        Point::BeforeDue,
        Point::BeforeRoute,
        Point::ActionsLocked,
        Point::ActionPerformed,
        Point::BeforeActionsCommit,
        Point::AfterActionsCommit,
    ];
    let (rng, calm) = (Mutex::new(cell.rng("points")), Arc::<AtomicBool>::default());
    let (rng, is_calm) = (Arc::new(rng), Arc::clone(&calm));
    let worker = cell.worker();
    // What dies early in its life finds little to do: the points of actions come seldom.
    let workers = Supervisor::start(3, move |started| {
        if is_calm.load(Ordering::SeqCst) {
            return worker();
        }
        let point = points[started % points.len()];
        let most = if point.as_str().contains("action") {
            3
        } else {
            40
        };
        let nth = rng.lock().unwrap().random_range(1..=most);
        worker().failpoint(point.as_str(), &format!("nth:{nth}:abort"))
    });
    let load = Load::start(&cell);
    cell.starts();
    let died = |point: &Point| cell.logged(&format!("dies at {}", point.as_str())) > 0;
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eventually("somebody has died at each point", async || {
        points.iter().all(died).then_some(())
    })
    .await;
    calm.store(true, Ordering::SeqCst);
    let verdict = cell.verdict(load, workers, Faults::Kills).await;
    assert!(verdict.tally.crashed > points.len(), "{:?}", verdict.tally);
}

/// A deploy after the other: each worker is told to drain, and another takes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn drains_under_load() {
    let mut cell = Cell::begin("SIGTERM under load").await;
    let mut rng = cell.rng("drains");
    let worker = cell.worker();
    // Retries of the channel's own would look like tries that were burnt.
    let workers = Supervisor::start(3, move |_| worker().with("--temporary-percent", "0"));
    let load = Load::start(&cell);
    cell.starts();
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..300))).await;
        workers.drain(&mut rng).await;
    }
    let drains = workers.tally().drained;
    let verdict = cell
        .verdict(load, workers, Faults::Other(drains, "drains"))
        .await;
    assert!(drains > 10, "{:?}", verdict.tally);
    assert_eq!(verdict.tally.kills(), 0, "{:?}", verdict.tally);
    let burnt = "select count(*) from chimeway.deliveries where attempts <> 1 or crashes <> 0";
    assert_eq!(cell.count(burnt).await, 0, "a drain cost a try");
    let handed_back = "select count(*) from chimeway.deliveries where claim_no > attempts";
    assert!(
        cell.count(handed_back).await > 0,
        "no drain had anything to hand back"
    );
    assert!(
        verdict.recovery < Duration::from_secs(5),
        "{:?}",
        verdict.recovery
    );
}
