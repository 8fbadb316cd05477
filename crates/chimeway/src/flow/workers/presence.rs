//! That this process lives, said in the database for as long as it runs batches: rows of a batch carry no lease, and
//! what takes the process down would take down the next one as well.
//!
//! A row a process, written every sixth of a lease and deleted by a drain. Who reads that another one has said
//! nothing for half a lease, and has not drained, is careful with whatever was due until then (`batch::take`). One
//! that only seemed to be dead costs the others nothing but that.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    flow::{Core, session::Sessions},
    ids,
    store::{StoreResult, processes},
};

/// What this process says and knows.
pub(super) struct Presence {
    id: Uuid,
    state: Mutex<State>,
    /// One of its queues says it for all.
    beating: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    beat_at: Option<Instant>,
    suspect: Option<DateTime<Utc>>,
}

impl Presence {
    pub(super) fn new() -> Self {
        Self {
            id: ids::fresh(),
            state: Mutex::default(),
            beating: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self, core: &Core) -> bool {
        let every = core.timing.lease / 6;
        self.state().beat_at.is_some_and(|at| at.elapsed() < every)
    }

    /// Says that this process lives, where it has not for a while.
    pub(super) async fn beat(&self, core: &Core, sessions: &Sessions) -> StoreResult<()> {
        if self.is_fresh(core) {
            return Ok(());
        }
        let _one = self.beating.lock().await;
        if self.is_fresh(core) {
            return Ok(());
        }
        let beat_at = Some(Instant::now());
        let silence = core.timing.lease / 2;
        let work = sessions.bounded();
        let say = async {
            let mut session = work.session().await?;
            let mut tx = session.begin().await?;
            let suspect = processes::beat(&mut tx, self.id, &core.worker, silence).await?;
            tx.commit().await?;
            StoreResult::Ok(suspect)
        };
        let suspect = work.run(say).await?;
        let known = {
            let mut state = self.state();
            state.beat_at = beat_at;
            std::mem::replace(&mut state.suspect, suspect)
        };
        if suspect.is_some() && suspect > known {
            tracing::warn!(
                "a worker process ended without a drain; what it may have had is taken up with care"
            );
        }
        Ok(())
    }

    /// Until when a process that died may have taken something up; `None` where nobody died lately.
    pub(super) fn suspect(&self) -> Option<DateTime<Utc>> {
        self.state().suspect
    }

    /// This process has drained.
    pub(super) async fn leave(&self, sessions: &Sessions) -> StoreResult<()> {
        if self.state().beat_at.is_none() {
            return Ok(());
        }
        let work = sessions.bounded();
        let leave = async {
            let mut session = work.session().await?;
            let mut tx = session.begin().await?;
            processes::leave(&mut tx, self.id).await?;
            Ok(tx.commit().await?)
        };
        work.run(leave).await
    }
}
