//! Decisions that people make: approve, reject, and what waits for them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Chimeway, Dispatcher, FlowError};
pub use crate::store::approvals::PendingApproval;
use crate::{
    ids::{ActorId, ApprovalId, RunId, TenantId},
    queue::QueueName,
    store::{
        StoreError,
        approvals::{self, DecidedRow},
        settings,
    },
};

/// The longest note in bytes.
const LONGEST_NOTE: usize = 1_000;

/// The calls about approvals; every one that reveals or decides something takes the tenant.
#[derive(Clone)]
pub struct Approvals {
    chimeway: Chimeway,
}

impl Chimeway {
    /// The calls about approvals.
    #[must_use]
    pub fn approvals(&self) -> Approvals {
        Approvals {
            chimeway: self.clone(),
        }
    }
}

/// What became of a decision.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Decided {
    /// It counts: the approval is approved.
    Approved {
        /// Which approval.
        approval: ApprovalId,
    },
    /// It counts: the approval is rejected.
    Rejected {
        /// Which approval.
        approval: ApprovalId,
    },
    /// Somebody was faster, or the time was over.
    AlreadyDecided {
        /// Which approval.
        approval: ApprovalId,
        /// approved, rejected or timed_out.
        decision: String,
        /// Who; `None` where the time was over.
        decided_by: Option<String>,
        /// When.
        decided_at: DateTime<Utc>,
    },
    /// Somebody else is asked.
    NotAllowed {
        /// Which approval.
        approval: ApprovalId,
    },
    /// The run asks nobody for a decision.
    NotPending,
    /// That tenant has no such run.
    NotFound,
}

impl Decided {
    /// In a word, as the SQL functions answer.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Approved { .. } => "approved",
            Self::Rejected { .. } => "rejected",
            Self::AlreadyDecided { .. } => "already_decided",
            Self::NotAllowed { .. } => "not_allowed",
            Self::NotPending => "not_pending",
            Self::NotFound => "not_found",
        }
    }

    fn of(row: &DecidedRow, run: RunId) -> Result<Self, FlowError> {
        let bad = || StoreError::Inconsistent {
            table: "approvals",
            column: "decision",
            row: run.0,
        };
        let approval = || row.approval.ok_or_else(bad);
        Ok(match row.answer.as_str() {
            "approved" => Self::Approved {
                approval: approval()?,
            },
            "rejected" => Self::Rejected {
                approval: approval()?,
            },
            "already_decided" => Self::AlreadyDecided {
                approval: approval()?,
                decision: row.won.clone().ok_or_else(bad)?,
                decided_by: row.won_by.clone(),
                decided_at: row.won_at.ok_or_else(bad)?,
            },
            "not_allowed" => Self::NotAllowed {
                approval: approval()?,
            },
            "not_pending" => Self::NotPending,
            _ => Self::NotFound,
        })
    }
}

/// Which open approvals to list.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Whose; `None`: every tenant's, for operators.
    pub tenant: Option<TenantId>,
    /// What this one may decide, as a user or through a role.
    pub assignee: Option<ActorId>,
    /// Only those opened after this one.
    pub after: Option<ApprovalId>,
    /// At most so many; 50.
    pub limit: i64,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            tenant: None,
            assignee: None,
            after: None,
            limit: 50,
        }
    }
}

impl Approvals {
    /// Approves what a run waits for, in the caller's transaction; once that has committed, a worker moves
    /// the run on. Whether `by` may is looked up in the same step as whether it is still open. Of many who
    /// decide at once one counts; the others wait for it and are told who it was.
    ///
    /// # Errors
    ///
    /// [`FlowError::BadJson`] for an unfit note.
    pub async fn approve(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        run: RunId,
        by: &ActorId,
        note: Option<&str>,
    ) -> Result<Decided, FlowError> {
        self.decide(conn, tenant, run, "approved", by, note).await
    }

    /// Rejects what a run waits for; else as [`approve`](Approvals::approve).
    ///
    /// # Errors
    ///
    /// [`FlowError::BadJson`] for an unfit note.
    pub async fn reject(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        run: RunId,
        by: &ActorId,
        note: Option<&str>,
    ) -> Result<Decided, FlowError> {
        self.decide(conn, tenant, run, "rejected", by, note).await
    }

    async fn decide(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        run: RunId,
        decision: &str,
        by: &ActorId,
        note: Option<&str>,
    ) -> Result<Decided, FlowError> {
        if note.is_some_and(|note| note.len() > LONGEST_NOTE || note.contains('\0')) {
            return Err(FlowError::BadJson {
                what: "the note",
                problem: "is longer than 1000 bytes or holds a NUL character; say it shorter",
            });
        }
        let (tenant, by) = (tenant.as_str(), by.as_str());
        let row = approvals::decide(conn, tenant, run, decision, by, note).await?;
        let won = row.answer == decision;
        let decided = Decided::of(&row, run)?;
        if won && self.chimeway.core().dispatcher == Dispatcher::Queued {
            settings::wake(conn, &[QueueName::Workflows.as_str()]).await?;
        }
        Ok(decided)
    }

    /// Open approvals, the oldest first.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn pending(
        &self,
        conn: &mut PgConnection,
        which: &Pending,
    ) -> Result<Vec<PendingApproval>, FlowError> {
        let tenant = which.tenant.as_ref().map(TenantId::as_str);
        let assignee = which.assignee.as_ref().map(ActorId::as_str);
        Ok(approvals::pending(conn, tenant, assignee, which.after, which.limit).await?)
    }
}
