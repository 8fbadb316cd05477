//! All orders in which hosts and workers can meet at one run, explored to the end.
//!
//! What happens is decided by the real engine: [`decide`] and [`settle`]. What the database does is
//! modelled: rows, row locks, and what a statement sees under READ COMMITTED. A step of the model is
//! one SQL statement of a transaction, a commit, or something outside of the database: a send, a crash,
//! a tick of the clock. So every order of statements is a path, and the invariants hold on all of them.
//!
//! Each file of the code has its counterpart: `flow::route`, `due` and `owed` are in `workers.rs`,
//! `deliver`, `record` and `sweep` in `deliveries.rs`, the seam `progress` in `transaction.rs`; what hosts
//! do is in `hosts.rs`. A change there is a change here. `docs/model.md` says what is left out.
//!
//! To add a rule: its variant in [`Rule`], an `if self.keeps(..)` at the place that follows it, and a
//! test in `removed.rs` that shows which invariant breaks without it.

mod deciding;
mod deliveries;
mod explore;
mod hosts;
mod invariants;
mod removed;
mod rows;
mod states;
mod transaction;
mod workers;
mod worlds;

use stateright::{Model, Property};

use self::{
    hosts::Host,
    invariants::Fact,
    rows::{SignalRow, Tick},
    states::{Actor, Cancel, State, Tried, Trigger, Worker},
};
use super::*;

/// A rule that a world may do without, to show what it is for. The numbers are those of the rules in
/// `docs/model.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// 1: leaving a wait by time looks for signals first.
    TimerLooksForSignals,
    /// 2: workers pass over rows that another session holds.
    WorkersWaitForNoHost,
    /// 2: a signal stays due while one of its runs is held by another session.
    SkippedSignalStaysDue,
    /// 2: a result whose run is held is told to it later.
    SkippedRunIsOwedItsResult,
    /// 3: signals are looked up by a later statement than the one that locked the run.
    LockFirstLookLater,
    /// 4: the transaction that creates a run enters no wait.
    CreatorEntersNoWait,
    /// 5: a signal's time is that of the call, not that of its transaction.
    TimeOfTheCall,
    /// 6: an expired lease is closed through the record path; a claim does not take it over.
    ExpiredLeaseIsClosed,
    /// 6, 7: a record changes a delivery only under the newest claim.
    RecordIsFenced,
    /// 6: a result that comes after its lease was closed still counts.
    LateResultCounts,
    /// 7: giving a claim back keeps the fence.
    FenceOnlyGrows,
    /// 8: a claim does not send for a run that has moved on, ended, or is to be canceled.
    ClaimLooksAtTheRun,
    /// 8: a retry is planned only where the run is still in that visit.
    RetryLooksAtTheRun,
    /// 8: leaving cancels what is unsent.
    LeavingCancelsUnsent,
    /// A signal acts on a run once.
    SignalActsOnce,
    /// Whatever locks a run that is to be canceled ends it.
    EveryoneHearsACancel,
    /// 6: a message that was not sent, and whose lease is closed by now, keeps its try.
    ClosedTryStaysCounted,
    /// 7: a claim looks whether an attempt is known to have succeeded, and does not send then.
    ClaimLooksAtItsAttempts,
    /// 8: a result that is owed to a run that has ended meanwhile ends its retries.
    OwedEndsRetries,
}

/// A world: who is in it, where it begins, and which rule it does without.
#[derive(Debug, Clone)]
struct World {
    definition: Arc<Definition>,
    budget: Budget,
    /// The rules that are removed.
    without: Vec<Rule>,
    /// What has happened before.
    before: Vec<Action>,
    /// Time stands still from this tick on.
    last_tick: Tick,
    trigger: bool,
    signals: u8,
    cancel: bool,
    /// A host takes the run's lock, and lets it go.
    holder: bool,
    router: bool,
    timer: bool,
    owed: bool,
    closer: bool,
    /// How many delivery workers there are.
    workers: u8,
    /// How their tries may end.
    tries: &'static [Tried],
    /// They may vanish between any two statements.
    crashes: bool,
    /// They give back claims whose number is not higher.
    hand_backs: u8,
    /// They may not hear that their commit has happened, and record again.
    unheard: bool,
    /// What must happen somewhere in this world, or it shows nothing.
    facts: &'static [Fact],
}

