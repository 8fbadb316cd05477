//! Cron: ticks by apalis-cron in every process; which process does a tick's duty is decided by a row.

use apalis_cron::Tick;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// Every minute, at second 0.
pub(super) const EVERY_MINUTE: &str = "0 * * * * *";

/// A duty that the whole fleet does once per tick.
#[async_trait]
pub trait Duty: Send + Sync + 'static {
    /// Its name, as `cron_ticks` keeps it.
    fn name(&self) -> &'static str;

    /// Does it for that tick, or finds that another process has. Whatever goes wrong is settled in
    /// here: the next tick comes.
    async fn run(&self, tick: DateTime<Utc>);
}

/// The instant a tick was planned for: the same in every process, to the second.
pub(super) fn planned(tick: &Tick) -> DateTime<Utc> {
    let seconds = i64::try_from(tick.get_timestamp()).unwrap_or(i64::MAX);
    DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::UNIX_EPOCH)
}
