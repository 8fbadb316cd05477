//! What we may do about an input.

use std::ops::Range;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::run::{Run, RunState, StateName};
use crate::{
    definition::StepIndex,
    ids::{ActorId, ApprovalId, ChannelName, DeliveryId, RoleName, SignalId, Visit},
};

/// The answer of `decide`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The run moves: all of these are written in one transaction. Never empty.
    Move(Vec<Decision>),
    /// Nothing is written.
    Noop(Noop),
}

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A line of history; what the run's row holds follows from these alone.
    Transition(Transition),
    /// A message to send for this visit.
    Plan {
        /// The step that sends it.
        step: StepIndex,
        /// The visit that made it.
        visit: Visit,
        /// The place of its action in the step; 0 for a step that is one message.
        action: usize,
        /// The channel that carries it.
        channel: ChannelName,
    },
    /// Whatever this run still has to send is not sent.
    CancelUnsent,
    /// A person is asked for a decision. Follows the line that enters the step; that line names it.
    Ask {
        /// The step that asks.
        step: StepIndex,
        /// The visit that asks.
        visit: Visit,
        /// Who may decide.
        assignee: Asked,
        /// When nobody can any more.
        until: Option<DateTime<Utc>>,
    },
    /// The decision that this visit asks for is not needed any more.
    Withdraw,
    /// These actions of the step are to be performed, in the run's own transaction; what comes of it is
    /// told as [`Input::Executed`](super::Input::Executed). In another transaction the run is made due
    /// instead, and comes to the same decision again.
    Execute {
        /// The step they are of.
        step: StepIndex,
        /// The visit they belong to.
        visit: Visit,
        /// Which of the step's actions; none of them is a delivery. Empty where one comes next.
        actions: Range<usize>,
    },
    /// The run's context has these as well from now on.
    Remember(Map<String, Value>),
}

/// Who may decide, once a path is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// This one.
    User(ActorId),
    /// Whoever has this role at the time of the decision.
    Role(RoleName),
}

/// One line of history: structural facts only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The current step after it.
    pub step: StepIndex,
    /// The visit after it.
    pub visit: Visit,
    /// The state before; `None` for the first line.
    pub from: Option<StateName>,
    /// The state after, whole.
    pub to: RunState,
    /// What happened.
    pub reason: Reason,
    /// The delivery that moved the run.
    pub delivery: Option<DeliveryId>,
    /// The signal that moved the run.
    pub signal: Option<SignalId>,
    /// The approval that moved the run.
    pub approval: Option<ApprovalId>,
    /// Structural facts: names of steps, outcomes and signals, instants; never a payload.
    pub context: Map<String, Value>,
}

impl Transition {
    /// A line that stays in the run's step and visit.
    pub(super) fn new(
        run: &Run,
        to: RunState,
        reason: Reason,
        facts: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Self {
        Self {
            step: run.step,
            visit: run.visit,
            from: run.state.name(),
            to,
            reason,
            delivery: None,
            signal: None,
            approval: None,
            context: facts
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    /// The line enters this step.
    pub(super) fn at(mut self, step: StepIndex, visit: Visit) -> Self {
        self.step = step;
        self.visit = visit;
        // Whatever state the run left, entering begins from active.
        self.from = Some(StateName::Active);
        self
    }

    /// This delivery moved the run.
    pub(super) fn by(mut self, delivery: Option<DeliveryId>) -> Self {
        self.delivery = delivery;
        self
    }
}

macro_rules! define_words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As rows keep it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// The one of that name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|word| word.as_str() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use define_words;

define_words! {
    /// What a line of history says.
    Reason {
        /// The run began.
        WorkflowStarted = "workflow_started",
        /// A step became current.
        StepActivated = "step_activated",
        /// A delivery's result moved the run to another step.
        ProgressedOnDeliveryOutcome = "progressed_on_delivery_outcome",
        /// A wait was entered.
        WaitingForStepProgression = "waiting_for_step_progression",
        /// The time of a wait was over.
        ReactivatedFromWait = "reactivated_from_wait",
        /// A signal met a stop condition.
        SignalReceived = "signal_received",
        /// A message that had gone missing was made anew.
        DeliveryPlannedAgain = "delivery_planned_again",
        /// A condition was told.
        ConditionEvaluated = "condition_evaluated",
        /// A person is asked for a decision.
        WaitingForApproval = "waiting_for_approval",
        /// The decision has come, or the end of its time.
        ApprovalDecided = "approval_decided",
        /// Actions of a step were performed.
        ActionsPerformed = "actions_performed",
        /// An action of a step is a message that is on its way.
        ActionSent = "action_sent",
        /// An action of a step could not be performed.
        ActionFailed = "action_failed",
        /// A host moved the run to another step by hand.
        MovedByHost = "moved_by_host",
        /// The run came through.
        WorkflowCompleted = "workflow_completed",
        /// The run could not go on.
        WorkflowFailed = "workflow_failed",
        /// The run was stopped.
        WorkflowStopped = "workflow_stopped",
        /// Somebody ended the run by hand.
        WorkflowCancelled = "workflow_cancelled",
    }
}

define_words! {
    /// Why an input decides nothing.
    Noop {
        /// The run has ended.
        RunNotActive = "run_not_active",
        /// Only its start may come first.
        RunNotStarted = "run_not_started",
        /// It began before.
        AlreadyStarted = "already_started",
        /// The wait is not over yet.
        WaitNotDue = "wait_not_due",
        /// Nothing is due: the message of this step has no result yet.
        DeliveryPending = "delivery_pending",
        /// Nobody has decided yet, and there is still time.
        ApprovalOpen = "approval_open",
        /// The current step sends nothing.
        NoActiveStepDelivery = "no_active_step_delivery",
        /// The run has moved on from that visit.
        Superseded = "superseded",
        /// It is not waiting now; a wait entered later looks for the signal.
        NotWaiting = "not_waiting",
        /// The wait does not listen to that signal.
        NotListening = "not_listening",
        /// The step does not name that outcome, and it is not final.
        NoProgressRules = "no_progress_rules",
    }
}
