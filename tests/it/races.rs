//! Signals against the beginning and the end of waits, and workers against each other.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use chimeway::{Chimeway, Dispatcher};
use chimeway_testkit::{RecordingChannel, Story, TestDb};
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, future::join_all, stream};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sqlx::PgPool;
use tokio::time::Instant;

use crate::{
    audit::{assert_no_deadlocks, assert_recorded, audit},
    fleet::{Host, end_backoffs, execute, journey, now, number, recording, texts},
    process::Desk,
    support::eventually,
};

const READERS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_nobody_who_read_in_time_gets_an_escalation() {
    let db = TestDb::create().await;
    let desk = Desk::new();
    let host = Host::with_journey(db.pool(), "PT1S").await;
    let workers = [
        desk.worker(&db.url()).start().await,
        desk.worker(&db.url()).start().await,
    ];
    let read = everyone_reads(&host, db.pool()).await;
    host.until_ended(READERS).await;
    assert_only_the_late_get_an_email(db.pool(), &read).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_recorded(db.pool(), &desk.sends()).await;
    audit(db.pool()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_nobody_who_read_in_time_gets_an_escalation_though_no_router_runs_until_later() {
    let db = TestDb::create().await;
    let desk = Desk::new();
    let host = Host::with_journey(db.pool(), "PT1S").await;
    let without_router = [("chimeway_delivery", 20), ("chimeway_workflows", 5)];
    let worker = desk.worker(&db.url()).only(&without_router).start().await;
    let read = everyone_reads(&host, db.pool()).await;
    host.until_ended(READERS).await;
    let routed = "select count(*) from chimeway.signals where routed_at is not null";
    assert_eq!(number(db.pool(), routed).await, 0);
    assert_only_the_late_get_an_email(db.pool(), &read).await;
    let router = desk.worker(&db.url()).start().await;
    eventually("everything is routed", async || {
        (number(db.pool(), routed).await == i64::try_from(READERS).unwrap()).then_some(())
    })
    .await;
    assert_only_the_late_get_an_email(db.pool(), &read).await;
    router.stop().await;
    worker.stop().await;
    assert_recorded(db.pool(), &desk.sends()).await;
    audit(db.pool()).await;
}

/// Triggers for many people who each read at another moment around the beginning of their wait; when
/// each had read.
async fn everyone_reads(host: &Host, pool: &PgPool) -> HashMap<String, DateTime<Utc>> {
    let readers = stream::iter(0..READERS).map(async |n| {
        let reader = format!("reader_{n}");
        let mut rng = StdRng::seed_from_u64(u64::try_from(n).unwrap());
        let read_at = match n % 4 {
            0 => {
                let mut tx = pool.begin().await.unwrap();
                host.trigger_in(&mut tx, &reader).await;
                host.read_in(&mut tx, &reader).await;
                tx.commit().await.unwrap();
                now(pool).await
            }
            1 => {
                let mut tx = pool.begin().await.unwrap();
                host.trigger_in(&mut tx, &reader).await;
                let read_at = host.read(&reader).await;
                tx.commit().await.unwrap();
                read_at
            }
            2 => {
                host.trigger(&reader).await;
                tokio::time::sleep(Duration::from_micros(rng.random_range(0..30_000))).await;
                host.read(&reader).await
            }
            _ => {
                host.trigger(&reader).await;
                host.until(&reader, "waiting").await;
                host.read(&reader).await
            }
        };
        (reader, read_at)
    });
    readers.buffer_unordered(8).collect().await
}

/// When each run's wait was over.
async fn deadlines(pool: &PgPool, wait: TimeDelta) -> HashMap<String, DateTime<Utc>> {
    let entered: Vec<(String, DateTime<Utc>)> = sqlx::query_as(
        "select r.actor_id, t.inserted_at from chimeway.workflow_runs r
         join chimeway.workflow_transitions t on t.workflow_run_id = r.id
         where t.to_state = 'waiting'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    entered
        .into_iter()
        .map(|(actor, at)| (actor, at + wait))
        .collect()
}

async fn assert_only_the_late_get_an_email(pool: &PgPool, read: &HashMap<String, DateTime<Utc>>) {
    let deadlines = deadlines(pool, TimeDelta::seconds(1)).await;
    let emails = "select r.actor_id from chimeway.workflow_runs r
                  join chimeway.deliveries d on d.workflow_run_id = r.id where d.channel = 'email'";
    let emailed = texts(pool, emails).await;
    let in_time = |reader: &str| read[reader] < deadlines[reader];
    for reader in &emailed {
        assert!(!in_time(reader), "{reader} had read and gets an email");
    }
    // The machine may be too slow for a few of them, but not for the test.
    let count = read.keys().filter(|reader| in_time(reader)).count();
    assert!(count > READERS * 9 / 10, "only {count} read in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_commits_while_its_run_is_entering_the_wait_ends_it() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    let entering = desk.gate("entering");
    let worker = desk
        .worker(&db.url())
        .failpoint("before_record_commit", &entering.pause());
    let worker = worker.start().await;
    host.trigger("user_1").await;
    // It is in the wait, and has looked for signals; nothing of that is committed.
    eventually("it enters the wait", async || {
        (entering.reached() == 1).then_some(())
    })
    .await;
    host.read("user_1").await;
    let left = "select count(*) from chimeway.signals
                where routed_at is null and route_at > occurred_at";
    eventually(
        "the router finds the run held, and leaves the signal",
        async || (number(pool, left).await == 1).then_some(()),
    )
    .await;
    entering.open();
    host.until("user_1", "stopped").await;
    worker.stop().await;
    assert_eq!(desk.sends().len(), 1);
    audit(pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_of_signal_and_deadline_exactly_one_ends_a_wait() {
    const RUNS: usize = 1000;
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT6S").await;
    let workers = [
        desk.worker(&db.url()).start().await,
        desk.worker(&db.url()).start().await,
    ];
    // Spread out, so that each signal can be made at its moment.
    for batch in 0..RUNS / 50 {
        host.trigger_range(50 * batch..50 * (batch + 1)).await;
        tokio::time::sleep(Duration::from_millis(75)).await;
    }
    let waiting = "select count(*) from chimeway.workflow_runs where state = 'waiting'";
    eventually("all wait", async || {
        (number(pool, waiting).await == i64::try_from(RUNS).unwrap()).then_some(())
    })
    .await;
    let deadlines = deadlines(pool, TimeDelta::seconds(6)).await;
    let read = reads_at(&host, pool, &deadlines).await;
    host.until_ended(RUNS).await;
    for worker in workers {
        worker.stop().await;
    }

    let ends: Vec<(String, String, i64)> = sqlx::query_as(
        "select r.actor_id, r.state, (
            select count(*) from chimeway.deliveries d
            where d.workflow_run_id = r.id and d.channel = 'email'
         ) from chimeway.workflow_runs r",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut stopped = 0;
    for (actor, state, emails) in &ends {
        let (read_at, deadline) = (read.get(actor), &deadlines[actor]);
        match (state.as_str(), emails) {
            ("stopped", 0) if read_at.is_some() => stopped += 1,
            ("completed", 1) => assert!(
                read_at.is_none_or(|at| at >= deadline),
                "{actor}: {read_at:?} < {deadline}"
            ),
            end => panic!("{actor} ended as {end:?}"),
        }
    }
    assert!(
        (50..RUNS - 50).contains(&stopped),
        "no race: {stopped} of {RUNS} were stopped"
    );
    assert_recorded(pool, &desk.sends()).await;
    audit(pool).await;
}

/// Reads around the deadlines, each read within 40 ms of its own: one begins as much earlier as the last one
/// took. A machine that cannot keep up reads fewer of them, and no other moments.
async fn reads_at(
    host: &Host,
    pool: &PgPool,
    deadlines: &HashMap<String, DateTime<Utc>>,
) -> HashMap<String, DateTime<Utc>> {
    let (began, clock) = (Instant::now(), now(pool).await);
    let mut rng = StdRng::seed_from_u64(7);
    let mut moments: Vec<(Duration, &String)> = deadlines
        .iter()
        .map(|(actor, at)| {
            let jitter = TimeDelta::microseconds(rng.random_range(-40_000..40_000));
            ((*at + jitter - clock).to_std().unwrap_or_default(), actor)
        })
        .collect();
    moments.sort_unstable();
    let (moments, took) = (Mutex::new(moments.into_iter()), Mutex::new(Duration::ZERO));
    let next = || {
        let ahead = began.elapsed() + *took.lock().unwrap();
        let mut moments = moments.lock().unwrap();
        moments.find(|(moment, _)| *moment >= ahead)
    };
    let reader = async || {
        let mut read = vec![];
        while let Some((moment, actor)) = next() {
            let begins = began + moment - *took.lock().unwrap();
            tokio::time::sleep_until(begins).await;
            let begun = Instant::now();
            read.push((actor.clone(), host.read(actor).await));
            *took.lock().unwrap() = begun.elapsed();
        }
        read
    };
    let readers = (0..16).map(|_| reader());
    join_all(readers).await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_settlers_advance_a_due_run_once() {
    let story = Story::begin("2026-03-02T09:00:00Z").await;
    story.apply(&journey("PT2H")).await;
    let run = story.trigger("mention_escalation", "user_1").await;
    story.drain().await;
    story.pass("PT2H").await;
    let settlers: Vec<Chimeway> = (0..10)
        .map(|n| {
            let settler = recording(story.channel()).dispatcher(Dispatcher::Inline);
            settler.worker_name(format!("settler_{n}")).build()
        })
        .collect();
    let settling = settlers.iter().map(|settler| settler.settle(story.pool()));
    for settled in join_all(settling).await {
        settled.unwrap();
    }
    story.drain().await;
    assert_eq!(story.explain(run).await.state, "completed");
    assert_eq!(story.sent()[1..], ["email mention_email to user_1"]);
    let left =
        "select count(*) from chimeway.workflow_transitions where reason = 'reactivated_from_wait'";
    assert_eq!(number(story.pool(), left).await, 1);
    audit(story.pool()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_batches_of_many_sessions_over_the_same_runs_never_deadlock() {
    const PEOPLE: usize = 30;
    let db = TestDb::create().await;
    let (pool, channel) = (db.pool(), RecordingChannel::default());
    let host = Host::with_journey(pool, "PT0.3S").await;
    // Ten runs each: a signal locks all runs of its actor, in every session at once.
    for _ in 0..10 {
        host.trigger_many(PEOPLE).await;
    }
    // Half of the messages are held by a worker that died: every session closes its leases.
    execute(
        pool,
        "update chimeway.deliveries
         set status = 'dispatched', claim_no = 1, attempts = 1, lease_owner = 'dead',
            lease_until = clock_timestamp() - interval '1 hour'
         where abs(hashtext(id::text)) % 2 = 0",
    )
    .await;
    let reading = async {
        let mut rng = StdRng::seed_from_u64(11);
        for _ in 0..200 {
            host.read(&format!("user_{}", rng.random_range(0..PEOPLE)))
                .await;
            end_backoffs(pool).await;
        }
    };
    let settling = (0..6).map(|n| {
        let settler = recording(&channel).dispatcher(Dispatcher::Inline);
        let settler = settler.worker_name(format!("settler_{n}")).build();
        let pool = pool.clone();
        tokio::spawn(async move {
            let live = "select count(*) from chimeway.workflow_runs where ended_at is null";
            while number(&pool, live).await > 0 {
                settler.settle(&pool).await.unwrap();
            }
        })
    });
    let (settled, ()) = futures::join!(join_all(settling), reading);
    for one in settled {
        one.unwrap();
    }
    let last = recording(&channel).dispatcher(Dispatcher::Inline).build();
    last.settle(pool).await.unwrap();
    host.until_ended(10 * PEOPLE).await;
    let closed = "select min(crashes) || ' ' || max(crashes) from chimeway.deliveries
                  where lease_owner is null and claim_no > 1";
    assert_eq!(
        texts(pool, closed).await,
        ["1 1"],
        "each lease is closed once"
    );
    audit(pool).await;
    assert_no_deadlocks(&db).await;
}
