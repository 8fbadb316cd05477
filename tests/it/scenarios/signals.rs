//! Signals: recorded, and shown to those who wait.

use chimeway::{
    Signal,
    flow::workflows::{Routed, RunRouted},
    ids::{SignalId, TenantId},
};
use chimeway_testkit::Story;
use serde_json::json;

use super::{KEY, begin, emails, hold_emails, listening};
use crate::{
    fleet::number,
    invariants::audit,
    tools::{MORNING, actor, lines, place, reasons, tenant, written},
};

/// A wait that a signal releases instead of ending the run, as waits of the original are.
const RELEASED: &str = "
key: released
steps:
  - { id: in_app, action: { type: notify, channel: in_app, render_key: hello } }
  - id: pause
    action:
      type: wait
      duration: PT1H
      stop_conditions: [{ type: signal_received, signal_type: invoice_paid, then: next }]
  - { id: email, action: { type: notify, channel: email, render_key: reminder } }
";

const TRACKED: &str =
    "select concat_ws(' ', tenant_id, actor_id, event_name, payload) from chimeway.signals";

/// Scenarios 65, 66.
#[tokio::test]
async fn a_signal_is_one_row_that_is_due() {
    let story = Story::begin(MORNING).await;
    let track = async |signal: Signal| {
        let mut conn = story.pool().acquire().await.unwrap();
        story.chimeway().track(&mut conn, signal).await.unwrap();
    };
    let acme: TenantId = "acme".parse().unwrap();
    let opened = Signal::new(acme, actor("user_42"), "email_opened".parse().unwrap());
    track(opened.clone().payload(json!({ "campaign": "spring" }))).await;
    let rows = "select concat_ws(' ', tenant_id, actor_id, event_name, payload, route_at = occurred_at, routed_at)
                from chimeway.signals order by id";
    assert_eq!(
        lines(story.pool(), rows).await,
        r#"acme user_42 email_opened {"campaign": "spring"} t"#
    );
    track(opened).await;
    assert_eq!(
        lines(story.pool(), TRACKED).await.lines().last().unwrap(),
        "acme user_42 email_opened {}"
    );
    sqlx::query("select chimeway.track('acme', 'user_42', 'email_opened')")
        .execute(story.pool())
        .await
        .unwrap();
    let empty = "select count(*) from chimeway.signals where payload = '{}'";
    assert_eq!(number(story.pool(), empty).await, 2);
    assert_eq!(story.drain().await.signals, 3);
}

/// Scenario 67.
#[tokio::test]
async fn a_signal_of_no_tenant_is_refused() {
    let story = Story::begin(MORNING).await;
    assert_eq!(
        TenantId::new("").unwrap_err().to_string(),
        "the tenant is blank"
    );
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    let refused = sqlx::query("select chimeway.track('', 'user_42', 'email_opened')")
        .execute(&mut *conn)
        .await
        .unwrap_err();
    assert_eq!(
        refused.as_database_error().unwrap().code().unwrap(),
        "CW003"
    );
    assert_eq!(written(&mut conn).await, before);
}

/// What a signal has left of a wait.
const SPINE: &str = "select concat_ws(' ', state, status_reason, pending_signals::text,
        coalesce(suspended_until::text, 'null'))
    from chimeway.workflow_runs";
const HEARD: &str =
    "select concat_ws(' ', from_state, to_state, context, coalesce(delivery_id::text, 'null'))
    from chimeway.workflow_transitions where reason = 'signal_received'";

/// Scenarios 68, 69.
#[tokio::test]
async fn a_signal_releases_the_wait_that_says_so() {
    let (story, run) = begin(RELEASED, "released").await;
    story.drain().await;
    hold_emails(&story).await;
    let payload = json!({ "amount": 1200, "customer": "Lovelace" });
    story.signal_with("ada", "invoice_paid", payload).await;
    story.drain().await;
    assert_eq!(
        lines(story.pool(), SPINE).await,
        "active signal_received {} null"
    );
    assert_eq!(
        lines(story.pool(), HEARD).await,
        r#"waiting active {"event_name": "invoice_paid"} null"#
    );
    assert_eq!(place(&story, run).await, "active in email");
    audit(story.pool()).await;
}

