//! The worker processes that are measured: this program again, each a process of its own.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use super::{ground::Ground, system, worker};
use crate::{config, error::CliError};

/// How long a worker may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);
const LOG_LINES: usize = 20;

/// How many workers, and of what kind.
#[derive(clap::Args, Debug, Clone, Copy)]
pub(super) struct Fleet {
    /// How many worker processes
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) workers: u16,
    /// How many deliveries at a time in each of them, as chimeway_delivery=L
    #[arg(long, value_name = "L", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) limit: u16,
    /// Workers do not listen for NOTIFY, they only look
    #[arg(long)]
    pub(super) no_listen: bool,
}

/// Running workers.
pub(super) struct Workers {
    list: Vec<One>,
    cpu_before: f64,
}

struct One {
    child: Child,
    id: u32,
    log: File,
    /// While this is open the worker runs: it drains when the benchmark is gone, however it went.
    _alive: Option<ChildStdin>,
}

impl Workers {
    /// Starts them, and waits until each is about to begin.
    pub(super) async fn start(ground: &Ground, fleet: Fleet) -> Result<Self, CliError> {
        let mut list = vec![];
        for _ in 0..fleet.workers {
            list.push(One::start(ground, fleet).await?);
        }
        let cpu_before = cpu(&list);
        Ok(Self { list, cpu_before })
    }

    /// Seconds of CPU that they have used since they were ready.
    pub(super) fn cpu_seconds(&self) -> f64 {
        cpu(&self.list) - self.cpu_before
    }

    /// The most memory that one of them has had, in MiB.
    pub(super) fn peak_mib(&self) -> Option<f64> {
        let peaks = self.list.iter().filter_map(|one| system::peak_mib(one.id));
        peaks.reduce(f64::max)
    }

    /// Refuses where one has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), CliError> {
        for one in &mut self.list {
            let ended = one.child.try_wait();
            if let Some(status) = ended.map_err(CliError::io("look at a worker"))? {
                one.show_log();
                return Err(CliError::Refused(format!(
                    "a worker ended by itself ({status}); its log above says why"
                )));
            }
        }
        Ok(())
    }

    /// Lets them drain.
    pub(super) async fn stop(mut self) -> Result<(), CliError> {
        self.check()?;
        for one in &self.list {
            // Not waited for yet, so the id is still this process.
            kill(Pid::from_raw(one.id.cast_signed()), Signal::SIGTERM)
                .map_err(|error| CliError::io("stop a worker")(error.into()))?;
        }
        for one in &mut self.list {
            match timeout(PATIENCE, one.child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => {
                    one.show_log();
                    return Err(CliError::Refused(format!(
                        "a worker ended with {status}; its log above says why"
                    )));
                }
                Ok(Err(error)) => return Err(CliError::io("wait for a worker")(error)),
                Err(_) => {
                    one.show_log();
                    return Err(CliError::Refused(
                        "a worker did not drain in time; its log above says why".into(),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn cpu(list: &[One]) -> f64 {
    list.iter()
        .filter_map(|one| system::cpu_seconds(one.id))
        .sum()
}

impl One {
    async fn start(ground: &Ground, fleet: Fleet) -> Result<Self, CliError> {
        let doing = || CliError::io("start a worker");
        let log = tempfile::tempfile().map_err(doing())?;
        let program = std::env::current_exe().map_err(doing())?;
        let mut command = Command::new(program);
        command.args(["bench", "worker", "--limit", &fleet.limit.to_string()]);
        if fleet.no_listen {
            command.arg("--no-listen");
        }
        // What is measured is the same everywhere. The URL may hold a password: not on the command line.
        for name in config::variables_set() {
            command.env_remove(name);
        }
        command
            .env("DATABASE_URL", &ground.url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().map_err(doing())?)
            // A Ctrl-C is for us alone: we stop the workers.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(doing())?;
        let id = child.id().unwrap_or_default();
        let alive = child.stdin.take();
        let printed = child.stdout.take();
        let mut one = Self {
            child,
            id,
            log,
            _alive: alive,
        };
        let said = async {
            let mut lines = BufReader::new(printed?).lines();
            lines.next_line().await.ok().flatten()
        };
        match timeout(PATIENCE, said).await {
            Ok(Some(line)) if line == worker::READY => Ok(one),
            _ => {
                one.show_log();
                Err(CliError::Refused(
                    "a worker did not start; its log above says why".into(),
                ))
            }
        }
    }

    /// Prints the end of its log, on standard error.
    fn show_log(&mut self) {
        let mut text = String::new();
        let read = self
            .log
            .rewind()
            .and_then(|()| self.log.read_to_string(&mut text));
        if let Err(error) = read {
            text = format!("(it cannot be read: {error})");
        }
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr(), "\nthe end of the worker's log:\n  {tail}\n");
    }
}
