//! The backend against what goes wrong around it: servers that restart, connections and processes that
//! die, channels and handlers that panic.

use std::{collections::BTreeSet, time::Duration};

use chimeway::{flow::workers::Workers, store::schema};
use chimeway_cluster::{Cluster, Durability, Mode};
use chimeway_testkit::{Answer, RecordingChannel, TestDb};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::{
    audit::{assert_recorded, audit},
    fleet::{Fleet, Host, end_backoffs, number, pool_of_its_own, recording, texts},
    process::Desk,
    support::eventually,
};

/// What became of each try: number and outcome.
const TRIES: &str = "select attempt_number || ' ' || outcome from chimeway.delivery_attempts
                     order by delivery_id, attempt_number";

async fn until_tries(pool: &PgPool, expected: &[&str]) {
    eventually(&format!("tries are {expected:?}"), async || {
        (texts(pool, TRIES).await == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_postgres_restarts_under_load_and_no_finished_send_is_lost() {
    let starting = || {
        let cluster = Cluster::builder().durability(Durability::Full);
        cluster.database("chimeway_test").start()
    };
    let mut cluster = tokio::task::spawn_blocking(starting)
        .await
        .unwrap()
        .unwrap();
    let url = cluster.url("chimeway_test");
    let mut conn = PgConnection::connect(&url).await.unwrap();
    schema::migrate(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let pool = pool_of_its_own(&url, 4).await;
    let host = Host::with_journey(&pool, "PT0.3S").await;

    let desk = Desk::new();
    let worker = || {
        let worker = desk
            .worker(&url)
            .with("--lease-ms", "6000")
            .with("--send-ms", "2000");
        worker
            .with("--grace-ms", "500")
            .with("--send-delay-ms", "20")
    };
    let mut workers = [worker().start().await, worker().start().await];
    host.trigger_many(600).await;
    eventually("the workers are in the middle of it", async || {
        (desk.sends().len() > 100).then_some(())
    })
    .await;
    cluster = tokio::task::spawn_blocking(move || {
        cluster
            .restart(Mode::Immediate, Duration::from_secs(2))
            .unwrap();
        cluster
    })
    .await
    .unwrap();
    assert!(
        desk.sends().len() < 1200,
        "nothing was left to do: the restart came too late"
    );

    eventually("all journeys end", async || {
        // Claims whose commit was answered by nobody: their leases end, and they are tried again.
        end_backoffs(&pool).await;
        let live = "select count(*) from chimeway.workflow_runs where ended_at is null";
        (number(&pool, live).await == 0).then_some(())
    })
    .await;
    for worker in &mut workers {
        assert!(worker.is_running());
    }
    let succeeded = "select count(*) from chimeway.deliveries where status = 'succeeded'";
    assert_eq!(number(&pool, succeeded).await, 1200);
    assert_recorded(&pool, &desk.sends()).await;
    audit(&pool).await;
    for worker in workers {
        worker.stop().await;
    }
    drop(cluster);
}

/// Sessions of this database that listen.
const LISTENERS: &str = "select pid::text from pg_stat_activity
                         where datname = current_database() and query ilike 'listen %'";

#[tokio::test]
async fn heavy_work_starts_within_a_second_when_the_listener_is_cut_off() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    let worker = desk.worker(&db.url()).start().await;
    let listener = || {
        eventually("the worker listens", async || {
            texts(pool, LISTENERS).await.pop()
        })
    };
    let first = listener().await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and query ilike 'listen %'";
    assert_eq!(number(pool, cut).await, 1);
    host.trigger("user_1").await;
    host.until("user_1", "waiting").await;
    let took = "select (extract(epoch from max(a.started_at) - max(e.occurred_at)) * 1000)::bigint
                from chimeway.delivery_attempts a, chimeway.events e";
    let milliseconds = number(pool, took).await;
    assert!(milliseconds < 1000, "it took {milliseconds} ms");
    let second = eventually("the worker listens again", async || {
        texts(pool, LISTENERS)
            .await
            .into_iter()
            .find(|pid| *pid != first)
    })
    .await;
    assert_ne!(first, second);
    worker.stop().await;
}

#[tokio::test]
async fn a_channel_that_panics_fails_its_own_try_and_nothing_else() {
    let db = TestDb::create().await;
    let (pool, channel) = (db.pool(), RecordingChannel::default());
    let host = Host::with_journey(pool, "PT1H").await;
    channel.answer([Answer::Panics]);
    let fleet = Fleet::start(Workers::new(recording(&channel).build(), pool.clone()));
    host.trigger_many(2).await;
    eventually("one is sent, one has failed", async || {
        let mut tries = texts(pool, TRIES).await;
        tries.sort_unstable();
        (tries == ["1 failed", "1 succeeded"]).then_some(())
    })
    .await;
    let kept =
        "select error_class || ': ' || (response ->> 'error') from chimeway.delivery_attempts
                where outcome = 'failed'";
    assert_eq!(texts(pool, kept).await, ["temporary: the channel panicked"]);
    end_backoffs(pool).await;
    host.until("user_0", "waiting").await;
    host.until("user_1", "waiting").await;
    fleet.stop().await;
    audit(pool).await;
}

#[tokio::test]
async fn a_handler_that_panics_leaves_a_try_of_unknown_end_that_is_repeated() {
    futures::join!(panics_at("before_send"), panics_at("after_send"));
}

async fn panics_at(point: &str) {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    let worker = desk.worker(&db.url()).with_short_leases();
    let worker = worker.failpoint(point, "once:panic").start().await;
    host.trigger("user_1").await;
    until_tries(pool, &["1 unknown"]).await;
    end_backoffs(pool).await;
    host.until("user_1", "waiting").await;
    assert_eq!(
        texts(pool, TRIES).await,
        ["1 unknown", "2 succeeded"],
        "{point}"
    );
    worker.stop().await;
    assert_recorded(pool, &desk.sends()).await;
    audit(pool).await;
}

#[tokio::test]
async fn a_panic_while_results_are_recorded_does_not_end_the_recording() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    let worker = desk
        .worker(&db.url())
        .failpoint("before_record_commit", "once:panic");
    let worker = worker.start().await;
    host.trigger("user_1").await;
    host.until("user_1", "waiting").await;
    host.trigger("user_2").await;
    host.until("user_2", "waiting").await;
    assert_eq!(texts(pool, TRIES).await, ["1 succeeded"; 2]);
    worker.stop().await;
    assert_recorded(pool, &desk.sends()).await;
    audit(pool).await;
}

#[tokio::test]
async fn a_drain_hands_back_what_was_not_begun_and_finishes_what_was() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    let (claimed, sending) = (desk.gate("claimed"), desk.gate("sending"));
    let worker = desk
        .worker(&db.url())
        .failpoint("claimed", &claimed.pause());
    let mut worker = worker
        .failpoint("before_send", &sending.pause())
        .start()
        .await;

    claimed.open();
    for n in 0..3 {
        host.trigger(&format!("begun_{n}")).await;
    }
    eventually("three are being sent", async || {
        (sending.reached() == 3).then_some(())
    })
    .await;
    claimed.close();
    for n in 0..4 {
        host.trigger(&format!("unbegun_{n}")).await;
    }
    eventually("four are claimed", async || {
        (claimed.reached() == 7).then_some(())
    })
    .await;

    worker.terminate();
    let rows = "select concat_ws(' ', d.status, d.attempts, d.claim_no, d.lease_owner, r.actor_id)
                from chimeway.deliveries d join chimeway.workflow_runs r on r.id = d.workflow_run_id
                where d.next_attempt_at is not null and r.actor_id like 'unbegun%' order by r.actor_id";
    let handed_back: Vec<String> = (0..4).map(|n| format!("pending 0 1 unbegun_{n}")).collect();
    eventually("the four are handed back", async || {
        (texts(pool, rows).await == handed_back).then_some(())
    })
    .await;
    assert!(worker.is_running(), "it waits for its sends");
    sending.open();
    claimed.open();
    assert!(worker.ended().await.success());
    assert_eq!(texts(pool, TRIES).await, ["1 succeeded"; 3]);
    assert_eq!(texts(pool, rows).await, handed_back);
    assert_recorded(pool, &desk.sends()).await;

    let next = desk.worker(&db.url()).start().await;
    eventually("another worker sends the four", async || {
        (texts(pool, TRIES).await == ["1 succeeded"; 7]).then_some(())
    })
    .await;
    next.stop().await;
    assert_recorded(pool, &desk.sends()).await;
    audit(pool).await;
}

/// Scenario 176.
#[tokio::test]
async fn a_worker_killed_between_send_and_record_leaves_a_try_that_may_have_been_sent() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    let sent = desk.gate("sent");
    let worker = || desk.worker(&db.url()).with_short_leases();
    let first = worker()
        .failpoint("after_send", &sent.pause())
        .start()
        .await;
    host.trigger("user_1").await;
    eventually("it is sent", async || (sent.reached() == 1).then_some(())).await;
    first.kill().await;
    assert_eq!(
        number(pool, "select count(*) from chimeway.delivery_attempts").await,
        0
    );

    let second = worker().start().await;
    until_tries(pool, &["1 unknown"]).await;
    let next = host.explain("user_1").await.next;
    assert!(next.contains("The last try may have been sent"), "{next}");
    end_backoffs(pool).await;
    host.until("user_1", "waiting").await;
    assert_eq!(texts(pool, TRIES).await, ["1 unknown", "2 succeeded"]);
    let sends = desk.sends();
    let processes: BTreeSet<u32> = sends.values().flatten().map(|(_, pid)| *pid).collect();
    assert_eq!(processes.len(), 2, "one send of each process: {sends:?}");
    let workers = texts(
        pool,
        "select distinct worker from chimeway.delivery_attempts",
    )
    .await;
    assert_eq!(
        workers.len(),
        2,
        "the unknown try is the dead worker's: {workers:?}"
    );
    second.stop().await;
    assert_recorded(pool, &sends).await;
    audit(pool).await;
}

#[tokio::test]
async fn a_result_that_comes_after_its_lease_was_closed_replaces_the_unknown_one() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    let sent = desk.gate("sent");
    let worker = desk.worker(&db.url()).with_short_leases();
    let worker = worker.failpoint("after_send", &sent.pause()).start().await;
    host.trigger("user_1").await;
    until_tries(pool, &["1 unknown"]).await;
    sent.open();
    host.until("user_1", "waiting").await;
    assert_eq!(texts(pool, TRIES).await, ["1 succeeded"]);
    let row = "select concat_ws(' ', status, attempts, crashes, next_attempt_at) from chimeway.deliveries";
    assert_eq!(
        texts(pool, row).await,
        ["succeeded 1 1"],
        "no other try is planned"
    );
    worker.stop().await;
    assert_recorded(pool, &desk.sends()).await;
    audit(pool).await;
}

