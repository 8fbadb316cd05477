//! What this machine's PostgreSQL can do at most: the rows that a journey leaves behind, written by
//! plain set-based SQL. No queue, no lock, no decision, nothing rendered.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use chimeway::ids;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::{task::JoinSet, time::Instant};
use uuid::Uuid;

use super::{
    ground::Ground,
    load::{self, Journey},
    report::{Report, figure, median},
    rows::{self, Line},
    server::Counters,
};
use crate::{error::CliError, output::Table};

/// Measure how fast this PostgreSQL writes the rows of a journey, without an engine
///
/// The event, the notification, the run with its updates, six lines of history, two deliveries with an
/// update each and two attempts, in the tables and with the indexes that journeys have: in batches of
/// 500, on 4 connections, a commit wherever a journey has to commit.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  chimeway bench floor --count 20000")]
pub(super) struct Args {
    /// How many journeys' rows a round writes
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

const CONNECTIONS: usize = 4;
const BATCH: usize = 500;

/// How long the rows of journeys took.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Floor {
    /// Journeys per second, all rows.
    pub(super) rate: f64,
    /// Journeys per second, from the end of the wait on only.
    pub(super) rate_after_wait: f64,
}

pub(super) async fn run(args: &Args, ground: &Ground, report: &Report) -> Result<(), CliError> {
    let count = usize::try_from(args.count).unwrap_or(usize::MAX);
    let mut rounds = vec![];
    let mut conn = ground.database.connect().await?;
    let before = Counters::settled(&mut conn).await?;
    for round in 1..=args.rounds {
        report.progress(&format!("round {round} of {}", args.rounds));
        rounds.push(measure(ground, count, &format!("floor_{round}")).await?);
    }
    let written = count * rounds.len();
    let counted = Counters::settled(&mut conn).await?.since(&before, written);
    conn.close().await?;

    let rate = median(rounds.iter().map(|round| round.rate));
    let after = median(rounds.iter().map(|round| round.rate_after_wait));
    let mut table = Table::new(["FLOOR", "PER SECOND"]);
    table.row(["all rows of a journey".into(), figure(Some(rate), 0, "")]);
    table.row(["those after its wait".into(), figure(Some(after), 0, "")]);
    let mut costs = Table::new(["PER JOURNEY", ""]);
    costs.row(["row writes".into(), figure(Some(counted.row_writes), 1, "")]);
    costs.row(["WAL".into(), figure(Some(counted.wal_bytes), 0, "bytes")]);
    let figures = json!({
        "bench": "floor",
        "count": args.count,
        "rate": rate,
        "rate_after_wait": after,
        "rounds": rounds,
        "row_writes_per_journey": counted.row_writes,
        "wal_bytes_per_journey": counted.wal_bytes,
        "tables_per_journey": counted.tables,
    });
    report.print(&ground.settings, &figures, &format!("{table}\n{costs}"))
}

/// Writes the rows of so many journeys that elapse.
pub(super) async fn measure(
    ground: &Ground,
    count: usize,
    tenant: &str,
) -> Result<Floor, CliError> {
    let mut conn = ground.database.connect().await?;
    let names = Arc::new(Names::read(&mut conn, tenant).await?);
    conn.close().await?;
    let (first, batches) = half(ground, &names, Half::Begin { count }).await?;
    let (second, _) = half(ground, &names, Half::End { batches }).await?;
    Ok(Floor {
        rate: count as f64 / (first + second),
        rate_after_wait: count as f64 / second,
    })
}

enum Half {
    Begin { count: usize },
    End { batches: Vec<Ids> },
}

