//! Asking a run to go on, showing it a signal, and healing it: `progress`, `route_signal`, the sweep.

use chimeway::{
    engine::Noop,
    flow::workflows::{Progressed, RunRouted},
    ids::{RunId, SignalId},
};
use chimeway_testkit::Story;
use sqlx::PgConnection;

use crate::{
    invariants::audit,
    tools::{MENTION, MORNING, deliveries, place, reasons},
    workflow_api::{api, org, other_tenant},
};

#[tokio::test]
async fn progress_moves_a_run_that_can_move_and_names_why_another_cannot() {
    let mut api = api().await;
    let (workflows, conn) = (&api.workflows, &mut api.conn);
    let noop = async |conn: &mut PgConnection, run| {
        let done = workflows.progress(conn, org(), run).await.unwrap();
        done.noop().map(ToOwned::to_owned)
    };
    let before = api.story.history(api.run).await;
    assert_eq!(noop(conn, api.run).await.as_deref(), Some("wait_not_due"));
    assert_eq!(api.story.history(api.run).await, before);

    api.story.pass("PT2H").await;
    let moved = workflows.progress(conn, org(), api.run).await.unwrap();
    assert_eq!(moved, Progressed::Moved);
    assert_eq!(
        place(&api.story, api.run).await,
        "active in step_email_escalation"
    );
    assert_eq!(
        noop(conn, api.run).await.as_deref(),
        Some("delivery_pending")
    );
    api.story.drain().await;
    assert_eq!(noop(conn, api.run).await.as_deref(), Some("run_not_active"));

    let foreign = workflows.progress(conn, &other_tenant(), api.run).await;
    assert_eq!(foreign.unwrap_err().code(), "not_found");
    let missing = workflows.progress(conn, org(), RunId::fresh()).await;
    assert_eq!(missing.unwrap_err().code(), "not_found");
    audit(api.story.pool()).await;
}

#[tokio::test]
async fn progress_hears_a_signal_that_nobody_has_routed() {
    let mut api = api().await;
    api.story.signal("ada", "notification_read").await;
    let done = api.workflows.progress(&mut api.conn, org(), api.run);
    assert_eq!(done.await.unwrap(), Progressed::Moved);
    assert_eq!(
        place(&api.story, api.run).await,
        "stopped in step_wait_for_read: stop_condition:notification_read"
    );
}

/// Ten sessions at once: one moves it, nine are told why not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_progressions_at_once_one_moves_the_run() {
    let api = api().await;
    api.story.pass("PT2H").await;
    let asking = (0..10).map(|_| {
        let (workflows, pool, run) = (api.workflows.clone(), api.story.pool().clone(), api.run);
        tokio::spawn(async move {
            let mut tx = pool.begin().await.unwrap();
            let done = workflows.progress(&mut tx, org(), run).await.unwrap();
            tx.commit().await.unwrap();
            done
        })
    });
    let done: Vec<Progressed> = futures::future::join_all(asking)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let moved = done.iter().filter(|one| **one == Progressed::Moved);
    assert_eq!(moved.count(), 1, "{done:?}");
    let rest = Progressed::Noop(Noop::DeliveryPending);
    assert_eq!(done.iter().filter(|one| **one == rest).count(), 9);
    assert_eq!(
        deliveries(api.story.pool()).await,
        "in_app succeeded attempts=1\nemail pending attempts=0"
    );
    audit(api.story.pool()).await;
}

#[tokio::test]
async fn progress_makes_a_message_that_has_gone_missing_anew() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    sqlx::query("delete from chimeway.deliveries")
        .execute(story.pool())
        .await
        .unwrap();
    let workflows = story.chimeway().workflows();
    let mut conn = story.pool().acquire().await.unwrap();
    let done = workflows.progress(&mut conn, org(), run).await.unwrap();
    assert_eq!(done, Progressed::Moved);
    story.drain().await;
    assert_eq!(story.sent(), ["in_app mention_notification to ada"]);
    assert_eq!(
        reasons(&story, run).await,
        [
            "workflow_started",
            "step_activated",
            "delivery_planned_again",
            "waiting_for_step_progression"
        ]
    );
    audit(story.pool()).await;
}

/// The same by itself, a minute later at most; and a message that somebody cancelled by hand.
#[tokio::test]
async fn the_sweep_heals_what_nothing_else_would_move() {
    for lose in [
        "delete from chimeway.deliveries",
        "update chimeway.deliveries set status = 'cancelled', next_attempt_at = null",
        "update chimeway.deliveries set status = 'suppressed', status_reason = 'no_address',
            next_attempt_at = null",
    ] {
        let story = Story::begin(MORNING).await;
        story.apply(MENTION).await;
        let run = story.trigger("mention_escalation", "ada").await;
        sqlx::query(lose).execute(story.pool()).await.unwrap();
        story.advance("P1D").await;
        assert_eq!(place(&story, run).await, "active in step_in_app");
        story.sweep().await;
        story.drain().await;
        assert_eq!(
            place(&story, run).await,
            "waiting in step_wait_for_read",
            "{lose}"
        );
        audit(story.pool()).await;
    }
    // A wait whose instant was lost.
    let api = api().await;
    sqlx::query("update chimeway.workflow_runs set wake_at = null")
        .execute(api.story.pool())
        .await
        .unwrap();
    api.story.advance("P1D").await;
    api.story.sweep().await;
    api.story.drain().await;
    assert_eq!(
        place(&api.story, api.run).await,
        "completed in step_email_escalation: completed"
    );
    audit(api.story.pool()).await;
}

#[tokio::test]
async fn route_signal_shows_a_signal_to_the_runs_of_its_actor() {
    let mut api = api().await;
    let signal = api.story.signal("ada", "notification_read").await;
    let foreign = api
        .workflows
        .route_signal(&mut api.conn, &other_tenant(), signal)
        .await;
    assert_eq!(foreign.unwrap_err().code(), "not_found");
    let missing = api
        .workflows
        .route_signal(&mut api.conn, org(), SignalId::fresh())
        .await;
    assert_eq!(missing.unwrap_err().code(), "not_found");

    let mut tx = api.story.pool().begin().await.unwrap();
    let routed = api.workflows.route_signal(&mut tx, org(), signal).await;
    let routed = routed.unwrap();
    assert_eq!(routed.runs, [(api.run, RunRouted::Moved)]);
    assert!(routed.complete);
    let again = api.workflows.route_signal(&mut tx, org(), signal).await;
    assert_eq!(again.unwrap().runs, []);
    tx.commit().await.unwrap();
    assert_eq!(
        place(&api.story, api.run).await,
        "stopped in step_wait_for_read: stop_condition:notification_read"
    );
    audit(api.story.pool()).await;
}

#[tokio::test]
async fn route_signal_leaves_a_run_that_another_session_holds() {
    let mut api = api().await;
    let signal = api.story.signal("ada", "notification_read").await;
    let mut holds = api.story.pool().begin().await.unwrap();
    api.workflows.lock_run(&mut holds, api.run).await.unwrap();
    let routed = api.workflows.route_signal(&mut api.conn, org(), signal);
    let routed = routed.await.unwrap();
    assert_eq!(routed.runs, [(api.run, RunRouted::Held)]);
    assert!(!routed.complete);
    holds.rollback().await.unwrap();
    api.story.advance("PT1S").await;
    assert_eq!(
        place(&api.story, api.run).await,
        "stopped in step_wait_for_read: stop_condition:notification_read"
    );
}
