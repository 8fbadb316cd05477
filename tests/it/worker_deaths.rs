//! Rows of batches that take the worker process down with them: found by the next processes, set aside alone.

use std::time::Duration;

use chimeway::flow::workflows::Stamp;
use chimeway_testkit::{Story, TestDb};
use sqlx::PgPool;

use crate::{
    audit::audit,
    fleet::{Host, execute, journey, number, texts},
    process::{Desk, WorkerCommand},
    support::eventually,
};

/// A trigger that says when a worker dies: in the middle of the transaction that works on this row.
const KILL: &str = "create function kill() returns trigger language plpgsql as
    $$ begin raise warning 'abort this process'; return new; end $$;";

/// Starts a worker anew whenever it dies, until `done`; how often it died, and the last one, which lives.
async fn until_done(
    worker: impl Fn() -> WorkerCommand,
    mut done: impl AsyncFnMut() -> bool,
) -> usize {
    let mut deaths = 0;
    loop {
        let mut one = worker().spawn();
        let ended = tokio::select! {
            status = one.wait() => Some(status),
            () = eventually("it is done", async || done().await.then_some(())) => None,
        };
        match ended {
            Some(status) => {
                assert!(!status.success(), "a worker ended by itself");
                deaths += 1;
                assert!(deaths < 500, "nobody found what kills");
            }
            None => {
                one.watches_for_signals().await;
                one.stop().await;
                return deaths;
            }
        }
    }
}

/// Whether all but one journey have ended, and that one is as it is said.
async fn ended_but(pool: &PgPool, count: i64, aside: &'static str) -> bool {
    let ended = "select count(*) from chimeway.workflow_runs where ended_at is not null";
    number(pool, ended).await == count && number(pool, aside).await == 1
}

#[tokio::test]
async fn heavy_an_event_that_kills_workers_is_set_aside_and_the_others_go_on() {
    let (db, desk) = (TestDb::create().await, Desk::new());
    let pool = db.pool();
    Host::with_journey(pool, "PT0.1S").await;
    execute(pool, KILL).await;
    execute(
        pool,
        "create trigger kill before insert on chimeway.notifications for each row
            when (new.recipient = 'poison') execute function kill();
         select chimeway.trigger('mention_escalation', jsonb_build_object('actor_id',
            case n when 7 then 'poison' else 'user_' || n end), 'org_456')
         from generate_series(1, 20) n",
    )
    .await;
    let aside = "select count(*) from chimeway.events where quarantine_reason = 'worker_died' and expand_at is null";
    let worker = || desk.worker(&db.url()).with_short_leases();
    let deaths = until_done(worker, async || ended_but(pool, 19, aside).await).await;
    assert!(deaths >= 5, "{deaths}");
    audit(pool).await;
    let left =
        "select count(*) from chimeway.events where crashes > 0 and quarantine_reason is null";
    assert_eq!(number(pool, left).await, 0, "the innocents are not counted");
    let processes = "select count(*) from chimeway.worker_processes";
    assert_eq!(
        number(pool, processes).await,
        i64::try_from(deaths).unwrap(),
        "those that died, and not the one that drained"
    );
}

#[tokio::test]
async fn heavy_a_run_that_kills_workers_is_set_aside_whatever_it_is_told() {
    const LEAVES_ITS_WAIT: &str = "
        create trigger kill before update on chimeway.workflow_runs for each row
            when (new.actor_id = 'poison' and old.state = 'waiting' and new.state <> 'waiting')
            execute function kill()";
    const IS_TOLD_ITS_RESULT: &str = "
        create trigger kill before update on chimeway.workflow_runs for each row
            when (new.actor_id = 'poison' and new.state = 'waiting') execute function kill()";
    // Side by side: mostly they wait until a process is known to be dead.
    tokio::join!(
        a_run_that_kills(LEAVES_ITS_WAIT, false),
        a_run_that_kills(IS_TOLD_ITS_RESULT, false),
        // By a signal, which is set aside as well, and then at the end of its wait.
        a_run_that_kills(LEAVES_ITS_WAIT, true),
    );
}

