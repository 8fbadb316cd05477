//! The statements that workers' transactions have in common: what `flow::progress` does.

use super::{
    Rule, World,
    invariants::Invariant,
    rows::{DeliveryRow, Few, Moving, Place, SignalRow, Told},
    states::{Actor, Found, Job, State, Statement, Transaction, Worker},
};
use crate::engine::{DeliveryStatus, attempt::status_reason};

impl Transaction {
    pub(super) fn new(job: Job, next: Statement) -> Self {
        Self {
            job,
            next,
            run: Found::NotAsked,
            snapshot: None,
            moving: None,
            written: [None, None],
        }
    }

    fn told(&self) -> Option<Told> {
        (self.job == Job::Due).then_some(Told::Due)
    }

    /// What comes after the run was looked for.
    fn after_lock(&self) -> Statement {
        match (self.job, self.run) {
            (Job::Record(_), _) => Statement::Record,
            (_, Found::Locked) => Statement::LookUp,
            _ => Statement::Commit,
        }
    }
}

impl World {
    /// The next statement of a transaction; it does not come while it waits for a row.
    pub(super) fn next(&self, state: &mut State, who: Actor) -> bool {
        let Some(place) = who.place() else {
            return false;
        };
        let Some(mut transaction) = state.transactions[place].take() else {
            return false;
        };
        if self.waits(state, &transaction, who) {
            return false;
        }
        let goes_on = match transaction.next {
            Statement::Candidates => self.find_candidates(state, &mut transaction),
            Statement::LockRun => self.lock_run(state, &mut transaction, who),
            Statement::LockDue => {
                let locked = self.lock_run(state, &mut transaction, who);
                if locked && !is_due(state, &transaction) {
                    state.end_transaction(who);
                    return true;
                }
                locked
            }
            Statement::Ended => self.which_ended(state, &mut transaction),
            Statement::Record => self.record(state, &mut transaction, who),
            Statement::LookUp => self.look_up(state, &mut transaction),
            Statement::CancelUnsent => Self::cancel_unsent(state, &mut transaction, who),
            Statement::Commit => {
                self.commit(state, transaction, who);
                return true;
            }
        };
        state.transactions[place] = Some(transaction);
        goes_on
    }

    /// Whether its next statement waits for a row that another session holds.
    pub(super) fn waits(&self, state: &State, transaction: &Transaction, who: Actor) -> bool {
        let other = |held_by: Option<Actor>| held_by.is_some_and(|holder| holder != who);
        let held = |place: usize| other(state.deliveries_held_by[place]);
        match (transaction.next, transaction.job) {
            (Statement::LockRun | Statement::LockDue, _) => {
                other(state.run_held_by) && !self.keeps(Rule::WorkersWaitForNoHost)
            }
            (Statement::Record, Job::Record(attempted)) => held(attempted.delivery.into()),
            // It waits for the rows that it sees as unsent.
            (Statement::CancelUnsent, _) => (0..2).any(|place| {
                let row = state.deliveries[place].as_ref();
                held(place) && row.is_some_and(DeliveryRow::is_unsent)
            }),
            _ => false,
        }
    }

    /// What a statement that begins now sees.
    pub(super) fn visible(&self, state: &State) -> Few {
        Few::of(state.committed_signals().map(|(number, ..)| number))
    }

    /// `runs::lock`: the run if it is live and nobody holds it, as it was committed last.
    pub(super) fn lock_run(
        &self,
        state: &mut State,
        transaction: &mut Transaction,
        who: Actor,
    ) -> bool {
        match &state.run {
            Some(run) if run.is_live() && state.run_held_by.is_none() => {
                let mut moving = Moving::new(run.clone(), state.clock, transaction.told());
                if transaction.job == Job::Due && !self.keeps(Rule::TimerLooksForSignals) {
                    moving.looked_up = Some(run.visit);
                }
                transaction.moving = Some(moving);
                transaction.run = Found::Locked;
                state.run_held_by = Some(who);
                self.tell_owed(transaction);
                transaction.next = transaction.after_lock();
            }
            _ => transaction.next = Statement::Ended,
        }
        true
    }

    /// `progress::skipped`: a run that was not locked has ended, or another session holds it.
    fn which_ended(&self, state: &State, transaction: &mut Transaction) -> bool {
        let ended = state.run.as_ref().is_some_and(|run| !run.is_live());
        transaction.run = if ended { Found::Ended } else { Found::Skipped };
        if let (Job::Owed { delivery }, Found::Ended) = (transaction.job, transaction.run) {
            // `owed::settle`: there is nobody to tell any more.
            if let Some(row) = &mut transaction.written[usize::from(delivery)] {
                row.progress_owed = false;
                if row.is_unsent() && self.keeps(Rule::OwedEndsRetries) {
                    row.status = DeliveryStatus::Cancelled;
                    row.status_reason = Some(status_reason::SUPERSEDED);
                }
            }
        }
        transaction.next = transaction.after_lock();
        true
    }

    /// `progress::advance`, up to its next look-up and with it.
    fn look_up(&self, state: &mut State, transaction: &mut Transaction) -> bool {
        let visible = transaction.snapshot.unwrap_or_else(|| self.visible(state));
        let Some(moving) = &mut transaction.moving else {
            return false;
        };
        if self.look_up_and_tell(state, moving, visible) {
            transaction.next = if moving.cancel_unsent {
                Statement::CancelUnsent
            } else {
                Statement::Commit
            };
        }
        true
    }

