//! `chimeway.trigger` and `chimeway.track` inside a host's own transaction.

use chimeway::ids::{EventId, RunId};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, types::Uuid};

use crate::{
    host::{Host, TRIGGER, comment, trigger},
    programs::psql,
    support::eventually,
};

#[tokio::test]
async fn the_hosts_row_and_its_trigger_commit_together() {
    let host = Host::begin().await;
    let mut conn = host.db.connect().await;
    let mut tx = conn.begin().await.unwrap();
    comment(&mut tx).await;
    let event = trigger(&mut tx).await;
    assert_eq!(host.rows().await, NOTHING);
    tx.commit().await.unwrap();
    assert_eq!(
        host.rows().await,
        "comments 1, events 1, recipients 1, runs 0, deliveries 0, signals 0"
    );

    host.settle().await;
    assert_eq!(host.sent(), ["in_app to user_123"]);
    let of_event: Uuid = sqlx::query_scalar("select event_id from chimeway.notifications")
        .fetch_one(host.pool())
        .await
        .unwrap();
    assert_eq!(of_event, event);
}

#[tokio::test]
async fn the_hosts_row_and_its_trigger_roll_back_together() {
    let host = Host::begin().await;
    let mut conn = host.db.connect().await;
    let mut tx = conn.begin().await.unwrap();
    comment(&mut tx).await;
    trigger(&mut tx).await;
    track(&mut tx, "user_123").await;
    tx.rollback().await.unwrap();
    assert_eq!(host.rows().await, NOTHING);
    host.settle().await;
    assert_eq!(host.rows().await, NOTHING);
    assert_eq!(host.sent(), <[String; 0]>::default());
}

#[tokio::test]
async fn psql_triggers_and_tracks() {
    let host = Host::begin().await;
    let url = host.db.url();
    for end in ["rollback", "commit"] {
        let script = format!(
            "begin;
            insert into comments (author) values ('grace');
            {TRIGGER};
            {end};"
        );
        let ran = psql(&url, &[], &script).expect(0);
        assert!(Uuid::parse_str(ran.out.trim()).is_ok(), "{}", ran.out);
    }
    assert_eq!(
        host.rows().await,
        "comments 1, events 1, recipients 1, runs 0, deliveries 0, signals 0"
    );
    host.settle().await;
    psql(
        &url,
        &[],
        "select chimeway.track('org_456', 'user_123', 'notification_read')",
    )
    .expect(0);
    host.settle().await;
    let states = psql(
        &url,
        &[],
        "select chimeway.explain(tenant_id, id) ->> 'terminal_reason' from chimeway.workflow_runs",
    );
    assert_eq!(states.expect(0).out, "stop_condition:notification_read\n");
}

