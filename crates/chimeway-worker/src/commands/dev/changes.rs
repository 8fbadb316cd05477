//! When a file of the journeys changes.

use std::{ffi::OsStr, path::Path, time::Duration};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, channel, unbounded_channel};

use crate::error::CliError;

/// An editor writes a file in several steps; this long after the last one it is whole.
const QUIET: Duration = Duration::from_millis(100);

/// A watched folder, with all that is in it.
pub(super) struct Changes {
    changed: Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl Changes {
    pub(super) fn watch(folder: &Path) -> Result<Self, CliError> {
        let bad = |error: notify::Error| {
            CliError::Refused(format!("cannot watch {}: {error}", folder.display()))
        };
        let root = folder
            .canonicalize()
            .map_err(CliError::io(format!("read {}", folder.display())))?;
        let (tell, told) = unbounded_channel();
        let seen_from = root.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let matters = match &event {
                Ok(event) => matters(event, &seen_from),
                // Events were lost: there may have been one.
                Err(_) => true,
            };
            if matters {
                // Nobody listens any more at the end.
                let _ = tell.send(());
            }
        })
        .map_err(bad)?;
        watcher
            .watch(&root, RecursiveMode::Recursive)
            .map_err(bad)?;
        let (settled, changed) = channel(1);
        tokio::spawn(settle(told, settled));
        Ok(Self {
            changed,
            _watcher: watcher,
        })
    }

    /// Waits until there was a change, and its last step is over. Nothing is lost if it is not waited
    /// for to the end.
    pub(super) async fn next(&mut self) {
        if self.changed.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Makes one change of several steps. Ends with the watcher.
async fn settle(mut told: UnboundedReceiver<()>, settled: Sender<()>) {
    while told.recv().await.is_some() {
        while let Ok(Some(())) = tokio::time::timeout(QUIET, told.recv()).await {}
        // Where one is waiting to be taken in, that one comes after this change too.
        let _ = settled.try_send(());
    }
}

fn matters(event: &Event, root: &Path) -> bool {
    let by_us = matches!(event.kind, EventKind::Access(_));
    !by_us && (event.paths.is_empty() || event.paths.iter().any(|path| is_ours(path, root)))
}

/// Not what editors leave beside the files they write.
fn is_ours(path: &Path, root: &Path) -> bool {
    let below = path.strip_prefix(root).unwrap_or(path);
    let mut names = below.iter().map(OsStr::as_encoded_bytes);
    !names.any(|name| name.starts_with(b".") || name.ends_with(b"~") || name == b"4913")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_editors_leave_is_no_change() {
        let root = Path::new("/home/.ada/journeys");
        for (name, ours) in [
            ("welcome.yaml", true),
            ("templates/welcome_email.txt", true),
            (".welcome.yaml.swp", false),
            ("welcome.yaml~", false),
            (".git/index", false),
        ] {
            assert_eq!(is_ours(&root.join(name), root), ours, "{name}");
        }
    }

    #[tokio::test]
    async fn a_change_below_the_folder_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let templates = folder.path().join("templates");
        std::fs::create_dir(&templates).unwrap();
        let mut changes = Changes::watch(folder.path()).unwrap();
        for text in ["one", "two", "three"] {
            std::fs::write(templates.join("a.txt"), text).unwrap();
        }
        let patience = Duration::from_secs(10);
        tokio::time::timeout(patience, changes.next())
            .await
            .unwrap();
        assert!(changes.changed.try_recv().is_err());
    }
}
