//! What a committed transaction made due, for the queues of this process.

use std::time::Duration;

use chrono::TimeDelta;
use sqlx::PgConnection;

use super::spans::Span;
use crate::store::{
    StoreResult,
    deliveries::{self, NewDelivery},
};

/// What a committed transaction made due.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// Runs that were started.
    pub(crate) started: usize,
    /// Runs that moved.
    pub(crate) moved: usize,
    /// Messages to send now.
    pub(crate) planned: usize,
    /// How far away the first run is that is to be looked at.
    pub(crate) next_wake: Option<Duration>,
    /// How far away the first repeated try is.
    pub(crate) next_retry: Option<Duration>,
    /// Rows that were set aside.
    pub(crate) set_aside: SetAside,
    /// How late each run was looked at that was due.
    pub(crate) late: Vec<Duration>,
    /// From each signal's occurrence until every live run had seen it, in seconds.
    pub(crate) lags: Vec<f64>,
    /// What is over, of runs that are followed.
    pub(crate) spans: Vec<Span>,
}

/// Rows that were set aside, by kind.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct SetAside {
    pub(crate) events: usize,
    pub(crate) runs: usize,
    pub(crate) signals: usize,
}

impl SetAside {
    fn and(self, other: Self) -> Self {
        Self {
            events: self.events + other.events,
            runs: self.runs + other.runs,
            signals: self.signals + other.signals,
        }
    }
}

impl From<SetAside> for Made {
    fn from(set_aside: SetAside) -> Self {
        Self {
            set_aside,
            ..Self::default()
        }
    }
}

impl Made {
    pub(super) fn wakes_in(&mut self, delay: TimeDelta) {
        let delay = delay.to_std().unwrap_or_default();
        self.next_wake = Some(self.next_wake.map_or(delay, |known| known.min(delay)));
    }

    /// Both.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.spans.extend(other.spans);
        self.late.extend(other.late);
        self.lags.extend(other.lags);
        let least = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        Self {
            started: self.started + other.started,
            moved: self.moved + other.moved,
            planned: self.planned + other.planned,
            next_wake: least(self.next_wake, other.next_wake),
            next_retry: least(self.next_retry, other.next_retry),
            set_aside: self.set_aside.and(other.set_aside),
            late: self.late,
            lags: self.lags,
            spans: self.spans,
        }
    }

    pub(super) fn retries_in(&mut self, delay: Duration) {
        self.next_retry = Some(self.next_retry.map_or(delay, |known| known.min(delay)));
    }

    /// Plans messages. Those that are suppressed at once are no sends: a worker tells their runs.
    pub(super) async fn plan(
        &mut self,
        conn: &mut PgConnection,
        planned: &[NewDelivery],
    ) -> StoreResult<()> {
        let suppressed = deliveries::plan(conn, planned).await?;
        self.planned += planned.len() - suppressed;
        if suppressed > 0 {
            self.wakes_in(TimeDelta::zero());
        }
        Ok(())
    }
}
