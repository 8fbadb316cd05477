//! The only seam that moves a run: rows are locked, what happened is folded through `decide` in order,
//! and the result is written, all set-based.
//!
//! One rule holds for every way in here: before a waiting run is told anything, and whenever a run has
//! entered a wait, the signals it listens to are looked up. Statement 1 locked the runs; the look-up is
//! a later statement, so that it sees what committed while the lock was waited for. A visible signal
//! thereby beats the timer, routed or not, and an early one ends the wait it was too early for.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::{Core, owed::SET_ASIDE};
use crate::{
    definition::StepIndex,
    engine::{
        Decision, Input, Reason, Run, RunState, StateName, TerminalReason, Transition, Verdict,
        attempt::status_reason::SUPERSEDED, decide,
    },
    ids::{DeliveryId, NotificationId, RunId, Sequence, SignalId, SignalName, Visit},
    store::{
        StoreError, StoreResult,
        deliveries::{self, NewDelivery},
        owed,
        runs::{self, RunRow, SavedRun},
        signals::{self, Candidate, Listening},
        transitions::{self, NewTransition},
    },
};

/// After how many inputs one transaction shows a run no more signals: the next one does, at once.
const MOST_STEPS: usize = 32;

/// What a committed transaction made due.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Made {
    /// Runs that were started.
    pub(crate) started: usize,
    /// Runs that moved.
    pub(crate) moved: usize,
    /// Messages to send now.
    pub(crate) planned: usize,
    /// How far away the first run is that is to be looked at.
    pub(crate) next_wake: Option<Duration>,
    /// How far away the first repeated try is.
    pub(crate) next_retry: Option<Duration>,
}

impl Made {
    pub(super) fn wakes_in(&mut self, delay: TimeDelta) {
        let delay = delay.to_std().unwrap_or_default();
        self.next_wake = Some(self.next_wake.map_or(delay, |known| known.min(delay)));
    }

    /// Both.
    pub(super) fn and(self, other: Self) -> Self {
        let least = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        Self {
            started: self.started + other.started,
            moved: self.moved + other.moved,
            planned: self.planned + other.planned,
            next_wake: least(self.next_wake, other.next_wake),
            next_retry: least(self.next_retry, other.next_retry),
        }
    }

    pub(super) fn retries_in(&mut self, delay: Duration) {
        self.next_retry = Some(self.next_retry.map_or(delay, |known| known.min(delay)));
    }
}

/// Whose a run is.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) tenant: String,
    pub(super) actor: String,
    pub(super) notification: Option<NotificationId>,
}

/// What is to be written for a run that moved.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) transitions: Vec<NewTransition>,
    pub(super) deliveries: Vec<NewDelivery>,
    pub(super) cancel_unsent: bool,
    status_context: Value,
}

/// A run on its way through a transaction.
pub(super) struct Moved {
    pub(super) run: Run,
    pub(super) writes: Writes,
    owner: Owner,
}

impl Moved {
    pub(super) fn new(run: Run, owner: Owner) -> Self {
        Self {
            run,
            owner,
            writes: Writes::default(),
        }
    }

    /// Carries decisions out in memory.
    pub(super) fn apply(&mut self, decisions: &[Decision], now: DateTime<Utc>) {
        for decision in decisions {
            match decision {
                Decision::Transition(transition) => {
                    self.run.apply(transition);
                    let line = self.line(transition, now);
                    if transition.reason != Reason::StepActivated {
                        self.writes.status_context = line.context.clone();
                    }
                    self.writes.transitions.push(line);
                }
                Decision::Plan {
                    step,
                    visit,
                    channel,
                } => {
                    self.writes.deliveries.push(NewDelivery {
                        id: DeliveryId::fresh(),
                        run: self.run.id,
                        step: self.run.definition.step_id(*step),
                        visit: *visit,
                        notification: self.owner.notification,
                        tenant: self.owner.tenant.clone(),
                        channel: channel.as_str().to_owned(),
                        due: now,
                    });
                }
                Decision::CancelUnsent => self.writes.cancel_unsent = true,
            }
        }
    }

    fn line(&self, transition: &Transition, now: DateTime<Utc>) -> NewTransition {
        NewTransition {
            run: self.run.id,
            step: self.run.definition.step_id(transition.step),
            delivery: transition.delivery,
            signal: transition.signal,
            sequence: self.run.sequence,
            visit: transition.visit,
            from: transition.from.map(StateName::as_str),
            to: transition.to.name().map_or("active", StateName::as_str),
            reason: transition.reason.as_str(),
            context: Value::Object(transition.context.clone()),
            at: now,
        }
    }

