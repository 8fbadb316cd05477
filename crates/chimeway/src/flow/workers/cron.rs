//! Duties of the `default` queue.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    flow::{Core, session::Sessions, sweep},
    queue::schedule::Duty,
};

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
