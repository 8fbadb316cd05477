//! One apalis worker per queue, a cron worker, and the listener: started, supervised and drained
//! together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    future::Future,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use apalis::prelude::{Monitor, WorkerBuilder, WorkerBuilderExt as _};
use apalis_core::worker::ext::parallelize::ParallelizeExt as _;
use apalis_cron::{CronScheduler, Tick};
use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    QueueName, Source, Wakes,
    backend::{Feed, RowBackend, Slotted},
    beyond, listener,
    schedule::{CronSchedule, Duty, planned},
};
use crate::store::StoreError;

/// How long the pumps may take to finish the claim they have sent, before the drain goes on without
/// them.
const LAST_CLAIM: Duration = Duration::from_secs(5);
/// How long each queue may then take to give back what it has not begun.
const HAND_BACK: Duration = Duration::from_secs(5);

/// From when on a queue whose question is not answered counts as one that does not reach the database: a dead
/// network says nothing.
const SILENT: Duration = Duration::from_secs(5);

/// Whether the queues reach the database.
#[derive(Debug, Default)]
pub struct Health {
    lost: Mutex<BTreeSet<QueueName>>,
    seen: Mutex<BTreeSet<QueueName>>,
    /// The questions that are not answered yet, and since when.
    asked: Mutex<BTreeMap<QueueName, Instant>>,
    /// The queues that run; `None` before they do.
    run: Mutex<Option<BTreeSet<QueueName>>>,
    /// What the schema has, and what this program knows, where the two do not go together.
    foreign: OnceLock<(i64, i64)>,
}

