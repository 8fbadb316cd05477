//! The workflow API, each call once: what it answers, whose runs it shows, and what it cannot do.
//! `docs/workflow-api.md` has the table.

use std::sync::LazyLock;

use chimeway::{
    Document, FlowError,
    flow::workflows::{HistoryLine, RunUpdate, StoredDefinition, Workflows},
    ids::{DefinitionId, NotificationId, RunId, TenantId, Version},
};
use chimeway_testkit::Story;
use serde_json::json;
use sqlx::{PgConnection, pool::PoolConnection, postgres::Postgres};

use crate::{
    invariants::audit,
    tools::{MENTION, MORNING, deliveries, lines, place, reasons, tenant},
};

pub(crate) struct Api {
    pub(crate) story: Story,
    pub(crate) workflows: Workflows,
    pub(crate) conn: PoolConnection<Postgres>,
    pub(crate) run: RunId,
}

/// A mention that has been told in the app, and now waits to be read.
pub(crate) async fn api() -> Api {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    Api {
        workflows: story.chimeway().workflows(),
        conn: story.pool().acquire().await.unwrap(),
        story,
        run,
    }
}

/// Futures borrow it.
pub(crate) fn org() -> &'static TenantId {
    static ORG: LazyLock<TenantId> = LazyLock::new(tenant);
    &ORG
}

pub(crate) fn other_tenant() -> TenantId {
    "org_999".parse().unwrap()
}

fn document(yaml: &str) -> Document {
    Document::from_yaml("test", yaml).unwrap()
}

const PAUSE: &str =
    "{ key: pause, version: 1, steps: [{ id: rest, action: { type: wait, duration: PT1H } }] }";

impl Api {
    async fn notification(&self) -> NotificationId {
        let id = lines(
            self.story.pool(),
            "select id::text from chimeway.notifications order by id limit 1",
        );
        id.await.parse().unwrap()
    }

    async fn ensure(&mut self, yaml: &str) -> Result<StoredDefinition, FlowError> {
        let document = document(yaml);
        self.workflows
            .ensure_definition(&mut self.conn, &document)
            .await
    }
}

