//! Cron: ticks by apalis-cron in every process; which process does a tick's duty is decided by a row.

use std::str::FromStr;

use apalis_cron::Tick;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// When a duty is due: a cron expression with seconds, in UTC (`0 * * * * *`: every minute).
#[derive(Debug, Clone)]
pub struct CronSchedule(pub(super) cron::Schedule);

impl CronSchedule {
    /// Every minute, at second 0.
    ///
    /// # Panics
    ///
    /// Never: a test reads the expression.
    #[must_use]
    pub fn every_minute() -> Self {
        Self(cron::Schedule::from_str("0 * * * * *").expect("a cron expression"))
    }

    /// Every minute, at second 30.
    ///
    /// # Panics
    ///
    /// Never: a test reads the expression.
    #[must_use]
    pub fn between_minutes() -> Self {
        Self(cron::Schedule::from_str("30 * * * * *").expect("a cron expression"))
    }
}

/// Text that is not a cron expression with seconds.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a cron expression with seconds; write `0 * * * * *` for every minute")]
pub struct BadSchedule(String);

impl FromStr for CronSchedule {
    type Err = BadSchedule;

    fn from_str(text: &str) -> Result<Self, BadSchedule> {
        cron::Schedule::from_str(text)
            .map(Self)
            .map_err(|_| BadSchedule(text.to_owned()))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read() {
        let every_minute = CronSchedule::every_minute();
        let after = DateTime::from_timestamp(59, 0).unwrap();
        let next = every_minute.0.after(&after).next().unwrap();
        assert_eq!(next.timestamp(), 60);
        let next = CronSchedule::between_minutes()
            .0
            .after(&after)
            .next()
            .unwrap();
        assert_eq!(next.timestamp(), 90);
        assert!("* * * * * *".parse::<CronSchedule>().is_ok());
        let error = "every day".parse::<CronSchedule>().unwrap_err().to_string();
        assert!(
            error.starts_with("`every day` is not a cron expression"),
            "{error}"
        );
    }
}
