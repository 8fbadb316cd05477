//! From where on a queue looks for due rows: the bottom is looked at once a second only.
//!
//! Most of what was due is done. The entries that indexes still have of it cannot be removed while some session
//! keeps an old snapshot, and a look that begins at the beginning passes over all of them. There are two floors, each
//! known by a look from the one below it, or from the beginning. It is where that look found the first row that is not
//! done, or its moment where it found none; and some time before that, for what a transaction commits that began
//! earlier. What comes later still, or was given back, is found by the next look from below.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;

use crate::store::due::Floor;

/// How long the lower one holds: a look from the beginning each second, and less often where that takes long, so that
/// it takes a twentieth of the time at most.
const HOLDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How long the upper one does: that is how much longer what takes more than [`UPPER_SLACK`] to commit may wait, beside
/// others that do not.
const UPPER_HOLDS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
const PART: u32 = 20;
/// For transactions that began before others and commit after them.
const SLACK: TimeDelta = TimeDelta::seconds(1);
const UPPER_SLACK: TimeDelta = TimeDelta::milliseconds(250);

/// The floors of a kind of work in this process.
#[derive(Debug, Default)]
pub(super) struct Known {
    floor: Floor,
    until: Option<Instant>,
    upper: Floor,
    upper_until: Option<Instant>,
}

impl Known {
    /// Whether it is time to look from the beginning.
    pub(super) fn is_old(&self) -> bool {
        is_over(self.until)
    }

    /// From where on to take what is due.
    pub(super) fn floor(&self) -> Floor {
        match is_over(self.upper_until) {
            true => self.floor,
            false => self.upper,
        }
    }

    /// From where on to ask what is due next: now and then from the beginning.
    pub(super) fn to_ask(&self) -> Floor {
        if self.is_old() { None } else { self.floor() }
    }

    /// What came of asking from there on: the earlier of now and the first that is to be done.
    pub(super) fn asked(&mut self, from_where: Floor, found: Floor, took: Duration) {
        let below = |slack| found.and_then(|at| at.checked_sub_signed(slack));
        let until = |holds: (Duration, Duration)| {
            Some(Instant::now() + took.saturating_mul(PART).clamp(holds.0, holds.1))
        };
        if from_where.is_none() {
            self.floor = below(SLACK);
            self.until = until(HOLDS);
        }
        if from_where.is_none() || from_where == self.floor {
            self.upper = below(UPPER_SLACK);
            self.upper_until = until(UPPER_HOLDS);
        }
    }

    /// How soon to look from the lower one, after a look from there on: where that was the upper one, an idle queue
    /// would not see before its next look what is between them.
    pub(super) fn again(&self, from_where: Floor) -> Option<Duration> {
        let from_where = from_where.filter(|it| Some(*it) != self.floor);
        let until = from_where.and(self.upper_until)?;
        Some(until.saturating_duration_since(Instant::now()))
    }
}

fn is_over(until: Option<Instant>) -> bool {
    until.is_none_or(|until| until <= Instant::now())
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    fn at(seconds: i64) -> Floor {
        DateTime::<Utc>::from_timestamp(seconds, 0)
    }

    const QUICK: Duration = Duration::from_micros(300);
    const SLOW: Duration = Duration::from_millis(3);

    /// So many milliseconds.
    fn millis(millis: i64) -> Floor {
        DateTime::<Utc>::from_timestamp_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn the_lower_one_is_a_second_below_what_was_found_and_holds_for_a_second() {
        let mut known = Known::default();
        assert_eq!(known.to_ask(), None);
        known.asked(None, at(100), QUICK);
        tokio::time::advance(UPPER_HOLDS.0).await;
        assert_eq!((known.floor(), known.to_ask()), (at(99), at(99)));
        tokio::time::advance(HOLDS.0).await;
        assert_eq!((known.floor(), known.to_ask()), (at(99), None));
        known.asked(None, at(50), QUICK);
        tokio::time::advance(UPPER_HOLDS.0).await;
        assert_eq!(known.floor(), at(49), "something was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn the_upper_one_holds_for_moments_and_then_it_is_looked_from_the_lower_one() {
        let mut known = Known::default();
        known.asked(None, at(100), QUICK);
        assert_eq!(known.floor(), millis(99_750));
        assert_eq!(known.again(None), None, "nothing was overlooked");
        tokio::time::advance(UPPER_HOLDS.0).await;
        known.asked(at(99), at(200), SLOW);
        assert_eq!(known.again(at(99)), None);
        let upper = known.to_ask();
        assert_eq!((known.floor(), upper), (millis(199_750), millis(199_750)));
        // A look from there on says nothing of what is below.
        known.asked(upper, at(300), SLOW);
        assert_eq!(known.floor(), upper);
        assert_eq!(
            known.again(upper),
            Some(Duration::from_millis(60)),
            "twenty times as long"
        );
        tokio::time::advance(Duration::from_millis(60)).await;
        assert_eq!((known.floor(), known.to_ask()), (at(99), at(99)));
        known.asked(at(99), at(150), QUICK);
        assert_eq!(known.floor(), millis(149_750), "something was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_look_from_the_beginning_is_made_less_often() {
        let mut known = Known::default();
        known.asked(None, at(100), Duration::from_millis(200));
        tokio::time::advance(Duration::from_millis(3_900)).await;
        assert!(!known.is_old());
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(known.is_old());
        known.asked(None, at(100), Duration::from_mins(1));
        tokio::time::advance(HOLDS.1).await;
        assert!(known.is_old());
    }
}
