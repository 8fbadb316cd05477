//! Whether the rate falls with what is in the database.

use serde_json::json;
use sqlx::Connection as _;

use super::{
    fill::{self, Stand},
    floor::{self, Floor},
    ground::Ground,
    journeys::{self, Round},
    load::{Journey, Load},
    process::Fleet,
    report::{Report, figure, median},
};
use crate::{error::CliError, output::Table};

/// Measure whether the rate falls with a long history, and with a snapshot held open
///
/// The same journeys three times: with an empty history, beside many finished runs, and while another
/// session holds a snapshot from before, so that no dead row can be removed. The floor (see `chimeway bench floor`) is
/// measured in turns with each: a server whose tables are larger than its memory is slower by itself.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway bench growth
  chimeway bench growth --runs 1000000 --count 5000")]
pub(super) struct Args {
    /// How many finished runs the history has
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How many journeys a round has
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How many rounds each of the three has
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print the costliest statements of each of the three as well
    #[arg(long)]
    statements: bool,
    #[command(flatten)]
    fleet: Fleet,
}

pub(super) async fn run(args: &Args, ground: &Ground, report: &Report) -> Result<(), CliError> {
    let empty = rounds(args, ground, report, "empty").await?;

    let mut conn = ground.database.connect().await?;
    let runs = i64::from(args.runs);
    fill::fill(&mut conn, Stand::Finished, "bench_history", runs, report).await?;
    let history = rounds(args, ground, report, "history").await?;

    let mut snapshot = conn.begin().await?;
    sqlx::query("set transaction isolation level repeatable read")
        .execute(&mut *snapshot)
        .await?;
    sqlx::query("select count(*) from chimeway.settings")
        .execute(&mut *snapshot)
        .await?;
    let held = rounds(args, ground, report, "snapshot").await?;
    snapshot.rollback().await?;
    conn.close().await?;

    let first = rate(&empty);
    let mut table = Table::new([
        "J1",
        "PER SECOND",
        "OF THE FIRST",
        "ROUNDS",
        "FLOOR",
        "SHARE OF IT",
        "POSTGRESQL'S CPU PER 1,000",
        "WAL PER JOURNEY",
    ]);
    let mut statements = String::new();
    let name = format!("beside {} finished runs", args.runs);
    for (name, rounds) in [
        ("empty history", &empty),
        (name.as_str(), &history),
        ("the same, a snapshot held open", &held),
    ] {
        let rate = rate(rounds);
        let rates = rounds.iter().map(|(round, _)| format!("{:.0}", round.rate));
        let rates: Vec<String> = rates.collect();
        table.row([
            name.to_owned(),
            figure(Some(rate), 0, ""),
            figure(Some(rate / first * 100.0), 0, "%"),
            rates.join(" "),
            figure(Some(floor(rounds)), 0, ""),
            figure(Some(rate / floor(rounds) * 100.0), 0, "%"),
            figure(server_cpu(rounds), 2, "s"),
            figure(Some(wal(rounds)), 0, "bytes"),
        ]);
        if let Some((last, _)) = rounds.last().filter(|_| args.statements) {
            statements = format!("{statements}\n{}", last.counted.costliest(name));
        }
    }
    let of = |rounds: &[Measured]| {
        json!({
            "rate": rate(rounds),
            "rates": rounds.iter().map(|(round, _)| round.rate).collect::<Vec<_>>(),
            "floor_rate": floor(rounds),
            "share_of_floor": rate(rounds) / floor(rounds),
            "server_cpu_seconds_per_1000": server_cpu(rounds),
            "wal_bytes_per_journey": wal(rounds),
        })
    };
    let figures = json!({
        "bench": "growth",
        "runs": args.runs,
        "count": args.count,
        "workers": args.fleet.workers,
        "limit": args.fleet.limit,
        "empty": of(&empty),
        "history": of(&history),
        "snapshot": of(&held),
    });
    report.print(&ground.settings, &figures, &format!("{table}{statements}"))
}

/// A round of journeys, and the floor that was measured before it.
type Measured = (Round, Floor);

fn rate(rounds: &[Measured]) -> f64 {
    median(rounds.iter().map(|(round, _)| round.rate))
}

fn floor(rounds: &[Measured]) -> f64 {
    median(rounds.iter().map(|(_, floor)| floor.rate))
}

fn server_cpu(rounds: &[Measured]) -> Option<f64> {
    let known = rounds.iter().filter_map(|(round, _)| round.server_cpu);
    let known: Vec<f64> = known.collect();
    (!known.is_empty()).then(|| median(known))
}

fn wal(rounds: &[Measured]) -> f64 {
    median(rounds.iter().map(|(round, _)| round.counted.wal_bytes))
}

async fn rounds(
    args: &Args,
    ground: &Ground,
    report: &Report,
    name: &str,
) -> Result<Vec<Measured>, CliError> {
    let mut rounds = vec![];
    for round in 1..=args.rounds {
        report.progress(&format!("{name}, round {round} of {}", args.rounds));
        let count = usize::try_from(args.count).unwrap_or(usize::MAX);
        let floor = floor::measure(ground, count, &format!("floor_{name}_{round}")).await?;
        let load = Load {
            journey: Journey::Elapses,
            count,
            tenant: format!("bench_{name}_{round}"),
            recipients: 1,
        };
        let measured = journeys::measure(ground, &load, args.fleet).await?;
        rounds.push((measured, floor));
    }
    Ok(rounds)
}
