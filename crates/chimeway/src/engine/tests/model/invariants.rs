//! What holds in every state, and what must happen somewhere.

use stateright::Property;

use super::{
    World,
    rows::{DeliveryRow, End, Place, SignalRow, TryResult},
    states::{Actor, State, Trigger, Worker},
};
use crate::engine::DeliveryStatus;

/// The invariants, by their names in `docs/model.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invariant {
    SignalInTimeEndsTheWait,
    SignalActsOnceOnRunsBegun,
    TerminalStaysTerminal,
    FenceHolds,
    SendsAreAttempts,
    AttemptsAreContiguous,
}

/// Invariants that were seen to break between two states.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Broken(u8);

impl Broken {
    pub(super) fn by(&mut self, invariant: Invariant) {
        self.0 |= 1 << invariant as u8;
    }

    fn has(self, invariant: Invariant) -> bool {
        self.0 & (1 << invariant as u8) != 0
    }
}

pub(super) const ONE: &str = "1: a signal in time ends the wait, and nothing later is sent";
pub(super) const TWO: &str = "2: no run waits for a signal that is routed";
pub(super) const THREE: &str = "3: a signal acts on a run once, and on none that began later";
pub(super) const FOUR: &str = "4: a live run has something that will move it";
pub(super) const FIVE: &str = "5: an ended run stays ended, and has nothing unsent";
pub(super) const SIX: &str = "6: the fence grows, and only the newest claim decides";
pub(super) const SEVEN: &str = "7: sends are attempts, repeated after failures only, and not late";
pub(super) const EIGHT: &str = "8: attempts are contiguous and within the budget";
pub(super) const TEN: &str = "10: workers wait for no host, and not in a circle";
pub(super) const CANCEL: &str = "cancel: when all is quiet, no run is left that was to be canceled";

pub(super) fn properties() -> impl Iterator<Item = Property<World>> {
    [
        Property::always(ONE, |_: &World, state: &State| {
            !state.broken.has(Invariant::SignalInTimeEndsTheWait)
        }),
        Property::always(TWO, routed_signals_are_heard),
        Property::always(THREE, |_: &World, state: &State| {
            !state.broken.has(Invariant::SignalActsOnceOnRunsBegun)
        }),
        Property::always(FOUR, live_runs_move_on),
        Property::always(FIVE, ended_runs_are_over),
        Property::always(SIX, claims_are_fenced),
        Property::always(SEVEN, sends_are_attempts),
        Property::always(EIGHT, attempts_are_contiguous),
        Property::always(TEN, somebody_goes_on),
        Property::always(CANCEL, cancels_are_heard),
    ]
    .into_iter()
}

fn routed_signals_are_heard(world: &World, state: &State) -> bool {
    let Some(run) = state.run.as_ref().filter(|run| world.is_listening(run)) else {
        return true;
    };
    let unheard = (0..).zip(&state.signals).any(|(number, row)| match row {
        SignalRow::Committed {
            made_at, routed, ..
        } => *routed && *made_at >= run.started_at && !run.heard.has(number),
        _ => false,
    });
    !(unheard && state.is_nobody_at_it())
}

fn live_runs_move_on(_: &World, state: &State) -> bool {
    let Some(run) = state.run.as_ref().filter(|run| run.is_live()) else {
        return true;
    };
    let mut deliveries = state.deliveries.iter().flatten();
    run.wake_at.is_some()
        || deliveries.any(|row| {
            let open = row.is_unsent() || row.status == DeliveryStatus::Dispatched;
            row.progress_owed || open && row.visit == run.visit
        })
}

fn ended_runs_are_over(_: &World, state: &State) -> bool {
    let ended = state.run.as_ref().is_some_and(|run| !run.is_live());
    // A retry that was planned while another session was ending the run ends with what is owed.
    let unsent = deliveries(state).any(|row| row.is_unsent() && !row.progress_owed);
    !(ended && unsent || state.broken.has(Invariant::TerminalStaysTerminal))
}

fn claims_are_fenced(_: &World, state: &State) -> bool {
    let leases = (0..2_u8).all(|place| {
        let Some(row) = state.delivery(place) else {
            return true;
        };
        let live = row.status == DeliveryStatus::Dispatched && !row.expired;
        let holders = state.workers.iter().filter(|worker| match worker {
            Worker::Free => false,
            Worker::Claimed(claim) => (claim.delivery, claim.claim_no) == (place, row.claim_no),
            Worker::Tried(tried) => (tried.delivery, tried.claim_no) == (place, row.claim_no),
        });
        !live || holders.count() <= 1
    });
    leases && !state.broken.has(Invariant::FenceHolds)
}

