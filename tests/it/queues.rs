//! `chimeway queues`: what is due and what needs somebody's eye, read from the database alone.

use chimeway::flow::Overview;
use chimeway_testkit::TestDb;
use sqlx::{Connection as _, Executor as _};

use crate::{
    host::{Host, TRIGGER},
    programs::{chimeway, psql},
};

/// Numbers that are the server's and not of this test.
fn masked(out: &str) -> String {
    let hidden = ["oldest transaction", "most dead rows", "notification queue"];
    let lines = out.lines().map(
        |line| match hidden.iter().find(|name| line.starts_with(**name)) {
            Some(name) => format!("{name} ..\n"),
            None => format!("{line}\n"),
        },
    );
    lines.collect()
}

#[tokio::test]
async fn an_empty_database_has_nothing_due() {
    let db = TestDb::create().await;
    let out = chimeway(&db.url(), &["queues"]).expect(0).out;
    insta::assert_snapshot!(masked(&out), @"
    QUEUE               WORK        DUE  OLDEST  NEXT IN
    chimeway_delivery   deliveries  0    -       -
    chimeway_signals    signals     0    -       -
    chimeway_workflows  events      0    -       -
    chimeway_workflows  runs        0    -       -
    chimeway_workflows  owed        0    -       -
    chimeway_workflows  actions     0    -       -

    set aside           0 events, 0 runs, 0 signals
    expired leases      0
    oldest transaction ..
    most dead rows ..
    notification queue ..
    ");
}

#[tokio::test]
async fn what_is_due_and_what_was_set_aside_is_told_without_a_worker() {
    let host = Host::begin().await;
    let url = host.db.url();
    host.db.pool().execute(TRIGGER).await.unwrap();
    host.settle().await;
    // One run waits two hours; this is the work that no worker has done.
    let script = "
        select chimeway.trigger('mention_escalation', '{}', 'org_456', '[{\"identity\": \"grace\"}]') \\g /dev/null
        update chimeway.events set expand_at = now() - interval '5 minutes' where expand_at is not null;
        insert into chimeway.signals (id, tenant_id, actor_id, event_name, occurred_at, route_at)
        select gen_random_uuid(), 'org_456', 'user_' || n, 'read', now(), now() - interval '3 hours' + n * interval '1 second'
        from generate_series(0, 10049) n;
        update chimeway.signals set quarantine_reason = 'P0001', route_at = null where actor_id = 'user_10049';
        insert into chimeway.deliveries (id, workflow_run_id, workflow_step_id, notification_id, inserted_at, updated_at,
            next_attempt_at, visit, tenant_id, channel, status, lease_owner, lease_until, attempts, claim_no)
        select gen_random_uuid(), id, current_step_id, notification_id, now(), now(), now() - interval '1 minute', 7,
            tenant_id, 'email', 'dispatched', 'gone', now() - interval '30 seconds', 1, 1
        from chimeway.workflow_runs;
        update chimeway.delivery_attempts set finished_at = started_at;
        insert into chimeway.delivery_attempts
            (delivery_id, attempt_number, claim_no, started_at, finished_at, outcome, error_class, adapter, worker)
        select id, n, n, now(), now() + n * interval '20 milliseconds',
            case n when 3 then 'succeeded' when 4 then 'unknown' else 'failed' end,
            (array['temporary', 'bounced', null, 'unknown'])[n], 'smtp', 'gone'
        from chimeway.deliveries, generate_series(1, 4) n where lease_owner = 'gone';
        insert into chimeway.deliveries (id, workflow_run_id, workflow_step_id, inserted_at, updated_at,
            next_attempt_at, visit, tenant_id, channel, status, lease_owner, lease_until, attempts, claim_no)
        select gen_random_uuid(), id, current_step_id, now(), now(), now() - interval '1 minute', 8 + n,
            tenant_id, 'sms', 'dispatched', 'here', now() + interval '30 seconds', 1, 1
        from chimeway.workflow_runs, generate_series(1, 2) n;";
    psql(&url, &[], script).expect(0);
    let out = chimeway(&url, &["queues"]).expect(0).out;
    insta::assert_snapshot!(masked(&out), @"
    QUEUE               WORK        DUE     OLDEST  NEXT IN
    chimeway_delivery   deliveries  0       -       -
    chimeway_signals    signals     10000+  3 h     -
    chimeway_workflows  events      1       5 min   -
    chimeway_workflows  runs        0       -       120 min
    chimeway_workflows  owed        0       -       -
    chimeway_workflows  actions     0       -       -

    CHANNEL  IN FLIGHT  TRIES  SUCCEEDED  TEMPORARY  PERMANENT  BOUNCED  UNKNOWN  MEDIAN
    email    0          4      1          1          0          1        1        40 ms
    in_app   0          1      1          0          0          0        0        0 ms
    sms      2          0      0          0          0          0        0        -

    set aside           0 events, 0 runs, 1 signal
    expired leases      1
    oldest transaction ..
    most dead rows ..
    notification queue ..
    ");

    let json = chimeway(&url, &["queues", "--json"]).expect(0).json();
    let events = &json["queues"][2];
    assert_eq!(events["kind"], "events");
    assert_eq!(events["queue"], "chimeway_workflows");
    assert_eq!(events["due"], 1);
    let oldest = events["oldest_seconds"].as_f64().unwrap();
    assert!((300.0..330.0).contains(&oldest), "{oldest}");
    assert_eq!(json["queues"][1]["due"], 10_001, "counting stops");
    assert_eq!(json["set_aside"]["signals"], 1);
    assert_eq!(json["expired_leases"], 1);
    assert_eq!(json["channels"][0]["bounced"], 1);
    assert_eq!(json["channels"][0]["median_seconds"], 0.04);
    assert_eq!(json["channels"][2]["in_flight"], 2);
    assert_eq!(json["tables"].as_array().unwrap().len(), 9);
}

#[tokio::test]
async fn an_old_snapshot_is_told() {
    holds_vacuum_back(
        "begin isolation level repeatable read; select count(*) from chimeway.events",
    )
    .await;
}

/// As a host's that waits for something else: between its statements it has no snapshot.
#[tokio::test]
async fn an_open_transaction_that_has_written_is_told() {
    holds_vacuum_back("begin; update chimeway.settings set notify = notify").await;
}

async fn holds_vacuum_back(begin: &'static str) {
    let db = TestDb::create().await;
    let mut old = db.connect().await;
    old.execute(begin).await.unwrap();
    for _ in 0..20 {
        let write =
            "insert into chimeway.cron_ticks values (gen_random_uuid()::text, now(), now())";
        db.pool().execute(write).await.unwrap();
    }
    let mut conn = db.connect().await;
    let seen = Overview::read(&mut conn).await.unwrap();
    assert!(seen.xmin_age_transactions >= 20, "{seen:?}");
    assert!(seen.oldest_transaction_seconds > 0.0, "{seen:?}");
    old.close().await.unwrap();
}

/// A role that may read our tables, and is no member of `pg_monitor`.
#[tokio::test]
async fn it_works_for_a_role_with_few_rights() {
    let db = TestDb::create().await;
    let mut conn = db.connect().await;
    let mut old = db.connect().await;
    old.execute("begin isolation level repeatable read; select count(*) from chimeway.events")
        .await
        .unwrap();
    let role = format!("few_rights_{}", std::process::id());
    let made = format!(
        "create role {role};
         grant usage on schema chimeway to {role};
         grant select on all tables in schema chimeway to {role};
         grant execute on all functions in schema chimeway to {role};"
    );
    psql(&db.url(), &[], &made).expect(0);
    sqlx::query("select set_config('role', $1, false)")
        .bind(&role)
        .execute(&mut conn)
        .await
        .unwrap();
    let seen = Overview::read(&mut conn).await;
    conn.close().await.unwrap();
    old.close().await.unwrap();
    psql(
        &db.url(),
        &[],
        &format!("drop owned by {role}; drop role {role};"),
    )
    .expect(0);
    let seen = seen.unwrap();
    assert_eq!(seen.queues.len(), 6);
    assert_eq!(
        seen.oldest_transaction_seconds, 0.0,
        "another role's is not shown"
    );
}