/// Scenarios 68, 69, 80, 81.
#[tokio::test]
async fn by_default_a_signal_stops_the_run_in_the_same_transaction() {
    let (story, run) = begin(&listening("invoice.paid"), KEY).await;
    story.drain().await;
    story.pass("PT10M").await;
    story.signal("ada", "invoice.paid").await;
    story.drain().await;
    assert_eq!(
        lines(story.pool(), SPINE).await,
        "stopped workflow_stopped {} null"
    );
    assert_eq!(
        lines(story.pool(), HEARD).await,
        r#"waiting active {"event_name": "invoice.paid"} null"#
    );
    assert_eq!(
        reasons(&story, run).await[2..],
        [
            "waiting_for_step_progression",
            "signal_received",
            "workflow_stopped"
        ]
    );
    let transactions = "select count(distinct xmin::text) from chimeway.workflow_transitions
                        where reason in ('signal_received', 'workflow_stopped')";
    assert_eq!(number(story.pool(), transactions).await, 1);
    assert_eq!(
        place(&story, run).await,
        "stopped in in_app.wait: stop_condition:invoice.paid"
    );
    story.advance("P1D").await;
    assert_eq!(emails(&story).await, 0);
    audit(story.pool()).await;
}

/// Scenario 70.
#[tokio::test]
async fn a_signal_about_a_message_names_it_beside_its_context() {
    let (story, _) = begin(&listening("invoice.paid"), KEY).await;
    story.drain().await;
    let delivery = lines(story.pool(), "select id::text from chimeway.deliveries").await;
    let payload = json!({ "delivery_id": delivery });
    story.signal_with("ada", "invoice.paid", payload).await;
    story.drain().await;
    assert_eq!(
        lines(story.pool(), HEARD).await,
        format!(r#"waiting active {{"event_name": "invoice.paid"}} {delivery}"#)
    );
    audit(story.pool()).await;
}

async fn route(story: &Story, signal: SignalId) -> Routed {
    let mut tx = story.pool().begin().await.unwrap();
    let workflows = story.chimeway().workflows();
    let routed = workflows
        .route_signal(&mut tx, &tenant(), signal)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    routed
}

/// Scenario 71.
#[tokio::test]
async fn a_wait_does_not_hear_another_signal() {
    let (story, run) = begin(&listening("receipt_sent"), KEY).await;
    story.drain().await;
    let before = lines(story.pool(), SPINE).await;
    let signal = story.signal("ada", "invoice_paid").await;
    let routed = route(&story, signal).await;
    assert_eq!(routed.runs, [(run, RunRouted::Unmoved)]);
    assert_eq!(lines(story.pool(), SPINE).await, before);
    assert_eq!(place(&story, run).await, "waiting in in_app.wait");
}

/// Scenario 72.
#[tokio::test]
async fn an_active_run_is_left_alone_until_its_wait_begins() {
    let (story, run) = begin(&listening("invoice_paid"), KEY).await;
    let before = lines(story.pool(), SPINE).await;
    let signal = story.signal("ada", "invoice_paid").await;
    assert_eq!(
        route(&story, signal).await.runs,
        [(run, RunRouted::Unmoved)]
    );
    assert_eq!(lines(story.pool(), SPINE).await, before);
    story.drain().await;
    assert_eq!(
        place(&story, run).await,
        "stopped in in_app.wait: stop_condition:invoice_paid"
    );
    audit(story.pool()).await;
}

/// Scenario 78.
#[tokio::test]
async fn a_signal_that_is_not_there_is_an_error_and_one_that_nobody_hears_is_none() {
    let story = Story::begin(MORNING).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let workflows = story.chimeway().workflows();
    let missing = workflows
        .route_signal(&mut conn, &tenant(), SignalId::fresh())
        .await;
    assert_eq!(missing.unwrap_err().code(), "not_found");
    let signal = story.signal("ada", "invoice_paid").await;
    let routed = route(&story, signal).await;
    assert_eq!(
        routed,
        Routed {
            runs: vec![],
            complete: true
        }
    );
    let routed = "select count(*) from chimeway.signals where routed_at is not null and tries = 0";
    assert_eq!(number(story.pool(), routed).await, 1);
}