#[tokio::test]
async fn psql_shows_a_refusal_with_its_hint_and_stops() {
    let host = Host::begin().await;
    let script = "begin;
        insert into comments (author) values ('grace');
        select chimeway.trigger('no_such', '{}', 'org_456', '[{\"identity\": \"user_123\"}]');
        commit;";
    let ran = psql(&host.db.url(), &[], script).expect(3);
    insta::assert_snapshot!(ran.err.lines().take(2).collect::<Vec<_>>().join("\n"), @r"
    ERROR:  there is no workflow 'no_such'
    HINT:  apply its document with `chimeway workflows apply`; `chimeway workflows list` shows what there is
    ");
    assert_eq!(host.rows().await, NOTHING);
}

#[tokio::test]
async fn a_repeated_key_returns_the_first_event_and_writes_nothing() {
    let host = Host::begin().await;
    let mut conn = host.db.connect().await;
    let first = keyed(&mut conn, "mention_17").await.unwrap();
    let before = host.rows().await;
    // Also within the same transaction, for other people, and when it has been paused since.
    let mut tx = conn.begin().await.unwrap();
    assert_eq!(keyed(&mut tx, "mention_17").await.unwrap(), first);
    sqlx::query("update chimeway.workflows set active = false")
        .execute(&mut *tx)
        .await
        .unwrap();
    let again: Uuid = sqlx::query_scalar(
        r#"select chimeway.trigger('mention_escalation', '{}', 'org_456',
            '[{"identity": "user_456", "addresses": {"email": "eve@example.com"}}]', 'mention_17')"#,
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    assert_eq!(again, first);
    tx.commit().await.unwrap();
    assert_eq!(host.rows().await, before);
}

#[tokio::test]
async fn a_key_belongs_to_one_tenant() {
    let host = Host::begin().await;
    let mut conn = host.db.connect().await;
    let ours = keyed(&mut conn, "mention_17").await.unwrap();
    let theirs: Uuid = sqlx::query_scalar(
        "select chimeway.trigger('mention_escalation', '{\"actor_id\": \"user_123\"}', 'org_789',
            idempotency_key => 'mention_17')",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_ne!(ours, theirs);
}

#[tokio::test]
async fn a_second_caller_waits_and_gets_the_first_ones_event() {
    let host = Host::begin().await;
    let mut first = host.db.connect().await;
    let mut tx = first.begin().await.unwrap();
    let event = keyed(&mut tx, "mention_17").await.unwrap();
    let second = second_caller(&host, "read committed").await;
    tx.commit().await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), event);
    assert_eq!(host.rows().await, ONE_EVENT);
}

#[tokio::test]
async fn a_second_caller_goes_on_when_the_first_one_rolls_back() {
    let host = Host::begin().await;
    let mut first = host.db.connect().await;
    let mut tx = first.begin().await.unwrap();
    let event = keyed(&mut tx, "mention_17").await.unwrap();
    let second = second_caller(&host, "read committed").await;
    tx.rollback().await.unwrap();
    assert_ne!(second.await.unwrap().unwrap(), event);
    assert_eq!(host.rows().await, ONE_EVENT);
}

/// The documented exception: such a transaction cannot see the first event, so it cannot return it.
#[tokio::test]
async fn under_repeatable_read_a_second_caller_is_told_to_try_again() {
    let host = Host::begin().await;
    let mut first = host.db.connect().await;
    let mut tx = first.begin().await.unwrap();
    let event = keyed(&mut tx, "mention_17").await.unwrap();
    let second = second_caller(&host, "repeatable read").await;
    tx.commit().await.unwrap();
    let refused = second.await.unwrap().unwrap_err();
    let refused = refused.into_database_error().unwrap();
    assert_eq!(refused.code().as_deref(), Some("40001"), "{refused}");
    assert_eq!(keyed(&mut first, "mention_17").await.unwrap(), event);
    assert_eq!(host.rows().await, ONE_EVENT);
}

