//! What very many waiting runs cost.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use super::{
    fill::{self, Stand},
    floor,
    ground::Ground,
    process::{Fleet, Workers},
    report::{Report, Spread, figure},
    server::{self, Counters},
    system::{self, Watch},
};
use crate::{error::CliError, output::Table};

/// Measure what very many waiting runs cost, and how they come back when they are due
///
/// What workers and server use while nothing is due; how late some are that become due one after
/// another; how fast many go on that become due at one instant.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway bench waiting
  chimeway bench waiting --runs 1000000 --due 100000 --limit 200")]
pub(super) struct Args {
    /// How many runs wait
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..))]
    runs: u32,
    /// How many of them become due at one instant; a tenth of them unless told otherwise
    #[arg(long, value_name = "N")]
    due: Option<u32>,
    /// For how long nothing is due
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    idle_seconds: u16,
    /// Print the costliest statements of the drain as well
    #[arg(long)]
    statements: bool,
    #[command(flatten)]
    fleet: Fleet,
}

const TENANT: &str = "bench_waiting";
/// How many become due one after another, and within what time.
const ONE_BY_ONE: u32 = 1_000;
const SPREAD_MS: i64 = 5_000;
/// Between telling when they are due and the first of those instants.
const AHEAD: Duration = Duration::from_secs(3);

