//! What a workflow is, once it has been checked: the engine trusts every value here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    action::Action,
    approval::Approval,
    condition::Condition,
    custom::Custom,
    duration::IsoDuration,
    trigger::{Source, StateChange},
};
use crate::ids::{CategoryName, ChannelName, RenderKey, SignalName, StepKey, WorkflowKey};

/// A checked workflow: at least one step, unique step keys, every target exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowPlan {
    /// What it is called.
    pub key: WorkflowKey,
    /// The change of a host's record that starts it, if one does.
    pub trigger: Option<StateChange>,
    /// What a run's context begins with: each name, and where its value is from.
    pub context: BTreeMap<String, Source>,
    /// In order; never empty. A run begins at the first one.
    pub steps: Vec<Step>,
}

impl WorkflowPlan {
    /// The place of a step.
    #[must_use]
    pub fn position(&self, key: &StepKey) -> Option<usize> {
        self.steps.iter().position(|step| step.key == *key)
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is called; unique in its workflow.
    pub key: StepKey,
    /// What it does.
    pub kind: StepKind,
    /// Where the run goes for an outcome; [`Outcome::otherwise`] for those not named.
    pub on_outcome: BTreeMap<Outcome, Target>,
}

impl Step {
    /// Where the run goes when the step ends so. `None`: nowhere; see [`Outcome::otherwise`].
    #[must_use]
    pub fn leads(&self, outcome: Outcome) -> Option<&Target> {
        match self.on_outcome.get(&outcome) {
            Some(target) => Some(target),
            None => outcome.otherwise(),
        }
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepKind {
    /// Sends one message.
    Notify(Notify),
    /// Waits for time to pass or for a signal.
    Wait(Wait),
    /// Goes one way or the other, as an expression says.
    Condition(Condition),
    /// Asks a person for a decision and waits for it.
    Approval(Approval),
    /// Does things, one after the other; never empty.
    Action(Vec<Action>),
    /// What a host has registered.
    Custom(Custom),
}

impl StepKind {
    /// The name people write and rows keep: `notify`, `wait`, a host's own.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Notify(_) => "notify",
            Self::Wait(_) => "wait",
            Self::Condition(_) => "condition",
            Self::Approval(_) => "approval",
            Self::Action(_) => "action",
            Self::Custom(custom) => custom.kind.as_str(),
        }
    }

    /// How a step of this kind can end.
    #[must_use]
    pub const fn outcomes(&self) -> &'static [Outcome] {
        match self {
            Self::Notify(_) => &Outcome::NOTIFY,
            Self::Wait(_) => &Outcome::WAIT,
            Self::Condition(_) => &Outcome::CONDITION,
            Self::Approval(_) => &Outcome::APPROVAL,
            Self::Action(_) | Self::Custom(_) => &Outcome::WORK,
        }
    }
}

/// Sends one message over one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// The channel.
    pub channel: ChannelName,
    /// The content.
    pub render_key: RenderKey,
    /// What kind of message it is, for recipients who do not want that kind. Without one the
    /// trigger's `params.category` counts.
    pub category: Option<CategoryName>,
    /// A fallback: not sent to somebody who has read the notification already.
    pub unless_read: bool,
}

/// Suspends the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// From the moment of entering.
    pub duration: IsoDuration,
    /// Which signals end the wait early. Without any, no signal does.
    pub stop_conditions: Vec<StopCondition>,
}

/// A signal that ends a wait early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopCondition {
    /// The signal.
    pub signal: SignalName,
    /// What must hold of its payload; all of them. Without any, every signal of that name counts.
    pub matches: Vec<Match>,
    /// Where the run goes then; [`Target::Stop`] unless the document says otherwise.
    pub then: Target,
}

/// One comparison of a signal's payload: only the run that it is about reacts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Where in the payload.
    pub payload: JsonPath,
    /// What must stand there. Nothing there never matches.
    pub expected: Expected,
}