/// Runs one half on all connections; how many seconds it took, and the batches it made.
async fn half(
    ground: &Ground,
    names: &Arc<Names>,
    half: Half,
) -> Result<(f64, Vec<Ids>), CliError> {
    let mut batches = match half {
        Half::Begin { .. } => vec![],
        Half::End { ref batches } => batches.clone(),
    };
    let share = batches.len().div_ceil(CONNECTIONS);
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = vec![];
    for _ in 0..CONNECTIONS {
        connections.push(ground.database.connect().await?);
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut conn in connections {
        let names = Arc::clone(names);
        match half {
            Half::Begin { count } => {
                let next = Arc::clone(&next);
                tasks.spawn(async move {
                    let mut made = vec![];
                    loop {
                        let from = next.fetch_add(BATCH, Ordering::Relaxed);
                        if from >= count {
                            return Ok::<_, CliError>((conn, made));
                        }
                        let ids = Ids::fresh(from, count.min(from + BATCH));
                        names.begin(&mut conn, &ids).await?;
                        made.push(ids);
                    }
                });
            }
            Half::End { .. } => {
                let mine: Vec<Ids> = batches.drain(..share.min(batches.len())).collect();
                tasks.spawn(async move {
                    for ids in &mine {
                        names.end(&mut conn, ids).await?;
                    }
                    Ok((conn, mine))
                });
            }
        }
    }
    let mut made = vec![];
    let mut used = vec![];
    while let Some(task) = tasks.join_next().await {
        let (conn, mine) = task.map_err(load::gone)??;
        made.extend(mine);
        used.push(conn);
    }
    let took = began.elapsed().as_secs_f64();
    for conn in used {
        conn.close().await?;
    }
    Ok((took, made))
}

/// What the rows of all batches have in common.
struct Names {
    tenant: String,
    definition: Uuid,
    /// In the order of the document: in-app, wait, email.
    steps: [Uuid; 3],
}

/// The ids of a batch, each in the order in which journeys make them.
#[derive(Clone)]
struct Ids {
    from: i64,
    events: Vec<Uuid>,
    notifications: Vec<Uuid>,
    runs: Vec<Uuid>,
    in_app: Vec<Uuid>,
    email: Vec<Uuid>,
    params: Vec<Value>,
}

impl Ids {
    fn fresh(from: usize, to: usize) -> Self {
        let ids = || (from..to).map(|_| ids::fresh()).collect();
        Self {
            from: i64::try_from(from).unwrap_or_default(),
            events: ids(),
            notifications: ids(),
            runs: ids(),
            in_app: ids(),
            email: ids(),
            params: (from..to).map(load::params).collect(),
        }
    }
}

impl Names {
    async fn read(conn: &mut PgConnection, tenant: &str) -> Result<Self, CliError> {
        let (definition, steps) = rows::definition(conn).await?;
        Ok(Self {
            tenant: tenant.into(),
            definition,
            steps,
        })
    }

    /// The trigger's transaction, and the one that records the in-app message and enters the wait.
    async fn begin(&self, conn: &mut PgConnection, ids: &Ids) -> Result<(), CliError> {
        let mut tx = conn.begin().await?;
        let at: DateTime<Utc> = sqlx::query_scalar(
            "-- floor::event\n\
             insert into chimeway.events (id, tenant_id, workflow_key, workflow_definition_id, params, \
                occurred_at, inserted_at) \
             select u.id, $3, $4, $5, u.params, now(), now() from unnest($1::uuid[], $2::jsonb[]) u (id, params) \
             returning occurred_at",
        )
        .bind(&ids.events)
        .bind(&ids.params)
        .bind(&self.tenant)
        .bind(Journey::Elapses.key())
        .bind(self.definition)
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query(
            "-- floor::notification\n\
             insert into chimeway.notifications (id, event_id, tenant_id, recipient, inserted_at) \
             select u.id, u.event, $3, 'user_' || ($4::bigint + u.place - 1), $5 \
             from unnest($1::uuid[], $2::uuid[]) with ordinality u (id, event, place)",
        )
        .bind(&ids.notifications)
        .bind(&ids.events)
        .bind(&self.tenant)
        .bind(ids.from)
        .bind(at)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "-- floor::run\n\
             insert into chimeway.workflow_runs (id, notification_id, workflow_definition_id, current_step_id, \
                started_at, last_transition_at, visit, transition_count, tenant_id, actor_id, state, status_reason) \
             select u.id, u.notification, $3, $4, $5, $5, 1, 2, $6, 'user_' || ($7::bigint + u.place - 1), \
                'active', 'delivery_pending' \
             from unnest($1::uuid[], $2::uuid[]) with ordinality u (id, notification, place)",
        )
        .bind(&ids.runs)
        .bind(&ids.notifications)
        .bind(self.definition)
        .bind(self.steps[0])
        .bind(at)
        .bind(&self.tenant)
        .bind(ids.from)
        .execute(&mut *tx)
        .await?;
        self.lines(&mut tx, &ids.runs, None, &[Line::STARTED, Line::IN_APP])
            .await?;
        self.delivery(&mut tx, ids, &ids.in_app, 1).await?;
        tx.commit().await?;

        let mut tx = conn.begin().await?;
        self.result(&mut tx, &ids.in_app, "in_app").await?;
        sqlx::query(
            "-- floor::wait\n\
             update chimeway.workflow_runs set current_step_id = $2, visit = 2, state = 'waiting', \
                status_reason = 'waiting_for_step_progression', \
                suspended_until = now() + interval '1 second', wake_at = now() + interval '1 second', \
                pending_signals = array['notification_read'], transition_count = 3, last_transition_at = now(), \
                status_context = $3 \
             where id = any($1)",
        )
        .bind(&ids.runs)
        .bind(self.steps[1])
        .bind(Line::WAITING.context())
        .execute(&mut *tx)
        .await?;
        self.lines(&mut tx, &ids.runs, Some(&ids.in_app), &[Line::WAITING])
            .await?;
        Ok(tx.commit().await?)
    }

    /// The transaction in which the wait elapses, and the one that records the email.
    async fn end(&self, conn: &mut PgConnection, ids: &Ids) -> Result<(), CliError> {
        let mut tx = conn.begin().await?;
        sqlx::query(
            "-- floor::elapse\n\
             update chimeway.workflow_runs set current_step_id = $2, visit = 3, state = 'active', \
                status_reason = 'delivery_pending', suspended_until = null, wake_at = null, \
                pending_signals = '{}', transition_count = 5, last_transition_at = now() \
             where id = any($1)",
        )
        .bind(&ids.runs)
        .bind(self.steps[2])
        .execute(&mut *tx)
        .await?;
        self.lines(&mut tx, &ids.runs, None, &[Line::ELAPSED, Line::EMAIL])
            .await?;
        self.delivery(&mut tx, ids, &ids.email, 3).await?;
        tx.commit().await?;

        let mut tx = conn.begin().await?;
        self.result(&mut tx, &ids.email, "bench").await?;
        sqlx::query(
            "-- floor::complete\n\
             update chimeway.workflow_runs set state = 'completed', status_reason = 'workflow_completed', status_context = $2, \
                terminal_reason = 'completed', ended_at = now(), transition_count = 6, last_transition_at = now() \
             where id = any($1)",
        )
        .bind(&ids.runs)
        .bind(Line::COMPLETED.context())
        .execute(&mut *tx)
        .await?;
        self.lines(&mut tx, &ids.runs, Some(&ids.email), &[Line::COMPLETED])
            .await?;
        Ok(tx.commit().await?)
    }

    /// Lines of history; `deliveries` for those that a result wrote.
    async fn lines(
        &self,
        conn: &mut PgConnection,
        runs: &[Uuid],
        deliveries: Option<&[Uuid]>,
        lines: &[Line],
    ) -> Result<(), CliError> {
        let append = sqlx::query(
            "-- floor::history\n\
             insert into chimeway.workflow_transitions (workflow_run_id, workflow_step_id, sequence, visit, \
                from_state, to_state, reason, context, inserted_at, delivery_id) \
             select r.id, l.step, l.sequence, l.visit, l.from_state, l.to_state, l.reason, l.context, now(), \
                r.delivery \
             from unnest($1::uuid[], $2::text[], $3::int[], $4::int[], $5::text[], $6::text[], $7::jsonb[]) \
                    l (step, reason, sequence, visit, from_state, to_state, context), \
                unnest($8::uuid[], $9::uuid[]) r (id, delivery)",
        );
        rows::bind_lines(append, lines, &self.steps)
            .bind(runs)
            .bind(deliveries)
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn delivery(
        &self,
        conn: &mut PgConnection,
        ids: &Ids,
        deliveries: &[Uuid],
        visit: i32,
    ) -> Result<(), CliError> {
        let channel = if visit == 1 { "in_app" } else { "email" };
        sqlx::query(
            "-- floor::delivery\n\
             insert into chimeway.deliveries (id, workflow_run_id, notification_id, workflow_step_id, visit, \
                tenant_id, channel, next_attempt_at, inserted_at, updated_at) \
             select u.id, u.run, u.notification, $4, $5, $6, $7, now(), now(), now() \
             from unnest($1::uuid[], $2::uuid[], $3::uuid[]) u (id, run, notification)",
        )
        .bind(deliveries)
        .bind(&ids.runs)
        .bind(&ids.notifications)
        .bind(self.steps[if visit == 1 { 0 } else { 2 }])
        .bind(visit)
        .bind(&self.tenant)
        .bind(channel)
        .execute(conn)
        .await?;
        Ok(())
    }

    /// A delivery's only update here: nothing has claimed it.
    async fn result(
        &self,
        conn: &mut PgConnection,
        deliveries: &[Uuid],
        adapter: &str,
    ) -> Result<(), CliError> {
        sqlx::query(
            "-- floor::result\n\
             update chimeway.deliveries set status = 'succeeded', next_attempt_at = null, claim_no = 1, \
                attempts = 1, updated_at = now() where id = any($1)",
        )
        .bind(deliveries)
        .execute(&mut *conn)
        .await?;
        sqlx::query(
            "-- floor::attempt\n\
             insert into chimeway.delivery_attempts (delivery_id, attempt_number, claim_no, started_at, \
                finished_at, outcome, adapter, worker, template_hash) \
             select id, 1, 1, now(), now(), 'succeeded', $2, 'floor-0-000000000000', \
                case when $2 = 'bench' then repeat('0123456789abcdef', 4) end \
             from unnest($1::uuid[]) u (id)",
        )
        .bind(deliveries)
        .bind(adapter)
        .execute(conn)
        .await?;
        Ok(())
    }
}
