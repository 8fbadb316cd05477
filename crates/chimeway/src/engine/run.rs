//! Where a run is.

use std::{borrow::Cow, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::decision::{Decision, Reason, Transition};
use crate::{
    definition::{
        Definition, StepIndex,
        step::{JsonPath, Outcome, StepKind},
    },
    ids::{RunId, Sequence, SignalName, Visit},
};

/// One execution of a definition: what `decide` needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which run.
    pub id: RunId,
    /// The version it follows to its end.
    pub definition: Arc<Definition>,
    /// The step it is in, or ended in.
    pub step: StepIndex,
    /// How many steps it has entered.
    pub visit: Visit,
    /// Its state, with exactly the fields that exist in it.
    pub state: RunState,
    /// Why it is where it is: a [`Reason`], or what a host has said by hand.
    pub status_reason: Cow<'static, str>,
    /// The length of its history.
    pub sequence: Sequence,
    /// What its steps may look into, where that was read: see [`Definition::needs_facts`].
    pub facts: Option<Arc<Facts>>,
    /// Its action step has a delivery on its way.
    pub sent: bool,
}

/// What the steps of a run may look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What its context holds: a JSON object.
    pub context: Value,
    /// What its trigger was given: a JSON object.
    pub params: Value,
}

impl Default for Facts {
    fn default() -> Self {
        let empty = || Value::Object(Map::new());
        Self {
            context: empty(),
            params: empty(),
        }
    }
}

impl Facts {
    /// What stands at that place in the context.
    #[must_use]
    pub fn context_at(&self, path: &JsonPath) -> Option<&Value> {
        let mut names = path.names().iter();
        names.try_fold(&self.context, |value, name| value.get(name))
    }
}

/// The most a run's context may hold, in bytes of JSON.
pub const MAX_CONTEXT: usize = 64 * 1024;

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// In memory only: nothing of it is written yet.
    Born,
    /// A message is on its way, or a step is to be entered by a worker.
    Active,
    /// Suspended.
    Waiting {
        /// When the wait ends by itself.
        until: DateTime<Utc>,
        /// The signals that end it early; without any, no signal does.
        stop_on: Vec<SignalName>,
    },
    /// Suspended: a person is asked for a decision.
    AwaitingApproval {
        /// When nobody can decide any more; `None`: it waits for as long as it takes.
        until: Option<DateTime<Utc>>,
    },
    /// Ended: it came through.
    Completed,
    /// Ended: something made it stop.
    Stopped(TerminalReason),
    /// Ended: it could not go on.
    Failed(TerminalReason),
}

/// The name of a state, as rows keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateName {
    /// See [`RunState::Active`].
    Active,
    /// See [`RunState::Waiting`] and [`RunState::AwaitingApproval`].
    Waiting,
    /// See [`RunState::Completed`].
    Completed,
    /// See [`RunState::Stopped`].
    Stopped,
    /// See [`RunState::Failed`].
    Failed,
}

impl StateName {
    /// All of them, in the order a run meets them.
    pub const ALL: [Self; 5] = [
        Self::Active,
        Self::Waiting,
        Self::Completed,
        Self::Stopped,
        Self::Failed,
    ];

    /// As rows keep it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Waiting => "waiting",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminalReason {
    /// It came through.
    Completed,
    /// This signal met a stop condition.
    StopCondition(SignalName),
    /// A step ended so, and its document says stop.
    Outcome(Outcome),
    /// Somebody ended it by hand.
    Cancelled,
    /// It could not go on: a code.
    Failed(String),
}

impl std::fmt::Display for TerminalReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::StopCondition(signal) => write!(f, "stop_condition:{signal}"),
            Self::Outcome(outcome) => write!(f, "outcome:{outcome}"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Failed(code) => write!(f, "failed:{code}"),
        }
    }
}

