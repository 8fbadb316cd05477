//! A running cluster.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::builder::{Builder, Data, Durability};
use crate::environment::without_postgres_variables;
use crate::error::ClusterError;
use crate::folder::{Folder, make_directory};
use crate::owner::Owner;
use crate::port;
use crate::programs::Programs;
use crate::server::{Mode, Server, StartError, last_lines};

/// How often another process may take the port that we found free.
const PORT_ATTEMPTS: u32 = 10;

/// A private PostgreSQL server and its data. Dropping it stops the server.
#[derive(Debug)]
pub struct Cluster {
    programs: Programs,
    owner: Option<Owner>,
    durability: Durability,
    settings: Vec<(String, String)>,
    persists: bool,
    port: u16,
    // Declared before the folder: stopped first.
    server: Option<Server>,
    folder: Folder,
}

impl Cluster {
    /// Settings for a new cluster.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(builder: Builder) -> Result<Self, ClusterError> {
        if let Some(name) = builder.database.as_deref().filter(|name| !is_plain(name)) {
            return Err(ClusterError::DatabaseName(name.to_owned()));
        }
        let programs = Programs::find()?;
        let owner = Owner::find()?;
        let folder = Folder::open(&builder.data, &builder.temporary_parents, owner.as_ref())?;
        let mut cluster = Self {
            programs,
            owner,
            durability: builder.durability,
            settings: builder.settings,
            persists: matches!(builder.data, Data::Persistent(_)),
            port: 0,
            server: None,
            folder,
        };
        if !cluster.folder.data().exists() {
            match builder.primary {
                Some(primary) => cluster.copy(primary)?,
                None => cluster.initialize(builder.database.as_deref())?,
            }
        }
        cluster.start_on(builder.port)?;
        Ok(cluster)
    }

    /// Starts the server on `port`, or on one that is free.
    fn start_on(&mut self, port: Option<u16>) -> Result<(), ClusterError> {
        if let Some(port) = port {
            self.port = port;
            return self.start_server();
        }
        let mut attempts = 1;
        loop {
            self.port = port::find_free().ok_or(ClusterError::NoFreePort)?;
            match self.try_start() {
                Err(StartError::PortTaken(_)) if attempts < PORT_ATTEMPTS => attempts += 1,
                result => return Ok(result?),
            }
        }
    }

    /// An empty directory under another name: one that has its name is complete.
    fn unfinished(&self) -> Result<PathBuf, ClusterError> {
        let unfinished = self.folder.path().join("data.new");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished).map_err(ClusterError::io("remove data.new"))?;
        }
        make_directory(&unfinished, self.owner.as_ref())?;
        Ok(unfinished)
    }

    fn finish(&self, unfinished: &Path) -> Result<(), ClusterError> {
        std::fs::rename(unfinished, self.folder.data())
            .map_err(ClusterError::io("name the data directory"))
    }

    /// Makes the data directory of a replica: what the primary has, and where to ask for more.
    fn copy(&mut self, primary: u16) -> Result<(), ClusterError> {
        let unfinished = self.unfinished()?;
        let mut copying = self.command(&self.programs.pg_basebackup(), &unfinished);
        let from = format!("host=127.0.0.1 port={primary} user=postgres sslmode=disable");
        copying.args([
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--wal-method=stream",
        ]);
        copying.arg("--dbname").arg(from);
        copying.arg("--pgdata").arg(&unfinished);
        if self.durability == Durability::OffForTests {
            copying.arg("--no-sync");
        }
        self.run("pg_basebackup", copying)?;
        self.finish(&unfinished)
    }

    /// Makes the data directory.
    fn initialize(&mut self, database: Option<&str>) -> Result<(), ClusterError> {
        let unfinished = self.unfinished()?;
        let mut initdb = self.command(&self.programs.initdb(), &unfinished);
        initdb.args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        initdb.arg("--pgdata").arg(&unfinished);
        if self.durability == Durability::OffForTests {
            initdb.arg("--no-sync");
        }
        self.run("initdb", initdb)?;

        if let Some(name) = database {
            // A server without a network, for one statement: no client program is needed.
            let input = unfinished.join("create-database.sql");
            let doing = || ClusterError::io("write a statement for postgres");
            std::fs::write(&input, format!("create database {name}\n")).map_err(doing())?;
            let mut postgres = self.command(&self.programs.postgres(), &unfinished);
            postgres
                .args(["--single", "-c", "exit_on_error=on", "-D"])
                .arg(&unfinished);
            postgres.arg("postgres");
            postgres.stdin(std::fs::File::open(&input).map_err(doing())?);
            self.run("postgres --single", postgres)?;
            std::fs::remove_file(&input).map_err(doing())?;
        }
        self.finish(&unfinished)
    }

    /// Makes a replica a primary; returns when it can be written to. What its primary did not send it is
    /// forgotten. See that the old one does not run any more: nothing here stops it.
    ///
    /// # Errors
    ///
    /// When it is no replica, or does not run.
    pub fn promote(&mut self) -> Result<(), ClusterError> {
        let data = self.folder.data();
        let mut promoting = self.command(&self.programs.pg_ctl(), &data);
        promoting.args(["promote", "--wait", "--pgdata"]).arg(&data);
        self.run("pg_ctl promote", promoting)
    }

    /// A program of the server's: as its user, without the databases of the machine.
    fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        without_postgres_variables(&mut command);
        command
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir(folder)
            .stdin(Stdio::null());
        if let Some(owner) = &self.owner {
            owner.run(&mut command);
        }
        command
    }

    /// Runs a program to its end, under guard.
    fn run(&mut self, program: &'static str, mut command: Command) -> Result<(), ClusterError> {
        self.folder.guard().enroll(&mut command);
        let output = command
            .output()
            .map_err(ClusterError::io(format!("run {program}")))?;
        if output.status.success() {
            return Ok(());
        }
        let printed = [output.stdout, output.stderr].concat();
        Err(ClusterError::Prepare {
            program,
            output: last_lines(&String::from_utf8_lossy(&printed)),
        })
    }

    /// Starts the server on the same port as before. Does nothing where it runs.
    ///
    /// # Errors
    ///
    /// When it does not start; the error carries the end of its log.
    pub fn start_server(&mut self) -> Result<(), ClusterError> {
        if self.server.as_mut().is_some_and(Server::is_running) {
            return Ok(());
        }
        Ok(self.try_start()?)
    }

    fn try_start(&mut self) -> Result<(), StartError> {
        let data = self.folder.data();
        let mut command = self.command(&self.programs.postgres(), &data);
        command.arg("-D").arg(&data);
        let mut set = |name: &str, value: &str| {
            command.arg("-c").arg(format!("{name}={value}"));
        };
        set("listen_addresses", "127.0.0.1");
        set("port", &self.port.to_string());
        set("unix_socket_directories", "");
        set("timezone", "UTC");
        set("log_timezone", "UTC");
        if self.durability == Durability::OffForTests {
            for name in ["fsync", "synchronous_commit", "full_page_writes"] {
                set(name, "off");
            }
        }
        for (name, value) in &self.settings {
            set(name, value);
        }
        let log = self.folder.log();
        self.server = Some(Server::start(command, &data, &log, self.folder.guard())?);
        Ok(())
    }

    /// Stops the server but keeps its data and its port; [`Cluster::start_server`] starts it again.
    ///
    /// # Errors
    ///
    /// When the process cannot be stopped.
    pub fn stop_server(&mut self, mode: Mode) -> Result<(), ClusterError> {
        if let Some(server) = &mut self.server {
            server.stop(mode)?;
        }
        self.server = None;
        Ok(())
    }

    /// Stops the server, stays down for `pause`, and starts it on the same port.
    ///
    /// # Errors
    ///
    /// When it does not stop or does not start.
    pub fn restart(&mut self, mode: Mode, pause: Duration) -> Result<(), ClusterError> {
        self.stop_server(mode)?;
        std::thread::sleep(pause);
        self.start_server()
    }

    /// Stops the cluster for good, and removes a temporary folder.
    ///
    /// # Errors
    ///
    /// When the process cannot be stopped.
    pub fn stop(mut self, mode: Mode) -> Result<(), ClusterError> {
        self.stop_server(mode)
    }

    /// A URL of one of the cluster's databases, for its superuser. It says that there is no TLS,
    /// because `PGSSLMODE` may ask for it on a machine whose other databases have it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let port = self.port;
        format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// The port on 127.0.0.1; it stays the same when the server restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process, while it runs.
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    /// The folder that holds the data directory and the log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server's log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder.log()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mode = if self.persists {
            Mode::Fast
        } else {
            Mode::Immediate
        };
        // Nobody to tell: the guard, dropped next, stops what is left.
        let _ = self.stop_server(mode);
    }
}

/// A name that needs no quoting.
fn is_plain(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}
