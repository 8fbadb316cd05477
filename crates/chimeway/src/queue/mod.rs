//! How due rows become apalis tasks. Nothing else names apalis.
//!
//! There is no job table: the domain row is the job, and inserting it is the enqueue
//! (docs/adr/0001-the-row-is-the-job.md). A [`Source`] says how rows of one queue are claimed; the
//! [`backend`] turns what it claims into apalis tasks, never more than there are free slots, and
//! sleeps exactly until the next row is due; the [`fleet`] runs one apalis worker per queue and drains
//! them.
//!
//! Must not: hold SQL, decide anything, know what a delivery is.
//!
//! To add a queue: 1. its name here; 2. a [`Source`] in `flow/workers/`; 3. a line in
//! `flow/workers/mod.rs` that adds it to the fleet.

pub mod backend;
pub mod fleet;
pub mod listener;
pub mod schedule;
pub mod wake;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

pub use backend::Slot;
pub use fleet::{Fleet, Health};
pub use wake::{Wake, Wakes};

use crate::store::StoreResult;

/// What a worker logs where nobody says otherwise: what happens, and of the library beneath the queues only what
/// goes wrong.
pub const LOG_FILTER: &str = "info,apalis=warn,apalis_core=warn";

/// How many jobs may go on without a slot, to write down what they did: five for each slot, up to a hundred;
/// two for each of very many slots. When there are more, none is begun: so much was sent at most, and is not
/// known to be, when a process dies.
#[must_use]
pub fn beyond(slots: usize) -> usize {
    slots
        .saturating_mul(5)
        .min(slots.saturating_mul(2).max(100))
}

/// The queues. Their names are NOTIFY payloads and settings: renaming one is a breaking change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueueName {
    /// Cron ticks.
    Default,
    /// Deliveries to send, expired leases to close.
    Delivery,
    /// Signals to show to runs.
    Signals,
    /// Events to expand, runs to look at.
    Workflows,
}

impl QueueName {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Default,
        Self::Delivery,
        Self::Signals,
        Self::Workflows,
    ];

    /// As settings and NOTIFY payloads have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Delivery => "chimeway_delivery",
            Self::Signals => "chimeway_signals",
            Self::Workflows => "chimeway_workflows",
        }
    }

    /// The queue of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|queue| queue.as_str() == name)
    }

    /// How many of its tasks one process runs at a time, unless told otherwise.
    #[must_use]
    pub const fn default_limit(self) -> usize {
        match self {
            Self::Default | Self::Signals => 10,
            Self::Delivery => 20,
            Self::Workflows => 5,
        }
    }
}

impl std::fmt::Display for QueueName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a look at a queue brought.
#[derive(Debug)]
pub struct Fetched<Job> {
    /// Claimed now; at most as many as asked for.
    pub jobs: Vec<Job>,
    /// How far away the next row is that is not claimed yet, where that is known. Where it is not and there
    /// are jobs, the queue is looked at again at once.
    pub next_due: Option<Duration>,
}

/// How the rows of one queue are claimed and handled.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// What a task carries: ids only.
    type Job: std::fmt::Debug + Clone + Send + Sync + Unpin + 'static;

    /// Waits, for milliseconds, where more slots are about to be free: called when one is, before they are
    /// counted.
    async fn gather(&self) {}

    /// Claims up to `free` jobs.
    ///
    /// # Errors
    ///
    /// Any database error: the backend backs off and looks again, and no worker ends.
    async fn fetch(&self, free: usize) -> StoreResult<Fetched<Self::Job>>;

    /// Does one job. Whatever goes wrong is settled in here. Once the slot is dropped another job is
    /// claimed for it; some jobs ([`beyond`]) may go on without one, to write down what they did.
    async fn handle(&self, job: Self::Job, slot: Slot);

    /// Gives back what was claimed and not begun; called once, when the process drains.
    async fn hand_back(&self);
}

/// A source that the fleet shares between its backend and its handlers.
pub(crate) type Shared<S> = Arc<S>;