async fn a_run_that_kills(when: &'static str, is_told: bool) {
    let (db, desk) = (TestDb::create().await, Desk::new());
    let pool = db.pool();
    let host = Host::with_journey(pool, "PT1S").await;
    execute(pool, KILL).await;
    execute(pool, when).await;
    host.trigger("poison").await;
    host.trigger_many(19).await;
    if is_told {
        let first = desk.worker(&db.url()).with_short_leases().start().await;
        host.until("poison", "waiting").await;
        first.kill().await;
        host.read("poison").await;
    }
    let aside = "select count(*) from chimeway.workflow_runs
        where quarantine_reason = 'worker_died' and wake_at is null and actor_id = 'poison'";
    let worker = || desk.worker(&db.url()).with_short_leases();
    let deaths = until_done(worker, async || {
        crate::fleet::end_backoffs(pool).await;
        let signals = "select count(*) from chimeway.signals where route_at is not null";
        ended_but(pool, 19, aside).await && number(pool, signals).await == 0
    })
    .await;
    assert!(deaths >= 5, "{when}: {deaths}");
    let quarantined =
        "select count(*) from chimeway.deliveries where status_reason = 'quarantined'";
    assert_eq!(
        number(pool, quarantined).await,
        0,
        "{when}: innocents are unharmed"
    );
    let signals = texts(
        pool,
        "select concat_ws(' ', quarantine_reason, crashes) from chimeway.signals",
    )
    .await;
    assert_eq!(
        signals,
        if is_told {
            vec!["worker_died 5"]
        } else {
            vec![]
        }
    );
    audit(pool).await;
}

#[tokio::test]
async fn heavy_what_a_dead_process_had_in_its_hands_is_done_by_others_and_leaves_no_trace() {
    let (db, desk) = (TestDb::create().await, Desk::new());
    let pool = db.pool();
    let host = Host::with_journey(pool, "PT0.1S").await;
    host.trigger_many(30).await;
    let worker = desk.worker(&db.url()).with_short_leases();
    let mut first = worker.failpoint("before_due", "abort").spawn();
    assert!(!first.wait().await.success());
    let second = desk.worker(&db.url()).with_short_leases().start().await;
    // Half a lease later it is known to be dead; what is due until then is counted, and done.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    host.trigger_range(30..40).await;
    host.until_ended(40).await;
    second.stop().await;
    let counted = "select count(*) from chimeway.workflow_runs where crashes > 0 or tries > 0";
    assert_eq!(number(pool, counted).await, 0);
    audit(pool).await;
}

#[tokio::test]
async fn a_row_that_was_freed_is_tried_alone_and_costs_one_process_at_a_time() {
    let story = Story::begin("2026-03-02T09:00:00Z").await;
    story.apply(&journey("PT2H")).await;
    let run = story.trigger("mention_escalation", "user_1").await;
    execute(
        story.pool(),
        "update chimeway.workflow_runs set quarantine_reason = 'worker_died', crashes = 3, wake_at = null",
    )
    .await;
    let row = "select concat_ws(' ', crashes, quarantine_reason, wake_at is not null) from chimeway.workflow_runs";
    let tenant = "org_456".parse().unwrap();
    let mut tx = story.pool().begin().await.unwrap();
    story
        .chimeway()
        .workflows()
        .retry(&mut tx, &tenant, run.0, &Stamp::default())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(texts(story.pool(), row).await, ["1 t"]);
    story.drain().await;
    story.advance("PT2H").await;
    assert_eq!(story.explain(run).await.state, "completed");
    assert_eq!(texts(story.pool(), row).await, ["0 f"]);
}

/// No disk, no memory: no row is to blame, and none may be set aside for it.
#[tokio::test]
async fn a_server_without_room_sets_nothing_aside() {
    let story = Story::begin("2026-03-02T09:00:00Z").await;
    story.apply(&journey("PT2H")).await;
    execute(
        story.pool(),
        "create function full_disk() returns trigger language plpgsql as $$
            begin raise exception 'no space left' using errcode = '53100'; end $$;
         create trigger full_disk before insert on chimeway.notifications
            for each row execute function full_disk();
         select chimeway.trigger('mention_escalation', '{\"actor_id\": \"user_1\"}', 'org_456')",
    )
    .await;
    for _ in 0..4 {
        // The row may be locked for a moment by the session that has just failed.
        eventually("the database has no room", async || {
            let settled = story.chimeway().settle(story.pool()).await;
            settled.is_err().then_some(())
        })
        .await;
    }
    execute(
        story.pool(),
        "drop trigger full_disk on chimeway.notifications",
    )
    .await;
    eventually("it is sent", async || {
        story.drain().await;
        (story.sent().len() == 1).then_some(())
    })
    .await;
    audit(story.pool()).await;
}