#[tokio::test]
async fn a_result_that_comes_after_a_newer_claim_amends_its_own_try_alone() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    let (sent, sent_again) = (desk.gate("sent"), desk.gate("sent_again"));
    let worker = |gate: &str| {
        let worker = desk.worker(&db.url()).with_short_leases();
        worker.failpoint("after_send", gate)
    };
    let first = worker(&sent.pause()).start().await;
    host.trigger("user_1").await;
    eventually("it is sent", async || (sent.reached() == 1).then_some(())).await;
    first.terminate();
    let second = worker(&sent_again.pause())
        .with("--lease-ms", "20000")
        .start()
        .await;
    until_tries(pool, &["1 unknown"]).await;
    end_backoffs(pool).await;
    eventually("it is sent again", async || {
        (sent_again.reached() == 1).then_some(())
    })
    .await;

    sent.open();
    until_tries(pool, &["1 succeeded"]).await;
    let row =
        "select concat_ws(' ', status, claim_no, lease_owner is not null) from chimeway.deliveries";
    assert_eq!(
        texts(pool, row).await,
        ["dispatched 2 t"],
        "the newer claim holds it"
    );
    assert_eq!(host.state_of("user_1").await.as_deref(), Some("active"));
    sent_again.open();
    host.until("user_1", "waiting").await;
    assert_eq!(texts(pool, TRIES).await, ["1 succeeded", "2 succeeded"]);
    second.stop().await;
    assert_recorded(pool, &desk.sends()).await;
}