    /// The run's row now.
    pub(super) fn row(&self, now: DateTime<Utc>) -> SavedRun {
        let (suspended_until, pending_signals) = match &self.run.state {
            RunState::Waiting { until, stop_on } => (
                Some(*until),
                stop_on.iter().map(ToString::to_string).collect(),
            ),
            _ => (None, vec![]),
        };
        let context = &self.writes.status_context;
        SavedRun {
            id: self.run.id,
            step: self.run.definition.step_id(self.run.step),
            visit: self.run.visit,
            state: self.run.state.name().map_or("active", StateName::as_str),
            status_reason: self.run.status_reason.as_str(),
            status_context: if context.is_null() {
                Value::Object(Default::default())
            } else {
                context.clone()
            },
            suspended_until,
            wake_at: self.run.wake_at(now),
            pending_signals,
            terminal_reason: self
                .run
                .state
                .terminal_reason()
                .map(|reason| reason.to_string()),
            sequence: self.run.sequence,
            at: now,
        }
    }
}

/// A locked run and what it is to be told.
struct Locked {
    moved: Moved,
    started_at: DateTime<Utc>,
    now: DateTime<Utc>,
    inputs: VecDeque<Input>,
    /// The visit whose signals have been looked up.
    looked_up: Option<Visit>,
    /// The waits it has left in this transaction, and the signals that have acted on it: no row says
    /// so yet, and a loop may lead it back.
    left: HashSet<StepIndex>,
    heard: Vec<SignalId>,
    told: usize,
    /// It was due: its row is written even if nothing happened, or it would be due for ever.
    was_due: bool,
}

impl Locked {
    /// The wait it is in, unless its signals have been looked up.
    fn waits(&self) -> Option<&[SignalName]> {
        match &self.moved.run.state {
            RunState::Waiting { stop_on, .. }
                if !stop_on.is_empty() && self.looked_up != Some(self.moved.run.visit) =>
            {
                Some(stop_on)
            }
            _ => None,
        }
    }

    fn listening(&self) -> impl Iterator<Item = Listening> {
        let run = &self.moved.run;
        let owner = &self.moved.owner;
        let since = if self.left.contains(&run.step) {
            self.now
        } else {
            self.started_at
        };
        self.waits()
            .unwrap_or_default()
            .iter()
            .map(move |name| Listening {
                run: run.id,
                tenant: owner.tenant.clone(),
                actor: owner.actor.clone(),
                notification: owner.notification,
                step: run.definition.step_id(run.step),
                name: name.as_str().to_owned(),
                since,
            })
    }

    fn acted(&self) -> impl Iterator<Item = Candidate> {
        let run = self.moved.run.id;
        let heard = self.waits().map_or(&[][..], |_| &self.heard);
        heard.iter().map(move |&signal| Candidate { signal, run })
    }

    fn tell(&mut self, input: &Input) {
        self.told += 1;
        let Verdict::Move(decisions) = decide(&self.moved.run, input, self.now) else {
            return;
        };
        if matches!(self.moved.run.state, RunState::Waiting { .. }) {
            self.left.insert(self.moved.run.step);
        }
        if let Input::Signalled { signal, .. } = input {
            self.heard.push(*signal);
        }
        self.moved.apply(&decisions, self.now);
    }
}

/// Tells locked runs what happened, looks up the signals they listen to, and writes where they are
/// then. Runs without an input are shown the signals alone.
///
/// A row that does not decode is set aside by itself.
pub(super) async fn advance(
    core: &Core,
    conn: &mut PgConnection,
    rows: Vec<RunRow>,
    mut inputs: HashMap<RunId, VecDeque<Input>>,
) -> StoreResult<Made> {
    let definitions = core
        .definitions
        .get(conn, rows.iter().map(|row| row.workflow_definition_id))
        .await?;
    let mut locked = Vec::with_capacity(rows.len());
    let (mut undecodable, mut untold) = (vec![], vec![]);
    for row in rows {
        let definition = definitions.get(&row.workflow_definition_id).cloned();
        match decode(&row, definition) {
            Ok(run) => {
                let inputs = inputs.remove(&row.id).unwrap_or_default();
                let was_due = inputs.contains(&Input::Due);
                let owner = Owner {
                    tenant: row.tenant_id,
                    actor: row.actor_id,
                    notification: row.notification_id,
                };
                let (started_at, now) = (row.started_at, row.now);
                let moved = Moved::new(run, owner);
                locked.push(Locked {
                    moved,
                    started_at,
                    now,
                    inputs,
                    looked_up: None,
                    left: HashSet::new(),
                    heard: vec![],
                    told: 0,
                    was_due,
                });
            }
            Err(error) => {
                tracing::error!(run.id = %row.id, %error, "a run is set aside");
                undecodable.push(row.id);
                let inputs = inputs.remove(&row.id).unwrap_or_default();
                untold.extend(inputs.into_iter().filter_map(|input| match input {
                    Input::Delivered(result) => Some(result.delivery),
                    // Rows say these again: the signal's, and the run's own.
                    _ => None,
                }));
            }
        }
    }
    runs::fail(conn, &undecodable, "does_not_decode").await?;
    owed::owe(conn, &untold, SET_ASIDE).await?;

    // A round asks once for all runs that wait, then tells each run one thing: the number of rounds
    // follows the longest chain of one run, not the number of runs.
    loop {
        let waits: Vec<Listening> = locked.iter().flat_map(Locked::listening).collect();
        let acted: Vec<Candidate> = locked.iter().flat_map(Locked::acted).collect();
        let mut heard: HashMap<RunId, signals::Heard> = HashMap::new();
        for signal in signals::look_up(conn, &waits, &acted).await? {
            heard
                .entry(signal.run)
                .and_modify(|known| {
                    if (signal.occurred_at, signal.signal) < (known.occurred_at, known.signal) {
                        *known = signal.clone();
                    }
                })
                .or_insert(signal);
        }
        let mut told = false;
        for one in &mut locked {
            if one.waits().is_some() {
                one.looked_up = Some(one.moved.run.visit);
            }
            let signal = heard
                .remove(&one.moved.run.id)
                .filter(|_| one.told < MOST_STEPS);
            let signalled = signal.and_then(|signal| {
                let name = SignalName::new(signal.name).ok()?;
                Some(Input::Signalled {
                    signal: signal.signal,
                    name,
                })
            });
            let input = signalled.or_else(|| one.inputs.pop_front());
            if let Some(input) = input {
                one.tell(&input);
                told = true;
            }
        }
        if !told && locked.iter().all(|one| one.waits().is_none()) {
            break;
        }
    }
    write(conn, locked).await
}

