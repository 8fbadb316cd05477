//! From where on a queue looks for due rows: the bottom is looked at once a second only.
//!
//! Most of what was due is done. The entries that indexes still have of it cannot be removed while some session
//! keeps an old snapshot, and a look that begins at the beginning passes over all of them. The floor is where the
//! last look from the beginning found the first row that is not done, or its moment where it found none; and a
//! second before that, for what a transaction commits that began earlier. What comes later still, or was given back,
//! is found by the next look from the beginning.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;

use crate::store::due::Floor;

/// How long a floor holds: a look from the beginning each second, and less often where that takes long, so that
/// it takes a twentieth of the time at most.
const HOLDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
const PART: u32 = 20;
/// For transactions that began before others and commit after them.
const SLACK: TimeDelta = TimeDelta::seconds(1);

/// The floor of a kind of work in this process.
#[derive(Debug, Default)]
pub(super) struct Known {
    floor: Floor,
    until: Option<Instant>,
}

impl Known {
    /// Whether it is time to look from the beginning.
    pub(super) fn is_old(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }

    /// From where on to take what is due.
    pub(super) fn floor(&self) -> Floor {
        self.floor
    }

    /// From where on to ask what is due next: now and then from the beginning.
    pub(super) fn to_ask(&self) -> Floor {
        if self.is_old() { None } else { self.floor }
    }

    /// What came of asking from there on: the earlier of now and the first that is to be done.
    pub(super) fn asked(&mut self, from_where: Floor, found: Floor, took: Duration) {
        if from_where.is_some() {
            return;
        }
        self.floor = found.and_then(|at| at.checked_sub_signed(SLACK));
        let holds = took.saturating_mul(PART).clamp(HOLDS.0, HOLDS.1);
        self.until = Some(Instant::now() + holds);
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    fn at(seconds: i64) -> Floor {
        DateTime::<Utc>::from_timestamp(seconds, 0)
    }

    #[tokio::test(start_paused = true)]
    async fn the_floor_is_a_second_below_what_was_found_and_holds_for_a_second() {
        let mut known = Known::default();
        assert_eq!(known.to_ask(), None);
        known.asked(None, at(100), Duration::ZERO);
        assert_eq!((known.floor(), known.to_ask()), (at(99), at(99)));
        // A look from the floor says nothing of what is below.
        known.asked(at(99), at(200), Duration::ZERO);
        assert_eq!(known.floor(), at(99));
        tokio::time::advance(HOLDS.0).await;
        assert_eq!((known.floor(), known.to_ask()), (at(99), None));
        known.asked(None, at(50), Duration::ZERO);
        assert_eq!(known.floor(), at(49), "something was given back");
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
