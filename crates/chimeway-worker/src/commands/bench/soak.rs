//! Whether sizes level off: a steady load with a short retention, for as long as one likes.

use std::time::Duration;

use chimeway::{
    flow::{Age, FlowError},
    ids::BadName,
};
use serde::Serialize;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    ground::Ground,
    load::{Journey, Load},
    process::{Fleet, Workers},
    report::{Report, figure},
    server,
};
use crate::{error::CliError, output::Table};

/// Measure whether tables and indexes stop growing under a steady load with a short retention
///
/// Journeys begin at a steady rate, each with a signal that comes too late to matter; workers keep what is
/// over for --keep, and prune every two seconds. Sizes are read twenty times. They level off if in the last
/// third of the time all tables together, with their indexes, grew by no more than --allowed. Exits 1 if not.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway bench soak --minutes 10
  chimeway bench soak --minutes 2 --rate 500 --keep 20s
  chimeway bench soak --minutes 2 --keep off        what it looks like without pruning")]
pub(super) struct Args {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// How many journeys begin in a second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long everything is kept that is over; `off` for ever
    #[arg(long, value_name = "AGE", default_value = "30s")]
    keep: Age,
    /// By how much sizes may grow in the last third, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10)]
    allowed: u32,
    #[command(flatten)]
    fleet: Fleet,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.1..=10_000.0).contains(&minutes) => Ok(minutes),
        _ => Err("it is a number of minutes from 0.1 to 10000".into()),
    }
}

/// How often sizes are read.
const SAMPLES: usize = 20;

/// What there is at one moment.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    seconds: f64,
    live_rows: i64,
    dead_rows: i64,
    table_bytes: i64,
    index_bytes: i64,
    /// How long a claim took since the last sample, on average; `None` where statements are not counted.
    claim_ms: Option<f64>,
    /// Journeys that were begun and are not over.
    live_runs: i64,
    tables: Vec<TableSize>,
}

#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
struct TableSize {
    name: String,
    table_bytes: i64,
    index_bytes: i64,
    live_rows: i64,
    dead_rows: i64,
}

impl Sample {
    const fn bytes(&self) -> i64 {
        self.table_bytes + self.index_bytes
    }
}

pub(super) async fn run(args: &Args, ground: &Ground, report: &Report) -> Result<(), CliError> {
    let seconds = args.minutes * 60.0;
    let mut workers =
        Workers::start_keeping(ground, args.fleet, Some(&args.keep.to_string())).await?;
    let mut conn = ground.database.connect().await?;
    let mut host = ground.database.connect().await?;
    let began = Instant::now();
    let (mut samples, mut begun, mut claims) = (vec![], 0_usize, (0.0, 0.0));
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let every = seconds / SAMPLES as f64;
    while samples.len() < SAMPLES {
        ticks.tick().await;
        let elapsed = began.elapsed().as_secs_f64();
        let millis = began.elapsed().as_millis() * u128::from(args.rate);
        let due = usize::try_from(millis / 1_000).unwrap_or(usize::MAX);
        begin(ground, &mut host, begun..due.max(begun)).await?;
        begun = due.max(begun);
        if elapsed < every * (samples.len() as f64 + 1.0) {
            continue;
        }
        workers.check()?;
        let sample = sample(&mut conn, elapsed, &mut claims).await?;
        report.progress(&format!(
            "{:.0} s: {:.1} MiB, {} rows, {} dead, {} live runs",
            sample.seconds,
            mib(sample.bytes()),
            sample.live_rows,
            sample.dead_rows,
            sample.live_runs
        ));
        samples.push(sample);
    }
    host.close().await?;
    workers.stop().await?;
    conn.close().await?;
    conclude(args, ground, report, &samples, begun)
}

fn conclude(
    args: &Args,
    ground: &Ground,
    report: &Report,
    samples: &[Sample],
    begun: usize,
) -> Result<(), CliError> {
    let (growth, tables) = (growth(samples, Sample::bytes), growths(samples));
    let levels = growth <= f64::from(args.allowed);
    let mut table = Table::new([
        "SECONDS",
        "TABLES",
        "INDEXES",
        "ROWS",
        "DEAD",
        "CLAIM",
        "LIVE RUNS",
    ]);
    for sample in samples {
        table.row([
            format!("{:.0}", sample.seconds),
            format!("{:.1} MiB", mib(sample.table_bytes)),
            format!("{:.1} MiB", mib(sample.index_bytes)),
            sample.live_rows.to_string(),
            sample.dead_rows.to_string(),
            figure(sample.claim_ms, 2, "ms"),
            sample.live_runs.to_string(),
        ]);
    }
    let mut by_table = Table::new(["TABLE", "AT THE END", "INDEXES", "LAST THIRD"]);
    for (size, grown) in &tables {
        by_table.row([
            size.name.clone(),
            format!("{:.1} MiB", mib(size.table_bytes)),
            format!("{:.1} MiB", mib(size.index_bytes)),
            format!("{grown:+.1} %"),
        ]);
    }
    let verdict = match levels {
        true => "sizes level off",
        false => "sizes do not level off",
    };
    let verdict = format!(
        "{verdict}: {growth:+.1} % in the last third, of {} % that are allowed; {begun} journeys",
        args.allowed
    );
    let figures = json!({
        "bench": "soak",
        "minutes": args.minutes,
        "rate": args.rate,
        "keep": args.keep,
        "journeys": begun,
        "growth_percent": growth,
        "levels_off": levels,
        "samples": samples,
    });
    report.print(
        &ground.settings,
        &figures,
        &format!("{table}\n{by_table}\n{verdict}\n"),
    )?;
    match levels {
        true => Ok(()),
        false => Err(CliError::Refused(verdict)),
    }
}

