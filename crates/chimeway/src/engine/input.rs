//! What can happen to a run.

use std::ops::Range;

use serde_json::{Map, Value};

use super::attempt::DeliveryStatus;
use crate::{
    definition::{StepIndex, step::Outcome},
    ids::{ApprovalId, DeliveryId, SignalId, SignalName, Visit},
};

/// Something that happened to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// It is to begin.
    Started,
    /// A delivery of the run came to a result that a workflow may branch on.
    Delivered(Delivered),
    /// The instant a worker was to look at it has come.
    Due,
    /// Its actor did something.
    Signalled {
        /// Which signal.
        signal: SignalId,
        /// What was done.
        name: SignalName,
        /// The delivery of this run that the signal is about, where it names one.
        delivery: Option<DeliveryId>,
    },
    /// An approval of the run came to a decision, or to the end of its time.
    Decided {
        /// Which approval.
        approval: ApprovalId,
        /// The visit that opened it.
        visit: Visit,
        /// Approved, rejected or timed out.
        outcome: Outcome,
    },
    /// The current step waits for an approval, and there is none: its row is gone.
    ApprovalMissing,
    /// Actions of the current step were performed, or could not be: told next after the decision that they
    /// are to be.
    Executed(Executed),
    /// The current step has a delivery on its way.
    Sending,
    /// Somebody asked for its end.
    Cancelled,
    /// The current step is a message, and there is none: what the step had planned is gone.
    DeliveryMissing,
    /// A host moves the run to another step by hand.
    Moved {
        /// To there.
        to: StepIndex,
    },
}

/// A delivery's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// The visit that made it.
    pub visit: Visit,
    /// The place of its action in the step; 0 for a step that is one message.
    pub action: usize,
    /// What it means for the workflow.
    pub outcome: Outcome,
    /// What the row says.
    pub status: DeliveryStatus,
}

/// What performing actions has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// The visit they belong to.
    pub visit: Visit,
    /// Which of the step's actions they were.
    pub actions: Range<usize>,
    /// What they add to the run's context; or the one that could not be performed, and then none of them
    /// was.
    pub result: Result<Map<String, Value>, ActionFailure>,
}

/// An action that could not be performed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionFailure {
    /// Its place in the step.
    pub action: usize,
    /// Why, in a word: names only, no value. `failed:<code>` is the run's end where the step leads nowhere.
    pub code: String,
}
