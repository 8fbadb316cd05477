//! The worker of the demo: a process of its own, as in production.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::NamedTempFile;
use tokio::process::{Child, ChildStdin, Command};

use crate::{config, error::CliError};

/// Longer than a worker's own grace.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const LOG_LINES: usize = 20;

/// A running `chimeway worker`.
pub(super) struct WorkerProcess {
    child: Child,
    id: u32,
    log: File,
    /// Its settings, which it reads as it starts.
    _settings: NamedTempFile,
    /// While this is open the worker runs: it drains when the demo is gone, however it went.
    _alive: Option<ChildStdin>,
}

impl WorkerProcess {
    pub(super) fn start(database_url: &str, mail_port: u16) -> Result<Self, CliError> {
        let doing = || CliError::io("start the worker");
        let log = tempfile::tempfile().map_err(doing())?;
        let settings = settings(mail_port).map_err(doing())?;
        let program = std::env::current_exe().map_err(doing())?;
        let mut command = Command::new(program);
        command.args(["worker", "--until-stdin-ends", "--config"]);
        command.arg(settings.path());
        // A demo is the same everywhere. The URL may hold a password: not on the command line.
        for name in config::variables_set() {
            command.env_remove(name);
        }
        command
            .env("DATABASE_URL", database_url)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log.try_clone().map_err(doing())?)
            // A Ctrl-C is for us alone: we stop the worker.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(doing())?;
        let id = child.id().unwrap_or_default();
        let alive = child.stdin.take();
        Ok(Self {
            child,
            id,
            log,
            _settings: settings,
            _alive: alive,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Waits until the worker ends by itself, which it should not.
    pub(super) async fn ended(&mut self) -> CliError {
        match self.child.wait().await {
            Ok(status) => CliError::Refused(format!(
                "the worker ended by itself ({status}); its log above says why"
            )),
            Err(error) => CliError::io("wait for the worker")(error),
        }
    }

    /// Asks it to drain, and waits until it has.
    pub(super) async fn stop(&mut self) -> Result<(), CliError> {
        let doing = || CliError::io("stop the worker");
        if self.child.try_wait().map_err(doing())?.is_none() {
            // Not waited for yet, so the id is still this process.
            kill(Pid::from_raw(self.id.cast_signed()), Signal::SIGTERM)
                .map_err(|error| doing()(error.into()))?;
        }
        match tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await {
            Ok(status) => expect_success(status.map_err(doing())?),
            Err(_) => {
                self.child.kill().await.map_err(doing())?;
                Err(CliError::Refused(format!(
                    "the worker did not drain within {} seconds; its log above says why",
                    STOP_PATIENCE.as_secs()
                )))
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

/// As in production, but for the server that mail goes to.
fn settings(mail_port: u16) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    write!(
        file,
        r#"[channels.email]
adapter = "smtp"
host = "127.0.0.1"
port = {mail_port}
security = "none"
from = "Chimeway <demo@example.com>"
"#
    )?;
    Ok(file)
}

fn expect_success(status: ExitStatus) -> Result<(), CliError> {
    match status.success() {
        true => Ok(()),
        false => Err(CliError::Refused(format!(
            "the worker ended with {status}, not with exit code 0; its log above says why"
        ))),
    }
}
