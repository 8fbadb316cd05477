//! Workflows that a host's record starts when its state changes.

use chimeway::flow::{StateChange, state_change};
use chimeway_testkit::Story;
use serde_json::{Value, json};
use sqlx::{Executor as _, PgPool};

use crate::{
    invariants::audit,
    tools::{MORNING, lines, place, tenant},
};

/// A host's orders, and the trigger on them.
pub(crate) const ORDERS: &str = "
    create table public.orders (
        id bigint primary key, tenant_id text, status text, total numeric not null default 0,
        buyer text, approved_by text
    );
    create trigger orders_state after insert or update on public.orders
        for each row execute function chimeway.on_state_change('orders', 'status', 'tenant_id', 'id');";

/// A workflow of that name that listens to orders that are submitted, and waits a day.
pub(crate) fn listening(key: &str) -> String {
    format!(
        "key: {key}
trigger: {{ entity: orders, field: status, to: submitted }}
context: {{ order: trigger.record_id, total: trigger.record.total }}
steps:
  - id: pause
    action: {{ type: wait, duration: P1D }}
"
    )
}

pub(crate) async fn story() -> Story {
    let story = Story::begin(MORNING).await;
    story.pool().execute(ORDERS).await.unwrap();
    story
}

pub(crate) async fn run(pool: &PgPool, sql: &'static str) {
    pool.execute(sql).await.unwrap();
}

/// Each run's workflow, record, actor and context, in the order they were started.
async fn runs(pool: &PgPool) -> String {
    lines(
        pool,
        "select concat_ws(' ', d.workflow_key, 'v' || d.workflow_version, r.record_entity || '/' || r.record_id,
            r.actor_id, r.context)
         from chimeway.workflow_runs r
         join chimeway.workflow_definitions d on d.id = r.workflow_definition_id
         order by r.record_id, d.workflow_key, r.id",
    )
    .await
}

pub(crate) async fn events(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from chimeway.events")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn an_update_starts_a_run_for_the_record_in_that_very_transaction() {
    let story = story().await;
    story.apply(&listening("approval")).await;
    run(
        story.pool(),
        "insert into orders (id, tenant_id, status, total) values (42, 'org_456', 'draft', 1500)",
    )
    .await;
    let mut rolled_back = story.pool().begin().await.unwrap();
    rolled_back
        .execute("update orders set status = 'submitted'")
        .await
        .unwrap();
    rolled_back.rollback().await.unwrap();
    story.drain().await;
    assert_eq!(events(story.pool()).await, 0);

    run(story.pool(), "update orders set status = 'submitted'").await;
    story.drain().await;
    assert_eq!(
        runs(story.pool()).await,
        r#"approval v1 orders/42 orders/42 {"order": "42", "total": 1500}"#
    );
    let event = lines(
        story.pool(),
        "select concat_ws(' ', entity, record_id, field, from_value, to_value, depth, expanded_count)
         from chimeway.events",
    );
    assert_eq!(event.await, "orders 42 status draft submitted 0 1");
    let notifications = lines(
        story.pool(),
        "select count(*)::text from chimeway.notifications",
    );
    assert_eq!(notifications.await, "0");
    audit(story.pool()).await;

    story.advance("P1D").await;
    let ended = lines(
        story.pool(),
        "select terminal_reason from chimeway.workflow_runs",
    );
    assert_eq!(ended.await, "completed");
    audit(story.pool()).await;
}