pub(super) async fn run(args: &Args, ground: &Ground, report: &Report) -> Result<(), CliError> {
    let runs = i64::from(args.runs);
    let late = i64::from(ONE_BY_ONE.min(args.runs / 2));
    let due = args.due.unwrap_or(args.runs / 10).max(1);
    if i64::from(due) + late > runs {
        return Err(CliError::Usage(format!(
            "--due {due} is too many: at most {} of {runs} runs",
            runs - late
        )));
    }
    let mut conn = ground.database.connect().await?;
    fill::fill(&mut conn, Stand::Waiting, TENANT, runs, report).await?;
    let mut workers = Workers::start(ground, args.fleet).await?;
    let watch = Watch::begin(ground.postmaster);

    report.progress(&format!("{} s without anything due", args.idle_seconds));
    let idle = Duration::from_secs(args.idle_seconds.into());
    let (idle, by_kind) = Cpu::idle(ground, &workers, idle).await;

    report.progress(&format!("{late} that become due one after another"));
    let group = become_due(&mut conn, (0, late), SPREAD_MS).await?;
    ended(&mut conn, &group, &mut workers).await?;
    let lateness = Spread::of(lateness(&mut conn).await?);

    report.progress(&format!("{due} that become due at one instant"));
    let group = become_due(&mut conn, (late, i64::from(due)), 0).await?;
    let before = Counters::read(&mut conn).await?;
    let cpu = Cpu::read(ground, &workers);
    ended(&mut conn, &group, &mut workers).await?;
    let cpu = Cpu::read(ground, &workers).since(&cpu, f64::from(due) / 1_000.0);
    let (seconds, came): (f64, i64) = sqlx::query_as(
        "select extract(epoch from max( \
             case when current_setting('track_commit_timestamp')::bool then pg_xact_commit_timestamp(r.xmin) \
                else r.ended_at end) - $1)::float8, count(*) from bench_due n \
         join chimeway.workflow_runs r on r.id = n.id where n.place >= $2 and r.ended_at is not null",
    )
    .bind(group.first)
    .bind(late)
    .fetch_one(&mut conn)
    .await?;
    if came != group.count {
        return Err(CliError::Refused(format!(
            "{came} of {due} runs that were due have ended: this is a bug of the engine's"
        )));
    }
    let drain = f64::from(due) / seconds;
    let counted = Counters::read(&mut conn)
        .await?
        .since(&before, usize::try_from(due).unwrap_or(usize::MAX));
    let worker_peak = workers.peak_mib();
    let server_peak = watch.peak_mib();
    workers.stop().await?;
    // Not before: what it leaves behind would be vacuumed while it is looked at what waiting costs.
    report.progress("floor");
    server::vacuum(&mut conn).await?;
    conn.close().await?;
    let count = usize::try_from(due.min(20_000)).unwrap_or(usize::MAX);
    let floor = floor::measure(ground, count, "bench_floor").await?;
    let share = drain / floor.rate;
    let share_of_same = drain / floor.rate_after_wait;

    let mut table = Table::new(["WAITING", ""]);
    table.row(["runs that wait".into(), runs.to_string()]);
    table.row([
        "idle CPU: workers".into(),
        figure(Some(idle.workers * 100.0), 2, "% of a core"),
    ]);
    table.row([
        "idle CPU: PostgreSQL".into(),
        figure(idle.server.map(|it| it * 100.0), 2, "% of a core"),
    ]);
    for (kind, part) in &by_kind {
        table.row([
            format!("  {kind}"),
            figure(Some(part * 100.0), 2, "% of a core"),
        ]);
    }
    let [count, p50, p99, max] = lateness.cells();
    table.row([format!("lateness of {count}: p50"), p50]);
    table.row([format!("lateness of {count}: p99"), p99]);
    table.row([format!("lateness of {count}: max"), max]);
    table.row([format!("{due} due at once"), figure(Some(seconds), 1, "s")]);
    table.row(["runs per second".into(), figure(Some(drain), 0, "")]);
    table.row(["the floor".into(), figure(Some(floor.rate), 0, "")]);
    table.row(["share of it".into(), figure(Some(share * 100.0), 0, "%")]);
    table.row([
        "the floor of the same rows".into(),
        figure(Some(floor.rate_after_wait), 0, ""),
    ]);
    table.row([
        "share of it".into(),
        figure(Some(share_of_same * 100.0), 0, "%"),
    ]);
    table.row([
        "CPU per 1,000 of them: workers".into(),
        figure(Some(cpu.workers), 3, "s"),
    ]);
    table.row([
        "CPU per 1,000 of them: PostgreSQL".into(),
        figure(cpu.server, 3, "s"),
    ]);
    table.row([
        "peak memory: a worker".into(),
        figure(worker_peak, 0, "MiB"),
    ]);
    table.row([
        "peak memory: PostgreSQL, private".into(),
        figure(server_peak, 0, "MiB"),
    ]);
    let figures = json!({
        "bench": "waiting",
        "runs": runs,
        "due": due,
        "workers": args.fleet.workers,
        "limit": args.fleet.limit,
        "idle_seconds": args.idle_seconds,
        "idle_cpu_of_a_core": {
            "workers": idle.workers,
            "server": idle.server,
            "server_by_process": by_kind,
        },
        "lateness_ms": lateness,
        "drain": {
            "seconds": seconds,
            "rate": drain,
            "floor_rate": floor.rate,
            "share_of_floor": share,
            "floor_rate_of_same_rows": floor.rate_after_wait,
            "share_of_floor_of_same_rows": share_of_same,
            "worker_cpu_seconds_per_1000": cpu.workers,
            "server_cpu_seconds_per_1000": cpu.server,
        },
        "statements": counted.statements,
        "worker_peak_mib": worker_peak,
        "server_private_peak_mib": server_peak,
    });
    let mut shown = table.to_string();
    if args.statements {
        shown = format!("{shown}\n{}", counted.costliest("The drain"));
    }
    report.print(&ground.settings, &figures, &shown)
}

/// Seconds of CPU: used so far, or from one reading to the next.
struct Cpu {
    workers: f64,
    server: Option<f64>,
}

impl Cpu {
    fn read(ground: &Ground, workers: &Workers) -> Self {
        Self {
            workers: workers.cpu_seconds(),
            server: ground.postmaster.and_then(system::family_cpu_seconds),
        }
    }

    /// What came since then, for each of so many.
    fn since(&self, before: &Self, parts: f64) -> Self {
        let server = self.server.zip(before.server);
        Self {
            workers: (self.workers - before.workers) / parts,
            server: server.map(|(now, before)| (now - before) / parts),
        }
    }

