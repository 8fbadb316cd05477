//! What a caller is told when a request cannot be done.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chimeway::{FlowError, ids::BadName};

/// Why a request was not done; nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("there is no such thing")]
    NotFound,
    #[error("a name cannot be used")]
    BadName(#[from] BadName),
    #[error("the database did not answer")]
    Database(#[from] sqlx::Error),
    #[error("the journey could not be told")]
    Chimeway(#[from] FlowError),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::BadName(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Database(_) | Self::Chimeway(_) => {
                eprintln!("{self}: {self:?}");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, self.to_string()).into_response()
    }
}
