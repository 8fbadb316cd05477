//! Taking what retention no longer keeps: many short transactions, each of a handful of statements over a
//! bounded number of rows, none of which waits for a row of another session.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    Chimeway, FlowError,
    batch::after_rollback,
    metrics,
    retention::{Age, Kept, Retention},
    session::{Bounded, Sessions},
};
use crate::{
    ids::{DeliveryId, EventId, NotificationId, RunId},
    store::{
        StoreError, StoreResult, cron,
        error::Fault,
        prunable,
        retention::{self as rows, EndedRun, OldItem},
    },
};

/// How many rows one transaction takes.
const BATCH: i64 = 1_000;
/// How many rows of small tables.
const SMALL: i64 = 5_000;
/// From so many events on whose runs are still to be made, signals are left alone.
const BACKLOG: i64 = 10_000;

/// What was done about a kind.
#[derive(Debug, Clone, Serialize)]
pub struct PrunedKind {
    /// Which kind.
    pub kind: Kept,
    /// How long it is kept.
    pub age: Age,
    /// How many rows are gone; with a run all that belongs to it.
    pub pruned: u64,
    /// Those that were old enough and are kept.
    pub kept: Vec<KeptRows>,
}

/// Rows that were old enough and are kept.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct KeptRows {
    /// How many.
    pub rows: u64,
    /// Why.
    pub because: &'static str,
}

const HELD: &str = "another session holds them";
const BUSY: &str = "a message of theirs is on its way";
const EXPANDING: &str = "not all runs of their trigger were made";
const UNROUTED: &str = "not routed yet, or set aside";
const WANTED: &str = "a live run may look for them";

/// What a batch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneStep {
    /// Some rows were looked at; there may be more.
    Worked,
    /// Another process prunes.
    Elsewhere,
    /// Nothing is left that may go.
    Done,
}

/// Where a process goes on that has pruned before: what was passed over is looked at again once an hour.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Walked {
    runs_from: Option<DateTime<Utc>>,
    signals_after: Uuid,
    passes: u32,
}

/// How many passes go on where the last one ended, before one begins at the beginning.
const PASSES: u32 = 60;

/// One pass over all that may go.
pub struct Pruning {
    sessions: Sessions,
    retention: Retention,
    /// Those that are not through, in turns.
    kinds: VecDeque<Kept>,
    pruned: HashMap<Kept, u64>,
    kept: HashMap<(Kept, &'static str), u64>,
    walked: Walked,
    /// Whether children that another session holds are looked for, after one was met.
    careful: bool,
}

impl Chimeway {
    /// Begins a pass over these kinds, each as old as `retention` says. Nothing is done until it is stepped.
    #[must_use]
    pub fn pruning(&self, pool: &PgPool, retention: &Retention, kinds: &[Kept]) -> Pruning {
        Pruning::new(
            &self.core().sessions(pool),
            retention,
            kinds,
            Walked::default(),
        )
    }

    /// Takes everything that retention no longer keeps, batch after batch; what was done, by kind. Where
    /// another process prunes at the same time, that one does the rest.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`] if the database is away. What was pruned before stays so.
    pub async fn prune(
        &self,
        pool: &PgPool,
        retention: &Retention,
    ) -> Result<Vec<PrunedKind>, FlowError> {
        let mut pruning = self.pruning(pool, retention, &Kept::ALL);
        while pruning.step().await? == PruneStep::Worked {}
        Ok(pruning.report())
    }

    /// What would go now: rows that are old enough, by kind, whatever else may keep some of them. Reads all
    /// of them.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn prunable(
        &self,
        conn: &mut PgConnection,
        retention: &Retention,
        kinds: &[Kept],
    ) -> Result<Vec<PrunedKind>, FlowError> {
        let age = |kind| {
            let asked = kinds.contains(&kind);
            retention.age(kind).filter(|_| asked)
        };
        let ages = prunable::Ages {
            runs: age(Kept::Runs),
            inbox: age(Kept::Inbox),
            events: age(Kept::Events),
            signals: age(Kept::Signals),
            interventions: age(Kept::Interventions),
            ticks: age(Kept::Ticks),
        };
        let old = prunable::count(conn, &ages).await?;
        let told = |kind| {
            let rows = match kind {
                Kept::Runs => old.runs,
                Kept::Inbox => old.inbox,
                Kept::Events => old.events,
                Kept::Signals => old.signals,
                Kept::Interventions => old.interventions,
                Kept::Ticks => old.ticks,
            };
            PrunedKind {
                kind,
                age: retention.of(kind),
                pruned: u64::try_from(rows).unwrap_or(0),
                kept: vec![],
            }
        };
        Ok(kinds.iter().copied().map(told).collect())
    }
}

