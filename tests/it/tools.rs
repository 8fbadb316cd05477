//! What stories in this process share: asking the database, names, instants.

use std::time::{Duration, Instant};

use chimeway::{
    Chimeway, FlowError, Recipient, Signal, Trigger, Triggered,
    ids::{ActorId, RunId, SignalName, TenantId, WorkflowKey},
};
use chimeway_testkit::{Story, TENANT};
use sqlx::{PgConnection, PgPool, Row as _};

pub(crate) const MENTION: &str = include_str!("../../journeys/mention_escalation.yaml");
pub(crate) const MORNING: &str = "2026-03-02T09:00:00Z";

/// The text of the first column of every row, a line each.
pub(crate) async fn lines(pool: &PgPool, sql: &'static str) -> String {
    let rows = sqlx::query(sql).fetch_all(pool).await.unwrap();
    let texts = rows.iter().map(|row| {
        row.get::<Option<String>, _>(0)
            .unwrap_or_else(|| "null".to_owned())
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// How many rows of all the tables a trigger writes to.
pub(crate) async fn written(conn: &mut PgConnection) -> i64 {
    let count = sqlx::query_scalar(
        "select (select count(*) from chimeway.events) + (select count(*) from chimeway.notifications)
            + (select count(*) from chimeway.workflow_runs) + (select count(*) from chimeway.deliveries)
            + (select count(*) from chimeway.workflow_transitions)
            + (select count(*) from chimeway.workflow_definitions)
            + (select count(*) from chimeway.workflows) + (select count(*) from chimeway.recipients)
            + (select count(*) from chimeway.signals)",
    );
    count.fetch_one(conn).await.unwrap()
}

/// Waits until a session of this database waits for another one's lock.
pub(crate) async fn until_somebody_waits(pool: &PgPool) {
    let begun = Instant::now();
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        if waiting > 0 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn tenant() -> TenantId {
    TENANT.parse().unwrap()
}

pub(crate) fn actor(name: &str) -> ActorId {
    name.parse().unwrap()
}

/// A trigger of the story's tenant for one recipient.
pub(crate) fn trigger_of(workflow: &str, recipient: &str) -> Trigger {
    Trigger::new(workflow.parse::<WorkflowKey>().unwrap(), tenant())
        .recipient(Recipient::new(actor(recipient)))
}

/// A signal of the story's tenant.
pub(crate) fn signal_of(who: &str, name: &str) -> Signal {
    Signal::new(tenant(), actor(who), name.parse::<SignalName>().unwrap())
}

/// Triggers in a transaction of its own.
pub(crate) async fn trigger(
    chimeway: &Chimeway,
    pool: &PgPool,
    trigger: Trigger,
) -> Result<Triggered, FlowError> {
    let mut tx = pool.begin().await.unwrap();
    let triggered = chimeway.trigger(&mut tx, trigger).await?;
    tx.commit().await.unwrap();
    Ok(triggered)
}

/// Where a run is: state, step, and why it ended.
pub(crate) async fn place(story: &Story, run: RunId) -> String {
    let explained = story.explain(run).await;
    let step = explained.current_step_name.unwrap_or_default();
    let ended = explained
        .terminal_reason
        .map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{} in {step}{ended}", explained.state)
}

/// The reasons of a run's history, in order.
pub(crate) async fn reasons(story: &Story, run: RunId) -> Vec<String> {
    let mut conn = story.pool().acquire().await.unwrap();
    let traces = story
        .chimeway()
        .workflows()
        .list_traces(&mut conn, &tenant(), run, None)
        .await
        .unwrap();
    let lines = traces.unwrap_or_default().into_iter();
    lines.map(|line| line.reason).collect()
}

/// Every delivery, in the order they were planned: channel, status, why, tries.
pub(crate) async fn deliveries(pool: &PgPool) -> String {
    lines(
        pool,
        "select concat_ws(' ', channel, status, status_reason, 'attempts=' || attempts)
         from chimeway.deliveries order by inserted_at, id",
    )
    .await
}

/// Every try: channel, number, outcome, class, what was kept of the answer.
pub(crate) async fn attempts(pool: &PgPool) -> String {
    lines(
        pool,
        "select concat_ws(' ', d.channel, a.attempt_number, a.outcome, a.error_class, a.response)
         from chimeway.delivery_attempts a join chimeway.deliveries d on d.id = a.delivery_id
         order by d.inserted_at, d.id, a.attempt_number",
    )
    .await
}
