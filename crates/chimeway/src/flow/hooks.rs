//! Named points of the handlers where tests pause, fail or crash a worker. Nothing is called there
//! outside tests.

use std::sync::Arc;

use futures::future::BoxFuture;

/// A place in the handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// A delivery is claimed, and its handler has not begun.
    Claimed,
    /// The channel is about to be called.
    BeforeSend,
    /// The channel has answered; nothing is recorded.
    AfterSend,
    /// Results are written; their transaction is not committed.
    BeforeRecordCommit,
    /// Results are committed.
    AfterRecordCommit,
    /// Signals are about to be locked.
    BeforeRoute,
    /// Due runs are about to be locked.
    BeforeDue,
    /// A run whose actions are due is locked.
    ActionsLocked,
    /// What its actions are given is read.
    ActionsRead,
    /// An action was performed.
    ActionPerformed,
    /// Actions are performed and their run has moved on; the transaction is not committed.
    BeforeActionsCommit,
    /// That is committed.
    AfterActionsCommit,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Claimed,
        Self::BeforeSend,
        Self::AfterSend,
        Self::BeforeRecordCommit,
        Self::AfterRecordCommit,
        Self::BeforeRoute,
        Self::BeforeDue,
        Self::ActionsLocked,
        Self::ActionsRead,
        Self::ActionPerformed,
        Self::BeforeActionsCommit,
        Self::AfterActionsCommit,
    ];

    /// Its name, as tests write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::BeforeSend => "before_send",
            Self::AfterSend => "after_send",
            Self::BeforeRecordCommit => "before_record_commit",
            Self::AfterRecordCommit => "after_record_commit",
            Self::BeforeRoute => "before_route",
            Self::BeforeDue => "before_due",
            Self::ActionsLocked => "actions_locked",
            Self::ActionsRead => "actions_read",
            Self::ActionPerformed => "action_performed",
            Self::BeforeActionsCommit => "before_actions_commit",
            Self::AfterActionsCommit => "after_actions_commit",
        }
    }
}

/// What is called there.
pub type Hook = Arc<dyn Fn(Point) -> BoxFuture<'static, ()> + Send + Sync>;
