//! `chimeway dev`: everything a journey needs while it is being written, in one process.

mod changes;
mod folder;
mod hints;
mod mail;
mod screen;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use chimeway::{
    flow::{Chimeway, workers::Workers},
    ids::{ChannelName, RunId},
    store::run_views::{self, RunFilter, RunSummary},
};
use chimeway_cluster::{Cluster, Mode};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(super) use self::mail::DevChannels;
use self::{changes::Changes, screen::Screen};
use super::{Context, migrate, worker, workflows};
use crate::{
    channels::ChannelSettings,
    config::{self, Layer},
    database,
    error::CliError,
    shutdown,
    sink::Sink,
};

/// Write journeys and see them played, until Ctrl-C
///
/// Starts a private PostgreSQL whose data stays in --data, a worker, and a mail server that shows every
/// email here and sends it nowhere. Applies the journeys, and applies them again when a file changes;
/// where one has a mistake, what was applied before stays. Webhooks may call this machine. DATABASE_URL
/// does not count here; with --database-url that database is used instead.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway dev                    chimeway init writes a first journey
  chimeway dev --journeys notifications/ --config chimeway.toml
  chimeway dev --channel sms=log  show what would be sent over a channel that has no adapter yet")]
pub(crate) struct Args {
    /// The folder of the journeys and their templates
    #[arg(long, value_name = "DIR", default_value = "journeys")]
    journeys: PathBuf,
    /// Where the private PostgreSQL keeps its data [default: .chimeway/dev; for root in a folder of its
    /// own, a folder under /var/lib/chimeway-dev]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// What carries a channel's messages: sms=log shows them here
    #[arg(long, value_name = "NAME=ADAPTER", value_parser = config::channel_adapter)]
    channel: Vec<(ChannelName, ChannelSettings)>,
}

impl Args {
    /// The settings that these flags give, over those of all commands.
    pub(super) fn layer(&self, everywhere: Layer) -> Layer {
        Layer {
            channels: self.channel.iter().cloned().collect(),
            ..everywhere
        }
    }
}

/// What webhooks may call here without a word in the settings.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.0/8", "::1"];
/// How many new runs are told of at a time.
const RUNS_TOLD: i64 = 20;
/// Between two looks for new runs.
const LOOK: Duration = Duration::from_millis(500);
/// How long connections may take to close at the end.
const CLOSE: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: &Args, mut context: Context) -> Result<(), CliError> {
    if !args.journeys.is_dir() {
        return Err(CliError::Refused(format!(
            "there is no folder {}; write a first journey with `chimeway init`, or name yours with --journeys",
            args.journeys.display()
        )));
    }
    // Whoever develops goes there directly.
    context.config.pooled = false;
    let stop = shutdown::watch()?;
    // Who writes journeys has what they call on the same machine.
    for host in LOOPBACK {
        context.config.allow_private.extend(host.parse());
    }
    let mut screen = Screen::new();
    screen.title("Chimeway dev")?;
    let cluster = match &context.database_flag {
        Some(_) => {
            screen.done("uses the database of --database-url")?;
            None
        }
        None => {
            let (cluster, data) = folder::start(args.data.as_deref()).await?;
            let (port, data) = (cluster.port(), data.display());
            screen.done(&format!(
                "PostgreSQL on 127.0.0.1:{port}; its data stays in {data}"
            ))?;
            context.config.database_url = Some(cluster.url(folder::DATABASE));
            Some(cluster)
        }
    };
    let played = play(args, &mut context, &mut screen, &stop).await;
    let closed = close(cluster).await;
    played.and(closed)?;
    screen.done("stopped")
}

async fn close(cluster: Option<Cluster>) -> Result<(), CliError> {
    match cluster {
        Some(cluster) => super::blocking(move || cluster.stop(Mode::Fast)).await,
        None => Ok(()),
    }
}

