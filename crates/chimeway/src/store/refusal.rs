//! What the server said about a statement, without the values it said it about.
//!
//! PostgreSQL repeats whole rows in the detail of an error, and single values in the message of some.
//! Errors end up in logs, so none of that may leave this module.

use std::{borrow::Cow, error::Error, fmt};

use sqlx::error::{DatabaseError, ErrorKind};

/// Stands in for the driver's own error.
#[derive(Debug)]
struct Refusal {
    code: String,
    message: String,
    constraint: Option<String>,
    table: Option<String>,
}

/// The same error, without values.
pub(super) fn without_values(error: sqlx::Error) -> sqlx::Error {
    let sqlx::Error::Database(said) = error else {
        return error;
    };
    let code = said.code().unwrap_or_default().into_owned();
    // Class 22, data exceptions: `invalid input syntax for type integer: "Ada"`.
    let message = if code.starts_with("22") {
        format!("a value was refused ({code})")
    } else {
        said.message().to_owned()
    };
    sqlx::Error::Database(Box::new(Refusal {
        code,
        message,
        constraint: said.constraint().map(ToOwned::to_owned),
        table: said.table().map(ToOwned::to_owned),
    }))
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Refusal {}

impl DatabaseError for Refusal {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.code))
    }

    fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }

    fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    fn kind(&self) -> ErrorKind {
        match self.code.as_str() {
            "23505" => ErrorKind::UniqueViolation,
            "23503" => ErrorKind::ForeignKeyViolation,
            "23502" => ErrorKind::NotNullViolation,
            "23514" => ErrorKind::CheckViolation,
            "23P01" => ErrorKind::ExclusionViolation,
            _ => ErrorKind::Other,
        }
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }
}
