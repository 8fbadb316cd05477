//! `chimeway worker`: the queues, until told to stop.

use std::{
    io::Read as _,
    sync::{Arc, OnceLock},
    time::Duration,
};

use chimeway::{
    channels::AllowedTarget,
    flow::{Timing, Writable, workers::Workers},
    ids::{self, ChannelName},
    queue::QueueName,
    store::schema,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::{
    channels::ChannelSettings,
    config::{self, Config, Layer},
    database::{self, Database},
    error::CliError,
    http::Server,
    otlp, shutdown,
};

/// Send, wait and escalate until told to stop
///
/// Run as many as you like beside each other. The first SIGTERM or SIGINT drains: nothing more is
/// claimed, what has begun is finished. The second one ends at once; what was claimed is then taken
/// over by others when its lease ends.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway worker
  chimeway worker --queue chimeway_delivery=40 --queue default=0
  chimeway worker --http 127.0.0.1:9464    health for probes, metrics for Prometheus, the HTTP API
  chimeway worker --channel email=log      note messages in the log instead of sending them

The queues: chimeway_delivery=20, chimeway_signals=10, chimeway_workflows=5, default=10.")]
pub(crate) struct Args {
    /// How many tasks of a queue run at a time; the other queues keep theirs, 0 does not run it
    #[arg(long, value_name = "NAME=N", value_parser = config::queue_limit)]
    queue: Vec<(QueueName, usize)>,
    /// What carries a channel's messages: email=log
    #[arg(long, value_name = "NAME=ADAPTER", value_parser = config::channel_adapter)]
    channel: Vec<(ChannelName, ChannelSettings)>,
    /// A column that workflows may write: orders.status
    #[arg(long, value_name = "TABLE.COLUMN", value_parser = config::column)]
    allow_write: Vec<Writable>,
    /// A private network or host that may be called where a recipient or a document says so: hooks.internal
    #[arg(long, value_name = "NETWORK|HOST")]
    allow_private: Vec<AllowedTarget>,
    /// Do not listen for NOTIFY, only look (for poolers in transaction mode)
    #[arg(long)]
    no_listen: bool,
    /// Serve health, metrics and the HTTP API there: 127.0.0.1:9464, or a port alone for this machine only
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Drain when standard input ends, as when the process that started this one is gone
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
    /// Take the program for an older one, which knows this version of the schema
    #[arg(long, hide = true)]
    knows_schema: Option<i64>,
}

impl Args {
    /// The settings that these flags give, over those of all commands.
    pub(super) fn layer(&self, everywhere: Layer) -> Layer {
        let queues = self
            .queue
            .iter()
            .map(|&(queue, limit)| (queue.as_str().to_owned(), limit));
        Layer {
            queues: queues.collect(),
            channels: self.channel.iter().cloned().collect(),
            http: self.http.clone(),
            writable: self.allow_write.clone(),
            allow_private: self.allow_private.clone(),
            ..everywhere
        }
    }
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let config = &context.config;
    let database = context.database()?;
    let name = process_name();
    let timing = timing(config);
    let mut builder = context
        .sending_chimeway()?
        .worker_name(&name)
        .timing(timing);
    let mut exporter = None;
    if let Some(otlp) = &config.otlp {
        let (spans, sends) = otlp::start(otlp.whole()?, &name)?;
        builder = builder.spans(spans);
        exporter = Some(sends);
    }
    let chimeway = builder.build();
    let stop = shutdown::watch()?;
    if args.until_stdin_ends {
        stop_when_stdin_ends(stop.clone());
    }
    let pool = database.pool(config.pool_size);
    let mut workers = Workers::new(chimeway.clone(), pool.clone());
    for (&queue, &limit) in &config.queues {
        workers = workers.limit(queue, limit);
    }
    let grace = config.grace.unwrap_or(GRACE);
    workers = workers.grace(grace);
    workers = workers.retention(config.retention.clone());
    let listens = !args.no_listen;
    if !listens {
        workers = workers.listen(None);
    } else if config.pooled || config.direct_url.is_some() {
        let direct = context.direct_database()?;
        if direct.is_none() {
            tracing::info!(
                "without `direct_url` nothing is listened for: work is found by looking"
            );
        }
        workers = workers.listen(direct.map(|direct| direct.pool(1)));
    }
    // It answers while the database is waited for, and to the end of the drain.
    let ended = CancellationToken::new();
    let http = match config.http {
        Some(address) => {
            let server = Server::bind(address).await?;
            chimeway.begin_counting();
            let (draining, ended) = (stop.clone(), ended.clone());
            Some(server.serve(chimeway, workers.health(), &database, draining, ended))
        }
        None => None,
    };
    let knows = args.knows_schema.unwrap_or_else(schema::needed);
    workers = workers.knows_schema(knows);
    let health = workers.health();
    // Where it listens is then another matter.
    let listens_here = listens && config.direct_url.is_none();
    if is_ready(&database, knows, listens_here, &stop).await? {
        tokio::spawn(database.clone().follow(Arc::clone(&health), ended.clone()));
        let queues = limits(config);
        tracing::info!(worker = %name, %queues, "worker {name} runs {queues}");
        let told = Arc::<OnceLock<Instant>>::default();
        let stopped = Arc::clone(&told);
        let stop = async move {
            stop.cancelled_owned().await;
            let _ = stopped.set(Instant::now());
        };
        workers.run(stop).await;
        if let Some(exporter) = exporter {
            let drained = told.get().map(Instant::elapsed).unwrap_or_default();
            exporter
                .finish(FLUSH.min(grace.saturating_sub(drained)))
                .await;
        }
        // Nothing is lost by a connection that does not close in time.
        let _ = tokio::time::timeout(CLOSE, pool.close()).await;
        tracing::info!(worker = %name, "worker {name} stopped");
    }
    ended.cancel();
    if let Some(http) = http {
        // A connection that somebody keeps open is not waited for.
        let _ = tokio::time::timeout(CLOSE, http).await;
    }
    match health.foreign_schema() {
        Some((found, needed)) => Err(CliError::SchemaNew { found, needed }),
        None => Ok(()),
    }
}

/// `chimeway_delivery=20 chimeway_signals=10`
fn limits(config: &Config) -> String {
    let limits = config
        .queues
        .iter()
        .map(|(queue, limit)| format!("{queue}={limit}"));
    limits.collect::<Vec<_>>().join(" ")
}

/// Host, process and a part that no other process has: two containers may share both.
pub(super) fn process_name() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let host = host.unwrap_or_else(|| "host".to_owned());
    let fresh = ids::fresh().simple().to_string();
    // The end of the id is its random part.
    let random = fresh.get(24..).unwrap_or(&fresh);
    format!("{host}-{}-{random}", std::process::id())
}

