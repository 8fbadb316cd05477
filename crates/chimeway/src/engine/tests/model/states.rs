//! Everything that a state is: rows, who holds them, and where each actor is.

use super::{
    invariants::Broken,
    rows::{DeliveryRow, Few, Moving, RunRow, SignalRow, Tick},
};
use crate::engine::DeliveryStatus;

/// A session that locks rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Actor {
    /// Routes signals.
    Router,
    /// Moves due runs.
    Timer,
    /// Tells runs what they are owed.
    Owed,
    /// Closes expired leases.
    Closer,
    /// Claims, sends, records.
    Worker(u8),
    /// A host that holds the run's row.
    Holder,
    /// A host that cancels.
    Canceler,
}

/// What is committed, who holds what, and what each actor keeps in memory.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) clock: Tick,

    pub(super) run: Option<RunRow>,
    pub(super) run_held_by: Option<Actor>,
    pub(super) signals: [SignalRow; 2],
    /// In the order in which they were planned.
    pub(super) deliveries: [Option<DeliveryRow>; 2],
    pub(super) deliveries_held_by: [Option<Actor>; 2],

    pub(super) trigger: Trigger,
    pub(super) cancel: Cancel,
    /// What the delivery workers are at.
    pub(super) workers: [Worker; 2],
    /// A lease that the closer has found expired.
    pub(super) closing: Option<Attempted>,
    /// One each of: router, timer, owed, closer, and the two delivery workers.
    pub(super) transactions: [Option<Transaction>; 6],

    /// Which tries of each delivery reached the channel. No row: the world outside knows.
    pub(super) sent: [Few; 2],
    /// What was seen to break on the way here.
    pub(super) broken: Broken,
}

/// The host that starts the run.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub(super) enum Trigger {
    #[default]
    Before,
    /// Its transaction has made the run and is open.
    Open(Box<Moving>),
    Over,
}

/// The host that cancels the run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Cancel {
    #[default]
    Before,
    /// Its transaction has asked, and is open.
    Open,
    Over,
}

/// A delivery worker.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Worker {
    #[default]
    Free,
    Claimed(Claim),
    /// A try has come to its end, and is to be recorded.
    Tried(Attempted),
}

/// A claim as the worker that has it knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    pub(super) delivery: u8,
    pub(super) claim_no: u8,
    pub(super) attempt: u8,
    pub(super) crashes: u8,
    /// The claim found the run where it is to be sent for.
    pub(super) wanted: bool,
    /// It truly was.
    pub(super) truly_wanted: bool,
    /// An attempt was known to have succeeded.
    pub(super) delivered: bool,
    /// The status before the claim, which giving it back restores.
    pub(super) before: DeliveryStatus,
}

/// A try that is to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Attempted {
    pub(super) delivery: u8,
    pub(super) claim_no: u8,
    pub(super) attempt: u8,
    pub(super) crashes: u8,
    pub(super) tried: Tried,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Tried {
    Succeeded,
    Temporary,
    /// Its lease ended without a record.
    Unknown,
    /// Not sent: the run had moved on.
    Superseded,
    /// Not sent: there is no address.
    NoAddress,
    /// Not sent: an attempt is known to have succeeded.
    AlreadyDelivered,
}

impl Tried {
    pub(super) fn is_unsent(self) -> bool {
        matches!(
            self,
            Self::Superseded | Self::NoAddress | Self::AlreadyDelivered
        )
    }
}

/// A worker's transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Transaction {
    pub(super) job: Job,
    pub(super) next: Statement,
    pub(super) run: Found,
    /// The signals that were committed when its lock statement began; kept only where rule 3 is off.
    pub(super) snapshot: Option<Few>,
    pub(super) moving: Option<Moving>,
    /// Its own versions of deliveries.
    pub(super) written: [Option<DeliveryRow>; 2],
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Job {
    /// These signals are shown to the run, where it is a candidate for them.
    Route {
        signals: Few,
        candidates: Few,
    },
    Due,
    Owed {
        delivery: u8,
    },
    Record(Attempted),
}

