//! Who runs the server: we do, unless we are root.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{User, geteuid};

use crate::ClusterError;

/// The unprivileged user that runs the server for root.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    name: String,
    uid: u32,
    gid: u32,
}

impl Owner {
    /// `None` when we are not root: the server then runs as ourselves.
    pub(crate) fn find() -> Result<Option<Self>, ClusterError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(|user| {
                Some(Self {
                    name: user.name,
                    uid: user.uid.as_raw(),
                    gid: user.gid.as_raw(),
                })
            })
            .ok_or(ClusterError::NoUnprivilegedUser)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes `command` run as this user (without our supplementary groups).
    pub(crate) fn run<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.gid(self.gid).uid(self.uid)
    }

    /// Gives `path` to this user.
    pub(crate) fn take(&self, path: &Path) -> Result<(), ClusterError> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).map_err(ClusterError::io(
            format!("give {} to the user {}", path.display(), self.name),
        ))
    }

    /// Whether this user gets to `path` and may write there. Tried, not computed: permissions,
    /// access lists and mounts all have a say.
    pub(crate) fn reaches(&self, path: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"cd "$1" && test -w ."#, "sh"])
            .arg(path)
            .current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.run(&mut command)
            .status()
            .is_ok_and(|status| status.success())
    }
}
