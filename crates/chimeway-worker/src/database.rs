//! Reaching PostgreSQL: every refusal becomes a line that says how to mend it and holds no password.

use std::{io, str::FromStr as _, time::Duration};

use chimeway::store::{
    StoreError,
    error::Fault,
    schema::{self, SchemaState},
};
use sqlx::{
    ConnectOptions as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};

use crate::error::CliError;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request from outside waits for a connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A database that has not been connected to yet.
#[derive(Clone)]
pub(crate) struct Database {
    options: PgConnectOptions,
}

impl Database {
    /// Reads the URL.
    ///
    /// # Errors
    ///
    /// [`CliError::NoDatabaseUrl`], [`CliError::BadDatabaseUrl`].
    pub(crate) fn new(url: Option<&str>) -> Result<Self, CliError> {
        let url = url.ok_or(CliError::NoDatabaseUrl)?;
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            return Err(CliError::BadDatabaseUrl(
                "it is not a PostgreSQL URL".into(),
            ));
        }
        let options = PgConnectOptions::from_str(url).map_err(|error| {
            CliError::BadDatabaseUrl(match error {
                sqlx::Error::Configuration(reason) => reason.to_string(),
                other => other.to_string(),
            })
        })?;
        check_root_certificate(url)?;
        Ok(Self {
            options: options.application_name("chimeway"),
        })
    }

    /// Connects, whatever schema there is.
    ///
    /// # Errors
    ///
    /// [`CliError::Unreachable`], [`CliError::Rejected`].
    pub(crate) async fn connect(&self) -> Result<PgConnection, CliError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.options.connect()).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(self.no_connection(error)),
            Err(_) => {
                let reason = format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs());
                Err(CliError::Unreachable {
                    place: self.place(),
                    reason,
                })
            }
        }
    }

    /// Connects to a database whose schema is one for this program.
    ///
    /// # Errors
    ///
    /// As [`Database::connect`], and [`CliError::SchemaMissing`], [`CliError::SchemaOld`],
    /// [`CliError::SchemaNew`].
    pub(crate) async fn open(&self) -> Result<PgConnection, CliError> {
        let mut conn = self.connect().await?;
        check(schema::state(&mut conn).await?)?;
        Ok(conn)
    }

    /// A pool that connects when it is used.
    pub(crate) fn pool(&self, size: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(CONNECT_TIMEOUT)
            // A worker comes back from a lost connection by itself: no need to ask before each use.
            .test_before_acquire(false)
            .connect_lazy_with(self.options.clone())
    }

    /// A pool for requests from outside: it gives up soon, and looks whether a connection is still alive, for
    /// nobody comes back to a request that failed by one that is not.
    pub(crate) fn request_pool(&self, size: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(REQUEST_TIMEOUT)
            .connect_lazy_with(self.options.clone())
    }

    /// The same, for connections that leave nothing in the session of a server that is not theirs alone.
    #[must_use]
    pub(crate) fn without_prepared_statements(self) -> Self {
        Self {
            options: self.options.statement_cache_capacity(0),
        }
    }

    /// The host, or the folder of a socket.
    pub(crate) fn host(&self) -> String {
        match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => self.options.get_host().to_owned(),
        }
    }

    /// Whether a server is refused that cannot show a certificate of its own.
    pub(crate) fn verifies(&self) -> bool {
        matches!(
            self.options.get_ssl_mode(),
            PgSslMode::VerifyCa | PgSslMode::VerifyFull
        )
    }

    /// Where it is, for messages.
    pub(crate) fn place(&self) -> String {
        match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.options.get_host(), self.options.get_port()),
        }
    }

    fn no_connection(&self, error: sqlx::Error) -> CliError {
        let place = self.place();
        match error {
            sqlx::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                CliError::Unreachable {
                    place,
                    reason: "connection refused".into(),
                }
            }
            sqlx::Error::Database(error) => {
                let reason = error.message().to_owned();
                match StoreError::from(sqlx::Error::Database(error)).fault() {
                    Fault::Away => CliError::Unreachable { place, reason },
                    Fault::Conflict | Fault::Data => CliError::Rejected { place, reason },
                }
            }
            error => CliError::Unreachable {
                place,
                reason: error.to_string(),
            },
        }
    }
}

/// What fails later would not say which file it is.
fn check_root_certificate(url: &str) -> Result<(), CliError> {
    const NAMES: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
    let parsed = reqwest::Url::parse(url).ok();
    let pairs = parsed.iter().flat_map(reqwest::Url::query_pairs);
    for (name, path) in pairs.filter(|(name, _)| NAMES.contains(&name.as_ref())) {
        if let Err(error) = std::fs::File::open(path.as_ref()) {
            let problem = format!("the file of `{name}`, {path}, cannot be read: {error}");
            return Err(CliError::BadDatabaseUrl(problem));
        }
    }
    Ok(())
}

/// Whether this program may work with that schema.
///
/// # Errors
///
/// [`CliError::SchemaMissing`], [`CliError::SchemaOld`], [`CliError::SchemaNew`].
pub(crate) fn check(state: SchemaState) -> Result<(), CliError> {
    match state {
        SchemaState::Current | SchemaState::Ahead { .. } => Ok(()),
        SchemaState::Missing => Err(CliError::SchemaMissing),
        SchemaState::Old { found, needed } => Err(CliError::SchemaOld { found, needed }),
        SchemaState::New { found, needed } => Err(CliError::SchemaNew { found, needed }),
    }
}

/// Whether the server is away, so that waiting may help.
pub(crate) fn is_away(error: &CliError) -> bool {
    match error {
        CliError::Unreachable { .. } => true,
        CliError::Store(error) => error.fault() == Fault::Away,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(url: Option<&str>) -> String {
        Database::new(url).err().unwrap().line()
    }

    #[test]
    fn a_bad_url_is_refused_without_printing_it() {
        let missing = problem(None);
        assert!(
            missing.contains("--database-url") && missing.contains("DATABASE_URL"),
            "{missing}"
        );
        for url in [
            "mysql://user:hunter2@localhost/app",
            "postgres://user:hunter2@localhost:port/app",
            "user:hunter2@localhost/app",
            "postgres://user:hunter2@localhost/app?sslmode=perhaps",
        ] {
            let problem = problem(Some(url));
            assert!(
                problem.contains("the database URL cannot be used"),
                "{problem}"
            );
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_named_by_its_place() {
        // Bound and not listening: nobody else has this port, and whoever connects is refused.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let url = format!("postgres://user:hunter2@127.0.0.1:{port}/app");
        let error = Database::new(Some(&url)).unwrap().open().await.unwrap_err();
        let expected = format!(
            "cannot reach PostgreSQL at 127.0.0.1:{port}: connection refused; start it or pass --database-url"
        );
        assert_eq!(error.line(), expected);
        assert!(is_away(&error));
    }

    #[test]
    fn only_a_schema_for_this_program_will_do() {
        assert!(check(SchemaState::Current).is_ok());
        let (found, needed) = (9, 2);
        assert!(check(SchemaState::Ahead { found, needed }).is_ok());
        let line = |state| check(state).unwrap_err().line();
        assert!(line(SchemaState::Missing).contains("chimeway migrate"));
        assert!(
            line(SchemaState::Old {
                found: 1,
                needed: 2
            })
            .contains("chimeway migrate")
        );
        assert_eq!(
            line(SchemaState::New {
                found: 9,
                needed: 2
            }),
            "this database is at version 9, this program knows 2; upgrade chimeway"
        );
    }
}
