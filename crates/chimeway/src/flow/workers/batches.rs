//! The queues whose task is a batch: signals to route; events to expand and runs to look at.
//!
//! A look asks when each kind of work is due next. A kind that is due becomes one task, which takes up
//! to a batch of its rows in one transaction; a kind is not taken up again while its task runs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{LATE, floor::Known, presence::Presence};
use crate::{
    flow::{
        Core, actions,
        batch::{self, Look},
        dispatch::HELD,
        due::Due,
        expand::Expand,
        metrics,
        owed::Owed,
        route::Route,
        session::{Bounded, Sessions},
    },
    queue::{Fetched, QueueName, Slot, Source},
    store::{
        StoreResult,
        due::{self, DueIn, Floor, Next, OfWorkflows},
    },
};

/// How long at most the next rows gather after a batch that was not full.
const GATHER: Duration = Duration::from_millis(5);

/// How long the next batch waits after one with a row that cannot be worked on nor set aside: it is in the next
/// one too, and has to be found there again.
const LEFT: Duration = Duration::from_millis(50);

/// A kind of work that is done in batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Signals to route.
    Signals,
    /// Events to expand.
    Events,
    /// Runs to look at.
    Runs,
    /// Runs to tell a result.
    Owed,
    /// Runs whose actions are to be carried out.
    Actions,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Signals => "signals",
            Self::Events => "events",
            Self::Runs => "runs",
            Self::Owed => "owed",
            Self::Actions => "actions",
        }
    }
}

/// A queue of batches.
pub(super) struct Batches {
    core: Arc<Core>,
    sessions: Sessions,
    presence: Arc<Presence>,
    queue: QueueName,
    kinds: Vec<(Kind, Mutex<Pace>)>,
}

/// How a kind goes.
#[derive(Debug, Default)]
struct Pace {
    running: bool,
    /// How often in a row nothing could be taken although rows were due: another session holds them.
    held: u32,
    not_before: Option<Instant>,
    /// From where on its rows are looked for.
    known: Known,
    /// Where more is due than can be done at once: from when on is due what is not late yet.
    newest: Floor,
}

/// From when on is due what is not late, where something is.
fn newest(next: Next) -> Floor {
    let in_time = next.now.checked_sub_signed(LATE)?;
    next.from.filter(|first| *first < in_time)?;
    Some(in_time)
}

impl Batches {
    pub(super) fn signals(core: Arc<Core>, sessions: Sessions, presence: Arc<Presence>) -> Self {
        Self::of(
            core,
            sessions,
            presence,
            QueueName::Signals,
            &[Kind::Signals],
        )
    }

    pub(super) fn workflows(core: Arc<Core>, sessions: Sessions, presence: Arc<Presence>) -> Self {
        Self::of(
            core,
            sessions,
            presence,
            QueueName::Workflows,
            &[Kind::Events, Kind::Owed, Kind::Runs, Kind::Actions],
        )
    }

    fn of(
        core: Arc<Core>,
        sessions: Sessions,
        presence: Arc<Presence>,
        queue: QueueName,
        kinds: &[Kind],
    ) -> Self {
        let kinds = kinds.iter().map(|kind| (*kind, Mutex::default())).collect();
        Self {
            core,
            sessions,
            presence,
            queue,
            kinds,
        }
    }

    async fn due(&self) -> StoreResult<Vec<(Kind, DueIn)>> {
        let work = self.sessions.bounded();
        let (found, took) = work.run(self.due_by(work)).await?;
        let due = found.into_iter().map(|(kind, floor, next)| {
            if let Some(mut pace) = self.pace(kind) {
                pace.known.asked(floor, next.from, took);
                pace.newest = newest(next);
                if let Some(again) = pace.known.again(floor) {
                    self.core.wakes.of(self.queue).later(again);
                }
            }
            (kind, next.due)
        });
        Ok(due.collect())
    }

    /// What is due next of each kind, and from where on that was asked; and how long the answer took.
    async fn due_by(&self, work: Bounded<'_>) -> StoreResult<(Vec<(Kind, Floor, Next)>, Duration)> {
        let floor = |kind| self.pace(kind).and_then(|pace| pace.known.to_ask());
        let mut session = work.session().await?;
        let mut conn = session.read().await?;
        let asked = Instant::now();
        let found = match self.queue {
            QueueName::Signals => {
                let floor = floor(Kind::Signals);
                vec![(Kind::Signals, floor, due::signals(&mut conn, floor).await?)]
            }
            _ => {
                let floors = OfWorkflows {
                    events: floor(Kind::Events),
                    runs: floor(Kind::Runs),
                    owed: floor(Kind::Owed),
                    actions: floor(Kind::Actions),
                };
                let due = due::workflows(&mut conn, floors).await?;
                vec![
                    (Kind::Events, floors.events, due.events),
                    (Kind::Owed, floors.owed, due.owed),
                    (Kind::Runs, floors.runs, due.runs),
                    (Kind::Actions, floors.actions, due.actions),
                ]
            }
        };
        Ok((found, asked.elapsed()))
    }

