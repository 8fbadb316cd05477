//! Those that claim, send and record, and those that close what they leave behind.

use super::{
    Rule, World,
    invariants::Invariant,
    rows::{AttemptRow, DeliveryRow, Told, TryResult},
    states::{Actor, Attempted, Claim, Found, Job, State, Statement, Transaction, Tried, Worker},
};
use crate::{
    definition::Outcome,
    engine::{
        AttemptResult, DeliveryStatus, Settled,
        attempt::{settle, status_reason},
    },
};

impl World {
    /// A claim is a transaction of its own. The same statement looks where the run is.
    pub(super) fn claim(&self, state: &mut State, worker: u8, delivery: u8) -> bool {
        if state.workers[usize::from(worker)] != Worker::Free
            || state.delivery_held_by(delivery).is_some()
        {
            return false;
        }
        let takes_over = !self.keeps(Rule::ExpiredLeaseIsClosed);
        let run = state.run.clone();
        let Some(row) = &mut state.deliveries[usize::from(delivery)] else {
            return false;
        };
        let over = row.status == DeliveryStatus::Dispatched && row.expired;
        let open = row.is_unsent() || over && takes_over;
        if !open || usize::from(row.attempts) >= row.tries.len() {
            return false;
        }
        let wanted = run.is_some_and(|run| {
            run.is_live()
                && !run.cancel_requested
                && (run.visit == row.visit || self.leaves_early(row.step))
        });
        let unwritten = row.attempts > 0 && row.attempt(row.attempts).is_none();
        let before = row.status;
        row.status = DeliveryStatus::Dispatched;
        row.claim_no += 1;
        row.attempts += 1;
        row.expired = false;
        let claim = Claim {
            delivery,
            claim_no: row.claim_no,
            attempt: row.attempts,
            crashes: row.crashes,
            wanted: wanted || !self.keeps(Rule::ClaimLooksAtTheRun),
            truly_wanted: wanted,
            delivered: row.is_known_delivered(),
            before,
        };
        state.workers[usize::from(worker)] = Worker::Claimed(claim);
        if unwritten {
            state.broken.by(Invariant::SendsAreAttempts);
        }
        true
    }

    /// Sends, or finds that nothing is to be sent.
    pub(super) fn try_once(&self, state: &mut State, worker: u8, tried: Tried) -> bool {
        let worker = &mut state.workers[usize::from(worker)];
        let Worker::Claimed(claim) = *worker else {
            return false;
        };
        let knows = claim.delivered && self.keeps(Rule::ClaimLooksAtItsAttempts);
        let may = match tried {
            Tried::Superseded => !claim.wanted,
            Tried::AlreadyDelivered => claim.wanted && knows,
            _ => claim.wanted && !knows,
        };
        if !may {
            return false;
        }
        *worker = Worker::Tried(Attempted {
            delivery: claim.delivery,
            claim_no: claim.claim_no,
            attempt: claim.attempt,
            crashes: claim.crashes,
            tried,
        });
        if !tried.is_unsent() {
            let sent = &mut state.sent[usize::from(claim.delivery)];
            let again = sent.has(claim.attempt);
            *sent = sent.and(claim.attempt);
            if again || claim.delivered || !claim.truly_wanted {
                state.broken.by(Invariant::SendsAreAttempts);
            }
        }
        true
    }

    /// `claims::hand_back`, a transaction of its own: what was claimed is due again.
    pub(super) fn hand_back(&self, state: &mut State, worker: u8) -> bool {
        let Worker::Claimed(claim) = state.workers[usize::from(worker)] else {
            return false;
        };
        if claim.claim_no > self.hand_backs || state.delivery_held_by(claim.delivery).is_some() {
            return false;
        }
        state.workers[usize::from(worker)] = Worker::Free;
        let Some(row) = &mut state.deliveries[usize::from(claim.delivery)] else {
            return false;
        };
        if row.claim_no == claim.claim_no && row.status == DeliveryStatus::Dispatched {
            row.status = if row.attempts > 1 {
                DeliveryStatus::Failed
            } else {
                DeliveryStatus::Pending
            };
            row.attempts -= 1;
            row.expired = false;
            if row.status != claim.before {
                state.broken.by(Invariant::AttemptsAreContiguous);
            }
            if !self.keeps(Rule::FenceOnlyGrows) {
                row.claim_no -= 1;
                state.broken.by(Invariant::FenceHolds);
            }
        }
        true
    }

    /// `sweep::close_expired` reads a lease that is over. It holds nothing yet.
    pub(super) fn find_expired(&self, state: &mut State, delivery: u8) -> bool {
        if state.closing.is_some() || !self.keeps(Rule::ExpiredLeaseIsClosed) {
            return false;
        }
        let expired = state
            .delivery(delivery)
            .filter(|row| row.status == DeliveryStatus::Dispatched && row.expired);
        let closing = expired.map(|row| Attempted {
            delivery,
            claim_no: row.claim_no,
            attempt: row.attempts,
            crashes: row.crashes,
            tried: Tried::Unknown,
        });
        state.closing = closing;
        closing.is_some()
    }

    /// A commit whose answer is lost: the worker will record once more.
    pub(super) fn commit_unheard(&self, state: &mut State, worker: u8) -> bool {
        let number = usize::from(worker);
        let kept = state.workers[number];
        let who = Actor::Worker(worker);
        let Some(place) = who.place() else {
            return false;
        };
        match state.transactions[place].take() {
            Some(transaction) if transaction.next == Statement::Commit => {
                self.commit(state, transaction, who);
                state.workers[number] = kept;
                true
            }
            _ => false,
        }
    }

