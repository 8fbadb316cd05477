//! On what ground a run's actions are carried out, and how long they may keep others waiting.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::acting::Standing;

/// What one transaction may wait for other sessions, all its locks together.
const LONGEST: Duration = Duration::from_millis(500);
/// How often another session may be in the way: with the pauses between, about three quarters of an hour.
const MOST_TRIES: i32 = 20;

/// What the actions of a run need to know beside the run.
pub(in crate::flow) struct Ground {
    /// How many workflows stand before this run in a chain in which each started the next.
    pub(super) depth: i32,
    /// Another session was in the way too often: the step fails.
    pub(super) is_given_up: bool,
    pub(super) patience: Patience,
}

impl Ground {
    pub(super) fn of(standing: &Standing, began: Instant) -> Self {
        Self {
            depth: standing.depth,
            is_given_up: standing.tries >= MOST_TRIES,
            patience: Patience {
                began,
                longest: LONGEST.min(standing.deadlock_timeout / 2),
            },
        }
    }
}

/// How long the transaction may still wait.
///
/// A host that waits for a row of ours while we wait for one of its own is a deadlock, and PostgreSQL ends
/// the session that finds it: one that has waited for `deadlock_timeout`, a second by default. Counted from
/// our first lock we give up before that. It is never the host.
pub(super) struct Patience {
    began: Instant,
    longest: Duration,
}

impl Patience {
    /// How long the next lock may be waited for: a millisecond at least, for 0 would be for ever.
    pub(super) fn left(&self) -> Duration {
        let left = self.longest.saturating_sub(self.began.elapsed());
        left.max(Duration::from_millis(1))
    }
}