/// The next statement of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Statement {
    /// `signals::candidates`
    Candidates,
    /// `runs::lock`
    LockRun,
    /// `runs::lock_due`, apart from its snapshot.
    LockDue,
    /// `runs::ended`, by `progress::skipped`
    Ended,
    /// `deliveries::record` and `attempts::insert`: the first one locks what the second one writes.
    Record,
    /// `signals::look_up`, and what is decided then.
    LookUp,
    /// `deliveries::cancel_unsent`
    CancelUnsent,
    Commit,
}

/// What a transaction knows of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Found {
    NotAsked,
    Locked,
    /// Another session holds it.
    Skipped,
    Ended,
}

impl Actor {
    /// Those that work in transactions.
    pub(super) const WORKERS: [Self; 6] = [
        Self::Router,
        Self::Timer,
        Self::Owed,
        Self::Closer,
        Self::Worker(0),
        Self::Worker(1),
    ];

    pub(super) fn place(self) -> Option<usize> {
        match self {
            Self::Router => Some(0),
            Self::Timer => Some(1),
            Self::Owed => Some(2),
            Self::Closer => Some(3),
            Self::Worker(number) => Some(4 + usize::from(number)),
            Self::Holder | Self::Canceler => None,
        }
    }
}

impl State {
    pub(super) fn tick(&mut self, last: Tick) -> bool {
        self.clock += 1;
        self.clock <= last
    }

    pub(super) fn delivery(&self, place: u8) -> Option<&DeliveryRow> {
        self.deliveries[usize::from(place)].as_ref()
    }

    pub(super) fn delivery_held_by(&mut self, place: u8) -> &mut Option<Actor> {
        &mut self.deliveries_held_by[usize::from(place)]
    }

    /// The committed signals: number, instant, whether routed.
    pub(super) fn committed_signals(&self) -> impl Iterator<Item = (u8, Tick, bool)> {
        let rows = (0..).zip(&self.signals);
        rows.filter_map(|(number, row)| match row {
            SignalRow::Committed {
                occurred_at,
                routed,
                ..
            } => Some((number, *occurred_at, *routed)),
            _ => None,
        })
    }

    /// Ends a transaction, and lets go of its locks.
    pub(super) fn end_transaction(&mut self, who: Actor) {
        if let Some(place) = who.place() {
            self.transactions[place] = None;
        }
        self.let_go(who);
    }

    pub(super) fn let_go(&mut self, who: Actor) {
        for held_by in self
            .deliveries_held_by
            .iter_mut()
            .chain([&mut self.run_held_by])
        {
            held_by.take_if(|holder| *holder == who);
        }
    }

    pub(super) fn transaction(&self, who: Actor) -> Option<&Transaction> {
        self.transactions[who.place()?].as_ref()
    }

    /// It is in a transaction.
    pub(super) fn is_open(&self, who: Actor) -> bool {
        self.transaction(who).is_some()
    }

    /// A worker's connection is lost, or its process is gone: nothing of its transaction stays.
    pub(super) fn roll_back(&mut self, who: Actor) -> bool {
        let open = self.is_open(who);
        self.end_transaction(who);
        // A closer looks for expired leases anew.
        if who == Actor::Closer {
            self.closing = None;
        }
        open
    }

    /// Nobody is in a transaction.
    pub(super) fn is_nobody_at_it(&self) -> bool {
        self.transactions.iter().all(Option::is_none)
            && !matches!(self.trigger, Trigger::Open(_))
            && self.cancel != Cancel::Open
            && self.run_held_by.is_none()
            && !self
                .signals
                .iter()
                .any(|signal| matches!(signal, SignalRow::Begun { .. } | SignalRow::Made { .. }))
    }

    /// Nobody is in a transaction, nothing is due, and no worker has anything in hand.
    pub(super) fn is_quiet(&self) -> bool {
        let idle = self.closing.is_none() && self.workers == [Worker::Free; 2];
        let wake_at = self.run.as_ref().and_then(|run| run.wake_at);
        let due = wake_at.is_some_and(|at| at <= self.clock)
            || self.committed_signals().any(|(.., routed)| !routed)
            || self.deliveries.iter().flatten().any(|row| {
                row.is_unsent() || row.status == DeliveryStatus::Dispatched || row.progress_owed
            });
        self.is_nobody_at_it() && idle && !due
    }
}