/// What a signal's payload is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// What stands at that place in the trigger's params; nothing there never matches.
    Params(JsonPath),
    /// This text, number or boolean.
    Literal(Value),
}

/// A place in a JSON object: names of members, outermost first. Written `order.customer.id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<String>);

impl JsonPath {
    /// Reads `order.customer.id`; `None` where a name is empty or holds a control character.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let names: Vec<String> = text.split('.').map(ToOwned::to_owned).collect();
        let is_name = |name: &String| !name.is_empty() && !name.chars().any(char::is_control);
        (names.iter().all(is_name) && text.len() <= crate::ids::MAX_NAME).then_some(Self(names))
    }

    /// The names, outermost first.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl std::fmt::Display for JsonPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// Where a run goes when it leaves a step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Target {
    /// The step after this one; after the last one the run is completed.
    #[default]
    Next,
    /// The run ends `completed`.
    Complete,
    /// The run ends `stopped`.
    Stop,
    /// The named step.
    Goto(StepKey),
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The channel took the message.
    Delivered,
    /// Nothing was sent, on purpose: a preference, no address.
    Suppressed,
    /// A try failed and will be repeated. Moves the run only where the step names it.
    TemporaryFailure,
    /// Every try failed.
    RetriesExhausted,
    /// The message or the address will never work.
    PermanentFailure,
    /// The address took it and sent it back.
    Bounced,
    /// The time of a wait is over.
    Elapsed,
    /// The expression of a condition holds.
    Met,
    /// It does not hold.
    Unmet,
    /// Whoever was asked has agreed.
    Approved,
    /// Whoever was asked has refused.
    Rejected,
    /// Nobody has decided in time.
    TimedOut,
    /// All was done.
    Succeeded,
    /// Something could not be done.
    Failed,
}

impl Outcome {
    /// Those of a notify step.
    pub const NOTIFY: [Self; 6] = [
        Self::Delivered,
        Self::Suppressed,
        Self::TemporaryFailure,
        Self::RetriesExhausted,
        Self::PermanentFailure,
        Self::Bounced,
    ];
    /// Those of a wait step. A signal is not among them: it follows its stop condition's `then`.
    pub const WAIT: [Self; 1] = [Self::Elapsed];
    /// Those of a condition. One that cannot be told fails the run instead.
    pub const CONDITION: [Self; 2] = [Self::Met, Self::Unmet];
    /// Those of an approval.
    pub const APPROVAL: [Self; 3] = [Self::Approved, Self::Rejected, Self::TimedOut];
    /// Those of an action step and of a host's own kinds.
    pub const WORK: [Self; 2] = [Self::Succeeded, Self::Failed];
    const ALL: [&[Self]; 5] = [
        &Self::NOTIFY,
        &Self::WAIT,
        &Self::CONDITION,
        &Self::APPROVAL,
        &Self::WORK,
    ];

    /// Where a run goes for an outcome that its step does not name: to the next step, as a rule. What
    /// nobody has approved stops. `None` has no such place: a temporary failure moves nothing, for the
    /// message is tried again, and a failed action fails the run.
    #[must_use]
    pub const fn otherwise(self) -> Option<&'static Target> {
        match self {
            Self::Rejected | Self::TimedOut => Some(&Target::Stop),
            Self::TemporaryFailure | Self::Failed => None,
            _ => Some(&Target::Next),
        }
    }

    /// The name people write and rows keep.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Suppressed => "suppressed",
            Self::TemporaryFailure => "temporary_failure",
            Self::RetriesExhausted => "retries_exhausted",
            Self::PermanentFailure => "permanent_failure",
            Self::Bounced => "bounced",
            Self::Elapsed => "elapsed",
            Self::Met => "met",
            Self::Unmet => "unmet",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    /// The outcome of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter().flatten().copied();
        all.find(|outcome| outcome.as_str() == name)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
