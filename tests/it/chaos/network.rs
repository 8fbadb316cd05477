//! What lies between the workers and their database: a network, a pooler, another server than yesterday.

use std::time::Duration;

use chimeway_cluster::{Cluster, Durability, Mode};
use rand::RngExt as _;
use sqlx::{Connection as _, PgConnection};

use super::{cell::Cell, load::Load, supervisor::Supervisor, verdict::Faults};
use crate::{pgbouncer::PgBouncer, proxy::Proxy, support::eventually};

const IN_FLIGHT: &str = "select count(*) from chimeway.deliveries where status = 'dispatched'";

/// The network stops forwarding for longer than a transaction may take: both ways, or answers only. Then it goes on, or
/// has forgotten every connection that there was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn the_network_stalls() {
    let mut cell = Cell::begin("stalled network").await;
    let mut rng = cell.rng("stalls");
    let proxy = Proxy::before(&cell.server.url).await;
    let worker = cell.worker_at(&proxy.url(&cell.server.url));
    let workers = Supervisor::start(3, move |_| worker().with("--transaction-ms", "1500"));
    let load = Load::start(&cell);
    cell.starts();
    let mut stalls = 0;
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..1500))).await;
        cell.until_some(IN_FLIGHT).await;
        if rng.random_range(0..2) == 0 {
            proxy.fall_silent();
        } else {
            proxy.mute();
        }
        tokio::time::sleep(Duration::from_millis(2500)).await;
        if rng.random_range(0..2) == 0 {
            proxy.resume();
        } else {
            proxy.forget();
        }
        stalls += 1;
    }
    let faults = Faults::Other(stalls, "stalls");
    let verdict = cell.verdict(load, workers, faults).await;
    assert!(stalls > 1);
    assert_eq!(verdict.tally.kills(), 0, "{:?}", verdict.tally);
    // Nobody hung: what was not answered was given up.
    assert!(cell.logged("no answer in time") > 0, "no worker noticed");
}

/// The primary ends as in a crash, and its synchronous replica is promoted: nothing that was told to be committed is
/// lost, and workers that know both hosts go there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn the_primary_is_lost_and_a_replica_promoted() {
    let mut cell = Cell::durable("failover").await;
    let mut rng = cell.rng("failover");
    let port = port_of(&cell.server.url);
    let replica = tokio::task::block_in_place(|| {
        Cluster::builder()
            .durability(Durability::Full)
            .setting("max_connections", "200")
            .replica_of(port)
            .start()
    });
    let mut replica = replica.unwrap();
    let mut conn = PgConnection::connect(&cell.server.url).await.unwrap();
    for statement in [
        "alter system set synchronous_standby_names = '*'",
        "select pg_reload_conf()",
    ] {
        sqlx::query(statement).execute(&mut conn).await.unwrap();
    }
    conn.close().await.unwrap();
    cell.until_some("select count(*) from pg_stat_replication where sync_state = 'sync'")
        .await;
    let both = format!("127.0.0.1:{port},127.0.0.1:{}", replica.port());
    let both = cell.server.url.replace(&format!("127.0.0.1:{port}"), &both);
    let worker = cell.worker_at(&both);
    let workers = Supervisor::start(3, move |_| worker());
    let load = Load::start(&cell);
    cell.starts();
    tokio::time::sleep(Duration::from_millis(rng.random_range(2000..5000))).await;
    cell.until_some(IN_FLIGHT).await;
    cell.server.stop(Mode::Immediate);
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..2000))).await;
    tokio::task::block_in_place(|| replica.promote()).unwrap();
    // The hosts' own failover.
    let there = replica.url("chimeway_test");
    cell.pool.set_connect_options(there.parse().unwrap());
    eventually("the hosts reach it", async || {
        let reached = sqlx::query("select 1").execute(&cell.pool).await;
        reached.is_ok().then_some(())
    })
    .await;
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let faults = Faults::Other(1, "failover");
    let verdict = cell.verdict(load, workers, faults).await;
    assert_eq!(verdict.tally.kills(), 0, "{:?}", verdict.tally);
    assert!(
        cell.logged("cannot claim") > 0 && cell.logged("is the primary") > 0,
        "no worker noticed"
    );
}

fn port_of(url: &str) -> u16 {
    let (_, rest) = url.split_once("127.0.0.1:").unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

/// Many connections of workers on few sessions of the server, while workers are killed and the pooler restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn pgbouncer_is_between() {
    let mut cell = Cell::begin("PgBouncer").await;
    let mut rng = cell.rng("pooler");
    let mut pgbouncer = PgBouncer::before(&cell.server.url, 4);
    let worker = cell.worker_at(&pgbouncer.url(&cell.server.url));
    let direct = cell.server.url.clone();
    let workers = Supervisor::start(3, move |number| match number % 2 {
        0 => worker().pooled(),
        // It listens, past the pooler.
        _ => worker().pooled().with("--direct-url", &direct),
    });
    let load = Load::start(&cell);
    cell.starts();
    let mut restarts = 0;
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(300..900))).await;
        if rng.random_range(0..3) == 0 {
            tokio::task::block_in_place(|| pgbouncer.restart());
            restarts += 1;
        } else {
            workers.kill(&mut rng).await;
        }
    }
    let verdict = cell.verdict(load, workers, Faults::Kills).await;
    assert!(restarts > 0, "the pooler never restarted");
    assert!(verdict.tally.killed > 0);
    assert_eq!(
        cell.logged("prepared statement"),
        0,
        "sessions were mixed up"
    );
}
