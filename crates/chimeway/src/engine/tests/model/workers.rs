//! The batches: routing signals, moving due runs, telling what is owed; and how a record begins.

use super::{
    Rule, World,
    rows::{Few, Told},
    states::{Actor, Job, State, Statement, Transaction, Worker},
};
use crate::engine::attempt::outcome_of;

impl World {
    /// The first statement of a worker's transaction.
    pub(super) fn begin(&self, state: &mut State, who: Actor) -> bool {
        let Some(place) = who.place() else {
            return false;
        };
        if state.transactions[place].is_some() {
            return false;
        }
        let Some(mut transaction) = self.first(state, who) else {
            return false;
        };
        // Where rule 3 holds, when its snapshot was taken does not matter to a lock statement: what it
        // locks it reads anew. It is one step then, and two where it looks for signals as well.
        let locks_at_once = matches!(transaction.job, Job::Due | Job::Record(_));
        if !self.keeps(Rule::LockFirstLookLater) {
            transaction.snapshot = Some(self.visible(state));
        } else if locks_at_once && !self.waits(state, &transaction, who) {
            self.lock_run(state, &mut transaction, who);
        }
        state.transactions[place] = Some(transaction);
        true
    }

    fn first(&self, state: &mut State, who: Actor) -> Option<Transaction> {
        match who {
            Actor::Router => {
                let signals = state.committed_signals();
                let due = signals.filter(|(.., routed)| !routed);
                let signals = Few::of(due.map(|(number, ..)| number));
                let job = Job::Route {
                    signals,
                    candidates: Few::default(),
                };
                (!signals.is_empty()).then(|| Transaction::new(job, Statement::Candidates))
            }
            Actor::Timer => {
                let run = state.run.as_ref()?;
                let due = run.wake_at.is_some_and(|at| at <= state.clock);
                let passes = state.run_held_by.is_some() && self.keeps(Rule::WorkersWaitForNoHost);
                (due && !passes).then(|| Transaction::new(Job::Due, Statement::LockDue))
            }
            Actor::Owed => {
                let owed = (0..2).find(|place| {
                    let row = state.delivery(*place);
                    row.is_some_and(|row| row.progress_owed)
                        && state.deliveries_held_by[usize::from(*place)].is_none()
                })?;
                *state.delivery_held_by(owed) = Some(who);
                let job = Job::Owed { delivery: owed };
                let mut transaction = Transaction::new(job, Statement::LockRun);
                transaction.written[usize::from(owed)] = state.delivery(owed).cloned();
                Some(transaction)
            }
            Actor::Closer => {
                let attempted = state.closing?;
                Some(Transaction::new(Job::Record(attempted), Statement::LockRun))
            }
            Actor::Worker(number) => match state.workers[usize::from(number)] {
                Worker::Tried(attempted) => {
                    Some(Transaction::new(Job::Record(attempted), Statement::LockRun))
                }
                Worker::Free | Worker::Claimed(_) => None,
            },
            Actor::Holder | Actor::Canceler => None,
        }
    }

    /// `signals::candidates`: live runs of the actor that began before the signal, held or not.
    pub(super) fn find_candidates(&self, state: &State, transaction: &mut Transaction) -> bool {
        let Job::Route { signals, .. } = transaction.job else {
            return false;
        };
        let run = state.run.as_ref().filter(|run| run.is_live());
        let for_run = state
            .committed_signals()
            .filter(|(number, occurred_at, _)| {
                signals.has(*number) && run.is_some_and(|run| run.started_at <= *occurred_at)
            });
        let candidates = Few::of(for_run.map(|(number, ..)| number));
        transaction.job = Job::Route {
            signals,
            candidates,
        };
        transaction.next = if candidates.is_empty() {
            Statement::Commit
        } else {
            Statement::LockRun
        };
        if !self.keeps(Rule::LockFirstLookLater) {
            transaction.snapshot = Some(self.visible(state));
        }
        true
    }

    /// `Owed::work`, once the run is locked: what the row says is what the run is told.
    pub(super) fn tell_owed(&self, transaction: &mut Transaction) {
        let Job::Owed { delivery } = transaction.job else {
            return;
        };
        let row = &mut transaction.written[usize::from(delivery)];
        let (Some(row), Some(moving)) = (row, &mut transaction.moving) else {
            return;
        };
        row.progress_owed = false;
        moving.input = outcome_of(row.status, row.status_reason).map(|outcome| Told::Delivered {
            delivery,
            visit: row.visit,
            outcome,
            status: row.status,
        });
    }
}
