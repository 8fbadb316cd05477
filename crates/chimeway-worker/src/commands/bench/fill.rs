//! Many runs at once, as journeys leave them or wait in: set-based, older than all that is measured.

use sqlx::{Connection as _, PgConnection};

use super::{
    load::Journey,
    report::Report,
    rows::{self, Line},
    server,
};
use crate::error::CliError;

/// How many runs one statement makes.
const CHUNK: i64 = 50_000;

/// Where they are in their journey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// Come to their end.
    Finished,
    /// In the wait, which ends in a month.
    Waiting,
}

/// Makes so many runs, then lets the server look at them: nothing is left to do for it afterwards.
pub(super) async fn fill(
    conn: &mut PgConnection,
    stand: Stand,
    tenant: &str,
    runs: i64,
    report: &Report,
) -> Result<(), CliError> {
    let (definition, steps) = rows::definition(conn).await?;
    // Time-ordered, in the past, and the same in every table of a run.
    sqlx::query(
        "create or replace function pg_temp.bench_id(i bigint, k int) returns uuid \
         language sql immutable as $$ \
         select (lpad(to_hex(1600000000000 + i), 12, '0') || '70008000' || lpad(to_hex(k), 12, '0'))::uuid $$",
    )
    .execute(&mut *conn)
    .await?;
    let is_finished = stand == Stand::Finished;
    let deliveries = if is_finished { 2 } else { 1 };
    let lines: &[Line] = match stand {
        Stand::Finished => &Line::ALL,
        Stand::Waiting => &Line::ALL[..3],
    };
    let mut from = 0;
    while from < runs {
        let to = runs.min(from + CHUNK) - 1;
        report.progress(&format!("{} of {runs} runs", to + 1));
        let mut tx = conn.begin().await?;
        sqlx::query("set local synchronous_commit = off")
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "insert into chimeway.events (id, tenant_id, workflow_key, workflow_definition_id, params, \
                occurred_at, inserted_at) \
             select pg_temp.bench_id(i, 1), $3, $4, $5, jsonb_build_object('actor_id', 'user_' || i, \
                'name', 'Ada', 'by', 'Grace', 'document', 'The plan for the next quarter', \
                'document_id', 'doc_' || i), now(), now() \
             from generate_series($1::bigint, $2::bigint) i",
        )
        .bind(from)
        .bind(to)
        .bind(tenant)
        .bind(Journey::Elapses.key())
        .bind(definition)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into chimeway.notifications (id, event_id, tenant_id, recipient, inserted_at) \
             select pg_temp.bench_id(i, 2), pg_temp.bench_id(i, 1), $3, 'user_' || i, now() \
             from generate_series($1::bigint, $2::bigint) i",
        )
        .bind(from)
        .bind(to)
        .bind(tenant)
        .execute(&mut *tx)
        .await?;
        let run = match stand {
            Stand::Finished => sqlx::query(
                "insert into chimeway.workflow_runs (id, notification_id, workflow_definition_id, \
                    current_step_id, started_at, last_transition_at, ended_at, visit, transition_count, \
                    tenant_id, actor_id, state, status_reason, terminal_reason, status_context) \
                 select pg_temp.bench_id(i, 3), pg_temp.bench_id(i, 2), $4, $5, now(), now(), now(), 3, 6, \
                    $3, 'user_' || i, 'completed', 'workflow_completed', 'completed', $6 \
                 from generate_series($1::bigint, $2::bigint) i",
            ),
            Stand::Waiting => sqlx::query(
                "insert into chimeway.workflow_runs (id, notification_id, workflow_definition_id, \
                    current_step_id, started_at, last_transition_at, visit, transition_count, tenant_id, \
                    actor_id, state, status_reason, status_context, pending_signals, suspended_until, wake_at) \
                 select pg_temp.bench_id(i, 3), pg_temp.bench_id(i, 2), $4, $5, now(), now(), 2, 3, \
                    $3, 'user_' || i, 'waiting', 'waiting_for_step_progression', $6, \
                    array['notification_read'], now() + interval '30 days' + i * interval '1 millisecond', \
                    now() + interval '30 days' + i * interval '1 millisecond' \
                 from generate_series($1::bigint, $2::bigint) i",
            ),
        };
        run.bind(from)
            .bind(to)
            .bind(tenant)
            .bind(definition)
            .bind(steps[if is_finished { 2 } else { 1 }])
            .bind(Line::COMPLETED.context())
            .execute(&mut *tx)
            .await?;
        let history = sqlx::query(
            "insert into chimeway.workflow_transitions (workflow_run_id, workflow_step_id, sequence, visit, \
                from_state, to_state, reason, context, inserted_at) \
             select pg_temp.bench_id(i, 3), l.step, l.sequence, l.visit, l.from_state, l.to_state, l.reason, \
                l.context, now() \
             from generate_series($8::bigint, $9::bigint) i, \
                unnest($1::uuid[], $2::text[], $3::int[], $4::int[], $5::text[], $6::text[], $7::jsonb[]) \
                    l (step, reason, sequence, visit, from_state, to_state, context) \
             order by i, l.sequence",
        );
        rows::bind_lines(history, lines, &steps)
            .bind(from)
            .bind(to)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "insert into chimeway.deliveries (id, workflow_run_id, notification_id, workflow_step_id, visit, \
                tenant_id, channel, status, claim_no, attempts, inserted_at, updated_at) \
             select pg_temp.bench_id(i, 3 + k), pg_temp.bench_id(i, 3), pg_temp.bench_id(i, 2), \
                ($4::uuid[])[2 * k - 1], 2 * k - 1, $3, (array['in_app', 'email'])[k], 'succeeded', 1, 1, \
                now(), now() \
             from generate_series($1::bigint, $2::bigint) i, generate_series(1, $5::int) k order by i, k",
        )
        .bind(from)
        .bind(to)
        .bind(tenant)
        .bind(steps.as_slice())
        .bind(deliveries)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into chimeway.delivery_attempts (delivery_id, attempt_number, claim_no, started_at, \
                finished_at, outcome, adapter, worker) \
             select pg_temp.bench_id(i, 3 + k), 1, 1, now(), now(), 'succeeded', \
                (array['in_app', 'bench'])[k], 'floor-0-000000000000' \
             from generate_series($1::bigint, $2::bigint) i, generate_series(1, $3::int) k order by i, k",
        )
        .bind(from)
        .bind(to)
        .bind(deliveries)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        from = to + 1;
    }
    report.progress("vacuum analyze");
    server::vacuum(conn).await
}
