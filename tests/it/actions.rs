//! What action steps do: write the host's records, call other systems, tell signals, start workflows.

use chimeway::{
    channels::webhook::{WebhookChannel, WebhookSettings},
    flow::Writable,
    ids::RunId,
};
use chimeway_testkit::Story;
use serde_json::{Value, json};
use sqlx::{Executor as _, PgPool};

use crate::{
    invariants::audit,
    receiver::{Receiver, Reply},
    state_changes::ORDERS,
    tools::{MORNING, deliveries, lines, place},
};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A workflow that does this when an order is submitted; `actions` are lines of YAML.
pub(crate) fn acting(actions: &str) -> String {
    format!(
        "key: acting
trigger: {{ entity: orders, field: status, to: submitted }}
context: {{ order: trigger.record_id, total: trigger.record.total }}
steps:
  - id: act
    action:
      type: action
      actions:
{actions}
"
    )
}

const APPROVE: &str = "        - { type: set_field, entity: orders, record_id: context.order, field: status, value: approved }";

/// A host whose orders' status, buyer and approver may be written, and new ones inserted.
async fn story() -> Story {
    let orders = Writable::new("orders").column("status").column("buyer");
    let orders = orders.column("approved_by").column("id").insertable();
    let story = Story::builder()
        .with(|builder| builder.writable(orders))
        .begin(MORNING)
        .await;
    story.pool().execute(ORDERS).await.unwrap();
    story
}

/// An order is submitted, and everything that is due is done; the run of `acting`.
pub(crate) async fn submit(story: &Story) -> RunId {
    story
        .pool()
        .execute(
            "insert into orders (id, tenant_id, status, total) values (42, 'org_456', 'draft', 1500),
                (43, 'org_999', 'draft', 7);
             update orders set status = 'submitted' where id = 42",
        )
        .await
        .unwrap();
    story.drain().await;
    run_of(story.pool()).await
}

async fn run_of(pool: &PgPool) -> RunId {
    let id = sqlx::query_scalar(
        "select r.id from chimeway.workflow_runs r
         join chimeway.workflow_definitions d on d.id = r.workflow_definition_id
         where d.workflow_key = 'acting' order by r.id limit 1",
    );
    RunId(id.fetch_one(pool).await.unwrap())
}

async fn orders(pool: &PgPool) -> String {
    lines(
        pool,
        "select concat_ws(' ', id, tenant_id, status, total, buyer, approved_by) from orders order by id",
    )
    .await
}