#[tokio::test]
async fn explain_and_the_list_name_the_record() {
    let story = story().await;
    story.apply(&listening("approval")).await;
    run(
        story.pool(),
        "insert into orders (id, tenant_id, status) values (42, 'org_456', 'submitted')",
    )
    .await;
    story.drain().await;
    let id = sqlx::query_scalar("select id from chimeway.workflow_runs")
        .fetch_one(story.pool())
        .await
        .unwrap();
    let explained = story.explain(chimeway::ids::RunId(id)).await;
    let record = explained.record.clone().unwrap();
    assert_eq!(
        (record.entity.as_str(), record.id.as_str()),
        ("orders", "42")
    );
    assert_eq!(
        serde_json::to_value(&explained).unwrap()["record"],
        json!({ "entity": "orders", "id": "42" })
    );
    let history = story.history(chimeway::ids::RunId(id)).await;
    assert!(history.contains("workflow_started pause"), "{history}");
    let mut conn = story.pool().acquire().await.unwrap();
    let filter = chimeway::store::run_views::RunFilter {
        event: explained_event(story.pool()).await,
        ..Default::default()
    };
    let listed = chimeway::store::run_views::list(&mut conn, &filter, 10)
        .await
        .unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].recipient, "orders/42");
    assert_eq!(listed[0].record_id.as_deref(), Some("42"));
}

async fn explained_event(pool: &PgPool) -> Option<chimeway::ids::EventId> {
    let id = sqlx::query_scalar("select id from chimeway.events");
    id.fetch_optional(pool)
        .await
        .unwrap()
        .map(chimeway::ids::EventId)
}

#[tokio::test]
async fn only_a_real_change_of_that_field_to_that_state_counts() {
    let story = story().await;
    story.apply(&listening("approval")).await;
    let from = listening("from_draft").replace("to: submitted", "from: draft, to: submitted");
    story.apply(&from).await;
    let table = [
        (
            "insert into orders (id, tenant_id, status) values (1, 'org_456', 'draft')",
            0,
        ),
        ("update orders set status = 'draft'", 0),
        ("update orders set total = 7, buyer = 'submitted'", 0),
        ("update orders set status = 'Submitted'", 0),
        ("update orders set status = null", 0),
        // From null: the one that wants `draft` before does not listen.
        ("update orders set status = 'submitted'", 1),
        ("update orders set status = 'submitted'", 1),
        ("update orders set status = 'draft'", 1),
        ("update orders set status = 'submitted', total = 8", 3),
        ("delete from orders", 3),
        (
            "insert into orders (id, tenant_id, status) values (2, 'org_456', 'submitted')",
            4,
        ),
    ];
    for (statement, expected) in table {
        run(story.pool(), statement).await;
        assert_eq!(events(story.pool()).await, expected, "{statement}");
    }
    story.drain().await;
    let started = lines(
        story.pool(),
        "select d.workflow_key || ' ' || count(*) from chimeway.workflow_runs r
         join chimeway.workflow_definitions d on d.id = r.workflow_definition_id
         group by d.workflow_key order by d.workflow_key",
    );
    assert_eq!(started.await, "approval 3\nfrom_draft 1");
}