    /// The part of a core that is used while nothing is due; of PostgreSQL's also by kind of process, where there was
    /// any.
    async fn idle(ground: &Ground, workers: &Workers, idle: Duration) -> (Self, Parts) {
        let by_kind = || ground.postmaster.map(system::server_cpu_seconds);
        // What it takes to start is over then.
        sleep(AHEAD).await;
        let (began, before, parts_before) =
            (Instant::now(), Self::read(ground, workers), by_kind());
        sleep(idle).await;
        let (now, parts) = (Self::read(ground, workers), by_kind());
        let seconds = began.elapsed().as_secs_f64();
        let parts_before = parts_before.unwrap_or_default();
        let parts = parts.into_iter().flatten().filter_map(|(kind, now)| {
            let used = now - parts_before.get(kind).copied().unwrap_or_default();
            (used > 0.0).then_some((kind, used / seconds))
        });
        (now.since(&before, seconds), parts.collect())
    }
}

/// Parts of a core, by kind of process.
type Parts = BTreeMap<&'static str, f64>;

/// When a group becomes due.
struct Group {
    /// The first instant, or when the workers could first see it, if that is later.
    first: DateTime<Utc>,
    last: DateTime<Utc>,
    count: i64,
}

/// Makes runs due, from one place on: at an instant ahead, or spread over some milliseconds from then on.
async fn become_due(
    conn: &mut PgConnection,
    (from, count): (i64, i64),
    spread_ms: i64,
) -> Result<Group, CliError> {
    sqlx::query(
        "create temporary table if not exists bench_due (place bigint, id uuid, due timestamptz)",
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "insert into bench_due \
         select i, pg_temp.bench_id(i, 3), statement_timestamp() + $3 * interval '1 millisecond' \
            + (i - $1) * $4 / $2 * interval '1 millisecond' \
         from generate_series($1::bigint, $1::bigint + $2::bigint - 1) i",
    )
    .bind(from)
    .bind(count)
    .bind(i64::try_from(AHEAD.as_millis()).unwrap_or_default())
    .bind(spread_ms)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "update chimeway.workflow_runs r set wake_at = n.due, suspended_until = n.due \
         from bench_due n where r.id = n.id and n.place >= $1",
    )
    .bind(from)
    .execute(&mut *conn)
    .await?;
    let (first, last) = sqlx::query_as(
        "select greatest(min(due), clock_timestamp()), max(due) from bench_due where place >= $1",
    )
    .bind(from)
    .fetch_one(conn)
    .await?;
    Ok(Group { first, last, count })
}

/// How often it is looked whether a group has come to its end.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until all of a group have ended: none is due, and none has a message to send.
async fn ended(
    conn: &mut PgConnection,
    group: &Group,
    workers: &mut Workers,
) -> Result<(), CliError> {
    // Slower than fifty a second is broken.
    let millis = u64::try_from(group.count * 20).unwrap_or(u64::MAX);
    let patience = Duration::from_secs(60) + Duration::from_millis(millis);
    let began = Instant::now();
    loop {
        workers.check()?;
        let live: bool = sqlx::query_scalar(
            // The first of an index: whatever reads more of a million rows takes the workers' time.
            "select coalesce((select wake_at from chimeway.workflow_runs where wake_at is not null \
                order by wake_at limit 1) <= $1, false) \
             or (select next_attempt_at from chimeway.deliveries where next_attempt_at is not null \
                order by next_attempt_at limit 1) is not null",
        )
        .bind(group.last)
        .fetch_one(&mut *conn)
        .await?;
        if !live {
            return Ok(());
        }
        if began.elapsed() > patience {
            return Err(CliError::Refused(format!(
                "the runs that were due had not ended after {} s; try a smaller --due",
                patience.as_secs()
            )));
        }
        sleep(LOOK).await;
    }
}

/// From the due instant to the call of the channel, in milliseconds.
async fn lateness(conn: &mut PgConnection) -> Result<Vec<f64>, CliError> {
    let milliseconds = sqlx::query_scalar(
        "select (extract(epoch from a.started_at - n.due) * 1000)::float8 from bench_due n \
         join chimeway.deliveries d on d.workflow_run_id = n.id and d.visit = 3 \
         join chimeway.delivery_attempts a on a.delivery_id = d.id",
    );
    Ok(milliseconds.fetch_all(conn).await?)
}
