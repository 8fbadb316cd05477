//! The only seam that moves a run: rows are locked, what happened is folded through `decide` in order,
//! and the result is written, all set-based.
//!
//! One rule holds for every way in here: before a waiting run is told anything, and whenever a run has
//! entered a wait, the signals it listens to are looked up. Statement 1 locked the runs; the look-up is
//! a later statement, so that it sees what committed while the lock was waited for. A visible signal
//! thereby beats the timer, routed or not, and an early one ends the wait it was too early for.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{
    Core,
    actions::{self, Ground},
    made::{Made, SetAside},
    moved::{Moved, Owner, decode, ended_undecoded},
    owed::SET_ASIDE,
    spans::{self, Span},
};
use crate::{
    definition::{Expected, Match, StepIndex, StepKind},
    engine::{Facts, Input, Noop, RunState, Verdict, attempt::status_reason::CANCELLED, decide},
    ids::{RunId, SignalId, SignalName, Visit},
    store::{
        StoreResult, approvals, deliveries, owed,
        runs::{self, RunRow},
        signals::{self, Candidate, Listening},
        transitions,
    },
};

/// After how many inputs one transaction shows a run no more signals: the next one does, at once.
const MOST_STEPS: usize = 32;

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
    /// Why the last thing it was told decided nothing.
    noop: Option<Noop>,
    /// What is over, where that is followed.
    spans: Option<Vec<Span>>,
}

/// What became of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Advanced {
    pub(super) run: RunId,
    /// Whether it moved.
    pub(super) moved: bool,
    /// Why the last thing it was told decided nothing.
    pub(super) noop: Option<Noop>,
}

impl Locked {
    /// The wait it is in, unless its signals have been looked up. A run whose end somebody has asked
    /// for hears nothing more.
    fn waits(&self) -> Option<&[SignalName]> {
        match &self.moved.run.state {
            RunState::Waiting { stop_on, .. }
                if !stop_on.is_empty()
                    && self.looked_up != Some(self.moved.run.visit)
                    && self.inputs.front() != Some(&Input::Cancelled) =>
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
                matches: self.matches(name),
                since,
            })
    }

    /// What must hold of the payload of that signal, as the store compares it.
    fn matches(&self, name: &SignalName) -> Option<Value> {
        let run = &self.moved.run;
        let StepKind::Wait(wait) = &run.definition.step(run.step).kind else {
            return None;
        };
        let condition = wait
            .stop_conditions
            .iter()
            .find(|one| one.signal == *name)?;
        let compared = condition.matches.iter().map(comparison);
        (!condition.matches.is_empty()).then(|| compared.collect())
    }

    fn acted(&self) -> impl Iterator<Item = Candidate> {
        let run = self.moved.run.id;
        let heard = self.waits().map_or(&[][..], |_| &self.heard);
        heard.iter().map(move |&signal| Candidate { signal, run })
    }

    fn tell(&mut self, input: &Input) {
        self.told += 1;
        if *input == Input::Sending {
            self.moved.run.sent = true;
        }
        let decisions = match decide(&self.moved.run, input, self.now) {
            Verdict::Move(decisions) => decisions,
            Verdict::Noop(noop) => {
                self.noop = Some(noop);
                return;
            }
        };
        if matches!(self.moved.run.state, RunState::Waiting { .. }) {
            self.left.insert(self.moved.run.step);
        }
        if let Input::Signalled { signal, .. } = input {
            self.heard.push(*signal);
        }
        let before = self.spans.is_some().then(|| self.moved.run.clone());
        self.moved.apply(decisions, self.now);
        if let (Some(spans), Some(before)) = (&mut self.spans, before) {
            let times = (self.started_at, self.now);
            spans.extend(spans::moved(&before, &self.moved.run, input, times));
        }
    }

    /// Performs the actions that the run has come to: what comes of it is told next.
    async fn perform(
        &mut self,
        core: &Core,
        conn: &mut PgConnection,
        ground: &Ground,
    ) -> StoreResult<()> {
        while let Some(actions) = self.moved.writes.execute.take() {
            let (moved, now) = (&self.moved, self.now);
            let executed = actions::perform(core, conn, moved, actions, now, ground).await?;
            self.tell(&Input::Executed(executed));
        }
        Ok(())
    }
}

/// Whether actions that runs come to are performed in this transaction.
#[derive(Clone, Copy)]
pub(super) enum Acting<'a> {
    /// They are: it has no other run.
    Now(&'a Ground),
    /// They are not: their runs are made due.
    Later,
}

fn comparison(one: &Match) -> Value {
    let payload = one.payload.names();
    match &one.expected {
        Expected::Params(path) => json!({ "payload": payload, "params": path.names() }),
        Expected::Literal(value) => json!({ "payload": payload, "value": value }),
    }
}

/// Tells locked runs what happened, looks up the signals they listen to, and writes where they are
/// then. Runs without an input are shown the signals alone.
///
/// A run whose end somebody has asked for is told that first, whatever else it was locked for. A row
/// that does not decode is set aside by itself.
pub(super) async fn advance(
    core: &Core,
    conn: &mut PgConnection,
    rows: Vec<RunRow>,
    inputs: HashMap<RunId, VecDeque<Input>>,
) -> StoreResult<Made> {
    Ok(advance_each(core, conn, rows, inputs, Acting::Later)
        .await?
        .0)
}

