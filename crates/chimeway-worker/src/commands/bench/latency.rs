//! How long it takes from a commit, or from a due instant, until something happens.

use std::{sync::Arc, time::Duration};

use chimeway::Chimeway;
use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    ground::Ground,
    load::{self, Journey, Load, WAIT},
    process::{Fleet, Workers},
    report::{Report, Spread},
};
use crate::{error::CliError, output::Table};

/// Measure how soon things happen at a steady rate of triggers
///
/// Each journey is triggered in a transaction of its own. One half elapses, the other half is stopped by
/// a signal. Commits are timed by the server, channel calls by the attempts' rows; what a trigger and a
/// signal add to the host's transaction, by the host.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway bench latency --rate 100
  chimeway bench latency --rate 100 --no-listen")]
pub(super) struct Args {
    /// Triggers per second
    #[arg(long, value_name = "R", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// For how long
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    #[command(flatten)]
    fleet: Fleet,
}

const TENANT: &str = "bench_latency";
const CONNECTIONS: u32 = 16;
/// Between the start of the workers and the first trigger: they are idle then, as in a quiet hour.
const REST: Duration = Duration::from_secs(2);

pub(super) async fn run(args: &Args, ground: &Ground, report: &Report) -> Result<(), CliError> {
    let count = usize::try_from(args.rate.saturating_mul(args.seconds)).unwrap_or(usize::MAX);
    report.progress(&format!(
        "{} triggers per second for {} s",
        args.rate, args.seconds
    ));
    let mut workers = Workers::start(ground, args.fleet).await?;
    sleep(REST).await;
    let noted = steady(ground, count, f64::from(args.rate)).await?;
    load::ended(&ground.pool, TENANT, count, &mut workers).await?;
    workers.stop().await?;

    let calls = |kind| {
        let of_kind = noted.iter().filter(|one| one.kind == kind);
        Spread::of(of_kind.map(|one| one.call.as_secs_f64() * 1000.0).collect())
    };
    let (triggers, signals) = (calls("trigger"), calls("signal"));
    let mut conn = ground.database.connect().await?;
    let by_server = keep(&mut conn, &noted).await?;
    let called = Spread::of(trigger_to_channel(&mut conn).await?);
    let stopped = Spread::of(signal_to_stopped(&mut conn, by_server).await?);
    let due = Spread::of(due_to_channel(&mut conn).await?);
    conn.close().await?;

    let mut table = Table::new(["", "COUNT", "P50", "P99", "MAX"]);
    for (name, spread) in [
        ("trigger, within the host's transaction", &triggers),
        ("signal, within the host's transaction", &signals),
        ("trigger commit to channel call", &called),
        ("signal commit to run stopped", &stopped),
        ("due instant to channel call", &due),
    ] {
        let [count, p50, p99, max] = spread.cells();
        table.row([name.to_owned(), count, p50, p99, max]);
    }
    let figures = json!({
        "bench": "latency",
        "rate": args.rate,
        "seconds": args.seconds,
        "workers": args.fleet.workers,
        "limit": args.fleet.limit,
        "listen": !args.fleet.no_listen,
        "commits_timed_by": if by_server { "server" } else { "rows" },
        "unit": "ms",
        "trigger_call": triggers,
        "signal_call": signals,
        "trigger_to_channel": called,
        "signal_to_stopped": stopped,
        "due_to_channel": due,
    });
    report.print(&ground.settings, &figures, &table.to_string())
}

/// A committed transaction of the host's.
struct Noted {
    kind: &'static str,
    actor: String,
    xid: String,
    /// Just before the commit.
    at: DateTime<Utc>,
    /// How long the call took that is within it.
    call: Duration,
}

/// Triggers at a steady rate, however long each takes; every other one gets a signal half a wait later.
async fn steady(ground: &Ground, count: usize, rate: f64) -> Result<Vec<Noted>, CliError> {
    let pool = ground.database.pool(CONNECTIONS);
    let kinds = [Journey::Elapses, Journey::Stops].map(|journey| {
        Arc::new(Load {
            journey,
            count,
            tenant: TENANT.into(),
            recipients: 1,
        })
    });
    let mut hosts = JoinSet::new();
    let began = Instant::now();
    for place in 0..count {
        sleep_until(began + Duration::from_secs_f64(place as f64 / rate)).await;
        let load = Arc::clone(&kinds[place % 2]);
        hosts.spawn(one(pool.clone(), ground.chimeway.clone(), load, place));
    }
    let mut noted = vec![];
    while let Some(host) = hosts.join_next().await {
        noted.extend(host.map_err(load::gone)??);
    }
    pool.close().await;
    Ok(noted)
}

