//! The queued dispatcher: which queue runs which handlers.

mod batches;
mod cron;
mod delivery;
mod floor;
mod presence;
mod watch;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use chrono::TimeDelta;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{Chimeway, Retention, commit::Stage};
use crate::{
    queue::{
        self, Health, QueueName,
        schedule::{CronSchedule, Duty},
    },
    store::schema,
};

/// How long the last word of a process may take.
const LEAVE: Duration = Duration::from_secs(2);
/// From this lateness on one tenant's flood is its own: tenants and channels take turns, and what has just become due is
/// worked on before what is late.
const LATE: TimeDelta = TimeDelta::seconds(1);

/// The workers of a process, made of a handle and a pool.
///
/// The pool needs about 10 connections at the default limits: each queue of batches holds at most one
/// at a time per kind of work, claims one, recording one; handlers hold none while a channel works.
pub struct Workers {
    chimeway: Chimeway,
    pool: PgPool,
    limits: BTreeMap<QueueName, usize>,
    listen: Option<PgPool>,
    grace: Duration,
    sweep: CronSchedule,
    retention: Retention,
    prune: CronSchedule,
    health: Arc<Health>,
    knows_schema: i64,
}

impl Workers {
    /// Workers of every queue at their default limits, listening through the same pool.
    #[must_use]
    pub fn new(chimeway: Chimeway, pool: PgPool) -> Self {
        let limits = QueueName::ALL
            .into_iter()
            .map(|queue| (queue, queue.default_limit()))
            .collect();
        let listen = Some(pool.clone());
        let grace = Duration::from_secs(25);
        Self {
            chimeway,
            pool,
            limits,
            listen,
            grace,
            sweep: CronSchedule::every_minute(),
            retention: Retention::default(),
            prune: CronSchedule::between_minutes(),
            health: Arc::default(),
            knows_schema: schema::needed(),
        }
    }

    /// Sets how many tasks of a queue run at a time; 0 leaves it to other processes.
    #[must_use]
    pub fn limit(mut self, queue: QueueName, limit: usize) -> Self {
        self.limits.insert(queue, limit);
        self
    }

    /// Listens through another pool, or not at all: work is then found by polling, within a
    /// tenth of a second.
    #[must_use]
    pub fn listen(mut self, pool: Option<PgPool>) -> Self {
        self.listen = pool;
        self
    }

    /// When the progression sweep looks at everything, should all else have failed; every minute.
    #[must_use]
    pub fn sweep(mut self, schedule: CronSchedule) -> Self {
        self.sweep = schedule;
        self
    }

    /// How long what is over is kept; [`Retention::default`].
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// When what is kept no longer is taken; every minute.
    #[must_use]
    pub fn prune(mut self, schedule: CronSchedule) -> Self {
        self.prune = schedule;
        self
    }

    /// How long a drain may take; 25 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Takes the program for an older one, which knows this version of the schema: for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn knows_schema(mut self, version: i64) -> Self {
        self.knows_schema = version;
        self
    }

    /// Whether the queues reach the database.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// How many tasks of each queue run at a time.
    #[must_use]
    pub fn limits(&self) -> &BTreeMap<QueueName, usize> {
        &self.limits
    }

    /// Runs until `shutdown` ends, then drains: claims no more, hands back what was not begun, lets
    /// sends finish and records them, within the grace. Comes back from any database error by itself. Drains,
    /// too, when a newer program has brought a schema that this one cannot work with: [`Health::foreign_schema`].
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let core = Arc::clone(self.chimeway.core());
        let limit = |queue| self.limits.get(&queue).copied().unwrap_or_default();
        let runs = QueueName::ALL
            .into_iter()
            .filter(|queue| limit(*queue) > 0)
            .collect();
        // A second fleet of the same handle runs what the first one does.
        let _ = core.runs.set(runs);
        // More than half of those that may wait: the others are sent while these are written down.
        let enough = queue::beyond(limit(QueueName::Delivery)).div_ceil(2) + 1;
        let sessions = core.sessions(&self.pool);
        let stage = Stage::start(Arc::clone(&core), sessions.clone(), enough);
        let delivery = Arc::new(delivery::Deliveries::new(
            Arc::clone(&core),
            sessions.clone(),
            stage,
            limit(QueueName::Delivery),
        ));
        let presence = Arc::new(presence::Presence::new());
        let signals = Arc::new(batches::Batches::signals(
            Arc::clone(&core),
            sessions.clone(),
            Arc::clone(&presence),
        ));
        let workflows = Arc::new(batches::Batches::workflows(
            Arc::clone(&core),
            sessions.clone(),
            Arc::clone(&presence),
        ));
        let sweep: Arc<dyn Duty> = Arc::new(cron::ProgressionSweep {
            core: Arc::clone(&core),
            sessions: sessions.clone(),
        });
        let draining = CancellationToken::new();
        let prune: Arc<dyn Duty> = Arc::new(cron::Prune {
            core: Arc::clone(&core),
            sessions: sessions.clone(),
            retention: self.retention,
            draining: draining.clone(),
        });
        let watch = watch::until_foreign(sessions, self.knows_schema, Arc::clone(&self.health));
        let shutdown = async move {
            tokio::select! {
                () = shutdown => {}
                () = watch => {}
            }
            draining.cancel();
        };
        let (name, wakes) = (core.worker.clone(), core.wakes.clone());
        queue::Fleet::new(name, wakes, self.health, self.listen)
            .grace(self.grace)
            .queue(QueueName::Delivery, limit(QueueName::Delivery), &delivery)
            .queue(QueueName::Signals, limit(QueueName::Signals), &signals)
            .queue(
                QueueName::Workflows,
                limit(QueueName::Workflows),
                &workflows,
            )
            .cron(&self.sweep, limit(QueueName::Default), &sweep)
            .cron(&self.prune, limit(QueueName::Default), &prune)
            .run(shutdown)
            .await;
        // Nothing is left behind. Where the database is away, others are careful for nothing.
        let _ = tokio::time::timeout(LEAVE, presence.leave(&core.sessions(&self.pool))).await;
    }
}
