//! The primary is lost and a replica promoted: workers that know both hosts come back by themselves, nothing that was
//! committed is lost, and nobody writes to a server that is not the primary.

use std::time::{Duration, Instant};

use chimeway::store::schema;
use chimeway_cluster::{Cluster, Durability, Mode};
use nix::sys::signal::Signal;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::{
    audit::{assert_recorded, audit},
    fleet::{Host, execute, number, pool_of_its_own},
    process::Desk,
    programs::{chimeway, words},
    running::Running,
    support::eventually,
};

/// A primary and its replica; a commit is at both before it is told.
pub(crate) struct Pair {
    pub(crate) primary: Cluster,
    pub(crate) replica: Cluster,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        let starting = || {
            let primary = Cluster::builder()
                .durability(Durability::Full)
                .database("app")
                .start()
                .unwrap();
            let replica = Cluster::builder()
                .durability(Durability::Full)
                .replica_of(primary.port())
                .start()
                .unwrap();
            Self { primary, replica }
        };
        let pair = tokio::task::spawn_blocking(starting).await.unwrap();
        let url = pair.primary.url("app");
        let mut conn = PgConnection::connect(&url).await.unwrap();
        for statement in [
            "alter system set synchronous_standby_names = '*'",
            "select pg_reload_conf()",
        ] {
            sqlx::query(statement).execute(&mut conn).await.unwrap();
        }
        eventually("the replica is synchronous", async || {
            let synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            let count: i64 = sqlx::query_scalar(synchronous)
                .fetch_one(&mut conn)
                .await
                .unwrap();
            (count == 1).then_some(())
        })
        .await;
        schema::migrate(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        pair
    }

    /// The URL of both, the replica first: that it is named first does not matter.
    pub(crate) fn url(&self) -> String {
        let (primary, replica) = (self.primary.port(), self.replica.port());
        format!(
            "postgres://postgres:hunter2@127.0.0.1:{replica},127.0.0.1:{primary}/app\
             ?sslmode=disable&target_session_attrs=read-write"
        )
    }

    /// The primary ends as in a crash, and the replica is promoted.
    pub(crate) async fn fail_over(mut self) -> Self {
        tokio::task::spawn_blocking(move || {
            self.primary.stop_server(Mode::Immediate).unwrap();
            self.replica.promote().unwrap();
            self
        })
        .await
        .unwrap()
    }
}

