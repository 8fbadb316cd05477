//! A worker as a process of its own, which is this program once more: for the demo and the benchmarks.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{config, error::CliError};

/// How long it may take to start, and to stop: longer than a worker's own grace.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const LOG_LINES: usize = 20;

/// A worker process. It is killed where this is dropped before it has stopped.
pub(super) struct WorkerChild {
    child: Child,
    id: u32,
    log: File,
    /// While this is open the worker runs: it drains when we are gone, however we went.
    _alive: Option<ChildStdin>,
}

impl WorkerChild {
    /// Starts this program with these arguments, which make it a worker that drains when its standard
    /// input ends. Of our own settings it gets the database only.
    pub(super) fn start<A: AsRef<OsStr>>(
        database_url: &str,
        args: impl IntoIterator<Item = A>,
        stdout: Stdio,
    ) -> Result<Self, CliError> {
        let doing = || CliError::io("start a worker");
        let log = tempfile::tempfile().map_err(doing())?;
        let program = std::env::current_exe().map_err(doing())?;
        let mut command = Command::new(program);
        command.args(args);
        // A demo and a benchmark are the same everywhere.
        for name in config::variables_set() {
            command.env_remove(name);
        }
        command
            // It may hold a password: not on the command line.
            .env("DATABASE_URL", database_url)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(log.try_clone().map_err(doing())?)
            // A Ctrl-C is for us alone: we stop the worker.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(doing())?;
        Ok(Self {
            id: child.id().unwrap_or_default(),
            _alive: child.stdin.take(),
            child,
            log,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// What it prints, once, where it was started with a pipe.
    pub(super) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Refuses where it has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), CliError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(ended_by_itself(status)),
            Err(error) => Err(CliError::io("look at a worker")(error)),
        }
    }

    /// Waits until it ends by itself, which it should not.
    pub(super) async fn ended(&mut self) -> CliError {
        match self.child.wait().await {
            Ok(status) => ended_by_itself(status),
            Err(error) => CliError::io("wait for a worker")(error),
        }
    }

    /// Asks it to drain, where it still runs.
    pub(super) fn drain(&mut self) -> Result<(), CliError> {
        let doing = || CliError::io("stop a worker");
        if self.child.try_wait().map_err(doing())?.is_none() {
            // Not waited for yet, so the id is still this process.
            kill(Pid::from_raw(self.id.cast_signed()), Signal::SIGTERM)
                .map_err(|error| doing()(error.into()))?;
        }
        Ok(())
    }

    /// Waits until it has drained; kills it where that takes too long.
    pub(super) async fn drained(&mut self) -> Result<(), CliError> {
        let doing = || CliError::io("wait for a worker");
        let refused = |what: String| Err(CliError::Refused(what));
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => match status.map_err(doing())? {
                status if status.success() => Ok(()),
                status => refused(format!(
                    "the worker ended with {status}, not with exit code 0; its log above says why"
                )),
            },
            Err(_) => {
                self.child.kill().await.map_err(doing())?;
                refused(format!(
                    "the worker did not drain within {} seconds; its log above says why",
                    PATIENCE.as_secs()
                ))
            }
        }
    }

    /// Prints the end of its log, on standard error.
    pub(super) fn show_log(&mut self) {
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

fn ended_by_itself(status: ExitStatus) -> CliError {
    CliError::Refused(format!(
        "the worker ended by itself ({status}); its log above says why"
    ))
}