#[tokio::test]
async fn several_workflows_may_listen_each_in_its_latest_version_and_inactive_ones_do_not() {
    let story = story().await;
    story.apply(&listening("approval")).await;
    story.apply(&listening("audit_trail")).await;
    story.apply(&listening("paused")).await;
    story.apply(&listening("silent")).await;
    // The second version listens to another state, the one of `silent` to none.
    let next = listening("audit_trail")
        .replace("PT1D", "PT2H")
        .replace("P1D", "P2D");
    story.apply(&next).await;
    story
        .apply("key: silent\nsteps: [{id: pause, action: {type: wait, duration: P1D}}]\n")
        .await;
    run(
        story.pool(),
        "update chimeway.workflows set active = false where workflow_key = 'paused'",
    )
    .await;
    run(
        story.pool(),
        "insert into orders (id, tenant_id, status, total) values (1, 'org_456', 'submitted', 5)",
    )
    .await;
    // The event pins the version: one that is applied before a worker comes does not count.
    let newer = listening("approval").replace("P1D", "P3D");
    story.apply(&newer).await;
    story.drain().await;
    assert_eq!(
        runs(story.pool()).await,
        r#"approval v1 orders/1 orders/1 {"order": "1", "total": 5}
audit_trail v2 orders/1 orders/1 {"order": "1", "total": 5}"#
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn an_update_of_many_rows_starts_a_run_for_each_and_tenants_are_theirs() {
    let story = story().await;
    story.apply(&listening("approval")).await;
    run(
        story.pool(),
        "insert into orders (id, tenant_id, status) select n, 'org_' || n % 3, 'draft' from generate_series(1, 1500) n;
         update orders set status = 'submitted'",
    )
    .await;
    story.drain().await;
    let counted = lines(
        story.pool(),
        "select tenant_id || ' ' || count(*) from chimeway.workflow_runs group by tenant_id order by 1",
    );
    assert_eq!(counted.await, "org_0 500\norg_1 500\norg_2 500");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_path_that_leads_nowhere_fails_the_run_and_is_named() {
    let story = story().await;
    let document =
        listening("approval").replace("trigger.record.total", "trigger.record.totl.cents");
    story.apply(&document).await;
    run(
        story.pool(),
        "insert into orders (id, tenant_id, status, total) values (42, 'org_456', 'submitted', 77777)",
    )
    .await;
    story.drain().await;
    let id = sqlx::query_scalar("select id from chimeway.workflow_runs").fetch_one(story.pool());
    let run_id = chimeway::ids::RunId(id.await.unwrap());
    assert_eq!(
        place(&story, run_id).await,
        "failed in pause: failed:context_missing_path"
    );
    let history = story.history(run_id).await;
    assert!(history.contains("trigger.record.totl.cents"), "{history}");
    assert!(!history.contains("77777"), "{history}");
    let next = story.explain(run_id).await.next;
    assert!(next.contains("`trigger.record.totl.cents`"), "{next}");
    audit(story.pool()).await;

    // The same for a trigger by name, whose params are the host's.
    story
        .apply("key: named\ncontext: {amount: params.amount}\nsteps: [{id: pause, action: {type: wait, duration: P1D}}]\n")
        .await;
    let without = story.trigger("named", "ada").await;
    assert_eq!(
        place(&story, without).await,
        "failed in pause: failed:context_missing_path"
    );
    let with = story
        .trigger_with("named", "ada", json!({ "amount": 5 }))
        .await;
    story.drain().await;
    assert_eq!(place(&story, with).await, "waiting in pause");
    let contexts = lines(
        story.pool(),
        "select context::text from chimeway.workflow_runs where actor_id = 'ada' order by id",
    );
    assert_eq!(contexts.await, "{}\n{\"amount\": 5}");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_context_larger_than_64_kib_fails_the_run() {
    let story = story().await;
    let whole = listening("approval").replace("total: trigger.record.total", "all: trigger.record");
    story.apply(&whole).await;
    run(
        story.pool(),
        "insert into orders (id, tenant_id, status, buyer, approved_by)
         values (42, 'org_456', 'submitted', repeat('x', 40000), repeat('y', 40000))",
    )
    .await;
    story.drain().await;
    let ended = lines(
        story.pool(),
        "select terminal_reason from chimeway.workflow_runs",
    );
    assert_eq!(ended.await, "failed:context_too_large");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_mapping_to_actor_id_makes_the_run_somebodys() {
    let story = story().await;
    story
        .apply(
            "key: receipt
trigger: { entity: orders, field: status, to: submitted }
context: { actor_id: trigger.record.buyer, total: trigger.record.total }
steps:
  - id: tell
    action: { type: notify, channel: in_app, render_key: order_received }
  - id: until_read
    action:
      type: wait
      duration: P1D
      stop_conditions: [{ type: signal_received, signal_type: seen, match: { order: params.record_id } }]
",
        )
        .await;
    run(
        story.pool(),
        "insert into orders (id, tenant_id, status, buyer) values (42, 'org_456', 'submitted', 'ada')",
    )
    .await;
    story.drain().await;
    assert_eq!(story.sent(), ["in_app order_received to ada"]);
    let sent: Vec<Value> = story
        .channel()
        .sent()
        .iter()
        .map(|message| message.params.clone())
        .collect();
    assert_eq!(sent[0]["record"]["total"], json!(0));
    audit(story.pool()).await;
    story
        .signal_with("ada", "seen", json!({ "order": "41" }))
        .await;
    story.drain().await;
    let state = "select state from chimeway.workflow_runs";
    assert_eq!(lines(story.pool(), state).await, "waiting");
    story
        .signal_with("ada", "seen", json!({ "order": "42" }))
        .await;
    story.drain().await;
    assert_eq!(lines(story.pool(), state).await, "stopped");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_run_for_a_record_alone_hears_what_is_told_of_the_record() {
    let story = story().await;
    let document = listening("approval").replace(
        "duration: P1D",
        "duration: P1D, stop_conditions: [{ type: signal_received, signal_type: withdrawn }]",
    );
    story.apply(&document).await;
    run(
        story.pool(),
        "insert into orders (id, tenant_id, status) values (42, 'org_456', 'submitted'), (43, 'org_456', 'submitted')",
    )
    .await;
    story.drain().await;
    story.signal("orders/42", "withdrawn").await;
    story.drain().await;
    let states = "select record_id || ' ' || state from chimeway.workflow_runs order by 1";
    assert_eq!(lines(story.pool(), states).await, "42 stopped\n43 waiting");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_host_in_rust_records_a_slice_of_state_changes() {
    let story = Story::begin(MORNING).await;
    story.apply(&listening("approval")).await;
    story.apply(&listening("audit_trail")).await;
    let change = |id: &str, to: &str| {
        let (entity, field) = ("orders".parse().unwrap(), "status".parse().unwrap());
        StateChange::new(tenant(), entity, id, field, to).record(json!({ "total": 9 }))
    };
    let mut tx = story.pool().begin().await.unwrap();
    let events = story
        .chimeway()
        .record_state_changes(
            &mut tx,
            [
                change("1", "submitted").from("draft"),
                change("2", "submitted").from("submitted"),
                change("3", "approved").from("submitted"),
                change("4", "submitted"),
            ],
        )
        .await
        .unwrap();
    // Whoever has no handle at hand.
    let more = state_change::record(&mut tx, [change("5", "submitted")]);
    assert_eq!(more.await.unwrap().concat().len(), 2);
    tx.commit().await.unwrap();
    let counts: Vec<usize> = events.iter().map(Vec::len).collect();
    assert_eq!(counts, [2, 0, 0, 2]);
    let mut conn = story.pool().acquire().await.unwrap();
    let refused = story
        .chimeway()
        .record_state_change(&mut conn, change(&"7".repeat(151), "submitted"))
        .await;
    assert!(refused.is_err());
    story.drain().await;
    let started = "select record_id || ' ' || count(*) from chimeway.workflow_runs group by record_id order by 1";
    assert_eq!(lines(story.pool(), started).await, "1 2\n4 2\n5 2");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_chain_of_workflows_ends_at_a_depth_of_16() {
    let story = story().await;
    story.apply(&listening("approval")).await;
    for (depth, expanded) in [("16", true), ("17", false)] {
        let mut tx = story.pool().begin().await.unwrap();
        sqlx::query("select set_config('chimeway.depth', $1, true)")
            .bind(depth)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.execute("delete from orders").await.unwrap();
        tx.execute("insert into orders (id, tenant_id, status) values (1, 'org_456', 'submitted')")
            .await
            .unwrap();
        tx.commit().await.unwrap();
        story.drain().await;
        let last = lines(
            story.pool(),
            "select concat_ws(' ', depth, expanded_count, quarantine_reason) from chimeway.events order by id desc limit 1",
        )
        .await;
        let expected = if expanded {
            "16 1"
        } else {
            "17 0 depth_exceeded"
        };
        assert_eq!(last, expected);
    }
    audit(story.pool()).await;
}
