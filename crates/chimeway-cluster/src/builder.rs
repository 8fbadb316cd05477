//! What kind of cluster to start.

use std::path::PathBuf;

use crate::{Cluster, ClusterError};

/// Whether a commit survives a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// As PostgreSQL is shipped.
    #[default]
    Full,
    /// `fsync`, `synchronous_commit` and `full_page_writes` off. Faster, and an
    /// [immediate](crate::Mode::Immediate) stop may lose the commits of the last moment: a test
    /// that counts on them after a crash needs [`Durability::Full`].
    OffForTests,
}

/// Where the data lives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Data {
    /// In a folder that is removed when the cluster stops.
    #[default]
    Temporary,
    /// In this folder, made when it is missing, kept for the next start. One process at a time.
    Persistent(PathBuf),
}

/// Settings of a [`Cluster`] to be; [`Builder::start`] starts it.
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) durability: Durability,
    pub(crate) data: Data,
    pub(crate) port: Option<u16>,
    pub(crate) database: Option<String>,
    pub(crate) settings: Vec<(String, String)>,
    /// The port of the server whose replica it is to be.
    pub(crate) primary: Option<u16>,
    pub(crate) temporary_parents: Vec<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            data: Data::default(),
            port: None,
            database: None,
            settings: Vec::new(),
            primary: None,
            // The first may be out of reach for the user that runs the server for root.
            temporary_parents: vec![std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()],
        }
    }
}

impl Builder {
    /// Whether commits survive a crash. They do, unless this says otherwise.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Where the data lives. In a temporary folder, unless this says otherwise.
    #[must_use]
    pub fn data(mut self, data: Data) -> Self {
        self.data = data;
        self
    }

    /// The port to listen on, instead of a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// A database to create along with a new data directory (lower-case letters, digits, `_`).
    #[must_use]
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.database = Some(name.into());
        self
    }

    /// A server setting, as in `postgresql.conf`. It holds for this start only, and wins over ours.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// A replica of the cluster that runs on that port: a copy of its data, to which it streams what it commits
    /// from then on. It accepts connections that read. [`Cluster::promote`] makes it a primary. The copy takes about a
    /// second; [`Builder::database`] does not count.
    #[must_use]
    pub fn replica_of(mut self, primary: u16) -> Self {
        self.primary = Some(primary);
        self
    }

    /// Starts the cluster and waits until it accepts connections. This blocks, for about a second
    /// where the data directory is new.
    ///
    /// # Errors
    ///
    /// When PostgreSQL is not installed or does not start; the error carries the end of its log.
    /// Nothing is left running or lying about then.
    pub fn start(self) -> Result<Cluster, ClusterError> {
        Cluster::start(self)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn folder(mode: u32) -> tempfile::TempDir {
        let permissions = std::fs::Permissions::from_mode(mode);
        tempfile::Builder::new()
            .permissions(permissions)
            .tempdir()
            .unwrap()
    }

    #[test]
    fn a_failed_start_removes_its_temporary_folder() {
        let parent = folder(0o711);
        let temporary_parents = vec![parent.path().to_owned()];
        let builder = Builder {
            temporary_parents,
            ..Builder::default()
        };
        let error = builder.setting("no_such_setting", "1").start().unwrap_err();
        assert!(matches!(error, ClusterError::Start { .. }), "{error}");
        assert!(std::fs::read_dir(parent.path()).unwrap().next().is_none());
    }

    /// Root runs the server as another user, who cannot enter a folder of root's alone.
    #[test]
    fn a_folder_out_of_reach_is_refused_and_another_is_tried() {
        let private = folder(0o700);
        let reachable = folder(0o711);
        let start = |parents: &[&std::path::Path]| {
            let temporary_parents = parents.iter().map(|path| path.to_path_buf()).collect();
            Builder {
                temporary_parents,
                ..Builder::default()
            }
            .start()
        };
        let cluster = start(&[private.path(), reachable.path()]).unwrap();
        let is_root = nix::unistd::geteuid().is_root();
        let expected = if is_root {
            reachable.path()
        } else {
            private.path()
        };
        assert!(cluster.folder().starts_with(expected));
        drop(cluster);
        if is_root {
            let error = start(&[private.path()]).unwrap_err();
            assert!(matches!(error, ClusterError::Unreachable { .. }), "{error}");
        }
        assert!(std::fs::read_dir(private.path()).unwrap().next().is_none());
    }
}
