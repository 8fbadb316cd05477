//! How long a step that writes a host's tables may keep others waiting.

use std::time::Duration;

use tokio::time::Instant;

/// What one step may wait for other sessions, all its locks together.
const LONGEST: Duration = Duration::from_millis(500);

/// What is left of it.
///
/// A host that waits for a row of ours while we wait for one of its own is a deadlock, and PostgreSQL ends
/// the session that looks for it first: whoever has waited for `deadlock_timeout`, a second by default. We
/// give up before that, counted from our first lock: it is never the host.
pub(super) struct Patience {
    began: Instant,
    longest: Duration,
}

impl Patience {
    /// Begins at our first lock, or before it.
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
            longest: LONGEST,
        }
    }

    /// Hosts look for deadlocks after this time already.
    pub(super) fn bound(&mut self, deadlock_timeout: Duration) {
        self.longest = LONGEST.min(deadlock_timeout / 2);
    }

    /// How long the next lock may be waited for: a millisecond at least, for 0 would be for ever.
    pub(super) fn left(&self) -> Duration {
        let left = self.longest.saturating_sub(self.began.elapsed());
        left.max(Duration::from_millis(1))
    }
}
