//! What hosts do, in transactions that stay open for as long as they like.

use super::{
    Rule, World,
    rows::{SignalRow, Told},
    states::{Actor, Cancel, State, Trigger},
};

/// A step of a host's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    Begin,
    Call,
    Commit,
    RollBack,
}

impl Host {
    pub(super) const ALL: [Self; 4] = [Self::Begin, Self::Call, Self::Commit, Self::RollBack];
}

impl World {
    /// `Chimeway::trigger`: the run and its first message are the host's until it commits.
    pub(super) fn trigger(&self, state: &mut State, does: Host) -> bool {
        match (does, std::mem::take(&mut state.trigger)) {
            (Host::Call, Trigger::Before) => {
                let mut moving = self.started(state.clock);
                if !self.keeps(Rule::CreatorEntersNoWait) && moving.run.wake_at.is_some() {
                    moving.input = Some(Told::Due);
                    // With a look-up as careful as a worker's: it sees what is committed by now.
                    let visible = self.visible(state);
                    while !self.look_up_and_tell(state, &mut moving, visible) {}
                }
                state.trigger = Trigger::Open(Box::new(moving));
                true
            }
            (Host::Commit, Trigger::Open(moving)) => {
                state.deliveries[0] = moving.planned();
                state.run = Some(moving.run);
                state.trigger = Trigger::Over;
                true
            }
            (Host::RollBack, Trigger::Open(_)) => {
                state.trigger = Trigger::Over;
                true
            }
            _ => false,
        }
    }

    /// `Chimeway::track`: the signal has the instant of the call, and is seen from the commit on.
    pub(super) fn signal(&self, state: &mut State, signal: u8, does: Host) -> bool {
        let clock = state.clock;
        // Signals differ in nothing but their number: they are made in this order.
        let previous = signal.checked_sub(1).map(usize::from);
        if previous.is_some_and(|place| state.signals[place] == SignalRow::Unmade) {
            return false;
        }
        let row = &mut state.signals[usize::from(signal)];
        *row = match (does, *row) {
            // When its transaction began matters only where its time is that.
            (Host::Begin, SignalRow::Unmade) if !self.keeps(Rule::TimeOfTheCall) => {
                SignalRow::Begun { at: clock }
            }
            (Host::Call, SignalRow::Unmade) => SignalRow::Made {
                occurred_at: clock,
                made_at: clock,
            },
            (Host::Call, SignalRow::Begun { at }) => SignalRow::Made {
                occurred_at: at,
                made_at: clock,
            },
            (
                Host::Commit,
                SignalRow::Made {
                    occurred_at,
                    made_at,
                },
            ) => SignalRow::Committed {
                occurred_at,
                made_at,
                committed_at: clock,
                routed: false,
            },
            _ => return false,
        };
        true
    }
}

impl State {
    /// A host locks the run's row, whatever for.
    pub(super) fn hold(&mut self) -> bool {
        let free = self.run.is_some() && self.run_held_by.is_none();
        if free {
            self.run_held_by = Some(Actor::Holder);
        }
        free
    }

    pub(super) fn release(&mut self) -> bool {
        let held = self.run_held_by == Some(Actor::Holder);
        self.let_go(Actor::Holder);
        held
    }

    /// A host asks that the run be ended: a compare-and-set that waits for the row, and holds it until
    /// the commit, which makes the run due.
    pub(super) fn cancel(&mut self, does: Host) -> bool {
        let Some(run) = &mut self.run else {
            return false;
        };
        match (does, self.cancel) {
            (Host::Call, Cancel::Before) if self.run_held_by.is_none() && run.is_live() => {
                self.run_held_by = Some(Actor::Canceler);
                self.cancel = Cancel::Open;
            }
            (Host::Commit, Cancel::Open) => {
                run.cancel_requested = true;
                run.wake_at = Some(self.clock);
                self.cancel = Cancel::Over;
                self.let_go(Actor::Canceler);
            }
            (Host::RollBack, Cancel::Open) => {
                self.cancel = Cancel::Over;
                self.let_go(Actor::Canceler);
            }
            _ => return false,
        }
        true
    }
}
