//! Whether the database was away just now, as this process noticed: results of sends that finished meanwhile wait to
//! be recorded, here and in other processes, and nobody may take their leases for abandoned before that.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long after the database came back leases are left alone: longer than the longest pause of who records. A pool
/// pauses for up to a fifth of its time-out between two tries to connect, which is 30 s where nobody says otherwise.
const RECORDERS_FIRST: Duration = Duration::from_secs(7);
/// A connection that took longer may come from a server that was away: the pool asks again and again by itself.
const SLOW: Duration = Duration::from_millis(500);
/// Or from a pool that is busy: that holds leases up no more often than this.
const SELDOM: Duration = Duration::from_secs(30);

/// The last time that the database was away.
#[derive(Debug, Default)]
pub(crate) struct Outage(Mutex<Noticed>);

#[derive(Debug, Default)]
struct Noticed {
    at: Option<Instant>,
    /// Only by a connection that took long.
    slow_at: Option<Instant>,
}

impl Outage {
    fn state(&self) -> std::sync::MutexGuard<'_, Noticed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database is away, or is back just now.
    pub(crate) fn noticed(&self) {
        self.state().at = Some(Instant::now());
    }

    /// A connection was asked for at that instant, and is there.
    pub(crate) fn connected(&self, asked: Instant) {
        let mut state = self.state();
        let seldom = state.slow_at.is_none_or(|at| at.elapsed() > SELDOM);
        if asked.elapsed() > SLOW && seldom {
            let now = Some(Instant::now());
            (state.at, state.slow_at) = (now, now);
        }
    }

    /// Whether it was away so lately that results may still wait to be recorded.
    pub(crate) fn is_recent(&self) -> bool {
        let at = self.state().at;
        at.is_some_and(|at| at.elapsed() < RECORDERS_FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn leases_are_left_alone_for_a_while_after_an_outage() {
        let outage = Outage::default();
        outage.connected(Instant::now());
        assert!(!outage.is_recent());
        let asked = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        outage.connected(asked);
        assert!(outage.is_recent(), "a connection that took a second");
        tokio::time::advance(RECORDERS_FIRST).await;
        assert!(!outage.is_recent());
        outage.connected(asked);
        assert!(
            !outage.is_recent(),
            "a busy pool holds up no lease for ever"
        );
        outage.noticed();
        assert!(outage.is_recent());
    }
}