async fn pool_at(cluster: &Cluster) -> PgPool {
    pool_of_its_own(&cluster.url("app"), 4).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_workers_go_where_the_primary_is() {
    let pair = Pair::start().await;
    let host = Host::with_journey(&pool_at(&pair.primary).await, "PT0.3S").await;
    let desk = Desk::new();
    let worker = || {
        let worker = desk.worker(&pair.url()).with("--lease-ms", "2000");
        worker.with("--send-ms", "500").with("--grace-ms", "500")
    };
    let mut workers = [worker().start().await, worker().start().await];
    host.trigger_many(300).await;
    eventually("the workers are in the middle of it", async || {
        (desk.sends().len() > 100).then_some(())
    })
    .await;
    let pair = pair.fail_over().await;
    let began = Instant::now();
    let pool = pool_at(&pair.replica).await;
    // What replays is not what is due: these come after the promotion.
    let host = Host::with_journey(&pool, "PT0.3S").await;
    host.trigger_range(300..310).await;
    eventually("somebody works there", async || {
        let waiting = "select count(*) from chimeway.workflow_runs
                       where actor_id in ('user_300', 'user_309') and state <> 'active'";
        (number(&pool, waiting).await == 2).then_some(())
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    host.until_ended_after_all(310).await;
    assert!(workers.iter_mut().all(crate::process::Worker::is_running));
    for worker in workers {
        worker.stop().await;
    }
    let completed = "select count(*) from chimeway.workflow_runs where state = 'completed'";
    assert_eq!(number(&pool, completed).await, 310);
    assert_recorded(&pool, &desk.sends()).await;
    audit(&pool).await;
}

/// It was the primary, and takes itself for it again: nothing is written there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_primary_that_comes_back_after_another_was_promoted_is_left_alone() {
    let pair = Pair::start().await;
    let host = Host::with_journey(&pool_at(&pair.primary).await, "PT2H").await;
    let url = pair.url();
    let worker = Running::worker(&url, "--channel email=log");
    host.trigger("before").await;
    host.until("before", "waiting").await;
    let mut pair = pair.fail_over().await;
    let pool = pool_at(&pair.replica).await;
    let host = Host::with_journey(&pool, "PT2H").await;
    host.trigger("after").await;
    host.until("after", "waiting").await;
    // A person's command finds it as well.
    let runs = "runs --tenant org_456 --json";
    let found = chimeway(&url, &words(runs)).expect(0).json();
    assert_eq!(found.as_array().unwrap().len(), 2, "{found}");

    // The old one is there again, with work that is due; the new one goes away, so that everybody looks around.
    let mut pair = tokio::task::spawn_blocking(move || {
        pair.primary.start_server().unwrap();
        pair
    })
    .await
    .unwrap();
    let old = pool_at(&pair.primary).await;
    // No replica of its is there to confirm a commit.
    execute(&old, "alter system set synchronous_standby_names = ''").await;
    execute(&old, "select pg_reload_conf()").await;
    let stale = Host::with_journey(&old, "PT2H").await;
    stale.trigger("stale").await;
    let mut pair = tokio::task::spawn_blocking(move || {
        pair.replica.stop_server(Mode::Immediate).unwrap();
        pair
    })
    .await
    .unwrap();
    worker.prints("cannot claim").await;
    // Long enough to look for a primary, several times.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(stale.state_of("stale").await.as_deref(), Some("active"));
    tokio::task::spawn_blocking(move || {
        pair.replica.start_server().unwrap();
        pair
    })
    .await
    .map(|_pair| ())
    .unwrap();
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_worker_waits_for_a_replica_to_be_promoted_and_says_so() {
    let pair = Pair::start().await;
    let host = Host::with_journey(&pool_at(&pair.primary).await, "PT2H").await;
    host.trigger("ada").await;
    let url = pair
        .replica
        .url("app")
        .replace("postgres@", "postgres:hunter2@");
    let worker = Running::worker(&url, "--channel email=log");
    worker.prints("it is a replica").await;
    // People may read from it.
    let found = chimeway(&url, &words("runs --tenant org_456 --json"));
    assert_eq!(found.expect(0).json().as_array().unwrap().len(), 1);
    let line = chimeway(
        &url,
        &words("track notification_read --tenant org_456 --actor ada"),
    );
    let line = line.expect(1).err;
    assert!(line.contains("read-only"), "{line}");
    let pair = pair.fail_over().await;
    let host = Host::with_journey(&pool_at(&pair.replica).await, "PT2H").await;
    host.until("ada", "waiting").await;
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    assert!(!lines.concat().contains("hunter2"), "{lines:?}");
}

/// Where none may be written to, the reason of each is told, and no password.
#[tokio::test]
async fn every_host_is_told_with_what_is_wrong_with_it() {
    let free = || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        socket
    };
    let (one, other) = (free(), free());
    let port = |socket: &tokio::net::TcpSocket| socket.local_addr().unwrap().port();
    let (one, other) = (port(&one), port(&other));
    let url = format!("postgres://ada:hunter2@127.0.0.1:{one},127.0.0.1:{other}/app");
    let line = chimeway(&url, &words("queues")).expect(1).err;
    let expected = format!(
        "none is a primary (127.0.0.1:{one}: connection refused, 127.0.0.1:{other}: connection refused)"
    );
    assert!(line.contains(&expected), "{line}");
    assert!(!line.contains("hunter2"), "{line}");
}
