//! The folder of a cluster: `data/`, `server.log`, and `lock` where it persists.

use std::fs::{File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ClusterError;
use crate::builder::Data;
use crate::guard::{After, Guard};
use crate::owner::Owner;

/// How long a start waits for the guard of a process that has just ended.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// A folder under guard. Dropping it stops whatever still runs in it, and removes a temporary one.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    guard: Guard,
}

impl Folder {
    /// Opens the folder that `data` asks for, or makes it. A temporary one is made in the first
    /// of `temporary_parents` that the server's user can reach.
    pub(crate) fn open(
        data: &Data,
        temporary_parents: &[PathBuf],
        owner: Option<&Owner>,
    ) -> Result<Self, ClusterError> {
        match data {
            Data::Temporary => Self::temporary(temporary_parents, owner),
            Data::Persistent(path) => Self::persistent(path),
        }
    }

    fn temporary(parents: &[PathBuf], owner: Option<&Owner>) -> Result<Self, ClusterError> {
        let mut refused = Err(ClusterError::io("make a temporary folder")(
            std::io::ErrorKind::NotFound.into(),
        ));
        for parent in parents {
            match temporary_in(parent, owner) {
                Ok(folder) => {
                    let path = folder.path().to_owned();
                    let guard = Guard::start(&path, None, After::Remove)?;
                    // From here on the guard removes it.
                    let _ = folder.keep();
                    return Ok(Self { path, guard });
                }
                Err(error) => refused = Err(error),
            }
        }
        refused
    }

    fn persistent(path: &Path) -> Result<Self, ClusterError> {
        let doing = || ClusterError::io(format!("open the folder {}", path.display()));
        std::fs::create_dir_all(path).map_err(doing())?;
        let path = path.canonicalize().map_err(doing())?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(doing())?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => return Err(ClusterError::InUse { path }),
                Err(TryLockError::Error(error)) => return Err(doing()(error)),
            }
        }
        let guard = Guard::start(&path, Some(lock), After::Keep)?;
        Ok(Self { path, guard })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The server's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The server's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    pub(crate) fn guard(&mut self) -> &mut Guard {
        &mut self.guard
    }
}

/// A new folder in `parent`, removed again unless the server's user can reach it.
fn temporary_in(parent: &Path, owner: Option<&Owner>) -> Result<tempfile::TempDir, ClusterError> {
    let doing = || ClusterError::io(format!("make a temporary folder in {}", parent.display()));
    // The folder stays ours, so that the guard can always remove it; the server's user passes
    // through.
    let mode = if owner.is_some() { 0o711 } else { 0o700 };
    let folder = tempfile::Builder::new()
        .prefix("chimeway-")
        .permissions(Permissions::from_mode(mode))
        .tempdir_in(parent)
        .map_err(doing())?;
    if let Some(owner) = owner {
        let probe = folder.path().join("probe");
        make_directory(&probe, Some(owner))?;
        std::fs::remove_dir(&probe).map_err(doing())?;
    }
    Ok(folder)
}

/// Makes a directory that belongs to the server's user alone.
pub(crate) fn make_directory(path: &Path, owner: Option<&Owner>) -> Result<(), ClusterError> {
    let doing = || ClusterError::io(format!("make the folder {}", path.display()));
    std::fs::create_dir(path).map_err(doing())?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(doing())?;
    if let Some(owner) = owner {
        owner.take(path)?;
        if !owner.reaches(path) {
            let user = owner.name().to_owned();
            return Err(ClusterError::Unreachable {
                user,
                path: path.to_owned(),
            });
        }
    }
    Ok(())
}
