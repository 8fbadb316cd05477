//! What can happen to a run.

use super::attempt::DeliveryStatus;
use crate::{
    definition::{StepIndex, step::Outcome},
    ids::{DeliveryId, SignalId, SignalName, Visit},
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
    /// What it means for the workflow.
    pub outcome: Outcome,
    /// What the row says.
    pub status: DeliveryStatus,
}