#[tokio::test]
async fn set_field_writes_the_record_and_the_run_goes_on() {
    let story = story().await;
    story.apply(&acting(APPROVE)).await;
    let run = submit(&story).await;
    assert_eq!(place(&story, run).await, "completed in act: completed");
    assert_eq!(
        orders(story.pool()).await,
        "42 org_456 approved 1500\n43 org_999 draft 7"
    );
    insta::assert_snapshot!(story.history(run).await, @r"
    03-02 09:00:00 workflow_started act -->active {workflow=acting}
    03-02 09:00:00 step_activated act active->active {step_key=act}
    03-02 09:00:00 actions_performed act active->active {actions=1 step_key=act}
    03-02 09:00:00 workflow_completed act active->completed {}
    ");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_value_is_cast_to_the_type_of_its_column() {
    let columns = [
        "number", "amount", "day", "at", "flag", "note", "document", "mood", "short",
    ];
    let odd = columns
        .iter()
        .fold(Writable::new("odd").column("id"), |odd, column| {
            odd.column(*column)
        });
    let story = Story::builder()
        .with(|builder| {
            builder.writable(Writable {
                tenant: "owner".to_owned(),
                ..odd
            })
        })
        .begin(MORNING)
        .await;
    story.pool().execute(ORDERS).await.unwrap();
    story
        .pool()
        .execute(
            "create type mood as enum ('happy', 'sad');
             create table odd (
                id uuid primary key, owner varchar(20), number int, amount numeric(10, 2), day date, at timestamptz,
                flag boolean, note text, document jsonb, mood mood, short varchar(3)
             );
             insert into odd (id, owner) values ('0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10', 'org_456')",
        )
        .await
        .unwrap();
    let set = |field: &str, value: &str| {
        format!(
            "        - {{ type: set_field, entity: odd, record_id: 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10, \
             field: {field}, value: {value} }}\n"
        )
    };
    let actions = [
        set("number", "-7"),
        set("amount", "context.total"),
        set("day", "'2026-03-02'"),
        set("at", "now"),
        set("flag", "true"),
        set("note", "{ value: now }"),
        set("document", "{ value: { a: [1, 'x'] } }"),
        set("mood", "happy"),
    ];
    story.apply(&acting(&actions.concat())).await;
    let run = submit(&story).await;
    assert_eq!(place(&story, run).await, "completed in act: completed");
    let row = "select concat_ws(' ', number, amount, day, at at time zone 'utc', flag, note, document, mood) from odd";
    assert_eq!(
        lines(story.pool(), row).await,
        r#"-7 1500.00 2026-03-02 2026-03-02 09:00:00 t now {"a": [1, "x"]} happy"#
    );

    for (value, code) in [
        (set("short", "toolong"), "value_does_not_fit"),
        (set("mood", "angry"), "value_does_not_fit"),
        (set("number", "{ value: [1] }"), "value_does_not_fit"),
        (set("id", "null"), "refused_by_constraint"),
        (set("note", "null"), ""),
    ] {
        let story_run = again(&story, &acting(&value)).await;
        let expected = match code {
            "" => "completed in act: completed".to_owned(),
            code => format!("failed in act: failed:{code}"),
        };
        assert_eq!(place(&story, story_run).await, expected, "{value}");
    }
    audit(story.pool()).await;
}

/// Another version, and another order that is submitted.
async fn again(story: &Story, document: &str) -> RunId {
    story.apply(document).await;
    story
        .pool()
        .execute(
            "insert into orders (id, tenant_id, status, total)
             select max(id) + 1, 'org_456', 'submitted', 5 from orders",
        )
        .await
        .unwrap();
    story.drain().await;
    let id = sqlx::query_scalar("select id from chimeway.workflow_runs order by id desc limit 1");
    RunId(id.fetch_one(story.pool()).await.unwrap())
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_and_nothing_is_written() {
    let story = story().await;
    story
        .pool()
        .execute(ORDERS.split("create trigger").next().unwrap().trim())
        .await
        .ok();
    let set = |entity: &str, record: &str, field: &str| {
        format!(
            "        - {{ type: set_field, entity: {entity}, record_id: {record}, field: {field}, value: x }}"
        )
    };
    let create = |fields: &str| {
        format!("        - {{ type: create_record, entity: orders, values: {{ {fields} }} }}")
    };
    let table = [
        (set("orders", "context.order", "total"), "not_allowed"),
        (set("orders", "context.order", "tenant_id"), "not_allowed"),
        (
            set("orders", "context.order", "'status\" = 1; --'"),
            "not_allowed",
        ),
        (set("users", "context.order", "status"), "not_allowed"),
        (
            set("chimeway.events", "context.order", "status"),
            "not_allowed",
        ),
        // Another tenant's, and none.
        (set("orders", "43", "status"), "no_such_record"),
        (set("orders", "4711", "status"), "no_such_record"),
        (
            set("orders", "\"43' or true --\"", "status"),
            "value_does_not_fit",
        ),
        (set("orders", "{ value: [1] }", "status"), "no_record_id"),
        (create("total: 5"), "not_allowed"),
        (create("tenant_id: org_999"), "not_allowed"),
        (create("id: 43"), "refused_by_constraint"),
    ];
    submit_quietly(story.pool()).await;
    let before = orders(story.pool()).await;
    for (action, code) in table {
        story.apply(&acting(&action)).await;
        story
            .pool()
            .execute("update orders set status = 'submitted' where id = 42")
            .await
            .unwrap();
        story.drain().await;
        let id =
            sqlx::query_scalar("select id from chimeway.workflow_runs order by id desc limit 1");
        let run = RunId(id.fetch_one(story.pool()).await.unwrap());
        assert_eq!(
            place(&story, run).await,
            format!("failed in act: failed:{code}"),
            "{action}"
        );
        story
            .pool()
            .execute("update orders set status = 'draft' where id = 42")
            .await
            .unwrap();
        assert_eq!(orders(story.pool()).await, before, "{action}");
    }
    audit(story.pool()).await;
}

/// Orders that nobody has submitted.
async fn submit_quietly(pool: &PgPool) {
    pool.execute(
        "insert into orders (id, tenant_id, status, total) values (42, 'org_456', 'draft', 1500),
            (43, 'org_999', 'draft', 7)",
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_step_fails_whole_and_goes_where_its_document_says() {
    let story = story().await;
    let document = acting(&format!(
        "{APPROVE}
        - {{ type: set_field, entity: orders, record_id: context.order, field: buyer, value: context.nobody }}"
    ));
    let document = format!(
        "{document}    on_outcome: {{ failed: {{ goto: note }} }}
  - id: not_reached
    action: {{ type: wait, duration: PT1H }}
  - id: note
    action:
      type: action
      actions:
        - {{ type: set_field, entity: orders, record_id: context.order, field: buyer, value: somebody }}
"
    );
    story
        .apply(&document.replace("id: not_reached", "id: between"))
        .await;
    let run = submit(&story).await;
    assert_eq!(place(&story, run).await, "completed in note: completed");
    // What the first action had written was taken back.
    assert_eq!(
        orders(story.pool()).await,
        "42 org_456 submitted 1500 somebody\n43 org_999 draft 7"
    );
    let history = story.history(run).await;
    assert!(history.contains("missing_path"), "{history}");
    assert!(history.contains("context.nobody"), "{history}");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_missing_path_fails_the_run_and_is_named() {
    let story = story().await;
    let action = APPROVE.replace("approved", "context.manager.name");
    story.apply(&acting(&action)).await;
    let run = submit(&story).await;
    assert_eq!(
        place(&story, run).await,
        "failed in act: failed:missing_path"
    );
    let next = story.explain(run).await.next;
    assert!(next.contains("`context.manager.name`"), "{next}");
}

#[tokio::test]
async fn create_record_inserts_the_tenants_row_and_its_key_is_in_the_context() {
    let story = story().await;
    let actions = "        - { type: create_record, entity: orders, values: { id: 100, status: copied, buyer: context.order } }
        - { type: set_field, entity: orders, record_id: context.orders_id, field: approved_by, value: params.record.tenant_id }";
    story.apply(&acting(actions)).await;
    let run = submit(&story).await;
    assert_eq!(place(&story, run).await, "completed in act: completed");
    assert_eq!(
        orders(story.pool()).await,
        "42 org_456 submitted 1500\n43 org_999 draft 7\n100 org_456 copied 0 42 org_456"
    );
    let context = "select context::text from chimeway.workflow_runs";
    assert_eq!(
        lines(story.pool(), context).await,
        r#"{"order": "42", "total": 1500, "orders_id": "100"}"#
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn send_signal_tells_what_an_actor_did() {
    let story = story().await;
    story
        .apply(
            "key: reminder
steps:
  - id: until_ordered
    action:
      type: wait
      duration: P1D
      stop_conditions: [{ type: signal_received, signal_type: ordered, match: { total: 1500 } }]
",
        )
        .await;
    let reminded = story.trigger("reminder", "ada").await;
    story.drain().await;
    let action = "        - { type: send_event, event: ordered, actor: ada, payload: { total: context.total } }";
    story.apply(&acting(action)).await;
    let run = submit(&story).await;
    assert_eq!(place(&story, run).await, "completed in act: completed");
    assert_eq!(
        place(&story, reminded).await,
        "stopped in until_ordered: stop_condition:ordered"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn start_workflow_triggers_one_for_somebody() {
    let story = story().await;
    story
        .apply("key: receipt\nsteps: [{id: tell, action: {type: notify, channel: in_app, render_key: receipt}}]\n")
        .await;
    let start = |more: &str| {
        format!(
            "        - {{ type: start_workflow, workflow: receipt, params: {{ order: context.order }}{more} }}"
        )
    };
    story.apply(&acting(&start(", recipient: ada"))).await;
    let run = submit(&story).await;
    assert_eq!(place(&story, run).await, "completed in act: completed");
    assert_eq!(story.sent(), ["in_app receipt to ada"]);
    assert_eq!(story.channel().sent()[0].params, json!({ "order": "42" }));
    let event = "select concat_ws(' ', depth, idempotency_key ~ '^chimeway:[0-9a-f-]{36}/1/0$')
                 from chimeway.events where workflow_key = 'receipt'";
    assert_eq!(lines(story.pool(), event).await, "1 t");

    for (document, code) in [
        (acting(&start("")), "no_recipient"),
        (acting(&start(", recipient: { value: [] }")), "no_recipient"),
        (
            acting(&start(", recipient: ada").replace("receipt", "nothing")),
            "unknown_workflow",
        ),
    ] {
        let run = again(&story, &document).await;
        assert_eq!(
            place(&story, run).await,
            format!("failed in act: failed:{code}")
        );
    }
    story
        .pool()
        .execute("update chimeway.workflows set active = false where workflow_key = 'receipt'")
        .await
        .unwrap();
    let run = again(&story, &acting(&start(", recipient: grace"))).await;
    assert_eq!(
        place(&story, run).await,
        "failed in act: failed:workflow_paused"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn workflows_that_start_each_other_end_at_a_depth_of_16() {
    let story = story().await;
    let ping = |key: &str, to: &str, sets: &str| {
        format!(
            "key: {key}
trigger: {{ entity: orders, field: status, to: {to} }}
steps:
  - id: act
    action: {{ type: action, actions: [{{ type: set_field, entity: orders, record_id: context.record_id, field: status, value: {sets} }}] }}
"
        )
    };
    story.apply(&ping("acting", "submitted", "pinged")).await;
    story.apply(&ping("pong", "pinged", "submitted")).await;
    submit(&story).await;
    let depths = "select string_agg(depth || coalesce(' ' || quarantine_reason, ''), ', ' order by id) from chimeway.events";
    assert_eq!(
        lines(story.pool(), depths).await,
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17 depth_exceeded"
    );
    audit(story.pool()).await;

    // The same by name.
    story
        .pool()
        .execute("drop trigger orders_state on orders")
        .await
        .unwrap();
    let again = "key: again\nsteps:\n  - id: act\n    action: {type: action, actions: [{type: start_workflow, workflow: again}]}\n";
    story.apply(again).await;
    story.trigger("again", "ada").await;
    story.drain().await;
    let ends = "select terminal_reason || ' ' || count(*) from chimeway.workflow_runs where actor_id = 'ada'
                group by terminal_reason order by 1";
    assert_eq!(
        lines(story.pool(), ends).await,
        "completed 16\nfailed:depth_exceeded 1"
    );
    audit(story.pool()).await;
}

/// Documents may call this machine.
fn loopback_webhook() -> WebhookChannel {
    let mut settings = WebhookSettings::new(SECRET);
    settings.allow_private = vec!["127.0.0.1".parse().unwrap()];
    settings.build().unwrap()
}

async fn calling(receiver: &Receiver) -> Story {
    let webhook = loopback_webhook();
    let orders = Writable::parse("orders.status").unwrap();
    let story = Story::builder()
        .channel("webhook", webhook)
        .with(|builder| builder.writable(orders))
        .begin(MORNING)
        .await;
    story.pool().execute(ORDERS).await.unwrap();
    let url = receiver.url();
    let action = format!(
        "        - {{ type: send_signal, signal: called, actor: ada }}
        - type: webhook
          url: '{url}/{{{{ context.order }}}}?total={{{{ context.total }}}}'
          method: PUT
          headers: {{ x-order: 'no {{{{ context.order }}}}' }}
          body: {{ order: '{{{{ params.record_id }}}}', urgent: true }}
{APPROVE}"
    );
    story.apply(&acting(&action)).await;
    story
}

#[tokio::test]
async fn a_webhook_is_a_delivery_signed_retried_and_what_follows_waits_for_it() {
    let receiver = Receiver::start([Reply::status(503), Reply::status(200)]).await;
    let story = calling(&receiver).await;
    let run = submit(&story).await;
    // What stands after it waits; what stands before it is done.
    assert_eq!(place(&story, run).await, "active in act");
    assert_eq!(
        orders(story.pool()).await,
        "42 org_456 submitted 1500\n43 org_999 draft 7"
    );
    let signals = "select count(*)::text from chimeway.signals";
    assert_eq!(lines(story.pool(), signals).await, "1");
    audit(story.pool()).await;

    story.advance("PT5M").await;
    assert_eq!(place(&story, run).await, "completed in act: completed");
    assert_eq!(
        orders(story.pool()).await,
        "42 org_456 approved 1500\n43 org_999 draft 7"
    );
    assert_eq!(lines(story.pool(), signals).await, "1");
    assert_eq!(
        deliveries(story.pool()).await,
        "webhook succeeded attempts=2"
    );
    let requests = receiver.requests();
    assert_eq!(requests.len(), 2);
    let (first, second) = (&requests[0], &requests[1]);
    assert_eq!(second.line, "PUT /hook/42?total=1500 HTTP/1.1");
    assert_eq!(second.header("x-order"), Some("no 42"));
    assert_eq!(second.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_str(&second.body).unwrap();
    assert_eq!(body, json!({ "order": "42", "urgent": true }));
    assert_eq!(first.body, second.body);
    let id = second.header("idempotency-key").unwrap();
    assert_eq!(first.header("idempotency-key"), Some(id));
    assert_eq!(second.header("webhook-id"), Some(id));
    let timestamp = second.header("webhook-timestamp").unwrap().parse().unwrap();
    let signature = chimeway::channels::webhook::signature(SECRET, id, timestamp, &second.body);
    assert_eq!(
        second.header("webhook-signature"),
        Some(signature.unwrap().as_str())
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_webhook_that_is_refused_fails_its_step() {
    let receiver = Receiver::start([Reply::status(410)]).await;
    let story = calling(&receiver).await;
    let run = submit(&story).await;
    assert_eq!(
        place(&story, run).await,
        "failed in act: failed:permanent_failure"
    );
    assert_eq!(
        orders(story.pool()).await,
        "42 org_456 submitted 1500\n43 org_999 draft 7"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_webhook_with_a_template_that_fails_is_not_sent() {
    let receiver = Receiver::start([Reply::status(200)]).await;
    let webhook = loopback_webhook();
    let story = Story::builder()
        .channel("webhook", webhook)
        .begin(MORNING)
        .await;
    story.pool().execute(ORDERS).await.unwrap();
    let url = receiver.url();
    let action = format!("        - {{ type: webhook, url: '{url}/{{{{ context.nothing }}}}' }}");
    story.apply(&acting(&action)).await;
    let run = submit(&story).await;
    assert_eq!(
        place(&story, run).await,
        "failed in act: failed:permanent_failure"
    );
    assert!(receiver.requests().is_empty());
    let kept = "select response ->> 'expression' from chimeway.delivery_attempts";
    assert_eq!(lines(story.pool(), kept).await, "context.nothing");
    audit(story.pool()).await;
}
