//! Reaching PostgreSQL: every refusal becomes a line that says how to mend it and holds no password.

mod opened;

use chimeway::store::{
    error::Fault,
    schema::{self, SchemaState},
    server, settings,
};
use chimeway_database::CONNECT_TIMEOUT;
pub(crate) use chimeway_database::Database;
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

pub(crate) use opened::{Opened, Unfinished, opened};

use crate::error::CliError;

/// The database that a URL names, if one is named.
///
/// # Errors
///
/// [`CliError::NoDatabaseUrl`], [`CliError::BadDatabaseUrl`].
pub(crate) fn at(url: Option<&str>) -> Result<Database, CliError> {
    Ok(Database::new(url.ok_or(CliError::NoDatabaseUrl)?)?)
}

/// Connects to a database whose schema is one for this program.
///
/// # Errors
///
/// [`CliError::Unreachable`], [`CliError::Rejected`], [`CliError::SchemaMissing`], [`CliError::SchemaOld`],
/// [`CliError::SchemaNew`].
pub(crate) async fn open(database: &Database) -> Result<PgConnection, CliError> {
    let mut conn = database.connect().await?;
    check(schema::state(&mut conn).await?)?;
    Ok(conn)
}

/// Whether a worker can begin: the primary is there, its schema is one for a program that `knows` this version, and
/// whoever `listens` has a session of its own.
///
/// # Errors
///
/// As [`open`]; [`CliError::Pooler`].
pub(crate) async fn ready(database: &Database, knows: i64, listens: bool) -> Result<(), CliError> {
    match timeout(CONNECT_TIMEOUT, look(database, knows, listens)).await {
        Ok(looked) => looked.map_err(CliError::or_of_a_pooler),
        Err(_) => Err(database.silent().into()),
    }
}

async fn look(database: &Database, knows: i64, listens: bool) -> Result<(), CliError> {
    let mut conn = database.primary().await?;
    if database.is_pooled() {
        let mut tx = conn.begin_with(settings::BEGIN_PLAIN_POOLED).await?;
        let state = schema::state_for(&mut tx, knows).await?;
        tx.rollback().await?;
        return check(state);
    }
    check(schema::state_for(&mut conn, knows).await?)?;
    // Two sessions that are one are a pooler's.
    if listens {
        let mut other = database.primary().await?;
        if server::backend(&mut conn).await? == server::backend(&mut other).await? {
            return Err(CliError::Pooler);
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
        at(url).err().unwrap().line()
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
        let error = open(&at(Some(&url)).unwrap()).await.unwrap_err();
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