#[tokio::test]
async fn addresses_are_kept_with_the_recipient_and_not_with_the_event() {
    let host = Host::begin().await;
    let mut conn = host.db.connect().await;
    for recipients in [
        json!([
            { "identity": "user_123", "type": "user", "addresses": { "email": "ada@old.example" },
              "locale": "en-GB" },
            { "identity": "user_456" },
            // Named twice: notified once.
            { "identity": "user_123", "addresses": { "email": "ada@old.example" } },
        ]),
        json!([{ "identity": "user_123", "addresses": { "sms": "+3312345" }, "time_zone": "Europe/Paris" }]),
        json!([{ "identity": "user_123", "addresses": { "email": "ada@new.example" } }]),
        json!([{ "identity": "user_123", "addresses": null, "locale": null, "type": null }]),
    ] {
        sqlx::query("select chimeway.trigger('mention_escalation', '{}', 'org_456', $1)")
            .bind(recipients)
            .execute(&mut conn)
            .await
            .unwrap();
    }
    let recipients: Vec<Value> = sqlx::query_scalar(
        "select to_jsonb(r) - 'updated_at' from chimeway.recipients r order by identity",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    let ada = json!({
        "tenant_id": "org_456", "identity": "user_123", "type": "user", "locale": "en-GB",
        "time_zone": "Europe/Paris",
        "addresses": { "email": "ada@new.example", "sms": "+3312345" },
    });
    assert_eq!(recipients, [ada]);
    let kept: Vec<Value> =
        sqlx::query_scalar("select recipients from chimeway.events order by occurred_at")
            .fetch_all(&mut conn)
            .await
            .unwrap();
    let only_who = json!([{ "identity": "user_123" }]);
    let expected = [
        json!([
            { "identity": "user_123", "type": "user" },
            { "identity": "user_456" },
            { "identity": "user_123" },
        ]),
        only_who.clone(),
        only_who.clone(),
        only_who,
    ];
    assert_eq!(kept, expected);
    host.settle().await;
    assert_eq!(
        host.rows().await,
        "comments 0, events 4, recipients 1, runs 5, deliveries 5, signals 0"
    );
}

/// Each takes the rows of recipients in the order of their names, so the second caller holds nothing
/// while it waits.
#[tokio::test]
async fn two_callers_with_the_same_people_do_not_deadlock() {
    let host = Host::begin().await;
    let notify = |people: &[&str]| -> Value {
        let person =
            |who: &&str| json!({ "identity": who, "addresses": { "email": "a@b.example" } });
        people.iter().map(person).collect()
    };
    let call = "select chimeway.trigger('mention_escalation', '{}', 'org_456', $1)";
    let mut first = host.db.connect().await;
    let mut tx = first.begin().await.unwrap();
    let run = sqlx::query(call).bind(notify(&["ada"]));
    run.execute(&mut *tx).await.unwrap();

    let mut second = host.db.connect().await;
    let pid = backend(&mut second).await;
    let both = notify(&["grace", "ada"]);
    let second =
        tokio::spawn(async move { sqlx::query(call).bind(both).execute(&mut second).await });
    waits_for_a_lock(&host, pid).await;
    let run = sqlx::query(call).bind(notify(&["grace"]));
    run.execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_start_and_a_signal_have_the_instant_of_their_call() {
    let host = Host::begin().await;
    let mut other = host.db.connect().await;
    let mut conn = host.db.connect().await;
    let mut tx = conn.begin().await.unwrap();
    comment(&mut tx).await;
    let before = clock(&mut other).await;
    let event = trigger(&mut tx).await;
    let between = clock(&mut other).await;
    let signal = track(&mut tx, "user_123").await;
    let after = clock(&mut other).await;
    let began: DateTime<Utc> = sqlx::query_scalar("select now()")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert!(began < before);

    let started: DateTime<Utc> =
        sqlx::query_scalar("select occurred_at from chimeway.events where id = $1")
            .bind(event)
            .fetch_one(&mut conn)
            .await
            .unwrap();
    assert!(before < started && started < between);
    let occurred: DateTime<Utc> =
        sqlx::query_scalar("select occurred_at from chimeway.signals where id = $1")
            .bind(signal)
            .fetch_one(&mut conn)
            .await
            .unwrap();
    assert!(between < occurred && occurred < after);

    // The run takes the event's instant for its start, so this early signal ends its wait.
    host.settle().await;
    let run: (Uuid, DateTime<Utc>) =
        sqlx::query_as("select id, started_at from chimeway.workflow_runs")
            .fetch_one(&mut conn)
            .await
            .unwrap();
    assert_eq!(run.1, started);
    let runs = chimeway_runs(&host, EventId(event)).await;
    assert_eq!(runs, [(RunId(run.0), "stopped".to_owned())]);
}

#[tokio::test]
async fn a_signal_keeps_what_it_is_about() {
    let host = Host::begin().await;
    let mut conn = host.db.connect().await;
    let notification = chimeway::ids::fresh();
    for (payload, about) in [
        (json!({}), None),
        (
            json!({ "notification_id": notification, "campaign": 7 }),
            Some(notification),
        ),
        (json!({ "notification_id": "none of ours" }), None),
        (json!({ "notification_id": 17 }), None),
    ] {
        let signal: Uuid =
            sqlx::query_scalar("select chimeway.track('org_456', 'user_123', 'email_opened', $1)")
                .bind(&payload)
                .fetch_one(&mut conn)
                .await
                .unwrap();
        let stored: (Value, Option<Uuid>) =
            sqlx::query_as("select payload, notification_id from chimeway.signals where id = $1")
                .bind(signal)
                .fetch_one(&mut conn)
                .await
                .unwrap();
        assert_eq!(stored, (payload, about));
    }
}

#[tokio::test]
async fn ids_of_the_database_are_uuids_of_version_7_and_sort_by_time() {
    let host = Host::begin().await;
    let wrong: Vec<Uuid> = sqlx::query_scalar(
        "select made.id
        from (
            select clock_timestamp() as before, chimeway.uuid_v7() as id, clock_timestamp() as after
            from generate_series(1, 500)
        ) made,
        lateral (
            select floor(extract(epoch from made.before) * 1000) as earliest,
                ('x0000' || left(replace(made.id::text, '-', ''), 12))::bit(64)::bigint as milliseconds,
                floor(extract(epoch from made.after) * 1000) as latest
        ) its
        where not (its.milliseconds between its.earliest and its.latest)
            or made.id::text !~ '^.{14}7.{4}[89ab]'",
    )
    .fetch_all(host.pool())
    .await
    .unwrap();
    assert_eq!(wrong, <[Uuid; 0]>::default());
}

const NOTHING: &str = "comments 0, events 0, recipients 0, runs 0, deliveries 0, signals 0";
const ONE_EVENT: &str = "comments 0, events 1, recipients 0, runs 0, deliveries 0, signals 0";

async fn track(conn: &mut PgConnection, actor: &str) -> Uuid {
    sqlx::query_scalar("select chimeway.track('org_456', $1, 'notification_read')")
        .bind(actor)
        .fetch_one(conn)
        .await
        .unwrap()
}

async fn keyed(conn: &mut PgConnection, key: &str) -> Result<Uuid, sqlx::Error> {
    sqlx::query_scalar(
        r#"select chimeway.trigger('mention_escalation', '{"actor_id": "user_123"}', 'org_456',
            idempotency_key => $1)"#,
    )
    .bind(key)
    .fetch_one(conn)
    .await
}

/// Calls with the same key, and returns as soon as that call waits.
async fn second_caller(
    host: &Host,
    isolation: &'static str,
) -> tokio::task::JoinHandle<Result<Uuid, sqlx::Error>> {
    let mut conn = host.db.connect().await;
    let pid = backend(&mut conn).await;
    sqlx::query("select set_config('default_transaction_isolation', $1, false)")
        .bind(isolation)
        .execute(&mut conn)
        .await
        .unwrap();
    let caller = tokio::spawn(async move {
        let mut tx = conn.begin().await?;
        let event = keyed(&mut tx, "mention_17").await?;
        tx.commit().await?;
        Ok(event)
    });
    waits_for_a_lock(host, pid).await;
    caller
}

async fn backend(conn: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(conn)
        .await
        .unwrap()
}

async fn waits_for_a_lock(host: &Host, pid: i32) {
    eventually("a session waits for a lock", async || {
        let waits: bool = sqlx::query_scalar("select cardinality(pg_blocking_pids($1)) > 0")
            .bind(pid)
            .fetch_one(host.pool())
            .await
            .unwrap();
        waits.then_some(())
    })
    .await;
}

async fn clock(conn: &mut PgConnection) -> DateTime<Utc> {
    sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(conn)
        .await
        .unwrap()
}

async fn chimeway_runs(host: &Host, event: EventId) -> Vec<(RunId, String)> {
    let filter = chimeway::store::run_views::RunFilter {
        event: Some(event),
        ..Default::default()
    };
    let mut conn = host.pool().acquire().await.unwrap();
    let runs = chimeway::store::run_views::list(&mut conn, &filter, 10).await;
    let runs = runs.unwrap().into_iter();
    runs.map(|run| (run.id, run.state)).collect()
}
