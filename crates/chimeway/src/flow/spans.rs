//! What is told of runs to whoever follows them as traces: spans, as OpenTelemetry has them.
//!
//! A run is a trace, whose id is the run's: it begins with the trigger and ends with the run. The ids of
//! spans are made of the ids of what they are about. So every process comes to the same ones: no column
//! keeps them, nothing is handed from one process to the next, and what is told twice is told alike.
//!
//! A span is told when it is over and its transaction has committed. What a host moves in a transaction of
//! its own is not told, for whether that commits is not ours to see; what workers make of it is. Times are the database's.
//!
//! Ids, how things ended, and the names that documents have: of workflows, steps, channels and signals.
//! Never a tenant, a recipient, an address or a payload. (`tests/it/otlp.rs`)

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{
    Core,
    definitions::Loaded,
    record::{Attempted, Unsent},
    start::Started,
};
use crate::{
    definition::{Definition, StepIndex, StepKind},
    engine::{DeliveryStatus, Input, Run, RunState},
    ids::{AttemptNumber, DefinitionId, EventId, RunId, Sequence, StepId, Visit},
    store::runs::RunRow,
};

/// Takes spans, to keep them or to send them on.
pub trait SpanSink: Send + Sync + 'static {
    /// Whether it wants those of this run: asked for every piece of work, and the same each time and in
    /// every process.
    fn wants(&self, run: RunId) -> bool;

    /// Takes spans that are over, of one transaction. Workers wait for it: it must be quick and must not
    /// block.
    fn take(&self, spans: Vec<Span>);
}

/// Something that happened to a run, and how long it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which run; its 16 bytes are the id of the trace.
    pub run: RunId,
    /// Unique in the trace.
    pub id: SpanId,
    /// The trigger's, for all but the trigger.
    pub parent: Option<SpanId>,
    /// What it is about.
    pub kind: SpanKind,
    /// What it is called: few different texts.
    pub name: String,
    /// When it began.
    pub began: DateTime<Utc>,
    /// When it was over; not before it began.
    pub ended: DateTime<Utc>,
    /// Whether it failed.
    pub failed: bool,
    /// What else is known of it.
    pub attributes: Vec<(&'static str, SpanValue)>,
}

/// The id of a span; never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(pub [u8; 8]);

/// What a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// The trigger: an instant. All others are its children.
    Trigger,
    /// From the trigger to the transaction that made the run, where a worker did that.
    Expand,
    /// One try to hand a message to its channel.
    Attempt,
    /// A message that was not sent on purpose, found when it was claimed: an instant.
    Suppress,
    /// A wait, from entering to leaving it.
    Wait,
    /// The run, from the trigger to its end.
    Run,
}

/// What is known of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanValue {
    /// An id, or a name.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for SpanValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for SpanValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i32> for SpanValue {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

/// What a claim knows of its run, for the spans of its try.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Origin {
    pub(super) event: Option<EventId>,
    pub(super) definition: Option<DefinitionId>,
    pub(super) step: Option<StepId>,
    /// The instant of the trigger.
    pub(super) started_at: Option<DateTime<Utc>>,
}

impl Core {
    /// Whether spans of the run are to be made.
    pub(super) fn follows(&self, run: RunId) -> bool {
        self.spans.as_ref().is_some_and(|sink| sink.wants(run))
    }
}

impl SpanId {
    fn of(what: &str, id: Uuid, number: i32) -> Self {
        let digest = Sha256::new()
            .chain_update(what)
            .chain_update(id)
            .chain_update(number.to_be_bytes())
            .finalize();
        let mut bytes = [0; 8];
        bytes
            .iter_mut()
            .zip(&digest)
            .for_each(|(to, from)| *to = *from);
        // Zero means that there is none.
        bytes[7] |= u8::from(bytes == [0; 8]);
        Self(bytes)
    }
}

impl SpanKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Trigger => "trigger",
            Self::Expand => "expand",
            Self::Attempt => "send",
            Self::Suppress => "suppress",
            Self::Wait => "wait",
            Self::Run => "run",
        }
    }

    /// The id of the span that is about this, of an id and a number that no other of its kind has.
    fn id(self, of: Uuid, number: i32) -> SpanId {
        SpanId::of(self.word(), of, number)
    }
}

