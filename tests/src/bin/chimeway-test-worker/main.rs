//! A worker process for tests: its channels write a line per send to a file, and it can be told to
//! crash, panic or pause at the named points of the handlers.
//!
//! ```text
//! chimeway-test-worker --database-url URL --sends FILE [--name NAME] [--queue QUEUE=N]..
//!     [--lease-ms N] [--send-ms N] [--grace-ms N] [--drain-ms N] [--send-delay-ms N] [--pool N]
//!     [--transaction-ms N] [--pooled] [--direct-url URL]
//!     [--no-listen] [--allow-write TABLE.COLUMN].. [--failpoint POINT=ACTION]..
//!     [--temporary-percent N] [--abort-for PREFIX] [--hang-for PREFIX]
//! ```
//!
//! `ACTION` is `abort`, `panic` or `pause:FILE` (until the file exists; each arrival writes a line to
//! `FILE.reached`), with `nth:N:` before it for all arrivals from the Nth on, and `once:` before all that for
//! one arrival only. Prints `ready` when every queue reaches the database. SIGTERM drains; the end of standard
//! input ends the process at once, so that none outlives its test.
//!
//! The first try of so many of a hundred deliveries fails, the same ones each time. Handing over a message to a
//! recipient whose name begins so aborts the process, or never ends. A warning of PostgreSQL that says
//! `abort this process` aborts it too: what a trigger says about a row that a worker is in the middle of.

mod detonator;
mod failpoint;