pub(super) fn timing(config: &Config) -> Timing {
    let usual = Timing::default();
    let usual = Timing {
        transaction: config.transaction.unwrap_or(usual.transaction),
        ..usual
    };
    let Some(lease) = config.lease else {
        return usual;
    };
    // A send ends well before its lease, or another worker would send again.
    Timing {
        lease,
        send: usual.send.min(lease * 2 / 3),
        ..usual
    }
}

/// How long a drain may take, traces included, unless the settings say otherwise.
const GRACE: Duration = Duration::from_secs(25);
/// How long traces may take of that to be sent: nobody waits longer for a collector.
const FLUSH: Duration = Duration::from_secs(5);
/// How long connections may take to close at the end.
const CLOSE: Duration = Duration::from_secs(2);
/// Between two looks at a database that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Waits for the database, and refuses a schema that is not ours; false where we were told to stop
/// before.
async fn is_ready(
    database: &Database,
    knows: i64,
    listens: bool,
    stop: &CancellationToken,
) -> Result<bool, CliError> {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        let looked = tokio::select! {
            looked = database::ready(database, knows, listens) => looked,
            () = stop.cancelled() => return Ok(false),
        };
        match looked {
            Ok(()) => {
                if told {
                    tracing::info!("PostgreSQL at {} is there", database.place());
                }
                return Ok(true);
            }
            Err(error) if database::is_away(&error) => {
                if !told {
                    let reason = error.line();
                    tracing::warn!(error = %reason, "waiting for the database: {reason}");
                }
                told = true;
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            () = stop.cancelled() => return Ok(false),
        }
    }
}

/// A thread of its own: it is not waited for at the end, as a task that reads would be.
pub(super) fn stop_when_stdin_ends(stop: CancellationToken) {
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 64];
        while matches!(stdin.read(&mut ignored), Ok(1..)) {}
        stop.cancel();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_processes_have_the_same_name() {
        let (one, other) = (process_name(), process_name());
        assert_ne!(one, other);
        assert!(one.contains(&format!("-{}-", std::process::id())), "{one}");
    }
}
