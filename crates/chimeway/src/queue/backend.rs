//! The apalis `Backend` over a [`Source`].
//!
//! A pump task claims rows and hands them to apalis through a channel, each with a slot it owns, so
//! that no more is claimed than can start at once. It never gives apalis an error, for an error ends an
//! apalis worker: while the database is away the pump backs off and the process is not ready.

use std::{
    future::Future as _,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    layers::Identity,
    task::{Task, builder::TaskBuilder, task_id::TaskId},
    worker::context::WorkerContext,
};
use rand::RngExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Fetched, Health, QueueName, Shared, Source, Wake};

/// First pause after a look that brought nothing, and the longest one where a listener ends it.
const IDLE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// The longest one where nobody listens: what others make due is found by looking alone.
const UNHEARD: Duration = Duration::from_millis(100);
/// First and longest pause while the database is away.
const AWAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A place in which a job runs; free again when it is dropped.
#[derive(Debug, Clone)]
pub struct Slot(#[expect(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

/// What a task carries: the job and the slot it runs in.
#[derive(Debug, Clone)]
pub struct Slotted<Job> {
    pub(super) job: Job,
    pub(super) slot: Slot,
}

/// The apalis backend of one queue.
pub struct RowBackend<S: Source> {
    source: Shared<S>,
    feed: Feed,
    running: Option<Running<S::Job>>,
    next_id: u64,
}

struct Running<Job> {
    jobs: mpsc::Receiver<Slotted<Job>>,
    pump: JoinHandle<()>,
}

/// What a backend needs beside its source.
#[derive(Clone)]
pub(super) struct Feed {
    pub(super) queue: QueueName,
    pub(super) limit: usize,
    pub(super) listens: bool,
    pub(super) wake: Arc<Wake>,
    pub(super) health: Arc<Health>,
    pub(super) draining: CancellationToken,
    pub(super) pumps: TaskTracker,
}

impl<S: Source> RowBackend<S> {
    /// Claims nothing before it is first polled.
    pub(super) fn new(source: Shared<S>, feed: Feed) -> Self {
        Self {
            source,
            feed,
            running: None,
            next_id: 0,
        }
    }

    fn running(&mut self) -> &mut Running<S::Job> {
        self.running.get_or_insert_with(|| {
            let (sender, jobs) = mpsc::channel(self.feed.limit.max(1));
            let pumping = pump(Arc::clone(&self.source), self.feed.clone(), sender);
            Running {
                jobs,
                pump: self.feed.pumps.spawn(pumping),
            }
        })
    }
}

impl<S: Source> std::fmt::Debug for RowBackend<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowBackend")
            .field("queue", &self.feed.queue)
            .finish_non_exhaustive()
    }
}

/// A backend has no errors; this type has no values.
#[derive(Debug, thiserror::Error)]
pub enum Never {}

impl<S: Source> Backend for RowBackend<S> {
    type Task = Task<Slotted<S::Job>>;
    type Error = Never;

    fn poll_ready(
        &mut self,
        _cx: &mut Context<'_>,
        _worker: &WorkerContext,
    ) -> Poll<Result<(), Never>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Never>>> {
        self.running().jobs.poll_recv(cx).map(|job| {
            job.map(|job| {
                self.next_id += 1;
                Ok(TaskBuilder::new(job)
                    .task_id(TaskId::from_int(self.next_id))
                    .build())
            })
        })
    }

    fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        _worker: &WorkerContext,
    ) -> Poll<Result<(), Never>> {
        let Some(running) = &mut self.running else {
            return Poll::Ready(Ok(()));
        };
        running.jobs.close();
        let ended = std::pin::Pin::new(&mut running.pump).poll(cx);
        if ended.is_ready() {
            self.running = None;
        }
        ended.map(|_| Ok(()))
    }
}

impl<S: Source> BackendConfig for RowBackend<S> {
    type Args = Slotted<S::Job>;
    type Id = u64;
    type Kind = Ephemeral;
    type Config = QueueName;
    type Layer = Identity;

    fn config(&self) -> &QueueName {
        &self.feed.queue
    }