    /// What a try makes of its delivery.
    fn settle(&self, attempted: Attempted) -> Settled {
        let result = match attempted.tried {
            Tried::Succeeded => AttemptResult::Succeeded,
            Tried::Temporary => AttemptResult::Temporary { retry_after: None },
            Tried::Unknown => AttemptResult::Unknown,
            // An attempt says so: not counted, but as good as a success.
            Tried::AlreadyDelivered => AttemptResult::Succeeded,
            Tried::Superseded => {
                return unsent(DeliveryStatus::Cancelled, status_reason::SUPERSEDED);
            }
            Tried::NoAddress => {
                return unsent(DeliveryStatus::Suppressed, status_reason::NO_ADDRESS);
            }
        };
        let closing = attempted.tried == Tried::Unknown;
        let crashes = attempted.crashes + u8::from(closing);
        settle(
            result,
            attempted.attempt.into(),
            crashes.into(),
            self.budget,
            0.0,
        )
    }

    /// `deliveries::record` and `attempts::insert`, and what the run is to be told then.
    pub(super) fn record(
        &self,
        state: &mut State,
        transaction: &mut Transaction,
        who: Actor,
    ) -> bool {
        let Job::Record(attempted) = transaction.job else {
            return false;
        };
        *state.delivery_held_by(attempted.delivery) = Some(who);
        let Some(mut row) = state.delivery(attempted.delivery).cloned() else {
            return false;
        };
        let goes_on = match (&transaction.moving, transaction.run) {
            (Some(moving), _) => moving.run.visit == row.visit || self.definition.moves_early(),
            (None, found) => found == Found::Skipped,
        };
        let mut settled = self.settle(attempted);
        if settled.retry_in.is_some() && !goes_on && self.keeps(Rule::RetryLooksAtTheRun) {
            settled.status = DeliveryStatus::Cancelled;
            settled.reason = Some(status_reason::SUPERSEDED);
        }
        let old = attempted.claim_no < row.claim_no;
        let decides = self.write(&mut row, attempted, &settled);
        if decides && old {
            state.broken.by(Invariant::FenceHolds);
        }

        transaction.next = Statement::Commit;
        if decides && attempted.tried != Tried::Superseded {
            if let Some(moving) = &mut transaction.moving {
                moving.input = Some(Told::Delivered {
                    delivery: attempted.delivery,
                    visit: row.visit,
                    outcome: settled.outcome,
                    status: settled.status,
                });
            } else if transaction.run == Found::Skipped {
                row.progress_owed |= self.keeps(Rule::SkippedRunIsOwedItsResult);
            }
        }
        if transaction.moving.is_some() {
            transaction.next = Statement::LookUp;
        }
        transaction.written[usize::from(attempted.delivery)] = Some(row);
        true
    }

    /// Writes the delivery, if this claim still decides it, and the attempt.
    fn write(&self, row: &mut DeliveryRow, attempted: Attempted, settled: &Settled) -> bool {
        let closing = attempted.tried == Tried::Unknown;
        let newest =
            row.claim_no == attempted.claim_no || !self.keeps(Rule::RecordIsFenced) && !closing;
        let late = row.status == DeliveryStatus::Failed && !closing;
        let open =
            row.status == DeliveryStatus::Dispatched || late && self.keeps(Rule::LateResultCounts);
        let decides = newest && open;
        if decides {
            let given_back = attempted.tried.is_unsent()
                && (row.status == DeliveryStatus::Dispatched
                    || !self.keeps(Rule::ClosedTryStaysCounted));
            row.status = settled.status;
            row.status_reason = settled.reason;
            row.crashes += u8::from(closing);
            row.attempts -= u8::from(given_back);
            row.expired = false;
        }
        if attempted.tried.is_unsent() || closing && !decides {
            return decides;
        }
        let new = AttemptRow {
            claim_no: attempted.claim_no,
            result: match attempted.tried {
                Tried::Succeeded => TryResult::Succeeded,
                Tried::Unknown => TryResult::Unknown,
                _ => TryResult::Failed,
            },
        };
        let known = &mut row.tries[usize::from(attempted.attempt) - 1];
        let amends = known.is_none_or(|known| {
            known.result == TryResult::Unknown && known.claim_no == new.claim_no
        });
        if amends {
            *known = Some(new);
        }
        decides
    }
}

fn unsent(status: DeliveryStatus, reason: &'static str) -> Settled {
    Settled {
        status,
        reason: Some(reason),
        retry_in: None,
        outcome: Outcome::Suppressed,
    }
}

impl State {
    /// A lease ends whenever it likes: how long a worker takes for a send is not modelled.
    pub(super) fn end_lease(&mut self, delivery: u8) -> bool {
        match &mut self.deliveries[usize::from(delivery)] {
            Some(row) if row.status == DeliveryStatus::Dispatched && !row.expired => {
                row.expired = true;
                true
            }
            _ => false,
        }
    }

    /// A worker is gone, and its transaction with it. Its claim stays until the lease ends.
    pub(super) fn crash(&mut self, worker: u8) -> bool {
        self.roll_back(Actor::Worker(worker));
        let worker = &mut self.workers[usize::from(worker)];
        std::mem::take(worker) != Worker::Free
    }
}
