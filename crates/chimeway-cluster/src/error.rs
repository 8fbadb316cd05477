//! What can go wrong. Each message says what to do about it, where something can be done.

use std::path::PathBuf;

/// Why a cluster did not start, or did not stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// `initdb` and `postgres` are nowhere to be found.
    #[error(
        "the PostgreSQL server programs (initdb, postgres) are not installed: run scripts/setup, \
         or on Debian `apt-get install postgresql`"
    )]
    NotInstalled,

    /// Root needs another user to run the server as.
    #[error("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`")]
    NoUnprivilegedUser,

    /// The user that runs the server cannot reach the data directory.
    #[error("the user `{user}`, who runs the server, cannot reach {}: choose another folder", path.display())]
    Unreachable {
        /// Who runs the server.
        user: String,
        /// The data directory.
        path: PathBuf,
    },

    /// Another process runs a server on this data directory.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The folder that was asked for.
        path: PathBuf,
    },

    /// A database name that would need quoting.
    #[error("`{0}` is no name for a database here: use lower-case letters, digits and `_`")]
    DatabaseName(String),

    /// `initdb`, the creation of the first database, the copy of a primary or a promotion failed.
    #[error("cannot prepare a data directory: {program} failed\n{output}")]
    Prepare {
        /// The program that failed.
        program: &'static str,
        /// The end of what it printed.
        output: String,
    },

    /// The server ended before it accepted a connection.
    #[error("PostgreSQL did not start; the end of its log:\n{log}")]
    Start {
        /// The end of the server's log.
        log: String,
    },

    /// The server runs but does not accept connections.
    #[error("PostgreSQL was not ready after {seconds} seconds; the end of its log:\n{log}")]
    NotReady {
        /// How long we waited.
        seconds: u64,
        /// The end of the server's log.
        log: String,
    },

    /// Not even SIGKILL ended the server.
    #[error("PostgreSQL (process {pid}) does not stop")]
    NotStopped {
        /// The server's process.
        pid: u32,
    },

    /// No port is free.
    #[error("there is no free port on 127.0.0.1 for PostgreSQL")]
    NoFreePort,

    /// The operating system refused something.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What we were about to do.
        doing: String,
        /// The refusal.
        source: std::io::Error,
    },
}

impl ClusterError {
    /// For `map_err`: `ClusterError::io("open the log")`.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            doing: doing.into(),
            source,
        }
    }
}
