//! The way of a row into the real engine, and of its decisions into a row.

use super::{
    super::*,
    Rule, World,
    rows::{End, Few, Moving, Place, RunRow, Tick, Told},
};
use crate::{
    definition::StepKind,
    engine::{Reason, TerminalReason},
    ids::Sequence,
};

fn instant(tick: Tick) -> DateTime<Utc> {
    at("00:00") + chrono::TimeDelta::hours(tick.into())
}

fn tick(instant: DateTime<Utc>) -> Tick {
    Tick::try_from((instant - at("00:00")).num_hours()).unwrap()
}

impl World {
    /// The run that a trigger makes at this tick, and its first message.
    pub(super) fn started(&self, now: Tick) -> Moving {
        let born = Run::born(RunId(Uuid::from_u128(2)), self.definition.clone());
        let row = RunRow {
            started_at: now,
            step: 0,
            visit: 0,
            place: Place::Active,
            wake_at: None,
            cancel_requested: false,
            heard: Few::default(),
        };
        let mut moving = Moving::new(row, now, None);
        let verdict = decide(&born, &Input::Started, instant(now));
        self.apply(&mut moving, &born, &verdict);
        moving
    }

    /// Tells a run that it is due, or a delivery's result.
    pub(super) fn tell(&self, moving: &mut Moving, told: Told) {
        let input = match told {
            Told::Due => Input::Due,
            Told::Delivered {
                delivery,
                visit,
                outcome,
                status,
            } => Input::Delivered(Delivered {
                delivery: DeliveryId(Uuid::from_u128(delivery.into())),
                visit: Visit(visit.into()),
                action: 0,
                outcome,
                status,
            }),
        };
        self.decide(moving, &input);
    }

    /// Tells it that a host has asked for its end.
    pub(super) fn tell_cancel(&self, moving: &mut Moving) {
        self.decide(moving, &Input::Cancelled);
    }

    /// Tells it a signal; whether that did anything.
    pub(super) fn tell_signal(&self, moving: &mut Moving, signal: u8) -> bool {
        let input = Input::Signalled {
            signal: SignalId(Uuid::from_u128(signal.into())),
            name: "read".parse().unwrap(),
            delivery: None,
        };
        let acts = self.decide(moving, &input);
        if acts {
            moving.acted = moving.acted.and(signal);
            moving.run.heard = moving.run.heard.and(signal);
        }
        acts
    }

    fn decide(&self, moving: &mut Moving, input: &Input) -> bool {
        let run = self.decoded(&moving.run);
        let verdict = decide(&run, input, instant(moving.now));
        self.apply(moving, &run, &verdict)
    }

    fn apply(&self, moving: &mut Moving, run: &Run, verdict: &Verdict) -> bool {
        let Verdict::Move(decisions) = verdict else {
            return false;
        };
        for decision in decisions {
            match decision {
                Decision::Transition(_) => {}
                Decision::Ask { .. }
                | Decision::Withdraw
                | Decision::Execute { .. }
                | Decision::Remember(_) => panic!("no world has such a step"),
                Decision::Plan { step, visit, .. } => {
                    moving.plan = Some((small(step.0), small(visit.0)));
                }
                Decision::CancelUnsent => {
                    moving.cancel_unsent = self.keeps(Rule::LeavingCancelsUnsent);
                }
            }
        }
        moving.moved = true;
        let after = run.after(decisions);
        let place = match &after.state {
            RunState::Born => panic!("a run that was told something is not born"),
            RunState::AwaitingApproval { .. } => panic!("no world has such a step"),
            RunState::Active => Place::Active,
            RunState::Waiting { until, .. } => Place::Waiting {
                until: tick(*until),
            },
            RunState::Completed => Place::Ended(End::Completed),
            RunState::Stopped(TerminalReason::StopCondition(_)) => Place::Ended(End::Signaled),
            RunState::Stopped(TerminalReason::Cancelled) => Place::Ended(End::Canceled),
            RunState::Stopped(_) | RunState::Failed(_) => Place::Ended(End::Outcome),
        };
        moving.run = RunRow {
            step: small(after.step.0),
            visit: small(after.visit.0),
            place,
            wake_at: after.wake_at(instant(moving.now)).map(tick),
            ..moving.run
        };
        true
    }

    /// A run's row as the engine knows it.
    fn decoded(&self, row: &RunRow) -> Run {
        let step = StepIndex(row.step.into());
        let state = match row.place {
            Place::Active => RunState::Active,
            Place::Waiting { until } => RunState::Waiting {
                until: instant(until),
                stop_on: self.listens_to(row.step),
            },
            Place::Ended(End::Completed) => RunState::Completed,
            Place::Ended(_) => RunState::Stopped(TerminalReason::Outcome(Outcome::Elapsed)),
        };
        Run {
            id: RunId(Uuid::from_u128(2)),
            definition: self.definition.clone(),
            step,
            visit: Visit(row.visit.into()),
            state,
            status_reason: Reason::WorkflowStarted.as_str().into(),
            sequence: Sequence(0),
            facts: None,
            sent: false,
        }
    }

    /// Which signals a step waits for.
    pub(super) fn listens_to(&self, step: u8) -> Vec<SignalName> {
        match &self.definition.step(StepIndex(step.into())).kind {
            StepKind::Wait(wait) => wait
                .stop_conditions
                .iter()
                .map(|condition| condition.signal.clone())
                .collect(),
            _ => vec![],
        }
    }

    /// Whether a wait of this run is ended by signals.
    pub(super) fn is_listening(&self, run: &RunRow) -> bool {
        matches!(run.place, Place::Waiting { .. }) && !self.listens_to(run.step).is_empty()
    }

    /// Whether its step lets the journey go on while the message is being tried.
    pub(super) fn leaves_early(&self, step: u8) -> bool {
        let step = self.definition.step(StepIndex(step.into()));
        step.on_outcome.contains_key(&Outcome::TemporaryFailure)
    }
}

fn small(number: impl TryInto<u8, Error: std::fmt::Debug>) -> u8 {
    number.try_into().unwrap()
}
