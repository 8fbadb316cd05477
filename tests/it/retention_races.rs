//! Retention against those who hold rows, tell late results, repeat keys, or prune at the same time.

use std::time::Duration;

use chimeway::flow::Point;
use chimeway_testkit::Answer;
use sqlx::{Connection as _, Executor as _};

use crate::{
    fleet::number,
    invariants::audit,
    outcomes::Stopping,
    retention::{aggressive, exists, kept, over, prune, sizes, story},
    support::eventually,
    tools::{lines, place, signal_of, trigger, trigger_of, until_somebody_waits},
};

/// With any one row held for ever, the others go, and nobody waits.
#[tokio::test]
async fn what_another_session_holds_is_passed_over() {
    // Each locks one row of a run's.
    const HOLDS: [(&str, &str); 6] = [
        (
            "workflow_runs",
            "select from chimeway.workflow_runs where id = $1 for no key update",
        ),
        (
            "deliveries",
            "select from chimeway.deliveries where workflow_run_id = $1 limit 1 for no key update",
        ),
        (
            "workflow_transitions",
            "select from chimeway.workflow_transitions where workflow_run_id = $1 limit 1 for no key update",
        ),
        (
            "delivery_attempts",
            "select from chimeway.delivery_attempts where delivery_id in (
                select id from chimeway.deliveries where workflow_run_id = $1
            ) limit 1 for no key update",
        ),
        (
            "notifications",
            "select from chimeway.notifications where id in (
                select notification_id from chimeway.workflow_runs where id = $1
            ) for no key update",
        ),
        (
            "events",
            "select from chimeway.events where id in (
                select n.event_id from chimeway.workflow_runs r
                join chimeway.notifications n on n.id = r.notification_id where r.id = $1
            ) for no key update",
        ),
    ];
    let story = story().await;
    let mut host = story.db().connect().await;
    for (table, hold) in HOLDS {
        let held = over(&story, "ada").await;
        for who in ["bob", "cleo"] {
            over(&story, who).await;
        }
        let mut tx = host.begin().await.unwrap();
        let locked = sqlx::query(hold).bind(held.0).execute(&mut *tx).await;
        assert_eq!(locked.unwrap().rows_affected(), 1, "{table}");
        let began = std::time::Instant::now();
        let done = prune(&story, &aggressive()).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{table}");
        let runs = lines(story.pool(), "select id::text from chimeway.workflow_runs").await;
        assert_eq!(runs, held.to_string(), "{table}: {done:?}");
        if table != "workflow_runs" {
            assert_eq!(
                kept(&done),
                ["runs: 1 another session holds them"],
                "{table}"
            );
        }
        tx.rollback().await.unwrap();
        audit(story.pool()).await;
        prune(&story, &aggressive()).await;
        assert_eq!(sizes(story.pool()).await, "0 0 0 0 0 0 0", "{table}");
    }
}

/// A server tells an error before it has let go of what the transaction had locked, the turn to prune among it. Here
/// that takes it some milliseconds.
#[tokio::test]
async fn a_batch_that_met_a_held_row_is_over_before_the_next_one_begins() {
    const SLOW: &str = "create function public.lock_much() returns trigger language plpgsql as $$
        begin perform pg_advisory_xact_lock(i) from generate_series(1, 4000) i; return null; end $$;
        create trigger lock_much before delete on chimeway.workflow_transitions
        for each statement execute function public.lock_much()";
    let story = story().await;
    story.pool().execute(SLOW).await.unwrap();
    let held = over(&story, "ada").await;
    let mut host = story.db().connect().await;
    let mut tx = host.begin().await.unwrap();
    sqlx::query("select from chimeway.workflow_transitions where workflow_run_id = $1 for update")
        .bind(held.0)
        .execute(&mut *tx)
        .await
        .unwrap();
    // Which lock goes first is chance.
    for who in ["bob", "cleo", "dan", "eve", "finn", "gil", "hal", "ida"] {
        over(&story, who).await;
        prune(&story, &aggressive()).await;
        let runs = lines(story.pool(), "select id::text from chimeway.workflow_runs").await;
        assert_eq!(runs, held.to_string(), "{who}");
    }
}