/// What a batch of one kind did.
#[derive(Debug, Default)]
struct Batch {
    pruned: Vec<(Kept, u64)>,
    kept: Vec<(Kept, &'static str, usize)>,
    /// Nothing more of this kind may go.
    through: bool,
}

impl Pruning {
    pub(super) fn new(
        sessions: &Sessions,
        retention: &Retention,
        kinds: &[Kept],
        mut walked: Walked,
    ) -> Self {
        if walked.passes.is_multiple_of(PASSES) {
            walked = Walked::default();
        }
        walked.passes += 1;
        let kinds = kinds.iter().copied();
        Self {
            sessions: sessions.clone(),
            retention: retention.clone(),
            kinds: kinds
                .filter(|kind| retention.age(*kind).is_some())
                .collect(),
            pruned: HashMap::new(),
            kept: HashMap::new(),
            walked,
            careful: false,
        }
    }

    pub(super) const fn walked(&self) -> Walked {
        self.walked
    }

    /// Takes one batch of the kind whose turn it is.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`]: this batch was not taken. Where the database is there, another step may do.
    pub async fn step(&mut self) -> Result<PruneStep, FlowError> {
        let Some(kind) = self.kinds.pop_front() else {
            return Ok(PruneStep::Done);
        };
        let (Some(age), was) = (self.retention.age(kind), self.walked) else {
            return Ok(PruneStep::Worked);
        };
        match self.batch(kind, age).await {
            Ok(Some(batch)) => {
                self.careful = false;
                if !batch.through {
                    self.kinds.push_back(kind);
                }
                for (kind, rows) in batch.pruned {
                    metrics::pruned(kind.as_str(), rows);
                    *self.pruned.entry(kind).or_default() += rows;
                }
                for (kind, because, rows) in batch.kept {
                    let rows = u64::try_from(rows).unwrap_or(u64::MAX);
                    *self.kept.entry((kind, because)).or_default() += rows;
                }
                match self.kinds.is_empty() {
                    true => Ok(PruneStep::Done),
                    false => Ok(PruneStep::Worked),
                }
            }
            Ok(None) => {
                self.kinds.push_front(kind);
                Ok(PruneStep::Elsewhere)
            }
            Err(error) => {
                self.walked = was;
                self.kinds.push_front(kind);
                // Somebody holds a row that nobody looks at before it is deleted: once more, looking.
                if error.fault() == Fault::Conflict && !self.careful {
                    self.careful = true;
                    return Ok(PruneStep::Worked);
                }
                Err(error.into())
            }
        }
    }

    /// What was done so far, by kind.
    #[must_use]
    pub fn report(&self) -> Vec<PrunedKind> {
        let told = |kind| {
            let reasons = [HELD, BUSY, EXPANDING, UNROUTED, WANTED].into_iter();
            let kept = reasons.filter_map(|because| {
                let rows = *self.kept.get(&(kind, because))?;
                (rows > 0).then_some(KeptRows { rows, because })
            });
            PrunedKind {
                kind,
                age: self.retention.of(kind),
                pruned: self.pruned.get(&kind).copied().unwrap_or_default(),
                kept: kept.collect(),
            }
        };
        Kept::ALL.into_iter().map(told).collect()
    }

    /// How many rows are gone so far, of all kinds.
    #[must_use]
    pub fn pruned(&self) -> u64 {
        self.pruned.values().sum()
    }

    /// One transaction; `None` where another process prunes.
    async fn batch(&mut self, kind: Kept, age: Duration) -> StoreResult<Option<Batch>> {
        let sessions = self.sessions.clone();
        let work = sessions.bounded();
        work.run(self.batch_by(work, kind, age)).await
    }

