//! Host transactions that stay open: they hold up what they hold, and nothing else.

use chimeway_testkit::{TENANT, TestDb};
use sqlx::{PgConnection, PgPool};

use crate::{
    audit::{assert_recorded, audit},
    fleet::{Host, number, texts},
    process::Desk,
    support::eventually,
};

/// Tries that did not succeed, and crashes: none while no lease ends.
const LEASES_ENDED: &str =
    "select count(*) from chimeway.delivery_attempts where outcome <> 'succeeded'";

/// A host's transaction that holds someone's run, and does nothing more.
async fn hold_run(db: &TestDb, recipient: &str) -> PgConnection {
    let mut conn = begun(db).await;
    let lock = "select id::text from chimeway.workflow_runs where actor_id = $1 for update";
    let lock = sqlx::query_scalar::<_, String>(lock).bind(recipient);
    lock.fetch_one(&mut conn).await.unwrap();
    conn
}

/// A host's transaction that holds what a statement locks: one row.
async fn hold(db: &TestDb, lock: &'static str) -> PgConnection {
    let mut conn = begun(db).await;
    let locked = sqlx::query_scalar::<_, String>(lock).fetch_one(&mut conn);
    locked.await.unwrap();
    conn
}

async fn begun(db: &TestDb) -> PgConnection {
    let mut conn = db.connect().await;
    let begun = sqlx::raw_sql("begin").execute(&mut conn).await;
    begun.unwrap();
    conn
}

async fn commit(mut conn: PgConnection) {
    sqlx::raw_sql("commit").execute(&mut conn).await.unwrap();
}

/// Waits until every lease that was held now would have ended and been closed.
async fn outlive_the_leases(pool: &PgPool) {
    let begun = crate::fleet::now(pool).await;
    eventually("the leases of now are over", async || {
        let passed = crate::fleet::now(pool).await - begun;
        (passed.num_milliseconds() > 2700).then_some(())
    })
    .await;
}

#[tokio::test]
async fn heavy_a_run_that_a_host_holds_while_its_message_is_recorded_holds_up_nobody_else() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT0.2S").await;
    host.trigger_many(50).await;
    let held = hold_run(&db, "user_7").await;
    let worker = desk.worker(&db.url()).with_short_leases().start().await;
    host.until_ended(49).await;
    outlive_the_leases(pool).await;
    let next = host.explain("user_7").await;
    assert_eq!(
        (next.state.as_str(), next.deliveries[0].status.as_str()),
        ("active", "succeeded")
    );
    assert!(
        next.next.contains("another session lets go"),
        "{}",
        next.next
    );
    assert_eq!(number(pool, LEASES_ENDED).await, 0);

    commit(held).await;
    host.until_ended(50).await;
    assert_eq!(host.state_of("user_7").await.as_deref(), Some("completed"));
    worker.stop().await;
    assert_recorded(pool, &desk.sends()).await;
    audit(pool).await;
}

#[tokio::test]
async fn heavy_a_run_that_a_host_holds_at_its_deadline_holds_up_nobody_else() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1S").await;
    host.trigger_many(50).await;
    let worker = desk.worker(&db.url()).with_short_leases().start().await;
    host.until("user_7", "waiting").await;
    let held = hold_run(&db, "user_7").await;
    assert_eq!(host.state_of("user_7").await.as_deref(), Some("waiting"));
    host.until_ended(49).await;
    assert_eq!(host.state_of("user_7").await.as_deref(), Some("waiting"));
    // A signal that comes after the deadline, and before a worker could see that it had passed.
    host.read("user_7").await;
    outlive_the_leases(pool).await;
    commit(held).await;
    host.until("user_7", "stopped").await;
    assert_eq!(number(pool, LEASES_ENDED).await, 0);
    worker.stop().await;
    assert_recorded(pool, &desk.sends()).await;
    audit(pool).await;
}

/// A message that is being sent: whoever holds its row then holds up its own record alone.
#[tokio::test]
async fn heavy_a_message_that_a_host_holds_while_it_is_recorded_holds_up_nobody_else() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT0.2S").await;
    let sent = desk.gate("sent");
    let pause = format!("once:{}", sent.pause());
    let worker = desk.worker(&db.url()).with_short_leases();
    let worker = worker.failpoint("after_send", &pause).start().await;
    host.trigger("user_0").await;
    eventually("a message is sent and not recorded", async || {
        (sent.reached() == 1).then_some(())
    })
    .await;
    let held = hold(
        &db,
        "select id::text from chimeway.deliveries where status = 'dispatched' for update",
    )
    .await;
    sent.open();
    for n in 1..50 {
        host.trigger(&format!("user_{n}")).await;
    }
    host.until_ended(49).await;
    outlive_the_leases(pool).await;
    assert_eq!(host.state_of("user_0").await.as_deref(), Some("active"));
    assert_eq!(number(pool, LEASES_ENDED).await, 0);

    commit(held).await;
    host.until_ended(50).await;
    worker.stop().await;
    let sends = desk.sends();
    assert!(sends.values().all(|tries| tries.len() == 1), "{sends:?}");
    assert_recorded(pool, &sends).await;
    audit(pool).await;
}