async fn write(conn: &mut PgConnection, locked: Vec<Locked>) -> StoreResult<Made> {
    let mut made = Made::default();
    let (mut rows, mut lines, mut planned, mut cancelled) = (vec![], vec![], vec![], vec![]);
    for one in locked {
        let mut row = one.moved.row(one.now);
        if one.told >= MOST_STEPS && row.terminal_reason.is_none() {
            row.wake_at = Some(one.now);
        }
        let moved = !one.moved.writes.transitions.is_empty();
        if !moved && !one.was_due {
            continue;
        }
        if let Some(wake_at) = row.wake_at {
            made.wakes_in(wake_at - one.now);
        }
        made.moved += usize::from(moved);
        if one.moved.writes.cancel_unsent {
            cancelled.push(row.id);
        }
        lines.extend(one.moved.writes.transitions);
        planned.extend(one.moved.writes.deliveries);
        rows.push(row);
    }
    made.planned = planned.len();
    runs::save(conn, &rows).await?;
    deliveries::cancel_unsent(conn, &cancelled, SUPERSEDED).await?;
    transitions::append(conn, &lines).await?;
    deliveries::plan(conn, &planned).await?;
    Ok(made)
}

/// A run's row as the engine knows it; an error names the column that makes no sense.
fn decode(
    row: &RunRow,
    definition: Option<std::sync::Arc<crate::definition::Definition>>,
) -> StoreResult<Run> {
    let bad = |column| StoreError::Inconsistent {
        table: "workflow_runs",
        column,
        row: row.id.0,
    };
    let definition = definition.ok_or_else(|| bad("workflow_definition_id"))?;
    let step = definition
        .index_of(row.current_step_id)
        .ok_or_else(|| bad("current_step_id"))?;
    let reason = || {
        let text = row.terminal_reason.as_deref().unwrap_or_default();
        TerminalReason::parse(text).ok_or_else(|| bad("terminal_reason"))
    };
    let state = match StateName::parse(&row.state).ok_or_else(|| bad("state"))? {
        StateName::Active => RunState::Active,
        StateName::Waiting => RunState::Waiting {
            until: row.suspended_until.ok_or_else(|| bad("suspended_until"))?,
            stop_on: row
                .pending_signals
                .iter()
                .map(|name| SignalName::new(name.as_str()))
                .collect::<Result<_, _>>()
                .map_err(|_| bad("pending_signals"))?,
        },
        StateName::Completed => RunState::Completed,
        StateName::Stopped => RunState::Stopped(reason()?),
        StateName::Failed => RunState::Failed(reason()?),
    };
    Ok(Run {
        id: row.id,
        definition,
        step,
        visit: Visit(row.visit),
        state,
        status_reason: Reason::parse(&row.status_reason).ok_or_else(|| bad("status_reason"))?,
        sequence: Sequence(row.transition_count),
    })
}

/// The runs that were asked for and that another session holds: neither locked nor ended.
pub(super) async fn skipped(
    conn: &mut PgConnection,
    asked: impl IntoIterator<Item = RunId>,
    locked: &[RunRow],
) -> StoreResult<HashSet<RunId>> {
    let got: HashSet<RunId> = locked.iter().map(|row| row.id).collect();
    let missing: HashSet<RunId> = asked.into_iter().filter(|id| !got.contains(id)).collect();
    let ids: Vec<RunId> = missing.iter().copied().collect();
    let ended: HashSet<RunId> = runs::ended(conn, &ids).await?.into_iter().collect();
    Ok(missing.difference(&ended).copied().collect())
}