    fn pace(&self, kind: Kind) -> Option<std::sync::MutexGuard<'_, Pace>> {
        let (_, pace) = self.kinds.iter().find(|(known, _)| *known == kind)?;
        Some(pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a batch of what is due longest; where that is late, one of what is not late before.
    async fn take(&self, kind: Kind) -> StoreResult<batch::Took> {
        let (newest, floor) = match self.pace(kind) {
            Some(pace) => (pace.newest, pace.known.floor()),
            None => (None, None),
        };
        let in_time = match newest {
            Some(_) => self.take_from(kind, newest).await,
            None => Ok(batch::Took::default()),
        };
        let late = self.take_from(kind, floor).await?;
        Ok(in_time?.and(late))
    }

    async fn take_from(&self, kind: Kind, floor: Floor) -> StoreResult<batch::Took> {
        let (core, sessions) = (self.core.as_ref(), &self.sessions);
        let look = Look {
            floor,
            suspect: self.presence.suspect(),
        };
        let (took, _) = match kind {
            Kind::Signals => batch::take(core, sessions, &Route { core }, look).await?,
            Kind::Events => batch::take(core, sessions, &Expand { core }, look).await?,
            Kind::Runs => batch::take(core, sessions, &Due { core }, look).await?,
            Kind::Owed => batch::take(core, sessions, &Owed { core }, look).await?,
            Kind::Actions => return actions::take(core, sessions, look).await,
        };
        Ok(took)
    }
}

/// Makes a kind free again when its task ends, however it ends.
struct Running<'a> {
    batches: &'a Batches,
    kind: Kind,
    began: Instant,
    took: batch::Took,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut rest = Duration::ZERO;
        if let Some(mut pace) = self.batches.pace(self.kind) {
            pace.running = false;
            if self.took.rows == 0 {
                rest = HELD.0.saturating_mul(1 << pace.held.min(16)).min(HELD.1);
                pace.held = pace.held.saturating_add(1);
            } else {
                pace.held = 0;
                if self.took.left {
                    rest = LEFT;
                }
                // Half of the time at most goes into transactions: the more rows become due, the more each
                // one takes.
                if !self.took.full && !self.took.left {
                    rest = self.began.elapsed().min(GATHER);
                }
            }
            pace.not_before = Some(Instant::now() + rest);
        }
        // There may be more, and nobody else says so.
        self.batches.core.wakes.of(self.batches.queue).later(rest);
    }
}

#[async_trait]
impl Source for Batches {
    type Job = Kind;

    async fn fetch(&self, free: usize) -> StoreResult<Fetched<Kind>> {
        // Before anything is taken up: what dies with this process is found by that.
        self.presence.beat(&self.core, &self.sessions).await?;
        let mut jobs = vec![];
        let mut next_due: Option<Duration> = None;
        for (kind, due) in self.due().await? {
            let (Some(due), Some(mut pace)) = (due, self.pace(kind)) else {
                continue;
            };
            if pace.running {
                continue;
            }
            let held = pace.not_before.map_or(Duration::ZERO, |at| {
                at.saturating_duration_since(Instant::now())
            });
            let wait = due.max(held);
            if wait == Duration::ZERO && jobs.len() < free {
                pace.running = true;
                jobs.push(kind);
            } else {
                next_due = Some(next_due.map_or(wait, |known| known.min(wait)));
            }
        }
        // What is running wakes when it ends: until then there is nothing more to find of it.
        if !jobs.is_empty() {
            next_due = next_due.or(Some(Duration::MAX));
        }
        Ok(Fetched { jobs, next_due })
    }

    async fn handle(&self, kind: Kind, _slot: Slot) {
        let mut running = Running {
            batches: self,
            kind,
            began: Instant::now(),
            took: batch::Took::default(),
        };
        match self.take(kind).await {
            Ok(took) => {
                metrics::took(kind.name(), took.rows);
                running.took = took;
            }
            Err(error) => {
                metrics::not_taken(kind.name());
                tracing::warn!(%error, ?kind, "a batch was not taken; its rows are still due");
            }
        }
    }

    async fn hand_back(&self) {
        // A batch is claimed by the transaction that works on it: there is nothing to give back.
    }
}