impl Span {
    /// A child of the trigger, called by its kind and a name.
    fn new(
        kind: SpanKind,
        (run, id): (RunId, SpanId),
        (began, ended): (DateTime<Utc>, DateTime<Utc>),
        name: &str,
    ) -> Self {
        let parent = (kind != SpanKind::Trigger).then(|| SpanKind::Trigger.id(run.0, 0));
        Self {
            run,
            id,
            parent,
            kind,
            name: format!("{} {name}", kind.word()),
            began,
            ended: ended.max(began),
            failed: false,
            attributes: vec![("chimeway.run.id", run.to_string().into())],
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<SpanValue>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    fn of_event(self, event: Option<EventId>) -> Self {
        match event {
            Some(event) => self.with("chimeway.event.id", event.to_string()),
            None => self,
        }
    }

    fn of_definition(self, definition: &Definition) -> Self {
        self.with("chimeway.workflow.key", definition.key.as_str())
            .with("chimeway.workflow.version", definition.version.0)
    }

    fn of_step(self, definition: &Definition, step: StepIndex) -> Self {
        let key = definition.step(step).key.as_str();
        self.of_definition(definition)
            .with("chimeway.step.key", key)
    }
}

/// The root, made of what never changes: whoever tells it tells the same.
fn trigger(run: RunId, definition: &Definition, at: DateTime<Utc>) -> Span {
    let id = SpanKind::Trigger.id(run.0, 0);
    let name = definition.key.as_str();
    Span::new(SpanKind::Trigger, (run, id), (at, at), name).of_definition(definition)
}

/// That a worker made runs, of events that were stored without them.
pub(super) fn expanded(core: &Core, started: &[Started], now: DateTime<Utc>) -> Vec<Span> {
    let wanted = started.iter().filter(|one| core.follows(one.run));
    let span = |one: &Started| {
        let id = SpanKind::Expand.id(one.run.0, 0);
        let name = one.definition.key.as_str();
        let span = Span::new(SpanKind::Expand, (one.run, id), (one.at, now), name);
        span.of_definition(&one.definition).of_event(one.event)
    };
    wanted.map(span).collect()
}

/// The tries that were written down, and the messages that were not sent on purpose. The first try of a run
/// tells its trigger too.
///
/// What a claim did not bring is taken from the rows of the runs, as far as they are locked.
pub(super) fn tried<'a>(
    core: &Core,
    tries: impl Iterator<Item = &'a Attempted>,
    rows: &[RunRow],
    definitions: &Loaded,
) -> Vec<Span> {
    let tries: Vec<&Attempted> = tries.filter(|one| core.follows(one.run)).collect();
    if tries.is_empty() {
        return vec![];
    }
    let rows: HashMap<RunId, &RunRow> = rows.iter().map(|row| (row.id, row)).collect();
    let mut spans = vec![];
    for one in tries {
        let origin = origin(one, rows.get(&one.run).copied());
        let definition = origin.definition.and_then(|id| {
            let known = definitions.get(&id).cloned();
            known.or_else(|| core.definitions.known(&[id])?.remove(&id))
        });
        let is_first = (one.visit, one.number) == (Visit(1), AttemptNumber(1));
        if let (true, None, Some(definition), Some(at)) =
            (is_first, one.unsent, &definition, origin.started_at)
        {
            spans.push(trigger(one.run, definition, at));
        }
        spans.extend(of_try(one, origin, definition.as_deref()));
    }
    spans
}

fn origin(one: &Attempted, row: Option<&RunRow>) -> Origin {
    let Some(row) = row else {
        return one.origin;
    };
    let in_step = row.visit == one.visit.0;
    Origin {
        event: one.origin.event,
        definition: one.origin.definition.or(Some(row.workflow_definition_id)),
        step: one.origin.step.or(in_step.then_some(row.current_step_id)),
        started_at: one.origin.started_at.or(Some(row.started_at)),
    }
}

fn of_try(one: &Attempted, origin: Origin, definition: Option<&Definition>) -> Option<Span> {
    let kind = match one.unsent {
        None => SpanKind::Attempt,
        Some(Unsent::Suppressed(_)) => SpanKind::Suppress,
        Some(Unsent::Superseded | Unsent::Delivered) => return None,
    };
    let took = chrono::TimeDelta::from_std(one.took).unwrap_or_default();
    let times = (one.started_at, one.started_at + took);
    let id = kind.id(one.claim.id.0, one.number.0);
    let span = Span::new(kind, (one.run, id), times, &one.channel)
        .with("chimeway.delivery.id", one.claim.id.to_string())
        .with("chimeway.channel", one.channel.as_str())
        .of_event(origin.event);
    let step = definition.and_then(|known| Some((known, known.index_of(origin.step?)?)));
    let span = match step {
        Some((definition, step)) => span.of_step(definition, step),
        None => span,
    };
    if let Some(Unsent::Suppressed(reason)) = one.unsent {
        let span = span.with("chimeway.outcome", "suppressed");
        return Some(span.with("chimeway.reason", reason));
    }
    let (outcome, class) = one.result.as_row();
    let span = span
        .with("chimeway.attempt.number", one.number.0)
        .with("chimeway.outcome", outcome);
    Some(match class {
        None => span,
        Some(class) => Span {
            failed: true,
            ..span.with("error.type", class)
        },
    })
}

/// What is over when an input has moved a run.
pub(super) fn moved(
    before: &Run,
    after: &Run,
    input: &Input,
    (started_at, now): (DateTime<Utc>, DateTime<Utc>),
) -> Vec<Span> {
    let definition = before.definition.as_ref();
    let mut spans = vec![];
    if leaves_its_beginning(before, input) {
        spans.push(trigger(before.id, definition, started_at));
    }
    if let (RunState::Waiting { until, .. }, StepKind::Wait(wait)) =
        (&before.state, &definition.step(before.step).kind)
    {
        // As far back as the wait was to last: when it was entered.
        let times = (*until - wait.duration.to_chrono(), now);
        let id = SpanKind::Wait.id(before.id.0, before.visit.0);
        let name = definition.step(before.step).key.as_str();
        let span = Span::new(SpanKind::Wait, (before.id, id), times, name)
            .of_step(definition, before.step)
            .with("chimeway.outcome", ending(input));
        spans.push(span);
    }
    if let (true, Some(state), Some(reason)) = (
        !before.state.is_terminal(),
        after.state.name(),
        after.state.terminal_reason(),
    ) {
        let id = SpanKind::Run.id(before.id.0, 0);
        let name = definition.key.as_str();
        let span = Span::new(SpanKind::Run, (before.id, id), (started_at, now), name)
            .of_step(definition, after.step)
            .with("chimeway.outcome", state.as_str())
            .with("chimeway.reason", reason.to_string());
        let failed = matches!(after.state, RunState::Failed(_));
        spans.push(Span { failed, ..span });
    }
    spans
}

/// Whether a run moves for the first time, and no try has told its trigger.
fn leaves_its_beginning(before: &Run, input: &Input) -> bool {
    let tried =
        matches!(input, Input::Delivered(result) if result.status != DeliveryStatus::Suppressed);
    // Its first two lines are those it was born with.
    before.visit == Visit(1)
        && before.state == RunState::Active
        && before.sequence <= Sequence(2)
        && !tried
}

/// How a wait ends.
const fn ending(input: &Input) -> &'static str {
    match input {
        Input::Due => "elapsed",
        Input::Signalled { .. } => "signalled",
        Input::Cancelled => "cancelled",
        Input::Moved { .. } => "moved",
        Input::Started
        | Input::Unstartable { .. }
        | Input::Delivered(_)
        | Input::DeliveryMissing
        | Input::Decided { .. }
        | Input::ApprovalMissing
        | Input::Executed(_)
        | Input::Sending => "left",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::fresh;

    /// Processes of different versions tell spans of one trace.
    #[test]
    fn the_id_of_a_span_is_the_same_in_every_process() {
        let run: Uuid = "0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10".parse().unwrap();
        let hex = |id: SpanId| id.0.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex(SpanKind::Trigger.id(run, 0)), "a982b0efd05de137");
        assert_eq!(hex(SpanKind::Attempt.id(run, 1)), "cb6b6460e76cb0fc");
    }

    #[test]
    fn no_two_spans_of_a_run_have_the_same_id() {
        let (run, delivery) = (fresh(), fresh());
        let mut ids: Vec<SpanId> = vec![];
        for kind in [SpanKind::Trigger, SpanKind::Expand, SpanKind::Run] {
            ids.push(kind.id(run, 0));
        }
        for number in 1..=5 {
            ids.push(SpanKind::Wait.id(run, number));
            ids.push(SpanKind::Attempt.id(delivery, number));
            ids.push(SpanKind::Suppress.id(delivery, number));
        }
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