async fn play(
    args: &Args,
    context: &mut Context,
    screen: &mut Screen,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let database = context.database()?;
    let version = migrate::bring_up(&mut database.connect().await?).await?.1;
    screen.done(&format!("the schema `chimeway`, version {version}"))?;
    let sink = Sink::start()
        .await
        .map_err(CliError::io("start the mail server"))?;
    context.dev = Some(DevChannels { port: sink.port() });
    // Watched before they are read: no change is missed.
    let changes = Changes::watch(&args.journeys)?;
    apply(&args.journeys, context, screen).await?;
    let pool = database.pool(context.config.pool_size);
    let worker = start_worker(context, &pool)?;
    screen.done("a worker; every email is shown here and sent nowhere")?;
    let url = match context.database_flag {
        Some(_) => None,
        None => context.config.database_url.as_deref(),
    };
    hints::show(
        screen,
        &mut database::open(&database).await?,
        &args.journeys,
        url,
    )
    .await?;
    screen.note(&format!(
        "watching {}; Ctrl-C ends",
        args.journeys.display()
    ))?;

    let mut session = Session {
        journeys: &args.journeys,
        told: known_runs(&pool).await?,
        pool: &pool,
        screen,
        sink,
        changes,
    };
    let mut worker = worker;
    let followed = tokio::select! {
        followed = session.follow(context) => followed,
        _ = &mut worker.task => Err(CliError::Refused("the worker ended by itself".into())),
        () = stop.cancelled() => Ok(()),
    };
    worker.stop.cancel();
    if !worker.task.is_finished() {
        // A worker that fails while it drains has said so in the log.
        let _ = worker.task.await;
    }
    // Nothing is lost by a connection that does not close in time.
    let _ = tokio::time::timeout(CLOSE, pool.close()).await;
    followed
}

/// Applies the journeys. Mistakes are shown, and are no reason to end.
async fn apply(journeys: &Path, context: &Context, screen: &mut Screen) -> Result<(), CliError> {
    match workflows::apply(&[journeys.to_owned()], context).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_closed_output() => Err(error),
        Err(error) => {
            let line = error.line();
            // Its advice is for a command that ends; here the next change is enough.
            screen.bad(line.split(", so nothing").next().unwrap_or(&line))?;
            screen.note("what was applied before stays; it is read again when a file changes")
        }
    }
}

struct DevWorker {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

fn start_worker(context: &Context, pool: &PgPool) -> Result<DevWorker, CliError> {
    let config = &context.config;
    let chimeway: Chimeway = context
        .chimeway()?
        .worker_name(worker::process_name())
        .timing(worker::timing(config))
        .build();
    let mut workers = Workers::new(chimeway, pool.clone());
    for (&queue, &limit) in &config.queues {
        workers = workers.limit(queue, limit);
    }
    let stop = CancellationToken::new();
    let told = stop.clone();
    let task = tokio::spawn(async move { workers.run(told.cancelled_owned()).await });
    Ok(DevWorker { task, stop })
}

/// What is shown while journeys are written.
struct Session<'a> {
    journeys: &'a Path,
    pool: &'a PgPool,
    screen: &'a mut Screen,
    sink: Sink,
    changes: Changes,
    /// Runs that were told of, or were there before.
    told: HashSet<RunId>,
}

impl Session<'_> {
    async fn follow(&mut self, context: &Context) -> Result<(), CliError> {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                mail = self.sink.next() => match mail {
                    Some(mail) => self.screen.mail(&mail)?,
                    None => return Err(CliError::Refused("the mail server ended by itself".into())),
                },
                () = self.changes.next() => {
                    self.screen.heading(&format!("{} changed", self.journeys.display()))?;
                    apply(self.journeys, context, self.screen).await?;
                }
                _ = look.tick() => self.tell_runs().await?,
            }
        }
    }

    /// A run is told of once, with the command that explains it.
    async fn tell_runs(&mut self) -> Result<(), CliError> {
        // A database that is away for a moment is the worker's to complain about.
        let Ok(found) = newest_runs(self.pool).await else {
            return Ok(());
        };
        for run in found.into_iter().rev() {
            if self.told.insert(run.id) {
                self.screen.run(&run)?;
            }
        }
        Ok(())
    }
}

async fn known_runs(pool: &PgPool) -> Result<HashSet<RunId>, CliError> {
    let found = newest_runs(pool).await?;
    Ok(found.into_iter().map(|run| run.id).collect())
}

async fn newest_runs(pool: &PgPool) -> Result<Vec<RunSummary>, CliError> {
    let mut conn = pool.acquire().await?;
    Ok(run_views::list(&mut conn, &RunFilter::default(), RUNS_TOLD).await?)
}