    fn middleware(&mut self, _worker: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// Claims until told to drain.
async fn pump<S: Source>(source: Shared<S>, feed: Feed, sender: mpsc::Sender<Slotted<S::Job>>) {
    let slots = Arc::new(Semaphore::new(feed.limit));
    let mut pace = Pace::of(feed.listens);
    loop {
        let first = tokio::select! {
            () = feed.draining.cancelled() => return,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(first) = first else { return };
        tokio::select! {
            () = feed.draining.cancelled() => return,
            () = source.gather() => {}
        }
        let mut free = vec![first];
        while let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            free.push(slot);
        }
        // A claim that was sent runs to its end: what it took must be begun or handed back.
        feed.health.asks(feed.queue);
        match source.fetch(free.len()).await {
            Ok(Fetched { jobs, next_due }) => {
                feed.health.reached(feed.queue);
                let found = jobs.len();
                for (job, slot) in jobs.into_iter().zip(free) {
                    if sender
                        .send(Slotted {
                            job,
                            slot: Slot(Arc::new(slot)),
                        })
                        .await
                        .is_err()
                    {
                        // The worker has ended: another one begins with a pump of its own.
                        source.hand_back().await;
                        return;
                    }
                }
                let pause = match next_due {
                    None if found > 0 => {
                        pace.found();
                        continue;
                    }
                    Some(next) if found > 0 => pace.found_until(next),
                    next => pace.nothing(next),
                };
                tokio::select! {
                    () = feed.draining.cancelled() => return,
                    () = feed.wake.sleep(pause) => {}
                }
            }
            Err(error) => {
                feed.health.lost(feed.queue, &error);
                drop(free);
                tokio::select! {
                    () = feed.draining.cancelled() => return,
                    // The listener's new connection ends the pause early.
                    () = feed.wake.sleep(pace.away()) => {}
                }
            }
        }
    }
}

/// How long to pause: grows while nothing is found, starts over when something is.
#[derive(Debug)]
struct Pace {
    longest: Duration,
    nothing: u32,
    away: u32,
}

impl Pace {
    fn of(listens: bool) -> Self {
        Self {
            longest: if listens { IDLE.1 } else { UNHEARD },
            nothing: 0,
            away: 0,
        }
    }

    fn found(&mut self) {
        (self.nothing, self.away) = (0, 0);
    }

    /// Until the next row is due that was not claimed.
    fn found_until(&mut self, next_due: Duration) -> Duration {
        self.found();
        next_due.min(jittered(self.longest))
    }

    /// Until the next row is due, if that is known to lie ahead; else ever longer, for a row that is
    /// due and cannot be claimed is held by another session.
    fn nothing(&mut self, next_due: Option<Duration>) -> Duration {
        self.away = 0;
        let pause = grown((IDLE.0, self.longest), self.nothing);
        self.nothing = self.nothing.saturating_add(1);
        match next_due {
            Some(due) if due > Duration::ZERO => due.min(jittered(self.longest)),
            _ => jittered(pause),
        }
    }

    fn away(&mut self) -> Duration {
        self.nothing = 0;
        let pause = grown(AWAY, self.away);
        self.away = self.away.saturating_add(1);
        jittered(pause)
    }
}

fn grown((first, longest): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

/// Takes off up to a fifth, so that a fleet does not look all at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 - 0.2 * rand::rng().random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_a_due_row_cannot_be_claimed() {
        let mut pace = Pace::of(true);
        let pauses: Vec<Duration> = (0..12)
            .map(|_| pace.nothing(Some(Duration::ZERO)))
            .collect();
        assert!(pauses[0] <= Duration::from_millis(5));
        assert!(pauses[11] > Duration::from_millis(700));
        assert!(pauses[11] <= Duration::from_secs(1));
    }

    #[test]
    fn who_hears_nothing_looks_more_often() {
        let mut pace = Pace::of(false);
        let pauses = (0..12).map(|_| pace.nothing(None));
        assert!(pauses.max().unwrap() <= Duration::from_millis(100));
        assert!(pace.nothing(Some(Duration::from_secs(60))) <= Duration::from_millis(100));
    }

    #[test]
    fn a_known_due_instant_is_met_exactly() {
        let mut pace = Pace::of(true);
        let due = Duration::from_micros(123_456);
        assert_eq!(pace.nothing(Some(due)), due);
        assert!(pace.nothing(Some(Duration::from_secs(60))) <= Duration::from_secs(1));
    }
}
