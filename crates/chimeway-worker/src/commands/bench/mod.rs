//! `chimeway bench`: what this machine can do, measured on a real PostgreSQL with real worker processes.
//!
//! What is measured comes from rows, from the server's own counters and from /proc, never from the
//! engine: an engine that counts itself would be wrong in the way it is wrong.
//!
//! To add a measurement: 1. a file here with its `Args` and a `run`; 2. its variant in [`What`]; 3. its
//! arm in [`run`]; 4. its keys in `tests/it/bench.rs`; 5. its part of docs/performance.md.

mod fill;
mod floor;
mod ground;
mod growth;
mod journeys;
mod latency;
mod load;
mod process;
mod report;
mod rows;
mod server;
mod soak;
mod system;
mod waiting;
mod worker;

use super::Context;
use crate::{error::CliError, shutdown};

/// Measure how fast journeys go on this machine
///
/// Starts a private PostgreSQL that keeps what it commits (fsync and synchronous_commit on) and real
/// worker processes, and removes them when done. DATABASE_URL does not count here; with --database-url
/// the rows go into that database, which has to be empty of Chimeway's.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway bench journeys
  chimeway bench journeys --count 20000 --limit 200 --json
  chimeway bench latency --rate 100
  chimeway bench waiting --runs 1000000
  chimeway bench soak --minutes 10")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Journeys(journeys::Args),
    Floor(floor::Args),
    Latency(latency::Args),
    Waiting(waiting::Args),
    Growth(growth::Args),
    Soak(soak::Args),
    #[command(hide = true)]
    Worker(worker::Args),
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    if let What::Worker(args) = &args.what {
        return worker::run(args, context).await;
    }
    let stop = shutdown::watch()?;
    let setting: Option<(&'static str, &'static str)> = match &args.what {
        What::Soak(_) => Some(ground::EAGER_VACUUM),
        _ => None,
    };
    let url = context.database_flag.as_deref();
    let ground = ground::Ground::open(url, setting).await?;
    let report = report::Report::new(context.json);
    let measure = async {
        match &args.what {
            What::Journeys(args) => journeys::run(args, &ground, &report).await,
            What::Floor(args) => floor::run(args, &ground, &report).await,
            What::Latency(args) => latency::run(args, &ground, &report).await,
            What::Waiting(args) => waiting::run(args, &ground, &report).await,
            What::Growth(args) => growth::run(args, &ground, &report).await,
            What::Soak(args) => soak::run(args, &ground, &report).await,
            What::Worker(_) => Ok(()),
        }
    };
    let measured = tokio::select! {
        measured = measure => measured,
        () = stop.cancelled() => Err(CliError::Refused(
            "the benchmark was interrupted; run it again to see it whole".into(),
        )),
    };
    let closed = ground.close().await;
    measured.and(closed)
}
