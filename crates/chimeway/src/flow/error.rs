//! Why a call was refused: one line that says what and how to mend it.

use uuid::Uuid;

use crate::{
    definition::DefinitionError,
    ids::{BadName, RenderKey, RunId, TenantId, Version, WorkflowKey},
    store::StoreError,
};

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlowError {
    /// Nothing is stored under that key.
    #[error("there is no workflow `{0}`; apply its document with `chimeway workflows apply`")]
    UnknownWorkflow(WorkflowKey),
    /// It starts no runs for now.
    #[error("the workflow `{0}` is paused; resume it with `chimeway workflows resume {0}`")]
    WorkflowPaused(WorkflowKey),
    /// A workflow of that key is in use already.
    #[error("there is a workflow `{0}` already; give it a new version instead")]
    WorkflowExists(WorkflowKey),
    /// The document has mistakes: all of them, in document order.
    #[error("the definition has {}", counted(.0))]
    InvalidDefinition(Vec<DefinitionError>),
    /// A version was given whose stored content is different.
    #[error(
        "workflow_definition_version_conflict: `{key}` version {version} is stored with other steps; \
         give it a new version, or leave the version out"
    )]
    VersionConflict {
        /// Which workflow.
        key: WorkflowKey,
        /// Which version.
        version: Version,
    },
    /// What is stored as a template is none: written by hand, or by a newer version of this program.
    #[error("what is stored as the template `{0}` is none; apply its document again")]
    BrokenTemplate(RenderKey),
    /// Neither recipients nor `params.actor_id` is given.
    #[error("there is no recipient; give recipients, or an `actor_id` in params")]
    NoRecipient,
    /// Not a JSON object, or text that PostgreSQL cannot keep.
    #[error("{what} {problem}")]
    BadJson {
        /// Which value.
        what: &'static str,
        /// What is wrong and how to mend it.
        problem: &'static str,
    },
    /// A name that is blank, too long or holds a control character.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// The same idempotency key began another workflow.
    #[error(
        "the idempotency key was used for the workflow `{first}`; use another key for another workflow"
    )]
    KeyReused {
        /// The workflow it began.
        first: String,
    },
    /// Nothing of that tenant's is stored under that id; another tenant's looks the same.
    #[error("{tenant} has no {what} {id}", tenant = of_tenant(.tenant))]
    NotFound {
        /// run, delivery, notification, signal, definition, step ..
        what: &'static str,
        /// Its id, or its name.
        id: String,
        /// Who asked; `None` where the call takes no tenant.
        tenant: Option<TenantId>,
    },
    /// What was given belongs to another tenant than the one that was named.
    #[error("tenant_mismatch: the {what} {id} is not of the tenant `{tenant}`")]
    TenantMismatch {
        /// What was given.
        what: &'static str,
        /// Its id.
        id: String,
        /// The tenant that was named.
        tenant: TenantId,
    },
    /// A run that has ended is not changed any more.
    #[error("run_not_active: the run {0} has ended")]
    RunEnded(RunId),
    /// A retry of something that needs none, or that can have none.
    #[error("the {subject} {id} is not retried: {why}")]
    NotRetryable {
        /// delivery, run, event or signal.
        subject: String,
        /// Which one.
        id: Uuid,
        /// Why not, and what helps.
        why: String,
    },
    /// The database, or a row in it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn of_tenant(tenant: &Option<TenantId>) -> String {
    match tenant {
        Some(tenant) => format!("the tenant `{tenant}`"),
        None => "the database".to_owned(),
    }
}

fn counted(mistakes: &[DefinitionError]) -> String {
    match mistakes {
        [] => "mistakes".to_owned(),
        [one] => format!("a mistake: {one}"),
        [first, ..] => format!("{} mistakes; the first: {first}", mistakes.len()),
    }
}

impl From<sqlx::Error> for FlowError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl FlowError {
    /// A stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownWorkflow(_) => "unknown_workflow",
            Self::WorkflowPaused(_) => "workflow_paused",
            Self::WorkflowExists(_) => "workflow_exists",
            Self::InvalidDefinition(_) => "invalid_definition",
            Self::VersionConflict { .. } => "workflow_definition_version_conflict",
            Self::BrokenTemplate(_) => "broken_template",
            Self::NoRecipient => "no_recipient",
            Self::BadJson { .. } => "bad_json",
            Self::BadName(_) => "bad_name",
            Self::KeyReused { .. } => "idempotency_key_reused",
            Self::NotFound { .. } => "not_found",
            Self::TenantMismatch { .. } => "tenant_mismatch",
            Self::RunEnded(_) => "run_not_active",
            Self::NotRetryable { .. } => "not_retryable",
            Self::Store(_) => "store",
        }
    }
}