    async fn batch_by(
        &mut self,
        work: Bounded<'_>,
        kind: Kept,
        age: Duration,
    ) -> StoreResult<Option<Batch>> {
        let mut session = work.session().await?;
        let mut tx = session.begin_pruning().await?;
        if !rows::take_turn(&mut tx).await? {
            return Ok(None);
        }
        let batch = match self.rows(&mut tx, kind, age).await {
            Ok(batch) => batch,
            Err(error) => return Err(after_rollback(tx, error).await),
        };
        tx.commit().await.map_err(StoreError::from)?;
        Ok(Some(batch))
    }

    /// The rows of one batch.
    async fn rows(
        &mut self,
        conn: &mut PgConnection,
        kind: Kept,
        age: Duration,
    ) -> StoreResult<Batch> {
        Ok(match kind {
            Kept::Runs => self.runs(conn, age).await?,
            Kept::Inbox => self.inbox(conn, age).await?,
            Kept::Signals => self.signals(conn, age).await?,
            Kept::Events => counted(kind, rows::delete_childless(conn, age, BATCH).await?, BATCH),
            Kept::Interventions => {
                let rows = rows::delete_interventions(conn, age, SMALL).await?;
                counted(kind, rows, SMALL)
            }
            Kept::Ticks => counted(kind, cron::forget_ticks(conn, age, SMALL).await?, SMALL),
        })
    }

    /// Runs that ended long enough ago, with all that is theirs alone.
    async fn runs(&mut self, conn: &mut PgConnection, age: Duration) -> StoreResult<Batch> {
        let from = self.walked.runs_from.unwrap_or(DateTime::UNIX_EPOCH);
        let ended = rows::lock_ended(conn, age, from, BATCH).await?;
        let Some(last) = ended.last() else {
            return Ok(Batch {
                through: true,
                ..Batch::default()
            });
        };
        self.walked.runs_from = Some(last.ended_at);
        let full = i64::try_from(ended.len()).is_ok_and(|rows| rows >= BATCH);
        let ids: Vec<RunId> = ended.iter().map(|run| run.id).collect();

        let (mut held, mut busy): (HashSet<RunId>, HashSet<RunId>) = Default::default();
        let mut messages: Vec<(RunId, DeliveryId)> = vec![];
        for delivery in rows::lock_deliveries(conn, &ids).await? {
            if delivery.held {
                held.insert(delivery.run);
            } else if delivery.busy {
                busy.insert(delivery.run);
            }
            messages.push((delivery.run, delivery.id));
        }
        if self.careful {
            held.extend(rows::held_by_children(conn, &ids).await?);
        }
        let notifications: Vec<NotificationId> =
            ended.iter().filter_map(|run| run.notification).collect();
        let inbox = self.retention.age(Kept::Inbox);
        let items = rows::lock_items(conn, &notifications, inbox).await?;
        let items: HashMap<NotificationId, OldItem> =
            items.into_iter().map(|item| (item.id, item)).collect();
        let event_of = |run: &EndedRun| match run.notification {
            Some(notification) => Some(items.get(&notification)?.event),
            None => run.event,
        };
        let events = self
            .lock_events(conn, ended.iter().filter_map(event_of))
            .await?;

        let mut gone: Vec<&EndedRun> = vec![];
        let mut expanding = 0;
        for run in &ended {
            if busy.contains(&run.id) {
                continue;
            }
            match event_of(run).and_then(|event| events.get(&event)) {
                _ if held.contains(&run.id) => {}
                None => {
                    held.insert(run.id);
                }
                Some((false, _)) => expanding += 1,
                Some(_) => gone.push(run),
            }
        }
        let chosen: HashSet<RunId> = gone.iter().map(|run| run.id).collect();
        let young = gone.iter().filter_map(|run| {
            let item = items.get(&run.notification?)?;
            (item.old != Some(true)).then_some((item.id, run.id))
        });
        let young: Vec<(NotificationId, RunId)> = young.collect();
        let stay: HashSet<NotificationId> =
            rows::keep_items(conn, &young).await?.into_iter().collect();

        let chosen_ids: Vec<RunId> = gone.iter().map(|run| run.id).collect();
        let deliveries: Vec<DeliveryId> = messages
            .into_iter()
            .filter_map(|(run, delivery)| chosen.contains(&run).then_some(delivery))
            .collect();
        let runs = rows::delete_runs(conn, &chosen_ids, &deliveries).await?;
        let left: Vec<NotificationId> = gone
            .iter()
            .filter_map(|run| run.notification.filter(|item| !stay.contains(item)))
            .collect();
        let left_items = rows::delete_items(conn, &left).await?;
        let touched: HashSet<EventId> = gone.iter().filter_map(|run| event_of(run)).collect();
        let left_events = leave(conn, &events, touched).await?;
        Ok(Batch {
            pruned: vec![
                (Kept::Runs, runs),
                (Kept::Inbox, left_items),
                (Kept::Events, left_events),
            ],
            kept: vec![
                (Kept::Runs, HELD, held.difference(&busy).count()),
                (Kept::Runs, BUSY, busy.len()),
                (Kept::Runs, EXPANDING, expanding),
            ],
            // More than a batch of one instant that cannot go: the next pass looks again.
            through: !full || (runs == 0 && last.ended_at == from),
        })
    }