fn sends_are_attempts(_: &World, state: &State) -> bool {
    if state.broken.has(Invariant::SendsAreAttempts) {
        return false;
    }
    // A try is written down when it is over: until then the world may know more than the rows.
    let mut rows = state.deliveries.iter().zip(&state.sent);
    !state.is_quiet()
        || rows.all(|(row, sent)| {
            let Some(row) = row else {
                return true;
            };
            (1..=3).all(|number| match row.attempt(number) {
                None => !sent.has(number),
                Some(attempt) => attempt.result == TryResult::Unknown || sent.has(number),
            })
        })
}

fn attempts_are_contiguous(world: &World, state: &State) -> bool {
    let rows = state.deliveries.iter().flatten().all(|row| {
        let claimed = u8::from(row.status == DeliveryStatus::Dispatched);
        let over = row.attempts - claimed;
        let written = (1..=3).all(|number| row.attempt(number).is_some() == (number <= over));
        written && i32::from(row.attempts) <= world.budget.attempts
    });
    rows && !state.broken.has(Invariant::AttemptsAreContiguous)
}

/// A worker's transaction may wait for another one's, but not all of them for something else.
fn somebody_goes_on(world: &World, state: &State) -> bool {
    let of = |who: Actor| Some((who, state.transaction(who)?));
    let mut open = Actor::WORKERS.into_iter().filter_map(of).peekable();
    open.peek().is_none() || open.any(|(who, open)| !world.waits(state, open, who))
}

fn cancels_are_heard(_: &World, state: &State) -> bool {
    let run = state.run.as_ref();
    let asked = run.is_some_and(|run| run.is_live() && run.cancel_requested);
    !(asked && state.is_quiet())
}

/// Something that happens in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fact {
    StoppedBySignal,
    ElapsedAndEmailed,
    EmailedThoughSignaledLater,
    StartRolledBack,
    LeaseClosed,
    LateResult,
    SentTwice,
    GivenUp,
    Owed,
    Canceled,
    CanceledWhileSending,
    Completed,
}

impl Fact {
    pub(super) fn property(self) -> Property<World> {
        let (name, happens) = self.told();
        Property::sometimes(name, happens)
    }

    fn told(self) -> (&'static str, fn(&World, &State) -> bool) {
        match self {
            Self::StoppedBySignal => ("a signal stops the run", |_, state| {
                ended(state) == Some(End::Signaled)
            }),
            Self::ElapsedAndEmailed => ("time is over, and the email is sent", |world, state| {
                is_emailed(world, state)
            }),
            Self::EmailedThoughSignaledLater => ("a signal comes too late", |world, state| {
                is_emailed(world, state) && state.committed_signals().next().is_some()
            }),
            Self::StartRolledBack => ("the start is rolled back", |_, state| {
                state.trigger == Trigger::Over && state.run.is_none()
            }),
            Self::LeaseClosed => ("a lease is closed", |_, state| {
                deliveries(state).any(|row| row.crashes > 0)
            }),
            Self::LateResult => ("a result comes late", |_, state| {
                deliveries(state).any(|row| {
                    let mut tries = row.tries.iter().flatten();
                    let known = tries.any(|attempt| attempt.result != TryResult::Unknown);
                    row.crashes == row.attempts && known
                })
            }),
            Self::SentTwice => ("a message is sent twice", |_, state| {
                state.sent.iter().any(|sent| sent.all().count() > 1)
            }),
            Self::GivenUp => ("a message is given up", |world, state| {
                deliveries(state).any(|row| {
                    row.status == DeliveryStatus::Cancelled
                        && i32::from(row.attempts) == world.budget.attempts
                })
            }),
            Self::Owed => ("a run is owed a result", |_, state| {
                deliveries(state).any(|row| row.progress_owed)
            }),
            Self::Canceled => ("a run is canceled", |_, state| {
                ended(state) == Some(End::Canceled)
            }),
            Self::CanceledWhileSending => ("a run is canceled during a send", |_, state| {
                ended(state) == Some(End::Canceled)
                    && deliveries(state).any(|row| row.status == DeliveryStatus::Dispatched)
            }),
            Self::Completed => ("a run completes", |_, state| {
                ended(state) == Some(End::Completed)
            }),
        }
    }
}

fn deliveries(state: &State) -> impl Iterator<Item = &DeliveryRow> {
    state.deliveries.iter().flatten()
}

/// The message of the last step is sent.
fn is_emailed(world: &World, state: &State) -> bool {
    let last = world.definition.plan.steps.len() - 1;
    let mut rows = state.deliveries.iter().zip(&state.sent);
    rows.any(|(row, sent)| {
        !sent.is_empty()
            && row
                .as_ref()
                .is_some_and(|row| usize::from(row.step) == last)
    })
}

fn ended(state: &State) -> Option<End> {
    match state.run.as_ref()?.place {
        Place::Ended(end) => Some(end),
        Place::Active | Place::Waiting { .. } => None,
    }
}
