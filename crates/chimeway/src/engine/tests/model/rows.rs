//! What the tables hold, as little of it as the rules are about.

use crate::{definition::Outcome, engine::DeliveryStatus};

/// A point in time: a wait of `PT1H` lasts one tick.
pub(super) type Tick = u8;

/// A few small numbers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Few(u8);

impl Few {
    pub(super) fn of(numbers: impl Iterator<Item = u8>) -> Self {
        numbers.fold(Self::default(), Self::and)
    }

    pub(super) fn has(self, number: u8) -> bool {
        self.0 & (1 << number) != 0
    }

    pub(super) fn and(self, number: u8) -> Self {
        Self(self.0 | (1 << number))
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn all(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |number| self.has(*number))
    }
}

/// A row of `workflow_runs`, with what its transitions say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RunRow {
    pub(super) started_at: Tick,
    pub(super) step: u8,
    pub(super) visit: u8,
    pub(super) place: Place,
    pub(super) wake_at: Option<Tick>,
    /// A host has asked for its end.
    pub(super) cancel_requested: bool,
    /// The signals that its transitions name.
    pub(super) heard: Few,
}

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Active,
    Waiting { until: Tick },
    Ended(End),
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum End {
    Completed,
    Signaled,
    Outcome,
    Canceled,
}

/// A row of `signals`, from the call that makes it on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SignalRow {
    #[default]
    Unmade,
    /// Its transaction has begun, and it is not made yet.
    Begun { at: Tick },
    /// Made, and not committed.
    Made { occurred_at: Tick, made_at: Tick },
    Committed {
        occurred_at: Tick,
        /// When it was really made: no column, and not for the engine.
        made_at: Tick,
        /// When it was committed: likewise.
        committed_at: Tick,
        routed: bool,
    },
}

/// A row of `deliveries`, with its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DeliveryRow {
    pub(super) step: u8,
    pub(super) visit: u8,
    pub(super) status: DeliveryStatus,
    pub(super) status_reason: Option<&'static str>,
    pub(super) claim_no: u8,
    pub(super) attempts: u8,
    pub(super) crashes: u8,
    /// Its lease is over.
    pub(super) expired: bool,
    pub(super) progress_owed: bool,
    /// Its attempts, by number from 1.
    pub(super) tries: [Option<AttemptRow>; 3],
}

impl DeliveryRow {
    fn planned(step: u8, visit: u8) -> Self {
        Self {
            step,
            visit,
            status: DeliveryStatus::Pending,
            status_reason: None,
            claim_no: 0,
            attempts: 0,
            crashes: 0,
            expired: false,
            progress_owed: false,
            tries: [None; 3],
        }
    }

    /// To be sent, now or later.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(
            self.status,
            DeliveryStatus::Pending | DeliveryStatus::Failed
        )
    }

    /// An attempt is known to have succeeded.
    pub(super) fn is_known_delivered(&self) -> bool {
        let mut tries = self.tries.iter().flatten();
        tries.any(|attempt| attempt.result == TryResult::Succeeded)
    }

    pub(super) fn attempt(&self, number: u8) -> Option<AttemptRow> {
        let place = usize::from(number).checked_sub(1)?;
        self.tries[place]
    }
}

/// A row of `delivery_attempts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct AttemptRow {
    pub(super) claim_no: u8,
    pub(super) result: TryResult,
}

/// What an attempt's row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum TryResult {
    Succeeded,
    Failed,
    Unknown,
}

/// Something to tell a run, beside signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Told {
    Due,
    Delivered {
        delivery: u8,
        visit: u8,
        outcome: Outcome,
        status: DeliveryStatus,
    },
}

/// A locked run on its way through a transaction: what `flow::progress` keeps of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Moving {
    pub(super) run: RunRow,
    /// When it was locked.
    pub(super) now: Tick,
    pub(super) input: Option<Told>,
    pub(super) was_due: bool,
    /// The visit whose signals have been looked up.
    pub(super) looked_up: Option<u8>,
    /// The signals that have acted on it in this transaction.
    pub(super) acted: Few,
    /// The step whose message is planned, and its visit.
    pub(super) plan: Option<(u8, u8)>,
    pub(super) cancel_unsent: bool,
    pub(super) moved: bool,
}

impl Moving {
    pub(super) fn new(run: RunRow, now: Tick, input: Option<Told>) -> Self {
        Self {
            was_due: input == Some(Told::Due),
            run,
            now,
            input,
            looked_up: None,
            acted: Few::default(),
            plan: None,
            cancel_unsent: false,
            moved: false,
        }
    }

    pub(super) fn planned(&self) -> Option<DeliveryRow> {
        self.plan
            .map(|(step, visit)| DeliveryRow::planned(step, visit))
    }
}

impl RunRow {
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.place, Place::Ended(_))
    }
}
