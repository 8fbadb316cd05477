//! When to look at a queue again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::QueueName;

/// Wakes the sleeper of one queue. A wake leaves a permit: one that comes while nobody sleeps is not
/// lost.
#[derive(Debug, Default)]
pub struct Wake {
    now: Notify,
    due: Notify,
    earliest: Mutex<Option<Instant>>,
}

impl Wake {
    /// There is work now.
    pub fn now(&self) {
        self.now.notify_one();
    }

    /// There will be work so much later: a sleeper that meant to sleep longer wakes then.
    pub fn later(&self, delay: Duration) {
        let at = Instant::now() + delay;
        let mut earliest = self.earliest.lock().unwrap_or_else(PoisonError::into_inner);
        if earliest.is_none_or(|known| at < known) {
            *earliest = Some(at);
            self.due.notify_one();
        }
    }

    /// Sleeps until there is work, or for `longest`.
    pub(crate) async fn sleep(&self, longest: Duration) {
        let limit = Instant::now() + longest;
        loop {
            let until = self.earliest().map_or(limit, |at| at.min(limit));
            tokio::select! {
                () = self.now.notified() => return,
                () = self.due.notified() => {}
                () = tokio::time::sleep_until(until) => {
                    self.forget_past();
                    return;
                }
            }
        }
    }

    fn earliest(&self) -> Option<Instant> {
        *self.earliest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_past(&self) {
        let mut earliest = self.earliest.lock().unwrap_or_else(PoisonError::into_inner);
        if earliest.is_some_and(|at| at <= Instant::now()) {
            *earliest = None;
        }
    }
}

/// The wakes of a process, one per queue.
#[derive(Debug, Clone, Default)]
pub struct Wakes {
    delivery: Arc<Wake>,
    signals: Arc<Wake>,
    workflows: Arc<Wake>,
    default: Arc<Wake>,
}

impl Wakes {
    /// The wake of a queue.
    #[must_use]
    pub fn of(&self, queue: QueueName) -> &Arc<Wake> {
        match queue {
            QueueName::Default => &self.default,
            QueueName::Delivery => &self.delivery,
            QueueName::Signals => &self.signals,
            QueueName::Workflows => &self.workflows,
        }
    }

    /// Every queue may have work.
    pub fn all(&self) {
        for queue in QueueName::ALL {
            self.of(queue).now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wake_that_comes_before_the_sleep_is_not_lost() {
        let wake = Wake::default();
        wake.now();
        let began = Instant::now();
        wake.sleep(Duration::from_secs(60)).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_due_time_shortens_a_sleep_that_has_begun() {
        let wake = Arc::new(Wake::default());
        let began = Instant::now();
        let sleeper = tokio::spawn({
            let wake = Arc::clone(&wake);
            async move { wake.sleep(Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        wake.later(Duration::from_millis(300));
        sleeper.await.unwrap();
        assert!(
            began.elapsed() < Duration::from_millis(302),
            "{:?}",
            began.elapsed()
        );
        // It has come: the next sleep is as long as it was asked to be.
        wake.sleep(Duration::from_secs(5)).await;
        assert!(began.elapsed() >= Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_due_time_changes_nothing() {
        let wake = Wake::default();
        wake.later(Duration::from_secs(90));
        let began = Instant::now();
        wake.sleep(Duration::from_secs(1)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