    /// One look-up statement, where one is needed, and whatever the run is told before the next one;
    /// whether there is nothing more to tell.
    pub(super) fn look_up_and_tell(
        &self,
        state: &mut State,
        moving: &mut Moving,
        visible: Few,
    ) -> bool {
        let mut looked = false;
        loop {
            let hears = moving.was_due || self.keeps(Rule::EveryoneHearsACancel);
            if moving.run.cancel_requested && moving.run.is_live() && hears {
                self.tell_cancel(moving);
            }
            let waits =
                self.is_listening(&moving.run) && moving.looked_up != Some(moving.run.visit);
            if waits && looked {
                return false;
            }
            let signal = if waits {
                looked = true;
                moving.looked_up = Some(moving.run.visit);
                self.oldest_that_counts(state, moving, visible)
            } else {
                None
            };
            match (signal, moving.input.take()) {
                (Some(signal), input) => {
                    moving.input = input;
                    self.signaled(state, moving, signal);
                }
                (None, Some(Told::Due)) => self.due(state, moving),
                (None, Some(told)) => self.tell(moving, told),
                (None, None) => return true,
            }
        }
    }

    /// `signals::look_up`
    fn oldest_that_counts(&self, state: &State, moving: &Moving, visible: Few) -> Option<u8> {
        let once = self.keeps(Rule::SignalActsOnce);
        state
            .committed_signals()
            .filter(|(number, occurred_at, _)| {
                visible.has(*number)
                    && *occurred_at >= moving.run.started_at
                    && !(once && moving.run.heard.has(*number))
            })
            .min_by_key(|(number, occurred_at, _)| (*occurred_at, *number))
            .map(|(number, ..)| number)
    }

    fn signaled(&self, state: &mut State, moving: &mut Moving, signal: u8) {
        let again = moving.run.heard.has(signal);
        if self.tell_signal(moving, signal) {
            let SignalRow::Committed { made_at, .. } = state.signals[usize::from(signal)] else {
                panic!("signal {signal} acts and is not committed");
            };
            if again || made_at < moving.run.started_at {
                state.broken.by(Invariant::SignalActsOnceOnRunsBegun);
            }
        }
    }

    fn due(&self, state: &mut State, moving: &mut Moving) {
        let before = moving.run.clone();
        self.tell(moving, Told::Due);
        let Place::Waiting { until } = before.place else {
            return;
        };
        if moving.run == before || !self.is_listening(&before) {
            return;
        }
        // The time of the wait has ended it. No signal may have been in time.
        let in_time = (0..).zip(&state.signals).any(|(number, row)| match row {
            SignalRow::Committed {
                made_at,
                committed_at,
                ..
            } => {
                *made_at >= before.started_at && *committed_at < until && !before.heard.has(number)
            }
            _ => false,
        });
        if in_time {
            state.broken.by(Invariant::SignalInTimeEndsTheWait);
        }
    }

    /// `deliveries::cancel_unsent`
    fn cancel_unsent(state: &mut State, transaction: &mut Transaction, who: Actor) -> bool {
        for place in 0..state.deliveries.len() {
            let row = transaction.written[place]
                .as_ref()
                .or(state.deliveries[place].as_ref());
            let Some(row) = row.filter(|row| row.is_unsent()) else {
                continue;
            };
            let mut row = row.clone();
            row.status = DeliveryStatus::Cancelled;
            row.status_reason = Some(status_reason::SUPERSEDED);
            transaction.written[place] = Some(row);
            state.deliveries_held_by[place] = Some(who);
        }
        transaction.next = Statement::Commit;
        true
    }

    /// Everything that was written is there for all.
    pub(super) fn commit(&self, state: &mut State, mut transaction: Transaction, who: Actor) {
        // A lease may have ended meanwhile: that is time, not a column somebody writes.
        for (row, written) in state.deliveries.iter().zip(&mut transaction.written) {
            if let (Some(row), Some(written)) = (row, written)
                && written.status == DeliveryStatus::Dispatched
            {
                written.expired = row.expired;
            }
        }
        let moved = transaction
            .moving
            .filter(|moving| moving.moved || moving.was_due);
        if let Some(moving) = moved {
            if let (Some(planned), Some(free)) = (
                moving.planned(),
                state.deliveries.iter_mut().find(|row| row.is_none()),
            ) {
                *free = Some(planned);
            }
            if state.run.as_ref().is_some_and(|run| !run.is_live()) {
                state.broken.by(Invariant::TerminalStaysTerminal);
            }
            state.run = Some(moving.run);
        }
        for (row, written) in state.deliveries.iter_mut().zip(transaction.written) {
            if written.is_some() {
                *row = written;
            }
        }
        match transaction.job {
            Job::Route {
                signals,
                candidates,
            } => {
                let skipped = transaction.run == Found::Skipped;
                for signal in signals.all() {
                    let stays = skipped && candidates.has(signal);
                    if let SignalRow::Committed { routed, .. } =
                        &mut state.signals[usize::from(signal)]
                    {
                        *routed = !(stays && self.keeps(Rule::SkippedSignalStaysDue));
                    }
                }
            }
            Job::Record(_) => match who {
                Actor::Worker(number) => state.workers[usize::from(number)] = Worker::Free,
                _ => state.closing = None,
            },
            Job::Due | Job::Owed { .. } => {}
        }
        state.end_transaction(who);
    }
}

fn is_due(state: &State, transaction: &Transaction) -> bool {
    let run = transaction.moving.as_ref().map(|moving| &moving.run);
    run.is_some_and(|run| run.wake_at.is_some_and(|at| at <= state.clock))
}