#[tokio::test]
async fn ensure_definition_stores_a_version_once_and_refuses_other_content() {
    let mut api = api().await;
    let stored = api.ensure(PAUSE).await.unwrap();
    assert_eq!(stored.workflow_key.as_str(), "pause");
    assert_eq!(
        (stored.workflow_version, stored.steps.len()),
        (Version(1), 1)
    );
    assert_eq!(api.ensure(PAUSE).await.unwrap().id, stored.id);
    let refused = api
        .ensure(&PAUSE.replace("PT1H", "PT2H"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "workflow_definition_version_conflict");
    let refused = api.ensure("{ key: pause }").await.unwrap_err();
    assert!(matches!(refused, FlowError::InvalidDefinition(_)));

    // In the caller's transaction.
    let mut tx = api.story.pool().begin().await.unwrap();
    let later = document(&PAUSE.replace("version: 1", "version: 2"));
    api.workflows
        .ensure_definition(&mut tx, &later)
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    let key = "pause".parse().unwrap();
    let found = api
        .workflows
        .fetch_definition(&mut api.conn, &key, Version(2));
    assert_eq!(found.await.unwrap(), None);
}

#[tokio::test]
async fn upsert_definition_and_fetch_definition_agree() {
    let mut api = api().await;
    let stored = api
        .workflows
        .upsert_definition(api.story.pool(), &document(PAUSE))
        .await
        .unwrap();
    let key = "pause".parse().unwrap();
    let fetched = api
        .workflows
        .fetch_definition(&mut api.conn, &key, Version(1));
    assert_eq!(fetched.await.unwrap(), Some(stored));
    let none = api
        .workflows
        .fetch_definition(&mut api.conn, &key, Version(9));
    assert_eq!(none.await.unwrap(), None);
}

#[tokio::test]
async fn fetch_step_by_key_finds_a_step_of_that_definition_or_none() {
    let mut api = api().await;
    let stored = api.ensure(PAUSE).await.unwrap();
    let fetch = async |conn: &mut PgConnection, key: &str| {
        let key = key.parse().unwrap();
        let found = api.workflows.fetch_step_by_key(conn, stored.id, &key).await;
        found.unwrap().map(|step| (step.kind, step.step_order))
    };
    let mut conn = api.story.pool().acquire().await.unwrap();
    assert_eq!(fetch(&mut conn, "rest").await, Some(("wait".to_owned(), 1)));
    assert_eq!(fetch(&mut conn, "step_in_app").await, None);
}

#[tokio::test]
async fn a_notification_leads_to_its_run_its_step_and_its_definition() {
    let mut api = api().await;
    let notification = api.notification().await;
    let (workflows, conn) = (&api.workflows, &mut api.conn);
    let stored = workflows.persisted_workflow(conn, org(), notification);
    let stored = stored.await.unwrap().unwrap();
    assert_eq!(stored.workflow_key.as_str(), "mention_escalation");
    let linked = workflows.active_step_linkage(conn, org(), notification);
    let linked = linked.await.unwrap().unwrap();
    assert_eq!(linked.workflow_run_id, api.run);
    assert_eq!(linked.workflow_step_id, stored.steps[1].id);
    assert_eq!(linked.channel, None, "a wait sends nothing");

    let elsewhere = other_tenant();
    let foreign = workflows.persisted_workflow(conn, &elsewhere, notification);
    assert_eq!(foreign.await.unwrap(), None);
    let foreign = workflows.active_step_linkage(conn, &elsewhere, notification);
    assert_eq!(foreign.await.unwrap(), None);
    let missing = workflows.active_step_linkage(conn, org(), NotificationId::fresh());
    assert_eq!(missing.await.unwrap(), None);

    // In its last step it is linked to the mail; ended, to nothing.
    api.story
        .channel()
        .answer([chimeway_testkit::Answer::Temporary(None)]);
    api.story.advance("PT2H").await;
    let linked = workflows.active_step_linkage(conn, org(), notification);
    let channel = linked.await.unwrap().unwrap().channel;
    assert_eq!(channel.as_deref(), Some("email"));
    api.story.advance("PT1M").await;
    let ended = workflows.active_step_linkage(conn, org(), notification);
    assert_eq!(ended.await.unwrap(), None);
}

#[tokio::test]
async fn get_run_and_get_current_step_show_where_a_run_is() {
    let mut api = api().await;
    let (workflows, conn) = (&api.workflows, &mut api.conn);
    let run = workflows.get_run(conn, org(), api.run).await.unwrap();
    let run = run.unwrap();
    assert_eq!((run.state.as_str(), run.visit), ("waiting", 2));
    assert_eq!(run.pending_signals, ["notification_read"]);
    let step = workflows.get_current_step(conn, &run).await.unwrap();
    assert_eq!(step.step_key, "step_wait_for_read");
    let foreign = workflows.get_run(conn, &other_tenant(), api.run).await;
    assert_eq!(foreign.unwrap(), None);
    let missing = workflows.get_run(conn, org(), RunId::fresh()).await;
    assert_eq!(missing.unwrap(), None);
}

#[tokio::test]
async fn create_initial_run_makes_the_run_of_a_notification_that_has_none() {
    let mut api = api().await;
    let notification = api.notification().await;
    let (workflows, conn, now) = (&api.workflows, &mut api.conn, api.story.now());
    let run = workflows.get_run(conn, org(), api.run).await.unwrap();
    let definition = run.unwrap().workflow_definition_id;
    // It has one: that one.
    let made = workflows.create_initial_run(conn, org(), notification, definition, now);
    assert_eq!(made.await.unwrap().id, api.run);

    for table in ["deliveries", "workflow_transitions"] {
        let lose = match table {
            "deliveries" => "delete from chimeway.deliveries",
            _ => "delete from chimeway.workflow_transitions",
        };
        sqlx::query(lose).execute(api.story.pool()).await.unwrap();
    }
    sqlx::query("delete from chimeway.delivery_attempts")
        .execute(api.story.pool())
        .await
        .unwrap();
    sqlx::query("delete from chimeway.workflow_runs")
        .execute(api.story.pool())
        .await
        .unwrap();
    let made = workflows.create_initial_run(conn, org(), notification, definition, now);
    let made = made.await.unwrap();
    assert_eq!((made.state.as_str(), made.visit), ("active", 1));
    assert_eq!(
        reasons(&api.story, made.id).await,
        ["workflow_started", "step_activated"]
    );
    api.story.drain().await;
    assert_eq!(api.story.sent().len(), 2);
    audit(api.story.pool()).await;

    let other = other_tenant();
    let foreign = workflows.create_initial_run(conn, &other, notification, definition, now);
    assert_eq!(foreign.await.unwrap_err().code(), "tenant_mismatch");
    let none = NotificationId::fresh();
    let missing = workflows.create_initial_run(conn, org(), none, definition, now);
    assert_eq!(missing.await.unwrap_err().code(), "not_found");
}

#[tokio::test]
async fn of_two_creations_for_one_notification_one_makes_the_run() {
    let api = api().await;
    let notification = api.notification().await;
    let now = api.story.now();
    let definition: DefinitionId = lines(
        api.story.pool(),
        "select workflow_definition_id::text from chimeway.workflow_runs",
    )
    .await
    .parse()
    .unwrap();
    for lose in [
        "delete from chimeway.deliveries",
        "delete from chimeway.delivery_attempts",
        "delete from chimeway.workflow_transitions",
        "delete from chimeway.workflow_runs",
    ] {
        sqlx::query(lose).execute(api.story.pool()).await.unwrap();
    }
    let making = (0..5).map(|_| {
        let (workflows, pool) = (api.workflows.clone(), api.story.pool().clone());
        async move {
            let mut tx = pool.begin().await.unwrap();
            let made = workflows
                .create_initial_run(&mut tx, org(), notification, definition, now)
                .await
                .unwrap();
            tx.commit().await.unwrap();
            made.id
        }
    });
    let made = futures::future::join_all(making).await;
    assert!(made.iter().all(|run| *run == made[0]), "{made:?}");
}

#[tokio::test]
async fn lock_run_holds_a_run_and_names_one_that_is_not_there() {
    let mut api = api().await;
    let missing = api.workflows.lock_run(&mut api.conn, RunId::fresh()).await;
    assert_eq!(missing.unwrap_err().code(), "not_found");
    let mut tx = api.story.pool().begin().await.unwrap();
    let locked = api.workflows.lock_run(&mut tx, api.run).await.unwrap();
    assert_eq!((locked.id(), locked.state()), (api.run, "waiting"));
    assert_eq!(locked.tenant_id(), tenant().as_str());
    // No worker moves it meanwhile.
    api.story.advance("PT2H").await;
    assert_eq!(
        place(&api.story, api.run).await,
        "waiting in step_wait_for_read"
    );
    tx.rollback().await.unwrap();
    api.story.drain().await;
    assert_eq!(
        place(&api.story, api.run).await,
        "completed in step_email_escalation: completed"
    );
}

#[tokio::test]
async fn update_run_says_why_and_keeps_values() {
    let api = api().await;
    let mut tx = api.story.pool().begin().await.unwrap();
    let locked = api.workflows.lock_run(&mut tx, api.run).await.unwrap();
    let update = RunUpdate {
        status_reason: Some("held_by_support".to_owned()),
        status_context: Some(json!({ "ticket": 7 })),
        context: Some(json!({ "vip": true })),
        current_step: None,
    };
    let locked = api
        .workflows
        .update_run(&mut tx, locked, update)
        .await
        .unwrap();
    assert_eq!(locked.status_reason(), "held_by_support");
    tx.commit().await.unwrap();
    let mut conn = api.story.pool().acquire().await.unwrap();
    let run = api.workflows.get_run(&mut conn, org(), api.run).await;
    let run = run.unwrap().unwrap();
    assert_eq!((run.state.as_str(), run.visit), ("waiting", 2));
    assert_eq!(run.status_context, json!({ "ticket": 7 }));
    assert_eq!(run.context, json!({ "vip": true }));
    audit(api.story.pool()).await;
    // It goes on as before, in the engine's words; the values stay.
    api.story.advance("PT2H").await;
    let run = api.workflows.get_run(&mut conn, org(), api.run).await;
    let run = run.unwrap().unwrap();
    assert_eq!(run.status_reason, "workflow_completed");
    assert_eq!(run.context, json!({ "vip": true }));
    audit(api.story.pool()).await;
}

#[tokio::test]
async fn update_run_moves_a_run_to_another_step_through_the_engine() {
    let api = api().await;
    let to = async |step: &str| {
        let mut tx = api.story.pool().begin().await.unwrap();
        let locked = api.workflows.lock_run(&mut tx, api.run).await.unwrap();
        let update = RunUpdate {
            current_step: Some(step.parse().unwrap()),
            ..RunUpdate::default()
        };
        let done = api.workflows.update_run(&mut tx, locked, update).await?;
        tx.commit().await.unwrap();
        Ok::<_, FlowError>(done.visit().0)
    };
    assert_eq!(to("nowhere").await.unwrap_err().code(), "not_found");
    // Into a message, away from it before it is sent, and into the wait anew.
    assert_eq!(to("step_email_escalation").await.unwrap(), 3);
    assert_eq!(to("step_in_app").await.unwrap(), 4);
    api.story.pass("PT1H").await;
    assert_eq!(to("step_wait_for_read").await.unwrap(), 5);
    assert_eq!(
        deliveries(api.story.pool()).await,
        "in_app succeeded attempts=1\nemail cancelled superseded attempts=0\n\
         in_app cancelled superseded attempts=0"
    );
    let until = api.story.explain(api.run).await.suspended_until.unwrap();
    assert_eq!(until.to_rfc3339(), "2026-03-02T12:00:00+00:00");
    audit(api.story.pool()).await;
    api.story.advance("PT2H").await;
    assert_eq!(api.story.sent().len(), 2);
    assert_eq!(
        to("step_in_app").await.unwrap_err().code(),
        "run_not_active"
    );
    audit(api.story.pool()).await;
}

#[tokio::test]
async fn update_run_refuses_what_it_cannot_keep() {
    let api = api().await;
    let before = api.story.history(api.run).await;
    let big = json!({ "text": "x".repeat(70_000) });
    for update in [
        RunUpdate {
            status_reason: Some("  ".to_owned()),
            ..RunUpdate::default()
        },
        RunUpdate {
            status_reason: Some("a\nb".to_owned()),
            ..RunUpdate::default()
        },
        RunUpdate {
            context: Some(json!([])),
            ..RunUpdate::default()
        },
        RunUpdate {
            context: Some(big),
            ..RunUpdate::default()
        },
        RunUpdate {
            status_context: Some(json!({ "a": "b\0" })),
            ..RunUpdate::default()
        },
    ] {
        let mut tx = api.story.pool().begin().await.unwrap();
        let locked = api.workflows.lock_run(&mut tx, api.run).await.unwrap();
        let refused = api.workflows.update_run(&mut tx, locked, update.clone());
        assert_eq!(refused.await.unwrap_err().code(), "bad_json", "{update:?}");
        // The caller's transaction can go on.
        sqlx::query("select 1").execute(&mut *tx).await.unwrap();
    }
    assert_eq!(api.story.history(api.run).await, before);
}

#[tokio::test]
async fn append_transition_adds_a_line_and_moves_nothing() {
    let api = api().await;
    let mut tx = api.story.pool().begin().await.unwrap();
    let mut locked = api.workflows.lock_run(&mut tx, api.run).await.unwrap();
    for count in 1..=2 {
        let line = HistoryLine {
            context: json!({ "call": count }),
            ..HistoryLine::new("called_by_support")
        };
        locked = api
            .workflows
            .append_transition(&mut tx, locked, line)
            .await
            .unwrap();
    }
    assert_eq!(locked.state(), "waiting");
    tx.commit().await.unwrap();
    audit(api.story.pool()).await;
    assert_eq!(
        reasons(&api.story, api.run).await[2..],
        [
            "waiting_for_step_progression",
            "called_by_support",
            "called_by_support"
        ]
    );
    api.story.advance("PT2H").await;
    audit(api.story.pool()).await;

    let mut tx = api.story.pool().begin().await.unwrap();
    let ended = api.workflows.lock_run(&mut tx, api.run).await.unwrap();
    let line = HistoryLine::new("called_by_support");
    let refused = api.workflows.append_transition(&mut tx, ended, line).await;
    assert_eq!(refused.unwrap_err().code(), "run_not_active");
}

#[tokio::test]
async fn explain_and_list_traces_show_nothing_of_another_tenant() {
    let mut api = api().await;
    let (workflows, conn) = (&api.workflows, &mut api.conn);
    let explained = workflows.explain(conn, org(), api.run).await.unwrap();
    assert_eq!(explained.unwrap().state, "waiting");
    let traces = workflows.list_traces(conn, org(), api.run, Some(1));
    let traces = traces.await.unwrap().unwrap();
    assert_eq!(traces.len(), 1);
    assert_eq!(traces[0].reason, "waiting_for_step_progression");
    let foreign = workflows.explain(conn, &other_tenant(), api.run).await;
    assert!(foreign.unwrap().is_none());
    let foreign = workflows
        .list_traces(conn, &other_tenant(), api.run, None)
        .await;
    assert!(foreign.unwrap().is_none());
}

/// A signal may name the delivery it is about: the line that it makes then names it, and nothing of the
/// payload.
#[tokio::test]
async fn a_signal_about_a_delivery_links_its_line_to_it() {
    let api = api().await;
    let delivery = lines(api.story.pool(), "select id::text from chimeway.deliveries").await;
    let payload = json!({ "delivery_id": delivery, "secret": "hush" });
    api.story
        .signal_with("ada", "notification_read", payload)
        .await;
    api.story.drain().await;
    let linked = lines(
        api.story.pool(),
        "select delivery_id || ' ' || context from chimeway.workflow_transitions
         where reason = 'signal_received'",
    );
    assert_eq!(
        linked.await,
        format!("{delivery} {{\"event_name\": \"notification_read\"}}")
    );
    audit(api.story.pool()).await;
}
