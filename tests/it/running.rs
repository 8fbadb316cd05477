//! The program `chimeway` while it runs: what it prints, and how it ends when it is told.

use std::{
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, ChildStdin, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    programs::{chimeway_at, words},
    support::eventually,
};

/// A running `chimeway`; killed when this is dropped, and it ends when the tests do.
pub(crate) struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: [JoinHandle<()>; 2],
    _stdin: Option<ChildStdin>,
}

impl Running {
    pub(crate) fn worker(url: &str, arguments: &str) -> Self {
        let line = format!("worker --until-stdin-ends {arguments}");
        Self::start(url, line.trim_end())
    }

    pub(crate) fn start(url: &str, line: &str) -> Self {
        Self::of(chimeway_at(url, &words(line)))
    }

    pub(crate) fn of(command: std::process::Command) -> Self {
        let mut command = Command::from(command);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = Arc::default();
        let readers = [
            keep_lines(child.stdout.take().unwrap(), &lines),
            keep_lines(child.stderr.take().unwrap(), &lines),
        ];
        Self {
            _stdin: child.stdin.take(),
            child,
            lines,
            readers,
        }
    }

    /// What it has printed, on both of its streams.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub(crate) async fn prints(&self, text: &str) -> String {
        eventually(text, async || {
            self.lines().into_iter().find(|line| line.contains(text))
        })
        .await
    }

    /// Tells it to end; how it did.
    pub(crate) async fn told(self, signal: Signal) -> (ExitStatus, Vec<String>) {
        self.tell(signal);
        self.ended().await
    }

    pub(crate) fn tell(&self, signal: Signal) {
        // Not waited for yet, so the id is still this process.
        let id = self.child.id().unwrap().cast_signed();
        kill(Pid::from_raw(id), signal).unwrap();
    }

    /// How it ended, and all that it had printed.
    pub(crate) async fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let ended = timeout(Duration::from_secs(30), self.child.wait()).await;
        let status = ended.expect("it ends when it is told").unwrap();
        // What it printed last is still on its way when it has ended.
        for reader in &mut self.readers {
            let read = timeout(Duration::from_secs(30), reader).await;
            read.expect("its streams end with it").unwrap();
        }
        (status, self.lines())
    }
}

fn keep_lines(
    stream: impl AsyncRead + Unpin + Send + 'static,
    lines: &Arc<Mutex<Vec<String>>>,
) -> JoinHandle<()> {
    let (mut stream, lines) = (BufReader::new(stream).lines(), Arc::clone(lines));
    tokio::spawn(async move {
        while let Ok(Some(line)) = stream.next_line().await {
            lines.lock().unwrap().push(line);
        }
    })
}