/// As [`advance`], and says what became of each run that decodes.
pub(super) async fn advance_each(
    core: &Core,
    conn: &mut PgConnection,
    rows: Vec<RunRow>,
    mut inputs: HashMap<RunId, VecDeque<Input>>,
    acting: Acting<'_>,
) -> StoreResult<(Made, Vec<Advanced>)> {
    let definitions = core
        .definitions
        .get(conn, rows.iter().map(|row| row.workflow_definition_id))
        .await?;
    let mut locked = Vec::with_capacity(rows.len());
    let (mut undecodable, mut ended, mut untold) = (vec![], vec![], vec![]);
    for row in rows {
        let definition = definitions.get(&row.workflow_definition_id).cloned();
        match decode(&row, definition) {
            Ok(run) => {
                let mut inputs = inputs.remove(&row.id).unwrap_or_default();
                let acts = row.act_at.is_some_and(|at| at <= row.now);
                let was_due = (row.due || acts) && inputs.contains(&Input::Due);
                if row.cancel_requested {
                    inputs.push_front(Input::Cancelled);
                }
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
                    noop: None,
                    spans: core.follows(row.id).then(Vec::new),
                });
            }
            Err(error) if row.cancel_requested => {
                tracing::warn!(run.id = %row.id, %error, "a run that does not decode was ended by hand");
                ended.push(ended_undecoded(&row));
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
    read_facts(conn, &mut locked).await?;
    let set_aside = SetAside {
        runs: runs::fail(conn, &undecodable, "does_not_decode").await?,
        ..SetAside::default()
    };
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
                    delivery: signal.delivery,
                })
            });
            let input = signalled.or_else(|| one.inputs.pop_front());
            if let Some(input) = input {
                one.tell(&input);
                if let Acting::Now(ground) = acting {
                    one.perform(core, conn, ground).await?;
                }
                told = true;
            }
        }
        if !told && locked.iter().all(|one| one.waits().is_none()) {
            break;
        }
    }
    let advanced = locked.iter().map(|one| Advanced {
        run: one.moved.run.id,
        moved: !one.moved.writes.transitions.is_empty(),
        noop: one.noop,
    });
    let advanced = advanced.collect();
    let made = write(conn, locked, ended).await?;
    Ok((made.and(set_aside.into()), advanced))
}

/// What the steps of these runs look into, where they do: one statement for all.
async fn read_facts(conn: &mut PgConnection, locked: &mut [Locked]) -> StoreResult<()> {
    let needy = locked
        .iter()
        .filter(|one| one.moved.run.definition.needs_facts());
    let needy: Vec<RunId> = needy.map(|one| one.moved.run.id).collect();
    let mut read: HashMap<RunId, Arc<Facts>> = HashMap::new();
    for row in runs::facts(conn, &needy).await? {
        let (context, params) = (row.context, row.params);
        read.insert(row.id, Arc::new(Facts { context, params }));
    }
    for one in locked {
        one.moved.run.facts = read.remove(&one.moved.run.id);
    }
    Ok(())
}

async fn write(
    conn: &mut PgConnection,
    locked: Vec<Locked>,
    ended: Vec<(runs::SavedRun, transitions::NewTransition)>,
) -> StoreResult<Made> {
    let mut made = Made::default();
    let (mut rows, mut lines): (Vec<_>, Vec<_>) = ended.into_iter().unzip();
    let mut cancelled: Vec<(RunId, &'static str)> =
        rows.iter().map(|row| (row.id, CANCELLED)).collect();
    // Of a row that does not decode, anything may be open.
    let mut withdrawn: Vec<RunId> = rows.iter().map(|row| row.id).collect();
    let (mut planned, mut asked) = (vec![], vec![]);
    for one in locked {
        let mut row = one.moved.row(one.now);
        let acts = one.moved.writes.execute.is_some();
        if one.told >= MOST_STEPS && row.terminal_reason.is_none() && row.act_at.is_none() {
            row.wake_at = Some(one.now);
        }
        let moved = !one.moved.writes.transitions.is_empty();
        if !moved && !one.was_due && !acts {
            continue;
        }
        for due in [row.wake_at, row.act_at].into_iter().flatten() {
            made.wakes_in(due - one.now);
        }
        made.moved += usize::from(moved);
        if let Some(reason) = one.moved.writes.cancel_unsent {
            cancelled.push((row.id, reason));
        }
        made.spans.extend(one.spans.into_iter().flatten());
        if one.moved.writes.withdraw {
            withdrawn.push(row.id);
        }
        asked.extend(one.moved.writes.approvals);
        lines.extend(one.moved.writes.transitions);
        planned.extend(one.moved.writes.deliveries);
        rows.push(row);
    }
    runs::save(conn, &rows).await?;
    deliveries::cancel_unsent(conn, &cancelled).await?;
    approvals::withdraw(conn, &withdrawn).await?;
    approvals::open(conn, &asked).await?;
    transitions::append(conn, &lines).await?;
    made.plan(conn, &planned).await?;
    Ok(made)
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
