//! What must hold whatever happened: asked of the rows, once everything is quiet.

use std::collections::{BTreeMap, HashMap};

use chimeway_testkit::TestDb;
use sqlx::PgPool;

use crate::{process::Sends, support::eventually};

/// A rule, and a statement that returns the rows that break it.
const INVARIANTS: &[(&str, &str)] = &[
    (
        "a run's history has no gaps, and its row is where the history ends",
        "select r.id::text from chimeway.workflow_runs r
         left join lateral (
            select count(*) as lines, max(t.sequence) as last, min(t.sequence) as first,
                (array_agg(t.to_state order by t.sequence desc))[1] as state,
                (array_agg(t.visit order by t.sequence desc))[1] as visit
            from chimeway.workflow_transitions t where t.workflow_run_id = r.id
         ) t on true
         where r.quarantine_reason is null and (t.lines, t.last, t.first, t.state, t.visit)
            is distinct from (r.transition_count::bigint, r.transition_count, 1, r.state, r.visit)",
    ),
    (
        "a run never goes back to an earlier visit, and an ended one does nothing more",
        "select t.workflow_run_id::text from chimeway.workflow_transitions t
         join chimeway.workflow_transitions n
            on n.workflow_run_id = t.workflow_run_id and n.sequence = t.sequence + 1
         where n.visit < t.visit or t.to_state in ('completed', 'stopped', 'failed')",
    ),
    (
        "an ended run has nothing left to send",
        "select d.id::text from chimeway.deliveries d
         join chimeway.workflow_runs r on r.id = d.workflow_run_id
         where r.ended_at is not null and d.status in ('pending', 'failed')",
    ),
    (
        "a live run has something that moves it",
        "select r.id::text from chimeway.workflow_runs r
         where r.ended_at is null and r.wake_at is null and r.quarantine_reason is null
            and not exists (
                select from chimeway.deliveries d where d.workflow_run_id = r.id and d.visit = r.visit
                    and (d.status in ('pending', 'failed', 'dispatched') or d.progress_owed_at is not null)
            )",
    ),
    (
        "tries are numbered without gaps, as the delivery counts them",
        "select d.id::text from chimeway.deliveries d
         left join lateral (
            select count(*) as rows, coalesce(max(a.attempt_number), 0) as last
            from chimeway.delivery_attempts a where a.delivery_id = d.id
         ) a on true
         where d.status <> 'dispatched' and (a.rows, a.last) <> (d.attempts::bigint, d.attempts)",
    ),
    (
        "the fence is never behind the tries",
        "select id::text from chimeway.deliveries where claim_no < attempts",
    ),
    (
        "a try beyond the first follows one that failed or whose end is unknown",
        "select a.delivery_id::text from chimeway.delivery_attempts a
         join chimeway.delivery_attempts n
            on n.delivery_id = a.delivery_id and n.attempt_number = a.attempt_number + 1
         where a.outcome = 'succeeded'",
    ),
    (
        "no run waits for a signal that was routed",
        "select r.id::text from chimeway.workflow_runs r
         join chimeway.signals s on s.tenant_id = r.tenant_id and s.actor_id = r.actor_id
         where r.state = 'waiting' and s.routed_at is not null
            and s.event_name = any(r.pending_signals) and s.occurred_at >= r.started_at
            and (s.notification_id is null or s.notification_id = r.notification_id)",
    ),
    (
        "a run that was stopped by a signal made no later message",
        "select r.id::text from chimeway.workflow_runs r
         join chimeway.deliveries d on d.workflow_run_id = r.id and d.visit >= r.visit
         where r.terminal_reason like 'stop_condition:%'",
    ),
];

/// Fails with the rules that are broken and the rows that break them.
pub(crate) async fn audit(pool: &PgPool) {
    let mut broken = BTreeMap::new();
    for (rule, statement) in INVARIANTS {
        let rows: Vec<String> = sqlx::query_scalar(*statement)
            .fetch_all(pool)
            .await
            .unwrap();
        if !rows.is_empty() {
            broken.insert(*rule, rows);
        }
    }
    assert!(broken.is_empty(), "broken rules: {broken:#?}");
}

/// Each send has its attempt row, and each attempt row that is not unknown has its send; nothing was
/// sent twice under one attempt number.
pub(crate) async fn assert_recorded(pool: &PgPool, sends: &Sends) {
    let rows: Vec<(String, i32, String)> = sqlx::query_as(
        "select delivery_id::text, attempt_number, outcome from chimeway.delivery_attempts",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut recorded: HashMap<(String, i32), String> = rows
        .into_iter()
        .map(|(delivery, attempt, outcome)| ((delivery, attempt), outcome))
        .collect();
    for (delivery, attempts) in sends {
        for (attempt, _) in attempts {
            let row = recorded.remove(&(delivery.clone(), *attempt));
            assert!(
                row.is_some(),
                "try {attempt} of {delivery} has no row, or was made twice"
            );
        }
    }
    recorded.retain(|_, outcome| outcome != "unknown");
    assert!(recorded.is_empty(), "recorded and never sent: {recorded:?}");
}

/// Fails if PostgreSQL ever had to break a deadlock in this database. A session reports its counters
/// when it ends at the latest: all of them are ended first.
pub(crate) async fn assert_no_deadlocks(db: &TestDb) {
    db.pool().close().await;
    let mut conn = db.connect().await;
    eventually("the other sessions end", async || {
        let others: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap();
        (others == 0).then_some(())
    })
    .await;
    let deadlocks: i64 = sqlx::query_scalar(
        "select deadlocks from pg_stat_database where datname = current_database()",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(deadlocks, 0);
}
