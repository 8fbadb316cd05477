//! Worker processes that always end with their test.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

/// How long a worker may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder for what the workers of a test write.
#[derive(Clone)]
pub(crate) struct Desk {
    folder: Arc<TempDir>,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        Self { folder }
    }

    /// A file that a paused failpoint waits for.
    pub(crate) fn gate(&self, name: &str) -> Gate {
        let file = self.folder.path().join(name);
        Gate { file }
    }

    fn sends_file(&self) -> PathBuf {
        self.folder.path().join("sends")
    }

    /// What channels were really given: attempt number and process of each send, by delivery.
    pub(crate) fn sends(&self) -> Sends {
        let text = std::fs::read_to_string(self.sends_file()).unwrap_or_default();
        sends_of(text.lines())
    }

    /// The same without those that the channel refused.
    pub(crate) fn taken(&self) -> Sends {
        let text = std::fs::read_to_string(self.sends_file()).unwrap_or_default();
        let taken = text.lines().filter(|line| !line.ends_with(" failed"));
        sends_of(taken)
    }

    /// A worker that is about to start.
    pub(crate) fn worker(&self, database_url: &str) -> WorkerCommand {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chimeway-test-worker"));
        command.args(["--database-url", database_url, "--sends"]);
        command.arg(self.sends_file());
        WorkerCommand { command }
    }
}

fn sends_of<'a>(lines: impl Iterator<Item = &'a str>) -> Sends {
    let mut sends = Sends::new();
    for line in lines {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap();
        let (delivery, attempt, pid) = (word(), word(), word());
        let send = (attempt.parse().unwrap(), pid.parse().unwrap());
        sends.entry(delivery.to_owned()).or_default().push(send);
    }
    sends
}

/// Attempt number and process of each send, by delivery.
pub(crate) type Sends = HashMap<String, Vec<(i32, u32)>>;

/// Where a failpoint pauses until the test lets it go on.
pub(crate) struct Gate {
    file: PathBuf,
}

impl Gate {
    /// `pause:` this gate's file.
    pub(crate) fn pause(&self) -> String {
        format!("pause:{}", self.file.display())
    }

    pub(crate) fn open(&self) {
        std::fs::write(&self.file, "").unwrap();
    }

    pub(crate) fn close(&self) {
        std::fs::remove_file(&self.file).unwrap();
    }

    /// How often it was reached.
    pub(crate) fn reached(&self) -> usize {
        let file = self.file.with_added_extension("reached");
        std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
    }
}

/// A worker that is about to start.
pub(crate) struct WorkerCommand {
    command: Command,
}

impl WorkerCommand {
    /// A flag and its value.
    pub(crate) fn with(mut self, flag: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(flag).arg(value);
        self
    }

    /// A failpoint: see the worker's own documentation for actions.
    pub(crate) fn failpoint(self, point: &str, action: &str) -> Self {
        self.with("--failpoint", format!("{point}={action}"))
    }

    /// Runs only these queues, at these limits.
    pub(crate) fn only(mut self, queues: &[(&str, usize)]) -> Self {
        for name in [
            "default",
            "chimeway_delivery",
            "chimeway_signals",
            "chimeway_workflows",
        ] {
            let limit = queues.iter().find(|(queue, _)| *queue == name);
            let limit = limit.map_or(0, |(_, limit)| *limit);
            self = self.with("--queue", format!("{name}={limit}"));
        }
        self
    }

    /// Through a pooler in transaction mode.
    pub(crate) fn pooled(mut self) -> Self {
        self.command.arg("--pooled");
        self
    }

    /// Work is found by polling alone.
    pub(crate) fn without_listening(mut self) -> Self {
        self.command.arg("--no-listen");
        self
    }

    /// Leases of a second and a half, for tests in which they end.
    pub(crate) fn with_short_leases(self) -> Self {
        self.with("--lease-ms", "1500")
            .with("--send-ms", "200")
            .with("--grace-ms", "100")
    }

    /// Adds what it says to a file.
    pub(crate) fn log_to(mut self, file: &Path) -> Self {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(file);
        self.command.stderr(file.unwrap());
        self
    }

    /// A variable of its environment.
    pub(crate) fn environment(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it; returns when it reaches the database.
    pub(crate) async fn start(self) -> Worker {
        let mut worker = self.spawn();
        let mut lines = BufReader::new(worker.child.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await;
        let line = line.expect("the worker starts in time").unwrap();
        assert_eq!(line.as_deref(), Some("ready"), "the worker does not start");
        worker
    }

    /// Starts it, whether it reaches the database or not.
    pub(crate) fn spawn(mut self) -> Worker {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = self.command.spawn().unwrap();
        let stdin = child.stdin.take();
        Worker {
            child,
            _stdin: stdin,
        }
    }
}

/// A worker process; killed when this is dropped.
pub(crate) struct Worker {
    child: Child,
    /// The worker ends when this is closed, however the test ends.
    _stdin: Option<ChildStdin>,
}

impl Worker {
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        // Not waited for yet, so the id is still this process.
        let id = self.child.id().expect("it runs").cast_signed();
        kill(Pid::from_raw(id), signal).unwrap();
    }

    /// Waits until SIGTERM would drain it, and not end it as any program: a process that has just begun.
    pub(crate) async fn watches_for_signals(&self) {
        let Some(id) = self.child.id() else { return };
        let watches = || {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let mask = status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:"))?;
            let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
            Some(mask & 1 << (Signal::SIGTERM as i32 - 1) != 0)
        };
        // One that has ended watches for nothing any more.
        while watches() == Some(false) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks it to drain.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Waits for its end, however long that takes.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait())
            .await
            .expect("the worker ends")
            .unwrap()
    }

    /// Drains it, and expects that it ends well.
    pub(crate) async fn stop(mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{status}");
    }
}