/// One step of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The clock goes on by one tick.
    Tick,
    /// A lease comes to its end.
    LeaseEnds(u8),
    Trigger(Host),
    Signal(u8, Host),
    Cancel(Host),
    /// A host locks the run's row for as long as it likes.
    Hold,
    Release,
    /// The first statement of a worker's transaction, or its snapshot where that is apart.
    Begin(Actor),
    /// Its next statement, or its commit.
    Next(Actor),
    /// Its connection is lost before the commit.
    Lose(Actor),
    /// The commit happens, and the worker does not hear of it.
    CommitUnheard(u8),
    /// A worker claims a delivery.
    Claim(u8, u8),
    /// Its try comes to an end.
    Try(u8, Tried),
    HandBack(u8),
    /// A worker vanishes; another one takes its place.
    Crash(u8),
    /// A closer reads an expired lease.
    FindExpired(u8),
}

impl World {
    fn keeps(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }

    /// The state after an action; `None` where it cannot happen now.
    fn after(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let happens = match action {
            Action::Tick => next.tick(self.last_tick),
            Action::LeaseEnds(delivery) => next.end_lease(delivery),
            Action::Trigger(does) => self.trigger(&mut next, does),
            Action::Signal(signal, does) => self.signal(&mut next, signal, does),
            Action::Cancel(does) => next.cancel(does),
            Action::Hold => next.hold(),
            Action::Release => next.release(),
            Action::Begin(who) => self.begin(&mut next, who),
            Action::Next(who) => self.next(&mut next, who),
            Action::Lose(who) => next.roll_back(who),
            Action::CommitUnheard(worker) => self.commit_unheard(&mut next, worker),
            Action::Claim(worker, delivery) => self.claim(&mut next, worker, delivery),
            Action::Try(worker, tried) => self.try_once(&mut next, worker, tried),
            Action::HandBack(worker) => self.hand_back(&mut next, worker),
            Action::Crash(worker) => next.crash(worker),
            Action::FindExpired(delivery) => self.find_expired(&mut next, delivery),
        };
        happens.then_some(next)
    }

    fn hosts_do(&self, state: &State, actions: &mut Vec<Action>) {
        if self.trigger && state.trigger != Trigger::Over {
            actions.extend(Host::ALL.map(Action::Trigger));
        }
        if self.cancel && state.cancel != Cancel::Over {
            actions.extend(Host::ALL.map(Action::Cancel));
        }
        for signal in 0..self.signals {
            if !matches!(
                state.signals[usize::from(signal)],
                SignalRow::Committed { .. }
            ) {
                actions.extend(Host::ALL.map(|does| Action::Signal(signal, does)));
            }
        }
        if self.holder {
            actions.extend([Action::Hold, Action::Release]);
        }
    }

    fn worker_does(&self, state: &State, worker: u8, actions: &mut Vec<Action>) {
        match state.workers[usize::from(worker)] {
            // Two free workers are the same to all others: the first one claims.
            Worker::Free if worker > 0 && state.workers[0] == Worker::Free => return,
            Worker::Free => {
                let there = (0..2).filter(|delivery| state.delivery(*delivery).is_some());
                actions.extend(there.map(|delivery| Action::Claim(worker, delivery)));
                return;
            }
            Worker::Claimed(_) => {
                let unsent = [Tried::Superseded, Tried::AlreadyDelivered];
                let tries = self.tries.iter().copied().chain(unsent);
                actions.extend(tries.map(|tried| Action::Try(worker, tried)));
                if self.hand_backs > 0 {
                    actions.push(Action::HandBack(worker));
                }
            }
            Worker::Tried(_) => {
                if self.unheard {
                    actions.push(Action::CommitUnheard(worker));
                }
            }
        }
        if self.crashes {
            actions.push(Action::Crash(worker));
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let begin = State::default();
        let play = |state: State, action: &Action| {
            let after = self.after(&state, *action);
            after.unwrap_or_else(|| panic!("{action:?} cannot happen in {state:#?}"))
        };
        vec![self.before.iter().fold(begin, play)]
    }

    /// All that may happen next. Most of what cannot is left out, so that no state is copied for it.
    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        self.hosts_do(state, actions);
        let actors = [
            (self.router, Actor::Router),
            (self.timer, Actor::Timer),
            (self.owed, Actor::Owed),
            (self.closer, Actor::Closer),
            (self.workers > 0, Actor::Worker(0)),
            (self.workers > 1, Actor::Worker(1)),
        ];
        for (_, who) in actors.into_iter().filter(|(there, _)| *there) {
            if state.is_open(who) {
                actions.extend([Action::Next(who), Action::Lose(who)]);
            } else {
                actions.push(Action::Begin(who));
            }
        }
        for worker in 0..self.workers {
            self.worker_does(state, worker, actions);
        }
        for delivery in 0..2 {
            if self.closer && state.delivery(delivery).is_some() {
                actions.extend([Action::LeaseEnds(delivery), Action::FindExpired(delivery)]);
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.after(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let facts = self.facts.iter().map(|fact| fact.property());
        invariants::properties().chain(facts).collect()
    }
}