impl Health {
    /// Whether every queue that runs has reached the database, and none has lost it since; and the schema is
    /// one for this program.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.foreign.get().is_none() && lock(&self.run).is_some() && self.missing().is_empty()
    }

    /// The queues that run and do not reach the database, or have not yet.
    #[must_use]
    pub fn missing(&self) -> BTreeSet<QueueName> {
        let run = lock(&self.run).clone().unwrap_or_default();
        let (seen, lost, asked) = (lock(&self.seen), lock(&self.lost), lock(&self.asked));
        let missing = run.difference(&seen).chain(lost.iter());
        let silent = asked.iter().filter(|(_, since)| since.elapsed() > SILENT);
        let silent = silent.map(|(queue, _)| queue);
        missing.chain(silent).copied().collect()
    }

    /// The first version of the schema that this program cannot work with, and the one that it knows: a newer
    /// program has come, and this one stops.
    #[must_use]
    pub fn foreign_schema(&self) -> Option<(i64, i64)> {
        self.foreign.get().copied()
    }

    pub(crate) fn meets_foreign_schema(&self, found: i64, known: i64) {
        let _ = self.foreign.set((found, known));
    }

    fn begins(&self, queues: BTreeSet<QueueName>) {
        *lock(&self.run) = Some(queues);
    }

    pub(super) fn asks(&self, queue: QueueName) {
        lock(&self.asked).insert(queue, Instant::now());
    }

    pub(super) fn reached(&self, queue: QueueName) {
        lock(&self.asked).remove(&queue);
        lock(&self.seen).insert(queue);
        if lock(&self.lost).remove(&queue) {
            tracing::info!(queue = %queue, "queue {queue} reaches the database again");
        }
    }

    pub(super) fn lost(&self, queue: QueueName, error: &StoreError) {
        lock(&self.asked).remove(&queue);
        if lock(&self.lost).insert(queue) {
            let reason = causes(error);
            if error.is_of_a_pooler() {
                tracing::error!(
                    queue = %queue, error = %reason,
                    "queue {queue} reaches the database through a pooler in transaction mode, which it was not told: \
                     set `pooled = true` (--pooled, CHIMEWAY_POOLED), or give it a direct connection",
                );
                return;
            }
            tracing::warn!(queue = %queue, error = %reason, "queue {queue} cannot claim; it will try again");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error with its causes, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// The workers of a process.
pub struct Fleet {
    name: String,
    monitor: Monitor,
    wakes: Wakes,
    health: Arc<Health>,
    draining: CancellationToken,
    pumps: TaskTracker,
    sources: Vec<Arc<dyn HandBack>>,
    queues: BTreeSet<QueueName>,
    listen: Option<PgPool>,
    grace: Duration,
}

/// What the drain needs of a source.
#[async_trait::async_trait]
trait HandBack: Send + Sync {
    async fn hand_back(&self);
}

#[async_trait::async_trait]
impl<S: Source> HandBack for S {
    async fn hand_back(&self) {
        Source::hand_back(self).await;
    }
}

impl Fleet {
    /// A fleet without workers. `name` is this process: unique among those that live. It listens for NOTIFY
    /// through a pool that allows it (not a transaction-mode pooler), or looks ten times a second.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        wakes: Wakes,
        health: Arc<Health>,
        listen: Option<PgPool>,
    ) -> Self {
        Self {
            name: name.into(),
            monitor: Monitor::new().should_restart(|_, _| true),
            wakes,
            health,
            draining: CancellationToken::new(),
            pumps: TaskTracker::new(),
            sources: vec![],
            queues: BTreeSet::new(),
            listen,
            grace: Duration::from_secs(25),
        }
    }

    /// How long a drain may take; 25 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Runs a queue with at most `limit` tasks at a time; 0 leaves it to other processes.
    #[must_use]
    pub fn queue<S: Source>(mut self, queue: QueueName, limit: usize, source: &Arc<S>) -> Self {
        if limit == 0 {
            return self;
        }
        self.sources.push(Arc::clone(source) as Arc<dyn HandBack>);
        self.queues.insert(queue);
        let feed = Feed {
            queue,
            limit,
            listens: self.listen.is_some(),
            wake: Arc::clone(self.wakes.of(queue)),
            health: Arc::clone(&self.health),
            draining: self.draining.clone(),
            pumps: self.pumps.clone(),
        };
        let (name, source) = (self.name.clone(), Arc::clone(source));
        self.monitor = self.monitor.register(move |restarts| {
            let handler = Arc::clone(&source);
            WorkerBuilder::new(worker_name(&name, queue, restarts).as_str())
                .backend(RowBackend::new(Arc::clone(&source), feed.clone()))
                .concurrency(limit.saturating_add(beyond(limit)))
                .catch_panic()
                // A task of its own: a worker that ends does not take its sends along.
                .parallelize(tokio::spawn)
                .build(move |task: Slotted<S::Job>| {
                    let source = Arc::clone(&handler);
                    async move { source.handle(task.job, task.slot).await }
                })
        });
        self
    }

    /// Does a duty by a schedule, each tick once in the whole fleet; a `limit` of 0 leaves it to other
    /// processes.
    #[must_use]
    pub fn cron(mut self, schedule: &CronSchedule, limit: usize, duty: &Arc<dyn Duty>) -> Self {
        if limit == 0 {
            return self;
        }
        let schedule = schedule.0.clone();
        let (name, duty) = (self.name.clone(), Arc::clone(duty));
        self.monitor = self.monitor.register(move |restarts| {
            let duty = Arc::clone(&duty);
            let worker = worker_name(&name, QueueName::Default, restarts);
            WorkerBuilder::new(format!("{worker}/{}", duty.name()).as_str())
                .backend(CronScheduler::new(schedule.clone()))
                .concurrency(limit)
                .catch_panic()
                .parallelize(tokio::spawn)
                .build(move |tick: Tick| {
                    let duty = Arc::clone(&duty);
                    async move { duty.run(planned(&tick)).await }
                })
        });
        self
    }

    /// Runs until `shutdown` ends, then drains: claims no more, hands back what was not begun, lets
    /// what was begun come to its end within the grace.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self {
            monitor,
            wakes,
            draining,
            pumps,
            sources,
            queues,
            health,
            listen,
            grace,
            name: _,
        } = self;
        health.begins(queues);
        let listening = listen
            .map(|pool| tokio::spawn(listener::listen(pool, wakes.clone(), draining.clone())));
        let stop = async move {
            shutdown.await;
            draining.cancel();
            pumps.close();
            let _ = tokio::time::timeout(LAST_CLAIM, pumps.wait()).await;
            for source in &sources {
                // A network that says nothing must not take the time of the sends: leases end by themselves.
                let _ = tokio::time::timeout(HAND_BACK, source.hand_back()).await;
            }
            Ok(())
        };
        let ended = monitor.shutdown_timeout(grace).run_with_signal(stop).await;
        if let Err(error) = ended {
            tracing::error!(%error, "a worker ended with an error");
        }
        if let Some(listening) = listening {
            listening.abort();
        }
    }
}

fn worker_name(process: &str, queue: QueueName, restarts: usize) -> String {
    format!("{process}/{queue}/{restarts}")
}
