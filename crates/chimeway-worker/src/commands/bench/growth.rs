//! Whether the rate falls with what is in the database.

use serde_json::json;
use sqlx::Connection as _;

use super::{
    fill::{self, Stand},
    ground::Ground,
    journeys,
    load::{Journey, Load},
    process::Fleet,
    report::{Report, figure, median},
};
use crate::{error::CliError, output::Table};

/// Measure whether the rate falls with a long history, and with a snapshot held open
///
/// The same journeys three times: with an empty history, beside many finished runs, and while another
/// session holds a snapshot from before, so that no dead row can be removed.
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
    #[command(flatten)]
    fleet: Fleet,
}

pub(super) async fn run(args: &Args, ground: &Ground, report: &Report) -> Result<(), CliError> {
    let empty = rates(args, ground, report, "empty").await?;

    let mut conn = ground.database.connect().await?;
    let runs = i64::from(args.runs);
    fill::fill(&mut conn, Stand::Finished, "bench_history", runs, report).await?;
    let history = rates(args, ground, report, "history").await?;

    let mut snapshot = conn.begin().await?;
    sqlx::query("set transaction isolation level repeatable read")
        .execute(&mut *snapshot)
        .await?;
    sqlx::query("select count(*) from chimeway.settings")
        .execute(&mut *snapshot)
        .await?;
    let held = rates(args, ground, report, "snapshot").await?;
    snapshot.rollback().await?;
    conn.close().await?;

    let first = median(empty.iter().copied());
    let mut table = Table::new(["J1", "PER SECOND", "OF THE FIRST", "ROUNDS"]);
    let name = format!("beside {} finished runs", args.runs);
    for (name, rates) in [
        ("empty history", &empty),
        (name.as_str(), &history),
        ("the same, a snapshot held open", &held),
    ] {
        let rate = median(rates.iter().copied());
        let rates: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
        table.row([
            name.to_owned(),
            figure(Some(rate), 0, ""),
            figure(Some(rate / first * 100.0), 0, "%"),
            rates.join(" "),
        ]);
    }
    let of = |rates: &[f64]| json!({ "rate": median(rates.iter().copied()), "rates": rates });
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
    report.print(&ground.settings, &figures, &table.to_string())
}

async fn rates(
    args: &Args,
    ground: &Ground,
    report: &Report,
    name: &str,
) -> Result<Vec<f64>, CliError> {
    let mut rates = vec![];
    for round in 1..=args.rounds {
        report.progress(&format!("{name}, round {round} of {}", args.rounds));
        let load = Load {
            journey: Journey::Elapses,
            count: usize::try_from(args.count).unwrap_or(usize::MAX),
            tenant: format!("bench_{name}_{round}"),
            recipients: 1,
        };
        rates.push(journeys::measure(ground, &load, args.fleet).await?.rate);
    }
    Ok(rates)
}
