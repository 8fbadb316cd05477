//! A worker process for tests: its channels write a line per send to a file, and it can be told to
//! crash, panic or pause at the named points of the handlers.
//!
//! ```text
//! chimeway-test-worker --database-url URL --sends FILE [--name NAME] [--queue QUEUE=N]..
//!     [--lease-ms N] [--send-ms N] [--grace-ms N] [--drain-ms N] [--send-delay-ms N] [--pool N]
//!     [--transaction-ms N] [--pooled] [--direct-url URL] [--no-listen] [--allow-write TABLE.COLUMN].. [--failpoint POINT=ACTION]..
//! ```
//!
//! `ACTION` is `abort`, `panic` or `pause:FILE` (until the file exists; each arrival writes a line to
//! `FILE.reached`), with `once:` before it for the first arrival only. Prints `ready` when every queue
//! reaches the database. SIGTERM drains; the end of standard input ends the process at once, so that
//! none outlives its test.

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
    queue::QueueName,
};
use chimeway_database::Database;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

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

/// Writes a line per send, when the send is over: `delivery_id attempt pid`.
struct Sends {
    file: PathBuf,
    delay: Duration,
}

#[async_trait]
impl Channel for Sends {
    fn adapter(&self) -> &'static str {
        "sends"
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        tokio::time::sleep(self.delay).await;
        let (delivery, attempt) = (message.delivery, message.attempt);
        let line = format!("{delivery} {attempt} {}\n", std::process::id());
        append(&self.file, &line).map_err(SendError::temporary)?;
        Ok(Receipt::default())
    }
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr);
    subscriber
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .init();
    let settings = Settings::parse(std::env::args().skip(1))?;
    end_with_standard_input();

    let mut builder = Chimeway::builder()
        .worker_name(settings.name)
        .timing(settings.timing)
        .pooled(settings.pooled)
        .hook(failpoint::hook(settings.failpoints));
    for name in ["in_app", "email"] {
        let (file, delay) = (settings.sends.clone(), settings.send_delay);
        builder = builder.channel(name, Sends { file, delay })?;
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
