//! The worker of a benchmark: `chimeway worker`, but for an email that is rendered and goes nowhere.

use async_trait::async_trait;
use chimeway::{
    channels::{Channel, Message, Receipt, SendError},
    flow::{Age, Chimeway, ChimewayBuilder, Retention, workers::Workers},
    ids::BadName,
    queue::{QueueName, schedule},
};

use crate::{
    commands::{Context, worker},
    database,
    error::CliError,
    output, shutdown,
};

/// Run the queues with channels that send nothing, for `chimeway bench`
#[derive(clap::Args)]
#[command(after_help = "Example:\n  chimeway bench worker --limit 200")]
pub(super) struct Args {
    /// How many deliveries at a time
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Only look, do not listen
    #[arg(long)]
    no_listen: bool,
    /// How long everything is kept that is over; pruned every two seconds
    #[arg(long, value_name = "AGE")]
    keep: Option<Age>,
}

/// What it prints when it is about to begin.
pub(super) const READY: &str = "ready";

/// The library as the benchmark has it; `in_app` sends nothing by itself.
pub(super) fn chimeway() -> Result<ChimewayBuilder, BadName> {
    Chimeway::builder().channel("email", Rendered)
}

pub(super) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let database = database::at(context.config.database_url.as_deref())?;
    drop(database::open(&database).await?);
    let stop = shutdown::watch()?;
    worker::stop_when_stdin_ends(stop.clone());
    let chimeway = chimeway()
        .map_err(chimeway::FlowError::from)?
        .worker_name(worker::process_name())
        .build();
    let pool = database.pool(context.config.pool_size);
    let mut workers = Workers::new(chimeway, pool.clone()).limit(QueueName::Delivery, args.limit);
    if args.no_listen {
        workers = workers.listen(None);
    }
    if let Some(age) = args.keep {
        let often = "*/2 * * * * *".parse();
        let often = often.map_err(|bad: schedule::BadSchedule| CliError::Usage(bad.to_string()))?;
        workers = workers.retention(Retention::of_all(age)).prune(often);
    }
    output::print(READY)?;
    workers.run(stop.cancelled_owned()).await;
    pool.close().await;
    Ok(())
}

/// An email as far as its content: the templates are rendered, and nobody gets it.
struct Rendered;

#[async_trait]
impl Channel for Rendered {
    fn adapter(&self) -> &'static str {
        "bench"
    }

    fn renders(&self) -> bool {
        true
    }

    async fn send(&self, _message: &Message) -> Result<Receipt, SendError> {
        Ok(Receipt::default())
    }
}
