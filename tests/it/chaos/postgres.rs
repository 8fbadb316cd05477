//! A server that goes away, and sessions that are ended.

use std::time::{Duration, Instant};

use chimeway_cluster::Mode;
use rand::RngExt as _;

use super::{
    cell::Cell,
    load::Load,
    supervisor::Supervisor,
    verdict::{Faults, Verdict},
};

/// Stops the server over and over under load, for as long as `pause` says.
async fn restarts(
    mut cell: Cell,
    mode: Mode,
    what: &'static str,
    pause: impl Fn(&Cell) -> Duration,
) -> Verdict {
    let mut rng = cell.rng("restarts");
    let worker = cell.worker();
    let workers = Supervisor::start(3, move |_| worker());
    let load = Load::start(&cell);
    cell.starts();
    let mut restarts = 0;
    let mut shortest = Duration::MAX;
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(1000..2500))).await;
        let in_flight = "select count(*) from chimeway.deliveries where status = 'dispatched'";
        // It goes away while something is on its way.
        cell.until_some(in_flight).await;
        let began = Instant::now();
        cell.server.stop(mode);
        tokio::time::sleep(pause(&cell)).await;
        cell.server.start();
        shortest = shortest.min(began.elapsed());
        restarts += 1;
    }
    // Each of them is at work again.
    const AT_WORK: &str = "
        select count(distinct worker) / 3 from chimeway.delivery_attempts
        where started_at > pg_postmaster_start_time()";
    cell.until_some(AT_WORK).await;
    let verdict = cell
        .verdict(load, workers, Faults::Other(restarts, what))
        .await;
    assert!(restarts > 0);
    // A call fails where a statement was on its way; where none was, its pool waits until the server is back. Hosts
    // pause for no longer than a moment between two calls.
    assert!(
        verdict.errors > 0 || verdict.longest >= shortest / 2,
        "no host noticed that the server was away: at least {shortest:?}, the longest call {:?}",
        verdict.longest
    );
    assert_eq!(
        verdict.tally.kills(),
        0,
        "a worker died of it: {:?}",
        verdict.tally
    );
    // What was sent is recorded when the server is back, before anybody may take it for lost.
    assert_eq!(verdict.resent, 0, "finished sends were not recorded");
    let lost = cell.logged("cannot claim; it will try again");
    assert!(
        lost >= restarts,
        "{restarts} restarts, and workers noticed {lost}"
    );
    verdict
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn postgres_restarts_fast() {
    let cell = Cell::durable("Postgres restarts, fast").await;
    restarts(cell, Mode::Fast, "restarts", |_| Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn postgres_restarts_immediately() {
    let cell = Cell::durable("Postgres restarts, immediate").await;
    restarts(cell, Mode::Immediate, "restarts", |_| Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn postgres_is_down_for_a_while() {
    let cell = Cell::durable("Postgres down for a while").await;
    let down = |cell: &Cell| Duration::from_secs(if cell.long { 60 } else { 8 });
    restarts(cell, Mode::Immediate, "outages", down).await;
}

/// Ends every session of the workers, the listeners' too, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn sessions_are_terminated() {
    const WORKERS: &str = "
        select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name = 'chaos-worker'";
    const LISTENERS: &str = "
        select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name = 'chaos-worker' and query ilike 'listen %'";
    let mut cell = Cell::begin("sessions terminated").await;
    let mut rng = cell.rng("sessions");
    let url = format!("{}&application_name=chaos-worker", cell.server.url);
    let worker = cell.worker_at(&url);
    let workers = Supervisor::start(3, move |_| worker());
    let load = Load::start(&cell);
    cell.starts();
    let (mut ended, mut listeners) = (0, 0);
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..500))).await;
        if rng.random_range(0..3) == 0 {
            listeners += cell.count(LISTENERS).await;
        } else {
            ended += cell.count(WORKERS).await;
        }
    }
    let all = usize::try_from(ended + listeners).unwrap();
    const LISTEN: &str = "
        select count(*) / 3 from pg_stat_activity
        where datname = current_database() and application_name = 'chaos-worker' and query ilike 'listen %'";
    cell.until_some(LISTEN).await;
    let verdict = cell
        .verdict(load, workers, Faults::Other(all, "sessions ended"))
        .await;
    assert!(
        ended > 20 && listeners > 0,
        "{ended} sessions and {listeners} listeners ended"
    );
    assert_eq!(
        verdict.tally.kills(),
        0,
        "a worker died of it: {:?}",
        verdict.tally
    );
    assert_eq!(verdict.resent, 0, "finished sends were not recorded");
    assert!(cell.logged("the listener lost its connection") > 0);
}
