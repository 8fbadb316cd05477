//! The journey J1 of `chimeway bench journeys`, as one would write it over a job queue: a job for each
//! step, with the same rows in the same tables, and the same templates rendered. What differs is who says
//! what is to be done: job rows of apalis-postgres, beside the domain's own.

mod ground;
mod jobs;
mod rows;

use std::{error::Error, process::Stdio, time::Duration};

use chimeway_cluster::Mode;
use clap::{Parser, Subcommand};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{ground::Counters, rows::Journeys};

pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How many transactions are open at a time, and how many journeys each starts.
const CONNECTIONS: usize = 4;
const BATCH: usize = 250;
/// How long a worker may take to start, and how often it is looked whether all have ended.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);

/// Measure journeys over apalis-postgres: trigger, in_app sent, a wait of 1 s elapses, email sent, completed
#[derive(Parser)]
struct Args {
    /// How many journeys a round has
    #[arg(long, default_value_t = 5_000)]
    count: usize,
    /// How often
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many worker processes
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// How many jobs at a time in each of them
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Run the jobs of a database until standard input ends
    #[command(hide = true)]
    Worker { url: String, limit: usize },
}

/// What a round took.
struct Round {
    rate: f64,
    counted: Counters,
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let args = Args::parse();
    if let Some(Role::Worker { url, limit }) = &args.role {
        return jobs::work(url, *limit).await;
    }
    let (cluster, url) = tokio::task::spawn_blocking(ground::start).await??;
    let measured = measure_all(&args, &url).await;
    tokio::task::spawn_blocking(move || cluster.stop(Mode::Immediate)).await??;
    report(&args, &measured?);
    Ok(())
}

async fn measure_all(args: &Args, url: &str) -> Fallible<Vec<Round>> {
    ground::prepare(url).await?;
    let mut rounds = vec![];
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        rounds.push(measure(args, url, &format!("jobs_{round}")).await?);
    }
    Ok(rounds)
}

async fn measure(args: &Args, url: &str, tenant: &str) -> Fallible<Round> {
    let mut conn = PgConnection::connect(url).await?;
    let before = Counters::read(&mut conn).await?;
    let mut workers = vec![];
    for _ in 0..args.workers {
        workers.push(start_worker(url, args.limit).await?);
    }
    let mut hosts = JoinSet::new();
    for host in 0..CONNECTIONS {
        let (url, tenant, count) = (url.to_owned(), tenant.to_owned(), args.count);
        hosts.spawn(async move {
            let mut conn = PgConnection::connect(&url).await?;
            let journeys = Journeys::read(&mut conn, &tenant).await?;
            for from in (host * BATCH..count).step_by(CONNECTIONS * BATCH) {
                let places = from..count.min(from + BATCH);
                journeys.trigger(&mut conn, places).await?;
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(conn.close().await?)
        });
    }
    while let Some(host) = hosts.join_next().await {
        host??;
    }
    // Slower than ten a second is broken.
    let patience = Duration::from_secs(60) + Duration::from_millis(100) * args.count.try_into()?;
    let began = Instant::now();
    while rows::live(&mut conn, tenant).await? > 0 {
        for worker in &mut workers {
            if let Some(status) = worker.try_wait()? {
                return Err(format!("a worker ended by itself: {status}").into());
            }
        }
        if began.elapsed() > patience {
            return Err("the journeys do not end".into());
        }
        sleep(LOOK).await;
    }
    for mut worker in workers {
        drop(worker.stdin.take());
        worker.wait().await?;
    }
    let (seconds, completed) = rows::told(&mut conn, tenant).await?;
    if usize::try_from(completed) != Ok(args.count) {
        return Err(format!("{completed} of {} journeys are completed", args.count).into());
    }
    let counted = Counters::read(&mut conn).await?.since(&before, args.count);
    Ok(Round {
        rate: args.count as f64 / (seconds - 1.0),
        counted,
    })
}

/// A process of its own, as in production.
async fn start_worker(url: &str, limit: usize) -> Fallible<Child> {
    let mut worker = Command::new(std::env::current_exe()?)
        .args(["worker", url, &limit.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = worker.stdout.take().ok_or("a worker has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    match timeout(PATIENCE, lines.next_line()).await?? {
        Some(line) if line == jobs::READY => Ok(worker),
        _ => Err("a worker did not start".into()),
    }
}

fn report(args: &Args, rounds: &[Round]) {
    let middle = |of: &dyn Fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let rate = middle(&|round| round.rate);
    let statements = middle(&|round| round.counted.statements);
    let commits = middle(&|round| round.counted.commits);
    let row_writes = middle(&|round| round.counted.row_writes);
    let wal = middle(&|round| round.counted.wal_bytes);
    if args.json {
        let rates: Vec<f64> = rounds.iter().map(|round| round.rate).collect();
        let figures = json!({
            "bench": "over-apalis-postgres", "count": args.count, "workers": args.workers,
            "limit": args.limit, "rate": rate, "rates": rates, "statements_per_journey": statements,
            "commits_per_journey": commits, "row_writes_per_journey": row_writes,
            "wal_bytes_per_journey": wal,
        });
        println!("{figures}");
        return;
    }
    println!("journeys per second    {rate:.0}");
    println!("statements per journey {statements:.2}");
    println!("commits per journey    {commits:.2}");
    println!("row writes per journey {row_writes:.1}");
    println!("WAL per journey        {wal:.0} bytes");
}
