//! Why a request is not done: a status, and an envelope that programs and people can read.
//!
//! `{"error": {"code", "message", "details"?}}`, with `details` a list of `{field, rule, message, hint?}`.
//! Codes and statuses are those of Rocket where it has one. What another tenant has is answered as what nobody
//! has, to the byte. A failure of ours tells the caller nothing but that there was one; the log has the rest.

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use chimeway::{
    FlowError,
    definition::DefinitionError,
    store::{StoreError, error::Fault},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::error::causes;

/// Why a request is not done; nothing was written.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Vec<Detail>,
}

/// What is wrong with one part of a request.
#[derive(Debug, Serialize)]
pub(super) struct Detail {
    /// Which part: a JSON pointer into the body, or the name of a parameter.
    field: String,
    /// A stable name of what is wrong, for programs.
    rule: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// What else is known of it.
    #[serde(flatten)]
    facts: Map<String, Value>,
}

impl From<&DefinitionError> for Detail {
    fn from(mistake: &DefinitionError) -> Self {
        Self {
            field: mistake.pointer.clone(),
            rule: mistake.problem.code().to_owned(),
            message: mistake.problem.to_string(),
            hint: mistake.hint.clone(),
            facts: Map::new(),
        }
    }
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            details: vec![],
        }
    }

    fn with(mut self, field: impl Into<String>, rule: &str) -> Self {
        self.details.push(Detail {
            field: field.into(),
            rule: rule.to_owned(),
            message: self.message.clone(),
            hint: None,
            facts: Map::new(),
        });
        self
    }

    /// Tells more of what is wrong, for programs.
    pub(super) fn knowing<const N: usize>(mut self, facts: [(&str, Value); N]) -> Self {
        if let Some(detail) = self.details.first_mut() {
            let facts = facts.map(|(name, value)| (name.to_owned(), value));
            detail.facts.extend(facts);
        }
        self
    }

    /// 400: not JSON, not UTF-8.
    pub(super) fn payload(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_PAYLOAD", message)
    }

    /// 401: no token, or none that opens anything. Which of the two is not told apart.
    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "UNAUTHORIZED",
            "a token is needed: send `Authorization: Bearer TOKEN`; `chimeway tokens create` makes one",
        )
    }

    /// 403: the token does not go that far, whatever is there.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", message)
    }

    /// 404.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    /// 404, for a path that leads nowhere.
    pub(super) fn no_route() -> Self {
        Self::not_found("there is nothing at this path; /api/openapi.json lists what there is")
    }

    /// 405.
    pub(super) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "this path is not asked that way; the header `Allow` says how",
        )
    }

    /// 409.
    pub(super) fn conflict(field: &str, rule: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message).with(field, rule)
    }

    /// 413.
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the body is larger than {} KiB", limit / 1024);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
    }

    /// 415.
    pub(super) fn media_type(expected: &str) -> Self {
        let message = format!("the body is to be {expected}; say so in the header `Content-Type`");
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            message,
        )
    }

    /// 422: read, and not acceptable.
    pub(super) fn invalid(
        field: impl Into<String>,
        rule: &str,
        message: impl Into<String>,
    ) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "VALIDATION_FAILED",
            message,
        )
        .with(field, rule)
    }

    /// 503: it may go well at another time.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    }

    fn mistakes(message: String, mistakes: &[DefinitionError]) -> Self {
        Self {
            details: mistakes.iter().map(Detail::from).collect(),
            ..Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "VALIDATION_FAILED",
                message,
            )
        }
    }

    /// 500. The log has the reason, which holds no value of any row.
    fn failed(error: &dyn std::error::Error) -> Self {
        let reason = causes(error);
        tracing::error!(error = %reason, "a request failed: {reason}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL_ERROR",
            "the request failed, by no fault of yours; the log of the worker says why",
        )
    }
}

impl From<FlowError> for Refusal {
    fn from(error: FlowError) -> Self {
        let message = error.to_string();
        let rule = error.code();
        match error {
            FlowError::UnknownWorkflow(_) | FlowError::NotFound { .. } => Self::not_found(message),
            FlowError::InvalidDefinition(mistakes) => Self::mistakes(message, &mistakes),
            FlowError::WorkflowPaused(_) | FlowError::WorkflowExists(_) => {
                Self::conflict("workflow", rule, message)
            }
            FlowError::VersionConflict { .. } => Self::conflict("/version", rule, message),
            FlowError::KeyReused { .. } => Self::conflict("/idempotency_key", rule, message),
            FlowError::RunEnded(_) | FlowError::NotRetryable { .. } => {
                Self::conflict("id", rule, message)
            }
            FlowError::NoRecipient => Self::invalid("/recipients", rule, message),
            FlowError::Store(error) => error.into(),
            FlowError::BrokenTemplate(_) => Self::failed(&error),
            _ => Self::invalid("", rule, message),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match (error.fault(), error.sqlstate().as_deref()) {
            (Fault::Away, _) => {
                Self::unavailable("the database cannot be reached; try again in a moment")
            }
            // Waited for too long, for a lock or in all.
            (Fault::Conflict, _) | (_, Some("57014")) => {
                Self::unavailable("another session is in the way; try again in a moment")
            }
            (_, Some("3F000" | "42P01" | "42883" | "42703")) => Self::unavailable(
                "the schema of the database is not that of this program; run `chimeway migrate`",
            ),
            _ => Self::failed(&error),
        }
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message });
        if !self.details.is_empty() {
            error["details"] = json!(self.details);
        }
        let mut response = (self.status, Json(json!({ "error": error }))).into_response();
        let header = match self.status {
            StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, "Bearer"),
            StatusCode::SERVICE_UNAVAILABLE => (RETRY_AFTER, "1"),
            _ => return response,
        };
        let (name, value) = header;
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
        response
    }
}
