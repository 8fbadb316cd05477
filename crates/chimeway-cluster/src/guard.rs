//! The process that stops the server when we no longer can.
//!
//! The guard is a shell that reads a pipe whose only other end is ours. However this process ends,
//! the kernel closes that end; the guard then stops whatever runs in its process group (the server,
//! or `initdb`) and removes a temporary folder. A regular stop takes the same path, so that the
//! clean-up after `kill -9` is the one that every test exercises.
//!
//! - It leads a process group of its own, so that Ctrl-C in a terminal does not take it away.
//! - What it guards joins that group. It signals the group and not a process id that it was told,
//!   because an id may belong to another process by then.
//! - Its standard output is the lock of a persistent folder: the lock lasts until it is done.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::ClusterError;

/// Arguments: the folder, the signal that stops the server, `remove` or `keep`.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
folder=$1 signal=$2 after=$3
server=
while read -r line; do server=$line; done
kill -s "$signal" 0

# The server removes its lock file as the last thing it does.
runs() {
    [ -n "$server" ] && read -r first <"$folder/data/postmaster.pid" && [ "$first" = "$server" ]
}
tries=0
while runs && [ "$tries" -lt 600 ]; do sleep 0.05; tries=$((tries + 1)); done
if runs; then kill -s KILL "$server"; fi

# An initdb that was cut short may still be writing.
if [ "$after" = remove ]; then
    tries=0
    until rm -rf "$folder" || [ "$tries" -ge 100 ]; do sleep 0.05; tries=$((tries + 1)); done
fi
"#;

#[derive(Debug)]
pub(crate) struct Guard {
    process: Child,
    pipe: Option<ChildStdin>,
}

/// What becomes of the folder when the guard is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It was temporary: the server is stopped without ceremony and the folder removed.
    Remove,
    /// It is persistent: the server gets to write a checkpoint.
    Keep,
}

impl Guard {
    pub(crate) fn start(
        folder: &Path,
        lock: Option<File>,
        after: After,
    ) -> Result<Self, ClusterError> {
        let (signal, word) = match after {
            After::Remove => ("QUIT", "remove"),
            After::Keep => ("INT", "keep"),
        };
        let mut process = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "chimeway-cluster-guard"])
            .arg(folder)
            .args([signal, word])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(lock.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::null())
            .spawn()
            .map_err(ClusterError::io("start /bin/sh"))?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }

    /// Makes `command` start in the guarded process group.
    pub(crate) fn enroll(&self, command: &mut Command) {
        command.process_group(self.process.id().cast_signed());
    }

    /// Tells the guard which server to wait for.
    pub(crate) fn watch(&mut self, server: u32) -> Result<(), ClusterError> {
        match &mut self.pipe {
            Some(pipe) => writeln!(pipe, "{server}").map_err(ClusterError::io("tell the guard")),
            None => Ok(()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Closing the pipe sets the guard to work; there is no one to tell if it fails.
        drop(self.pipe.take());
        let _ = self.process.wait();
    }
}
