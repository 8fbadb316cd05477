//! One running server process.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ClusterError;
use crate::guard::Guard;

/// Crash recovery of a big data directory takes its time.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// A fast stop writes a checkpoint.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
/// How much of the log an error shows.
const LOG_LINES: usize = 20;

/// How a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Disconnects everyone, writes a checkpoint, ends.
    Fast,
    /// Ends at once, as in a crash: the next start recovers.
    Immediate,
}

impl Mode {
    fn signal(self) -> Signal {
        match self {
            Self::Fast => Signal::SIGINT,
            Self::Immediate => Signal::SIGQUIT,
        }
    }
}

/// Why a start failed, for the caller that can choose another port.
pub(crate) enum StartError {
    PortTaken(ClusterError),
    Other(ClusterError),
}

impl From<ClusterError> for StartError {
    fn from(error: ClusterError) -> Self {
        Self::Other(error)
    }
}

impl From<StartError> for ClusterError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::PortTaken(error) | StartError::Other(error) => error,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
}

impl Server {
    /// Runs `command` (a `postgres` that stays in the foreground) and waits until it accepts
    /// connections.
    pub(crate) fn start(
        mut command: Command,
        data: &Path,
        log: &Path,
        guard: &mut Guard,
    ) -> Result<Self, StartError> {
        let doing = || ClusterError::io(format!("write the log {}", log.display()));
        let output = File::options()
            .append(true)
            .create(true)
            .open(log)
            .map_err(doing())?;
        let log_start = output.metadata().map_err(doing())?.len();
        let errors = output.try_clone().map_err(doing())?;
        guard.enroll(&mut command);
        let process = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(ClusterError::io("start postgres"))?;
        // From here on an error drops the server, which stops it.
        let mut server = Self { process };
        guard.watch(server.pid())?;
        let deadline = Instant::now() + START_PATIENCE;
        while !server.is_ready(data) {
            if !server.is_running() {
                let log = tail(log, log_start);
                let port_taken = log.contains("could not bind");
                let error = ClusterError::Start { log };
                return Err(match port_taken {
                    true => StartError::PortTaken(error),
                    false => StartError::Other(error),
                });
            }
            if Instant::now() > deadline {
                let seconds = START_PATIENCE.as_secs();
                return Err(ClusterError::NotReady {
                    seconds,
                    log: tail(log, log_start),
                }
                .into());
            }
            std::thread::sleep(POLL);
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether the process is alive; one that ended is reaped.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// The server writes its state into the eighth line of its lock file. A file that an earlier
    /// server left behind begins with another process id.
    fn is_ready(&self, data: &Path) -> bool {
        let Ok(content) = std::fs::read_to_string(data.join("postmaster.pid")) else {
            return false;
        };
        let mut lines = content.lines();
        lines
            .next()
            .is_some_and(|pid| pid.trim() == self.pid().to_string())
            && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    /// Stops the server as `mode` says, and harder when that takes too long.
    pub(crate) fn stop(&mut self, mode: Mode) -> Result<(), ClusterError> {
        for signal in [mode.signal(), Signal::SIGQUIT, Signal::SIGKILL] {
            if !self.is_running() {
                return Ok(());
            }
            // Not reaped yet, so the id is still this process; it may be gone by a hair.
            let _ = kill(Pid::from_raw(self.pid().cast_signed()), signal);
            let deadline = Instant::now() + STOP_PATIENCE;
            while self.is_running() {
                if Instant::now() > deadline {
                    break;
                }
                std::thread::sleep(POLL);
            }
        }
        match self.is_running() {
            true => Err(ClusterError::NotStopped { pid: self.pid() }),
            false => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop(Mode::Immediate);
    }
}

/// The last lines of the log, from `start` on.
fn tail(log: &Path, start: u64) -> String {
    let read = || {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes)),
        Err::<_, std::io::Error>(error) => format!("(cannot read {}: {error})", log.display()),
    }
}

pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