async fn one(
    pool: PgPool,
    chimeway: Chimeway,
    load: Arc<Load>,
    place: usize,
) -> Result<Vec<Noted>, CliError> {
    let mut tx = pool.begin().await?;
    let trigger = load
        .trigger(place..place + 1)
        .map_err(chimeway::FlowError::from)?;
    let began = Instant::now();
    chimeway.trigger(&mut tx, trigger).await?;
    let mut noted = vec![note(&mut tx, "trigger", place, began.elapsed()).await?];
    tx.commit().await?;
    if load.journey == Journey::Stops {
        sleep(WAIT / 2).await;
        let mut tx = pool.begin().await?;
        let signal = load.signal(place).map_err(chimeway::FlowError::from)?;
        let began = Instant::now();
        chimeway.track(&mut tx, signal).await?;
        noted.push(note(&mut tx, "signal", place, began.elapsed()).await?);
        tx.commit().await?;
    }
    Ok(noted)
}

async fn note(
    conn: &mut PgConnection,
    kind: &'static str,
    place: usize,
    call: Duration,
) -> Result<Noted, CliError> {
    let (xid, at) = sqlx::query_as("select pg_current_xact_id()::text, clock_timestamp()")
        .fetch_one(conn)
        .await?;
    Ok(Noted {
        kind,
        actor: load::actor(place),
        xid,
        at,
        call,
    })
}

/// Puts what was noted beside the rows; whether the server knows when transactions committed.
async fn keep(conn: &mut PgConnection, noted: &[Noted]) -> Result<bool, CliError> {
    let by_server: bool =
        sqlx::query_scalar("select current_setting('track_commit_timestamp')::bool")
            .fetch_one(&mut *conn)
            .await?;
    sqlx::query(
        "create temporary table bench_noted as \
         select u.kind, u.actor, case when $5 then pg_xact_commit_timestamp(u.xid::xid8::xid) else u.at end as at \
         from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) u (kind, actor, xid, at)",
    )
    .bind(noted.iter().map(|one| one.kind).collect::<Vec<_>>())
    .bind(noted.iter().map(|one| one.actor.as_str()).collect::<Vec<_>>())
    .bind(noted.iter().map(|one| one.xid.as_str()).collect::<Vec<_>>())
    .bind(noted.iter().map(|one| one.at).collect::<Vec<_>>())
    .bind(by_server)
    .execute(conn)
    .await?;
    Ok(by_server)
}

async fn trigger_to_channel(conn: &mut PgConnection) -> Result<Vec<f64>, CliError> {
    let milliseconds = sqlx::query_scalar(
        "select (extract(epoch from a.started_at - n.at) * 1000)::float8 \
         from bench_noted n \
         join chimeway.workflow_runs r on r.tenant_id = $1 and r.actor_id = n.actor \
         join chimeway.deliveries d on d.workflow_run_id = r.id and d.visit = 1 \
         join chimeway.delivery_attempts a on a.delivery_id = d.id \
         where n.kind = 'trigger'",
    );
    Ok(milliseconds.bind(TENANT).fetch_all(conn).await?)
}

async fn signal_to_stopped(conn: &mut PgConnection, by_server: bool) -> Result<Vec<f64>, CliError> {
    let milliseconds = sqlx::query_scalar(
        "select (extract(epoch from \
            case when $2 then pg_xact_commit_timestamp(t.xmin) else t.inserted_at end - n.at) * 1000)::float8 \
         from bench_noted n \
         join chimeway.workflow_runs r on r.tenant_id = $1 and r.actor_id = n.actor \
         join chimeway.workflow_transitions t on t.workflow_run_id = r.id and t.reason = 'workflow_stopped' \
         where n.kind = 'signal'",
    );
    Ok(milliseconds
        .bind(TENANT)
        .bind(by_server)
        .fetch_all(conn)
        .await?)
}

async fn due_to_channel(conn: &mut PgConnection) -> Result<Vec<f64>, CliError> {
    let milliseconds = sqlx::query_scalar(
        "select (extract(epoch from a.started_at - (w.context ->> 'suspended_until')::timestamptz) * 1000)::float8 \
         from chimeway.workflow_runs r \
         join chimeway.workflow_transitions w on w.workflow_run_id = r.id \
            and w.reason = 'waiting_for_step_progression' \
         join chimeway.deliveries d on d.workflow_run_id = r.id and d.visit = 3 \
         join chimeway.delivery_attempts a on a.delivery_id = d.id \
         where r.tenant_id = $1",
    );
    Ok(milliseconds.bind(TENANT).fetch_all(conn).await?)
}
