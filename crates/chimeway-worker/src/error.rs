//! What a command can end with, sorted by exit code; each is one line that says how to mend it.

use std::{error::Error, fmt::Write as _, io};

use chimeway::{flow::FlowError, store::StoreError};
use chimeway_database::DatabaseError;

use crate::config::ConfigError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Arguments that do not go together; clap refuses the rest.
    #[error("{0}")]
    Usage(String),
    /// What was named is not there, or is another tenant's.
    #[error("{0}")]
    NotFound(String),
    /// Refused or failed, with the whole story in the text.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("no database is named; pass --database-url or set DATABASE_URL")]
    NoDatabaseUrl,
    #[error(
        "the database URL cannot be used: {0}; write postgres://USER:PASSWORD@HOST:PORT/DATABASE"
    )]
    BadDatabaseUrl(String),
    #[error("cannot reach PostgreSQL at {place}: {reason}; start it or pass --database-url")]
    Unreachable { place: String, reason: String },
    #[error("PostgreSQL at {place} refused the connection: {reason}; check the database URL")]
    Rejected { place: String, reason: String },
    #[error(
        "a pooler in transaction mode is between this program and PostgreSQL; pass --pooled \
         (or set `pooled = true`, CHIMEWAY_POOLED=true), or name a direct connection"
    )]
    Pooler,
    #[error("the database has no Chimeway schema; run `chimeway migrate`")]
    SchemaMissing,
    #[error(
        "this database is at version {found}, this program needs {needed}; run `chimeway migrate`"
    )]
    SchemaOld { found: i64, needed: i64 },
    #[error("this database is at version {found}, this program knows {needed}; upgrade chimeway")]
    SchemaNew { found: i64, needed: i64 },
    #[error(transparent)]
    Flow(#[from] FlowError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {doing}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl CliError {
    /// For `map_err`: `CliError::io("read a.yaml")`.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing: doing.into(),
            source,
        }
    }

    /// A run that is not there; another tenant's looks the same.
    pub(crate) fn no_run(run: impl std::fmt::Display, tenant: impl std::fmt::Display) -> Self {
        Self::NotFound(format!(
            "tenant `{tenant}` has no run {run}; `chimeway runs --tenant {tenant}` shows what there is"
        ))
    }

    /// A workflow that is not there.
    pub(crate) fn no_workflow(key: impl std::fmt::Display) -> Self {
        Self::NotFound(format!(
            "there is no workflow `{key}`; `chimeway workflows list` shows what there is"
        ))
    }

    /// What a pooler that nobody told us of does to prepared statements is told as that.
    pub(crate) fn or_of_a_pooler(self) -> Self {
        match self {
            Self::Store(error) | Self::Flow(FlowError::Store(error)) if error.is_of_a_pooler() => {
                Self::Pooler
            }
            other => other,
        }
    }

    /// 1 refused or failed, 2 bad usage, 3 not found.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NotFound(_)
            | Self::Flow(FlowError::UnknownWorkflow(_) | FlowError::NotFound { .. }) => 3,
            _ => 1,
        }
    }

    /// Whether the reader of our output went away.
    pub(crate) fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// With its causes, on one line.
    pub(crate) fn line(&self) -> String {
        one_line(&causes(self))
    }
}

impl From<DatabaseError> for CliError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::BadUrl(problem) => Self::BadDatabaseUrl(problem),
            DatabaseError::Unreachable { place, reason } => Self::Unreachable { place, reason },
            DatabaseError::Rejected { place, reason } => Self::Rejected { place, reason },
            DatabaseError::Store(error) => Self::Store(error),
        }
    }
}

impl From<sqlx::Error> for CliError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// An error with its causes; one that its effect quotes already is not repeated.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let source = io::Error::new(io::ErrorKind::NotFound, "No such\nfile");
        let error = CliError::io("read a.yaml")(source);
        assert_eq!(error.line(), "cannot read a.yaml: No such | file");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn exit_codes_tell_refused_misused_and_missing_apart() {
        assert_eq!(CliError::SchemaMissing.exit_code(), 1);
        assert_eq!(CliError::Usage(String::new()).exit_code(), 2);
        assert_eq!(CliError::no_workflow("k").exit_code(), 3);
    }

    #[test]
    fn only_a_closed_pipe_is_a_reader_that_went_away() {
        let output = |kind: io::ErrorKind| CliError::Output(kind.into());
        assert!(output(io::ErrorKind::BrokenPipe).is_closed_output());
        assert!(!output(io::ErrorKind::StorageFull).is_closed_output());
    }
}
