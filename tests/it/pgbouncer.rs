//! A PgBouncer in transaction mode, in front of a test's server; it ends with its test.

use std::{
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use tempfile::TempDir;

use crate::programs::command;

const PATIENCE: Duration = Duration::from_secs(10);

/// A running PgBouncer.
pub(crate) struct PgBouncer {
    folder: TempDir,
    port: u16,
    process: Child,
}

impl PgBouncer {
    /// In front of the server of a URL, with so many connections to it for all clients together.
    pub(crate) fn before(url: &str, connections: u32) -> Self {
        let folder = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        let (_, rest) = url.split_once('@').unwrap();
        let (server, _) = rest.split_once('/').unwrap();
        let (host, server_port) = server.split_once(':').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let settings = format!(
            "[databases]\n\
             * = host={host} port={server_port} user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = {connections}\n\
             max_client_conn = 200\n\
             ignore_startup_parameters = extra_float_digits\n"
        );
        std::fs::write(folder.path().join("pgbouncer.ini"), settings).unwrap();
        let process = start(folder.path(), port);
        Self {
            folder,
            port,
            process,
        }
    }

    /// The URL, through here.
    pub(crate) fn url(&self, url: &str) -> String {
        let (before, rest) = url.split_once('@').unwrap();
        let (_, path) = rest.split_once('/').unwrap();
        format!("{before}@127.0.0.1:{}/{path}", self.port)
    }

    /// Ends at once, with every connection, and begins again.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.process = start(self.folder.path(), self.port);
    }

    fn stop(&mut self) {
        // Not waited for yet, so the id is still this process.
        let id = self.process.id().cast_signed();
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn program() -> PathBuf {
    let debian = Path::new("/usr/sbin/pgbouncer");
    match debian.exists() {
        true => debian.into(),
        false => "pgbouncer".into(),
    }
}

fn start(folder: &Path, port: u16) -> Child {
    let mut pgbouncer: Command = command(program());
    // It refuses to run as root.
    if Uid::effective().is_root() {
        pgbouncer.args(["-u", "nobody"]);
    }
    let log = std::fs::File::create(folder.join("log")).unwrap();
    pgbouncer
        .arg(folder.join("pgbouncer.ini"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let mut process = pgbouncer
        .spawn()
        .unwrap_or_else(|error| panic!("pgbouncer does not start: {error}; run scripts/setup"));
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = process.try_wait().unwrap().is_some();
        if ended || began.elapsed() > PATIENCE {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            panic!("pgbouncer does not start: {log}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    process
}
