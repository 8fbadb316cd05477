//! Journeys per second, what one costs, and how much of this machine's limit that is.

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::Connection as _;

use super::{
    floor::{self, Floor},
    ground::Ground,
    load::{self, Journey, Load, WAIT},
    process::{Fleet, Workers},
    report::{Report, figure, median},
    server::{Counted, Counters},
    system::{self, Watch},
};
use crate::{error::CliError, output::Table};

/// Measure how many journeys a second go from trigger to end, and what one costs
///
/// J1: trigger, in_app sent, a wait of 1 s elapses, email sent, completed. J2: trigger, in_app sent, a
/// signal comes during the wait, stopped. Templates are rendered, the whole history is kept, and the
/// channels send nothing. The rate is the number of journeys over the time from the first trigger to the
/// last end, less the second of the wait. The floor (see `chimeway bench floor`) is measured in turns
/// with them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway bench journeys
  chimeway bench journeys --count 20000 --workers 2 --limit 200 --json")]
pub(super) struct Args {
    /// How many journeys of each kind a round has
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many recipients a trigger has, each with a journey of its own; up to 250
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=250))]
    recipients: u16,
    /// Print the costliest statements as well
    #[arg(long)]
    statements: bool,
    #[command(flatten)]
    fleet: Fleet,
}

/// What a round of journeys took.
#[derive(Debug, Clone)]
pub(super) struct Round {
    /// Journeys per second.
    pub(super) rate: f64,
    trigger_seconds: f64,
    early_signals: i64,
    pub(super) counted: Counted,
    workers_cpu: f64,
    pub(super) server_cpu: Option<f64>,
    host_cpu: Option<f64>,
    pub(super) worker_peak_mib: Option<f64>,
    server_peak_mib: Option<f64>,
}

pub(super) async fn run(args: &Args, ground: &Ground, report: &Report) -> Result<(), CliError> {
    let count = usize::try_from(args.count).unwrap_or(usize::MAX);
    let (mut floors, mut elapses, mut stops) = (vec![], vec![], vec![]);
    for round in 1..=args.rounds {
        report.progress(&format!("round {round} of {}: floor", args.rounds));
        floors.push(floor::measure(ground, count, &format!("floor_{round}")).await?);
        for (name, journey, rounds) in [
            ("J1", Journey::Elapses, &mut elapses),
            ("J2", Journey::Stops, &mut stops),
        ] {
            report.progress(&format!("round {round} of {}: {name}", args.rounds));
            let load = Load {
                journey,
                count,
                tenant: format!("{}_{round}", journey.key()),
                recipients: args.recipients.into(),
            };
            rounds.push(measure(ground, &load, args.fleet).await?);
        }
    }
    let floor = median(floors.iter().map(|floor| floor.rate));
    let (j1, j2) = (Summary::of(&elapses, floor), Summary::of(&stops, floor));
    let mut table = shown(&j1, &j2, &floors);
    if args.statements {
        table = format!(
            "{table}\n{}\n{}",
            costliest("J1", elapses.last()),
            costliest("J2", stops.last())
        );
    }
    let figures = json!({
        "bench": "journeys",
        "count": args.count,
        "workers": args.fleet.workers,
        "limit": args.fleet.limit,
        "listen": !args.fleet.no_listen,
        "recipients_per_trigger": args.recipients,
        "floor": { "rate": floor, "rounds": floors },
        "j1": j1,
        "j2": j2,
        "statements": {
            "j1": elapses.last().and_then(|round| round.counted.statements.clone()),
            "j2": stops.last().and_then(|round| round.counted.statements.clone()),
        },
    });
    report.print(&ground.settings, &figures, &table)
}

/// Runs journeys from first to last with workers of their own.
pub(super) async fn measure(ground: &Ground, load: &Load, fleet: Fleet) -> Result<Round, CliError> {
    let mut conn = ground.database.connect().await?;
    let before = Counters::settled(&mut conn).await?;
    let mut workers = Workers::start(ground, fleet).await?;
    let watch = Watch::begin(ground.postmaster);
    let own = std::process::id();
    let cpu = |pid: Option<u32>| pid.and_then(system::family_cpu_seconds);
    let (server_before, host_before) = (cpu(ground.postmaster), system::cpu_seconds(own));

    let triggers = load::run(ground, load).await?;
    load::ended(&ground.pool, &load.tenant, load.count, &mut workers).await?;

    let per = load.count as f64 / 1_000.0;
    let since = |now: Option<f64>, before: Option<f64>| Some((now? - before?) / per);
    let server_cpu = since(cpu(ground.postmaster), server_before);
    let host_cpu = since(system::cpu_seconds(own), host_before);
    let workers_cpu = workers.cpu_seconds() / per;
    let worker_peak_mib = workers.peak_mib();
    let server_peak_mib = watch.peak_mib();
    // Their sessions tell what they have counted when they end.
    workers.stop().await?;
    let counted = Counters::settled(&mut conn)
        .await?
        .since(&before, load.count);
    let told = load::told(&mut conn, load).await?;
    conn.close().await?;
    if usize::try_from(told.ended) != Ok(load.count) {
        return Err(CliError::Refused(format!(
            "{} of {} journeys are `{}`: this is a bug of the engine's, or somebody else works in this \
             database",
            told.ended,
            load.count,
            load.journey.end(),
        )));
    }
    Ok(Round {
        rate: load.count as f64 / (told.seconds - WAIT.as_secs_f64()),
        trigger_seconds: triggers.as_secs_f64(),
        early_signals: told.early_signals,
        counted,
        workers_cpu,
        server_cpu,
        host_cpu,
        worker_peak_mib,
        server_peak_mib,
    })
}