use std::{
    error::Error,
    fs::OpenOptions,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use chimeway::{
    Chimeway,
    channels::{Channel, Message, Receipt, SendError},
    flow::{Timing, Writable, workers::Workers},
    ids::ActorId,
    queue::QueueName,
};
use chimeway_database::Database;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Settings {
    database_url: String,
    /// Past the pooler, to listen.
    direct_url: Option<String>,
    pooled: bool,
    name: String,
    sends: PathBuf,
    send_delay: Duration,
    limits: Vec<(QueueName, usize)>,
    timing: Timing,
    drain: Duration,
    pool: u32,
    listens: bool,
    writable: Vec<Writable>,
    failpoints: Vec<failpoint::Failpoint>,
    moods: Moods,
}

/// Who is sent to in an unusual way.
#[derive(Clone, Default)]
struct Moods {
    temporary_percent: u64,
    abort_for: Option<String>,
    hang_for: Option<String>,
}

impl Settings {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Fallible<Self> {
        let mut settings = Self {
            database_url: String::new(),
            direct_url: None,
            pooled: false,
            name: format!("worker-{}", std::process::id()),
            sends: PathBuf::new(),
            send_delay: Duration::ZERO,
            limits: vec![],
            timing: Timing::default(),
            drain: Duration::from_secs(10),
            pool: 8,
            listens: true,
            writable: vec![],
            failpoints: vec![],
            moods: Moods::default(),
        };
        while let Some(flag) = arguments.next() {
            if flag == "--no-listen" {
                settings.listens = false;
                continue;
            }
            if flag == "--pooled" {
                settings.pooled = true;
                continue;
            }
            let value = arguments.next().ok_or(format!("{flag} needs a value"))?;
            let milliseconds = || value.parse().map(Duration::from_millis);
            match flag.as_str() {
                "--database-url" => settings.database_url = value,
                "--direct-url" => settings.direct_url = Some(value),
                "--transaction-ms" => settings.timing.transaction = milliseconds()?,
                "--name" => settings.name = value,
                "--sends" => settings.sends = value.into(),
                "--send-delay-ms" => settings.send_delay = milliseconds()?,
                "--lease-ms" => settings.timing.lease = milliseconds()?,
                "--send-ms" => settings.timing.send = milliseconds()?,
                "--grace-ms" => settings.timing.grace = milliseconds()?,
                "--drain-ms" => settings.drain = milliseconds()?,
                "--temporary-percent" => settings.moods.temporary_percent = value.parse()?,
                "--abort-for" => settings.moods.abort_for = Some(value),
                "--hang-for" => settings.moods.hang_for = Some(value),
                "--pool" => settings.pool = value.parse()?,
                "--queue" => {
                    let (name, limit) = value.split_once('=').ok_or("--queue QUEUE=N")?;
                    let queue = QueueName::parse(name).ok_or("no such queue")?;
                    settings.limits.push((queue, limit.parse()?));
                }
                "--allow-write" => settings.writable.push(Writable::parse(&value)?),
                "--failpoint" => settings
                    .failpoints
                    .push(failpoint::Failpoint::parse(&value)?),
                _ => return Err(format!("what is {flag}?").into()),
            }
        }
        Ok(settings)
    }
}

/// One write per line: what several processes append does not mix.
fn append(file: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(line.as_bytes())
}

/// Writes a line per send, when the send is over: `delivery_id attempt pid`, and `failed` where it was not taken.
struct Sends {
    file: PathBuf,
    delay: Duration,
    moods: Moods,
}

impl Moods {
    /// Whether this try fails: some first ones do.
    fn fails(&self, message: &Message) -> bool {
        let chance = u64::from_le_bytes(first_eight(message.delivery.0.as_bytes())) % 100;
        message.attempt.0 == 1 && chance < self.temporary_percent
    }
}

/// Of the random end of an id.
fn first_eight(bytes: &[u8; 16]) -> [u8; 8] {
    let mut part = [0; 8];
    part.copy_from_slice(&bytes[8..]);
    part
}

#[async_trait]
impl Channel for Sends {
    fn adapter(&self) -> &'static str {
        "sends"
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        let recipient = message.recipient.as_ref().map_or("", ActorId::as_str);
        let is_for = |prefix: &Option<String>| {
            let prefix = prefix.as_deref();
            prefix.is_some_and(|prefix| recipient.starts_with(prefix))
        };
        if is_for(&self.moods.hang_for) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(self.delay).await;
        if is_for(&self.moods.abort_for) {
            std::process::abort();
        }
        let (delivery, attempt, pid) = (message.delivery, message.attempt, std::process::id());
        let fails = self.moods.fails(message);
        let failed = if fails { " failed" } else { "" };
        let line = format!("{delivery} {attempt} {pid}{failed}\n");
        append(&self.file, &line).map_err(SendError::temporary)?;
        if fails {
            return Err(SendError::temporary("the test said so"));
        }
        Ok(Receipt::default())
    }
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let written = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(tracing_subscriber::filter::LevelFilter::INFO)
        .with(written)
        .with(detonator::Detonator)
        .init();
    let settings = Settings::parse(std::env::args().skip(1))?;
    end_with_standard_input();

    let mut builder = Chimeway::builder()
        .worker_name(settings.name)
        .timing(settings.timing)
        .pooled(settings.pooled)
        .hook(failpoint::hook(settings.failpoints));
    for name in ["in_app", "email"] {
        let sends = Sends {
            file: settings.sends.clone(),
            delay: settings.send_delay,
            moods: settings.moods.clone(),
        };
        builder = builder.channel(name, sends)?;
    }
    for one in settings.writable {
        builder = builder.writable(one);
    }
    let database = Database::new(&settings.database_url)?.pooled(settings.pooled);
    let pool = database.pool(settings.pool);
    let mut workers = Workers::new(builder.build(), pool).grace(settings.drain);
    for (queue, limit) in settings.limits {
        workers = workers.limit(queue, limit);
    }
    match &settings.direct_url {
        _ if !settings.listens => workers = workers.listen(None),
        Some(direct) => workers = workers.listen(Some(Database::new(direct)?.pool(1))),
        None if settings.pooled => workers = workers.listen(None),
        None => {}
    }
    let health = workers.health();
    tokio::spawn(database.follow(workers.health(), CancellationToken::new()));
    tokio::spawn(async move {
        while !health.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("ready");
    });
    let mut terminated = signal(SignalKind::terminate())?;
    workers
        .run(async move {
            terminated.recv().await;
        })
        .await;
    Ok(())
}

fn end_with_standard_input() {
    std::thread::spawn(|| {
        let mut ignored = [0];
        while matches!(std::io::stdin().read(&mut ignored), Ok(1)) {}
        std::process::abort();
    });
}