    /// Items of inboxes that have outlived their runs.
    async fn inbox(&self, conn: &mut PgConnection, age: Duration) -> StoreResult<Batch> {
        let items = rows::lock_kept_items(conn, age, BATCH).await?;
        let events = self
            .lock_events(conn, items.iter().map(|item| item.event))
            .await?;
        let (gone, held): (Vec<&OldItem>, Vec<&OldItem>) = items
            .iter()
            .partition(|item| events.get(&item.event).is_some_and(|(whole, _)| *whole));
        let ids: Vec<NotificationId> = gone.iter().map(|item| item.id).collect();
        let rows = rows::delete_items(conn, &ids).await?;
        let touched = gone.iter().map(|item| item.event).collect();
        let left_events = leave(conn, &events, touched).await?;
        Ok(Batch {
            kept: vec![(Kept::Inbox, HELD, held.len())],
            pruned: vec![(Kept::Inbox, rows), (Kept::Events, left_events)],
            through: i64::try_from(items.len()).is_ok_and(|rows| rows < BATCH) || gone.is_empty(),
        })
    }

    /// A stretch of the signals.
    async fn signals(&mut self, conn: &mut PgConnection, age: Duration) -> StoreResult<Batch> {
        let unexpanded = rows::unexpanded(conn).await?;
        if unexpanded.count > BACKLOG {
            return Ok(Batch {
                through: true,
                ..Batch::default()
            });
        }
        let after = self.walked.signals_after;
        let stretch = rows::delete_signals(conn, age, unexpanded.since, after, BATCH).await?;
        // Ids are in the order of time but for the clocks of those who made them: where nothing is old, nothing
        // after it is.
        let through = stretch.old == 0 || stretch.looked < BATCH;
        // What is young is looked at again.
        if let Some(last) = stretch.last {
            self.walked.signals_after = last;
        }
        Ok(Batch {
            pruned: vec![(
                Kept::Signals,
                u64::try_from(stretch.deleted).unwrap_or_default(),
            )],
            kept: [(UNROUTED, stretch.unrouted), (WANTED, stretch.wanted)]
                .map(|(because, rows)| {
                    let rows = usize::try_from(rows).unwrap_or_default();
                    (Kept::Signals, because, rows)
                })
                .to_vec(),
            through,
        })
    }

    /// Whether these events are whole, and old, by event; those that could be locked.
    async fn lock_events(
        &self,
        conn: &mut PgConnection,
        events: impl Iterator<Item = EventId>,
    ) -> StoreResult<HashMap<EventId, (bool, bool)>> {
        let events: HashSet<EventId> = events.collect();
        let events: Vec<EventId> = events.into_iter().collect();
        let age = self.retention.age(Kept::Events);
        let locked = rows::lock_events(conn, &events, age).await?;
        let told = |event: rows::OldEvent| (event.id, (event.whole, event.old == Some(true)));
        Ok(locked.into_iter().map(told).collect())
    }
}

/// Deletes or marks those of the events that nothing is left of; how many were deleted.
async fn leave(
    conn: &mut PgConnection,
    events: &HashMap<EventId, (bool, bool)>,
    touched: HashSet<EventId>,
) -> StoreResult<u64> {
    let old = |event: EventId| Some((event, events.get(&event)?.1));
    let left: Vec<(EventId, bool)> = touched.into_iter().filter_map(old).collect();
    rows::leave_events(conn, &left).await
}

fn counted(kind: Kept, rows: u64, limit: i64) -> Batch {
    Batch {
        pruned: vec![(kind, rows)],
        through: i64::try_from(rows).is_ok_and(|rows| rows < limit),
        ..Batch::default()
    }
}