/// By how many percent the last third has more at its end than at its beginning.
fn growth(samples: &[Sample], of: impl Fn(&Sample) -> i64) -> f64 {
    let from = samples
        .get((samples.len() * 2 / 3).saturating_sub(1))
        .map_or(0, &of);
    let to = samples.last().map_or(0, &of);
    (to - from) as f64 / from.max(1) as f64 * 100.0
}

fn growths(samples: &[Sample]) -> Vec<(&TableSize, f64)> {
    let tables = samples.last().map(|sample| sample.tables.as_slice());
    let grown = |table: &TableSize| {
        growth(samples, |sample| {
            let same = sample.tables.iter().find(|one| one.name == table.name);
            same.map_or(0, |one| one.table_bytes + one.index_bytes)
        })
    };
    let tables = tables.unwrap_or_default().iter();
    tables.map(|table| (table, grown(table))).collect()
}

fn mib(bytes: i64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// Begins journeys, and tells of each a signal that nobody waits for.
async fn begin(
    ground: &Ground,
    conn: &mut PgConnection,
    places: std::ops::Range<usize>,
) -> Result<(), CliError> {
    if places.is_empty() {
        return Ok(());
    }
    let load = Load {
        journey: Journey::Elapses,
        count: places.end,
        tenant: "bench_soak".to_owned(),
        recipients: 1,
    };
    let triggers: Result<Vec<_>, BadName> = places
        .clone()
        .map(|place| load.trigger(place..place + 1))
        .collect();
    // Somebody read something else: its actor has no run yet that it could be for.
    let signals: Result<Vec<_>, BadName> = places.map(|place| load.signal(place)).collect();
    let (triggers, signals) = (
        triggers.map_err(FlowError::from)?,
        signals.map_err(FlowError::from)?,
    );
    let mut tx = conn.begin().await?;
    ground.chimeway.track_many(&mut tx, signals).await?;
    ground.chimeway.trigger_many(&mut tx, triggers).await?;
    tx.commit().await?;
    Ok(())
}

/// Sizes now; `claims` is how often and how long was claimed so far.
async fn sample(
    conn: &mut PgConnection,
    seconds: f64,
    claims: &mut (f64, f64),
) -> Result<Sample, CliError> {
    let tables: Vec<TableSize> = sqlx::query_as(
        "select relname::text as name, pg_table_size(relid) as table_bytes, pg_indexes_size(relid) as index_bytes, \
         n_live_tup as live_rows, n_dead_tup as dead_rows \
         from pg_stat_user_tables where schemaname = 'chimeway' and relname = any(array[\
         'events', 'notifications', 'workflow_runs', 'workflow_transitions', 'signals', 'deliveries', \
         'delivery_attempts']) order by pg_total_relation_size(relid) desc, relname",
    )
    .fetch_all(&mut *conn)
    .await?;
    let live_runs =
        sqlx::query_scalar("select count(*) from chimeway.workflow_runs where ended_at is null");
    let live_runs: i64 = live_runs.fetch_one(&mut *conn).await?;
    let now = server::calls(conn, "claims::claim").await;
    let claim_ms = now.and_then(|(calls, ms)| {
        let (calls_before, ms_before) = std::mem::replace(claims, (calls, ms));
        (calls > calls_before).then(|| (ms - ms_before) / (calls - calls_before))
    });
    let sum = |of: fn(&TableSize) -> i64| tables.iter().map(of).sum();
    Ok(Sample {
        seconds,
        live_rows: sum(|table| table.live_rows),
        dead_rows: sum(|table| table.dead_rows),
        table_bytes: sum(|table| table.table_bytes),
        index_bytes: sum(|table| table.index_bytes),
        claim_ms,
        live_runs,
        tables,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(sizes: &[i64]) -> Vec<Sample> {
        let sample = |bytes: &i64| Sample {
            seconds: 0.0,
            live_rows: 0,
            dead_rows: 0,
            table_bytes: *bytes,
            index_bytes: 0,
            claim_ms: None,
            live_runs: 0,
            tables: vec![],
        };
        sizes.iter().map(sample).collect()
    }

    #[test]
    fn what_grows_steadily_does_not_level_off() {
        let steady: Vec<i64> = (1..=20).collect();
        assert!(growth(&samples(&steady), Sample::bytes) > 50.0);
        let level: Vec<i64> = (1..=20).map(|n| n.min(8)).collect();
        assert_eq!(growth(&samples(&level), Sample::bytes), 0.0);
    }
}