/// A message that waits for its turn or its next try, while its run is ended by a signal.
#[tokio::test]
async fn a_message_that_a_host_holds_while_its_run_is_ended_holds_up_nobody_else() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    for n in 0..10 {
        host.trigger(&format!("user_{n}")).await;
    }
    let held = hold(
        &db,
        "select d.id::text from chimeway.deliveries d
         join chimeway.workflow_runs r on r.id = d.workflow_run_id and r.actor_id = 'user_7'
         for update of d",
    )
    .await;
    let cancel = "select chimeway.cancel(tenant_id, id) from chimeway.workflow_runs";
    sqlx::query(cancel).execute(pool).await.unwrap();
    let without_senders = [("chimeway_signals", 1), ("chimeway_workflows", 5)];
    let worker = desk.worker(&db.url()).only(&without_senders).start().await;
    host.until_ended(10).await;
    commit(held).await;
    worker.stop().await;
    // What was held is found to be unwanted by whoever claims it.
    let sender = desk.worker(&db.url()).start().await;
    let unsent = "select count(*) from chimeway.deliveries where status = 'cancelled'";
    eventually("nothing is left to send", async || {
        (number(pool, unsent).await == 10).then_some(())
    })
    .await;
    sender.stop().await;
    assert!(desk.sends().is_empty());
    audit(pool).await;
}

#[tokio::test]
async fn a_run_that_a_host_holds_keeps_its_signal_unrouted_and_no_other() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    let worker = desk.worker(&db.url()).start().await;
    for n in 0..10 {
        host.trigger(&format!("user_{n}")).await;
        host.until(&format!("user_{n}"), "waiting").await;
    }
    let held = hold_run(&db, "user_7").await;
    for n in 0..10 {
        host.read(&format!("user_{n}")).await;
    }
    host.until_ended(9).await;
    let unrouted = "select actor_id from chimeway.signals where routed_at is null";
    assert_eq!(texts(pool, unrouted).await, ["user_7"]);
    // It is tried again and again meanwhile, ever less often; and not counted as a failure.
    let deferred = "select count(*) from chimeway.signals
                    where routed_at is null and route_at > occurred_at + interval '100 ms' and tries = 0";
    eventually("it was tried several times", async || {
        (number(pool, deferred).await == 1).then_some(())
    })
    .await;
    commit(held).await;
    host.until("user_7", "stopped").await;
    worker.stop().await;
    assert_eq!(desk.sends().len(), 10);
    audit(pool).await;
}

#[tokio::test]
async fn a_trigger_that_a_host_has_not_committed_holds_up_only_who_uses_its_key() {
    const TRIGGER: &str = "select chimeway.trigger('mention_escalation',
        jsonb_build_object('actor_id', $1::text), $2, idempotency_key => $3)::text";
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT0.2S").await;
    let worker = desk.worker(&db.url()).with_short_leases().start().await;
    let trigger = |actor: &'static str, key: Option<&'static str>| {
        sqlx::query_scalar::<_, String>(TRIGGER)
            .bind(actor)
            .bind(TENANT)
            .bind(key)
    };
    let mut open = db.connect().await;
    sqlx::raw_sql("begin").execute(&mut open).await.unwrap();
    let first = trigger("first", Some("once"))
        .fetch_one(&mut open)
        .await
        .unwrap();

    let mut second = db.connect().await;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut second)
        .await
        .unwrap();
    let second = tokio::spawn(async move {
        trigger("second", Some("once"))
            .fetch_one(&mut second)
            .await
            .unwrap()
    });
    eventually("the second caller waits for the first", async || {
        let waits = sqlx::query_scalar::<_, bool>(
            "select coalesce(wait_event_type = 'Lock', false) from pg_stat_activity where pid = $1",
        );
        let waits = waits.bind(pid).fetch_one(pool).await.unwrap();
        waits.then_some(())
    })
    .await;
    for actor in ["without_a_key", "without_a_key_too"] {
        trigger(actor, None).fetch_one(pool).await.unwrap();
    }
    trigger("another_key", Some("twice"))
        .fetch_one(pool)
        .await
        .unwrap();
    host.trigger_many(20).await;
    host.until_ended(23).await;
    assert!(!second.is_finished());

    commit(open).await;
    assert_eq!(second.await.unwrap(), first);
    host.until("first", "completed").await;
    let runs = "select count(*) from chimeway.workflow_runs";
    assert_eq!(number(pool, runs).await, 24);
    assert_eq!(number(pool, LEASES_ENDED).await, 0);
    worker.stop().await;
    assert_recorded(pool, &desk.sends()).await;
    audit(pool).await;
}