/// The middle of some rounds.
#[derive(Debug, Clone, Serialize)]
struct Summary {
    rate: f64,
    rates: Vec<f64>,
    share_of_floor: f64,
    trigger_seconds: f64,
    early_signals: i64,
    statements_per_journey: Option<f64>,
    commits_per_journey: f64,
    row_writes_per_journey: f64,
    wal_bytes_per_journey: f64,
    worker_cpu_seconds_per_1000: f64,
    server_cpu_seconds_per_1000: Option<f64>,
    host_cpu_seconds_per_1000: Option<f64>,
    worker_peak_mib: Option<f64>,
    server_private_peak_mib: Option<f64>,
    tables_per_journey: Value,
}

impl Summary {
    fn of(rounds: &[Round], floor: f64) -> Self {
        let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of));
        let known = |of: fn(&Round) -> Option<f64>| {
            let known: Option<Vec<f64>> = rounds.iter().map(of).collect();
            known.map(median)
        };
        let most = |of: fn(&Round) -> Option<f64>| rounds.iter().filter_map(of).reduce(f64::max);
        let rate = middle(|round| round.rate);
        let tables = rounds.last().map(|round| &round.counted.tables);
        Self {
            rate,
            rates: rounds.iter().map(|round| round.rate).collect(),
            share_of_floor: rate / floor,
            trigger_seconds: middle(|round| round.trigger_seconds),
            early_signals: rounds.iter().map(|round| round.early_signals).sum(),
            statements_per_journey: known(|round| round.counted.statements_per_journey()),
            commits_per_journey: middle(|round| round.counted.commits),
            row_writes_per_journey: middle(|round| round.counted.row_writes),
            wal_bytes_per_journey: middle(|round| round.counted.wal_bytes),
            worker_cpu_seconds_per_1000: middle(|round| round.workers_cpu),
            server_cpu_seconds_per_1000: known(|round| round.server_cpu),
            host_cpu_seconds_per_1000: known(|round| round.host_cpu),
            worker_peak_mib: most(|round| round.worker_peak_mib),
            server_private_peak_mib: most(|round| round.server_peak_mib),
            tables_per_journey: json!(tables),
        }
    }
}

fn shown(j1: &Summary, j2: &Summary, floors: &[Floor]) -> String {
    let mut table = Table::new(["", "J1", "J2", "FLOOR"]);
    let floor = median(floors.iter().map(|floor| floor.rate));
    table.row([
        "journeys per second".into(),
        figure(Some(j1.rate), 0, ""),
        figure(Some(j2.rate), 0, ""),
        figure(Some(floor), 0, ""),
    ]);
    let mut line = |name: &str, of: &dyn Fn(&Summary) -> String| {
        table.row([name.to_owned(), of(j1), of(j2), String::new()]);
    };
    line("share of the floor", &|it| {
        figure(Some(it.share_of_floor * 100.0), 0, "%")
    });
    line("the triggers alone took", &|it| {
        figure(Some(it.trigger_seconds), 1, "s")
    });
    line("statements per journey", &|it| {
        figure(it.statements_per_journey, 2, "")
    });
    line("commits per journey", &|it| {
        figure(Some(it.commits_per_journey), 2, "")
    });
    line("row writes per journey", &|it| {
        figure(Some(it.row_writes_per_journey), 1, "")
    });
    line("WAL per journey", &|it| {
        figure(Some(it.wal_bytes_per_journey), 0, "bytes")
    });
    line("CPU per 1,000: workers", &|it| {
        figure(Some(it.worker_cpu_seconds_per_1000), 2, "s")
    });
    line("CPU per 1,000: PostgreSQL", &|it| {
        figure(it.server_cpu_seconds_per_1000, 2, "s")
    });
    line("CPU per 1,000: the host", &|it| {
        figure(it.host_cpu_seconds_per_1000, 2, "s")
    });
    line("peak memory: a worker", &|it| {
        figure(it.worker_peak_mib, 0, "MiB")
    });
    line("peak memory: PostgreSQL, private", &|it| {
        figure(it.server_private_peak_mib, 0, "MiB")
    });
    let note = match j1.statements_per_journey {
        Some(_) => "",
        None => "\nStatements are not counted: pg_stat_statements is not there.\n",
    };
    format!("{table}{note}")
}

/// What takes most of the server's time, by statement.
fn costliest(name: &str, round: Option<&Round>) -> String {
    round.map_or_else(String::new, |round| round.counted.costliest(name))
}