impl TerminalReason {
    /// Reads what [`Display`](std::fmt::Display) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "completed" => Some(Self::Completed),
            None if text == "cancelled" => Some(Self::Cancelled),
            Some(("stop_condition", signal)) => {
                SignalName::new(signal).ok().map(Self::StopCondition)
            }
            Some(("outcome", outcome)) => Outcome::parse(outcome).map(Self::Outcome),
            Some(("failed", code)) => Some(Self::Failed(code.to_owned())),
            _ => None,
        }
    }
}

impl RunState {
    /// As rows keep it; null before the first line of history.
    #[must_use]
    pub const fn name(&self) -> Option<StateName> {
        match self {
            Self::Born => None,
            Self::Active => Some(StateName::Active),
            Self::Waiting { .. } | Self::AwaitingApproval { .. } => Some(StateName::Waiting),
            Self::Completed => Some(StateName::Completed),
            Self::Stopped(_) => Some(StateName::Stopped),
            Self::Failed(_) => Some(StateName::Failed),
        }
    }

    /// Why it ended, if it has.
    #[must_use]
    pub fn terminal_reason(&self) -> Option<TerminalReason> {
        match self {
            Self::Born | Self::Active | Self::Waiting { .. } | Self::AwaitingApproval { .. } => {
                None
            }
            Self::Completed => Some(TerminalReason::Completed),
            Self::Stopped(reason) | Self::Failed(reason) => Some(reason.clone()),
        }
    }

    /// Whether it has ended. Nothing moves a run out of such a state.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Stopped(_) | Self::Failed(_))
    }
}

impl Run {
    /// A run of which nothing is written yet.
    #[must_use]
    pub fn born(id: RunId, definition: Arc<Definition>) -> Self {
        Self {
            id,
            definition,
            step: StepIndex::FIRST,
            visit: Visit(0),
            state: RunState::Born,
            status_reason: Reason::WorkflowStarted.as_str().into(),
            sequence: Sequence(0),
            facts: None,
            sent: false,
        }
    }

    /// When a worker is to look at it next, if at all: the end of a wait or of an approval's time, or at
    /// once where a step is to be entered or its actions are to be performed by a worker.
    #[must_use]
    pub fn wake_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.state {
            RunState::Waiting { until, .. } => Some(*until),
            RunState::AwaitingApproval { until } => *until,
            RunState::Active => match self.definition.step(self.step).kind {
                StepKind::Wait(_) | StepKind::Condition(_) | StepKind::Approval(_) => Some(now),
                StepKind::Action(_) => (!self.sent).then_some(now),
                StepKind::Notify(_) | StepKind::Custom(_) => None,
            },
            RunState::Born | RunState::Completed | RunState::Stopped(_) | RunState::Failed(_) => {
                None
            }
        }
    }

    /// The run after these decisions. Only lines of history change it, so that replaying them gives
    /// the same run.
    #[must_use]
    pub fn after(&self, decisions: &[Decision]) -> Self {
        let mut next = self.clone();
        for decision in decisions {
            if let Decision::Transition(transition) = decision {
                next.apply(transition);
            }
        }
        next
    }

    /// Adds to the context; false, and nothing added, where it would hold more than [`MAX_CONTEXT`].
    pub fn remember(&mut self, added: &Map<String, Value>) -> bool {
        let mut facts = self.facts.as_deref().cloned().unwrap_or_default();
        if let Value::Object(context) = &mut facts.context {
            context.extend(added.clone());
        }
        let fits = facts.context.to_string().len() <= MAX_CONTEXT;
        if fits {
            self.facts = Some(Arc::new(facts));
        }
        fits
    }

    /// Adds one line of history.
    pub fn apply(&mut self, transition: &Transition) {
        self.step = transition.step;
        self.visit = transition.visit;
        self.state = transition.to.clone();
        self.sequence = self.sequence.next();
        self.sent = transition.reason == Reason::ActionSent;
        // That a step became current is not why a run is where it is: the line before says that.
        if transition.reason != Reason::StepActivated {
            self.status_reason = transition.reason.as_str().into();
        }
    }
}