/// A worker that was away for long tells the result of a send whose run is gone.
#[tokio::test]
async fn a_result_that_comes_after_its_run_was_pruned_writes_nothing() {
    let story = story().await;
    let run = story.trigger("approval", "ada").await;
    story.drain().await;
    let slow = Stopping::at(Point::AfterSend, &story, "slow");
    let approve = "select chimeway.approve('org_456', id, 'boss') from chimeway.workflow_runs";
    story.pool().execute(approve).await.unwrap();
    story.channel().answer([Answer::Takes, Answer::Takes]);
    // The approval moves the run on to a message, which the slow one sends.
    let sending = slow.start(&story).await;
    assert!(exists(&story, run).await);
    story.pass("PT32S").await;
    story.sweep().await;
    story.pass("PT15S").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "completed in tell: completed");
    prune(&story, &aggressive()).await;
    assert!(!exists(&story, run).await);
    slow.finish(sending).await;
    assert_eq!(sizes(story.pool()).await, "0 0 0 0 0 0 0");
}

/// The key is free in the very moment between a trigger's two looks: it begins anew.
#[tokio::test]
async fn a_repeated_key_whose_event_is_pruned_at_that_moment_begins_anew() {
    let story = story().await;
    let mut other = story.db().connect().await;
    other
        .execute(
            "create function at_gate() returns trigger language plpgsql as $$
            begin
                perform pg_advisory_lock_shared(tg_argv[0]::bigint);
                perform pg_advisory_unlock_shared(tg_argv[0]::bigint);
                return new;
            end $$;
            create trigger before before insert on chimeway.events for each statement execute function at_gate('1');
            create trigger after after insert on chimeway.events for each statement execute function at_gate('2');
            select pg_advisory_lock(1), pg_advisory_lock(2)",
        )
        .await
        .unwrap();
    let call =
        "select chimeway.trigger('long', '{\"actor_id\": \"ada\"}', 'org_456', null, 'once')";
    let repeated = {
        let mut conn = story.db().connect().await;
        tokio::spawn(async move {
            let event: sqlx::types::Uuid = sqlx::query_scalar(call).fetch_one(&mut conn).await?;
            Ok::<_, sqlx::Error>(event)
        })
    };
    // It has not found the key, and is about to insert.
    until_somebody_waits(story.pool()).await;
    let first: sqlx::types::Uuid = sqlx::query_scalar(call)
        .fetch_one(&mut other)
        .await
        .unwrap();
    other.execute("select pg_advisory_unlock(1)").await.unwrap();
    // It has found that somebody else has it, and is about to look who.
    eventually("it is at the second gate", async || {
        let waits = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
            where d.datname = current_database() and l.locktype = 'advisory' and l.objid = 2 and not l.granted";
        (number(story.pool(), waits).await == 1).then_some(())
    })
    .await;
    // Committed before the gate opens: together they would be one transaction.
    other.execute("delete from chimeway.events").await.unwrap();
    other.execute("select pg_advisory_unlock(2)").await.unwrap();
    let second = repeated.await.unwrap().unwrap();
    assert_ne!(first, second);
    let events = lines(story.pool(), "select id::text from chimeway.events").await;
    assert_eq!(events, second.to_string());
}

/// Several at once, and a caller who repeats keys and tells signals meanwhile: one prunes, nobody fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruners_and_hosts_at_the_same_time_do_no_harm() {
    let story = story().await;
    for n in 0..30 {
        story
            .trigger("mention_escalation", &format!("user_{n}"))
            .await;
    }
    story.advance("PT2H").await;
    let pruning = (0..4).map(|_| {
        let (chimeway, pool) = (story.chimeway().clone(), story.pool().clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                chimeway.prune(&pool, &aggressive()).await.unwrap();
            }
        })
    });
    let pruning: Vec<_> = pruning.collect();
    let host = {
        let (chimeway, pool) = (story.chimeway().clone(), story.pool().clone());
        tokio::spawn(async move {
            for n in 0..40 {
                let who = format!("user_{}", n % 5);
                let new = trigger_of("mention_escalation", &who)
                    .idempotency_key(format!("key_{}", n % 3));
                trigger(&chimeway, &pool, new).await.unwrap();
                let mut tx = pool.begin().await.unwrap();
                let read = signal_of(&who, "notification_read");
                chimeway.track(&mut tx, read).await.unwrap();
                tx.commit().await.unwrap();
                chimeway.settle(&pool).await.unwrap();
                let explained =
                    "select chimeway.explain('org_456', id) from chimeway.workflow_runs";
                pool.execute(explained).await.unwrap();
            }
        })
    };
    for task in pruning.into_iter().chain([host]) {
        task.await.unwrap();
    }
    story.advance("PT3H").await;
    audit(story.pool()).await;
    prune(&story, &aggressive()).await;
    assert_eq!(sizes(story.pool()).await, "0 0 0 0 0 0 0");
}
