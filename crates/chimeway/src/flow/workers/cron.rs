//! Duties of the `default` queue.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    flow::{
        Core, FlowError,
        prune::{PruneStep, Pruning},
        retention::{Kept, Retention},
        session::Sessions,
        sweep,
    },
    queue::schedule::Duty,
    store::{StoreResult, cron},
};

/// For how long one tick prunes at most. A backlog is taken by many ticks.
const PRUNES_FOR: Duration = Duration::from_secs(50);
/// The shortest pause between two batches. It is as long as the last batch took otherwise: half of the time of
/// one connection goes into pruning at most.
const REST: Duration = Duration::from_millis(5);

/// The minute's safety net: every queue is looked at, leases are closed. Due instants are met without
/// it; it is what finds work should all else fail.
pub(super) struct ProgressionSweep {
    pub(super) core: Arc<Core>,
    pub(super) sessions: Sessions,
}

#[async_trait]
impl Duty for ProgressionSweep {
    fn name(&self) -> &'static str {
        "progression_sweep"
    }

    async fn run(&self, tick: DateTime<Utc>) {
        match sweep::sweep(&self.core, &self.sessions, self.name(), tick).await {
            Ok(taken) => tracing::debug!(taken, %tick, "progression sweep"),
            Err(error) => {
                tracing::warn!(%error, %tick, "the progression sweep failed; the next tick comes");
            }
        }
    }
}

/// Takes what is over and old enough, in short transactions with pauses between them, until nothing is left
/// that may go, the time of the tick is up, or the process drains.
pub(super) struct Prune {
    pub(super) core: Arc<Core>,
    pub(super) sessions: Sessions,
    pub(super) retention: Retention,
    pub(super) draining: CancellationToken,
}

impl Prune {
    async fn tick(&self, tick: DateTime<Utc>) -> Result<Option<u64>, FlowError> {
        let work = self.sessions.bounded();
        let take = async {
            let mut session = work.session().await?;
            let mut tx = session.begin().await?;
            let taken = cron::take_tick(&mut tx, self.name(), tick).await?;
            tx.commit().await?;
            StoreResult::Ok(taken)
        };
        if !work.run(take).await? {
            return Ok(None);
        }
        let until = Instant::now() + PRUNES_FOR;
        let walked = *self.walked();
        let mut pruning = Pruning::new(&self.sessions, &self.retention, &Kept::ALL, walked);
        while Instant::now() < until && !self.draining.is_cancelled() {
            let began = Instant::now();
            if pruning.step().await? != PruneStep::Worked {
                break;
            }
            tokio::time::sleep(began.elapsed().max(REST)).await;
        }
        *self.walked() = pruning.walked();
        Ok(Some(pruning.pruned()))
    }

    fn walked(&self) -> std::sync::MutexGuard<'_, crate::flow::prune::Walked> {
        self.core
            .pruned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Duty for Prune {
    fn name(&self) -> &'static str {
        "retention"
    }

    async fn run(&self, tick: DateTime<Utc>) {
        match self.tick(tick).await {
            Ok(Some(rows)) if rows > 0 => tracing::info!(rows, %tick, "retention took {rows} rows"),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, %tick, "retention failed; the next tick comes");
            }
        }
    }
}
