//! From where on a queue looks for due rows: the bottom is looked at once a second only.
//!
//! Most of what was due is done. The entries that indexes still have of it cannot be removed while some session
//! keeps an old snapshot, and a look that begins at the beginning passes over all of them. There are several floors,
//! each known by a look from one below it, or from the beginning. It is where that look found the first row that is
//! not done, or its moment where it found none; and some time before that, for what a transaction commits that began
//! earlier. What comes later still, or was given back, is found by the next look from below.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;

use crate::store::due::Floor;

/// How a floor is known.
struct Level {
    /// So far it is below what was found.
    slack: TimeDelta,
    /// It holds so long at least, and at most: as long as the look for it took twenty times, so that looks from below
    /// take a twentieth of the time each.
    holds: (Duration, Duration),
}

/// The floors, the lowest first. Where there is nothing to pass over a look from the beginning each second renews all of
/// them. What takes longer to commit than the slack of the highest may wait for as much longer as that one holds.
const LEVELS: [Level; 3] = [
    Level {
        slack: TimeDelta::seconds(60),
        holds: (Duration::from_secs(1), Duration::from_mins(2)),
    },
    Level {
        slack: TimeDelta::seconds(1),
        holds: (Duration::from_secs(1), Duration::from_secs(10)),
    },
    Level {
        slack: TimeDelta::milliseconds(250),
        holds: (Duration::from_millis(50), Duration::from_millis(250)),
    },
];
/// As long as it took so many times, so that it takes a twentieth of the time.
pub(super) const TIMES_WHAT_IT_TOOK: u32 = 20;
const HIGHEST: usize = LEVELS.len() - 1;

/// The floors of a kind of work in this process.
#[derive(Debug, Default)]
pub(super) struct Known {
    floors: [OneFloor; LEVELS.len()],
}

/// One of them, and until when it holds.
#[derive(Debug, Default, Clone, Copy)]
struct OneFloor {
    at: Floor,
    until: Option<Instant>,
}

impl OneFloor {
    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }
}

impl Known {
    /// Whether it is time to look from below, before anything is taken.
    pub(super) fn is_old(&self) -> bool {
        self.floors[..HIGHEST].iter().any(OneFloor::is_over)
    }

    /// From where on to take what is due.
    pub(super) fn floor(&self) -> Floor {
        match self.floors[HIGHEST].is_over() {
            true => self.floors[HIGHEST - 1].at,
            false => self.floors[HIGHEST].at,
        }
    }

    /// From where on to ask what is due next: from below the lowest floor that does not hold any more.
    pub(super) fn to_ask(&self) -> Floor {
        match self.floors.iter().position(OneFloor::is_over) {
            None => self.floors[HIGHEST].at,
            Some(0) => None,
            Some(over) => self.floors[over - 1].at,
        }
    }

    /// What came of asking from there on: the earlier of now and the first that is to be done.
    pub(super) fn asked(&mut self, from_where: Floor, found: Floor, took: Duration) {
        let above = match from_where {
            None => 0,
            Some(_) => match self.place_of(from_where) {
                Some(place) => place + 1,
                None => return,
            },
        };
        for (floor, level) in self.floors.iter_mut().zip(LEVELS).skip(above) {
            let (least, most) = level.holds;
            floor.at = found.and_then(|at| at.checked_sub_signed(level.slack));
            floor.until = Some(Instant::now() + (took * TIMES_WHAT_IT_TOOK).clamp(least, most));
        }
    }

    /// How soon to look from below, after a look from there on: where that was the highest, a queue that goes to sleep
    /// would not see before its next look what is between it and the next lower one.
    pub(super) fn again(&self, from_where: Floor) -> Option<Duration> {
        let until = self.floors[HIGHEST].until?;
        let was_highest = from_where.is_some() && self.place_of(from_where) == Some(HIGHEST);
        was_highest.then(|| until.saturating_duration_since(Instant::now()))
    }

    fn place_of(&self, floor: Floor) -> Option<usize> {
        self.floors.iter().position(|known| known.at == floor)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    const QUICK: Duration = Duration::from_micros(300);
    const SLOW: Duration = Duration::from_millis(3);

    /// So many milliseconds.
    fn at(millis: i64) -> Floor {
        DateTime::<Utc>::from_timestamp_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_from_the_beginning_each_second_renews_all() {
        let mut known = Known::default();
        assert!(known.is_old());
        assert_eq!(known.to_ask(), None);
        known.asked(None, at(100_000), QUICK);
        assert!(!known.is_old());
        assert_eq!((known.floor(), known.to_ask()), (at(99_750), at(99_750)));
        assert_eq!(known.again(None), None, "nothing was overlooked");
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!((known.floor(), known.to_ask()), (at(99_000), at(99_000)));
        assert!(!known.is_old());
        tokio::time::advance(Duration::from_millis(950)).await;
        assert!(known.is_old());
        assert_eq!((known.floor(), known.to_ask()), (at(99_000), None));
        known.asked(None, at(50_000), QUICK);
        assert_eq!(known.floor(), at(49_750), "something was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn the_highest_holds_for_moments() {
        let mut known = Known::default();
        known.asked(None, at(100_000), QUICK);
        tokio::time::advance(Duration::from_millis(50)).await;
        known.asked(at(99_000), at(200_000), SLOW);
        assert_eq!(known.again(at(99_000)), None);
        let highest = known.to_ask();
        assert_eq!((known.floor(), highest), (at(199_750), at(199_750)));
        // A look from there on says nothing of what is below.
        known.asked(highest, at(300_000), SLOW);
        assert_eq!(known.floor(), highest);
        let soon = Some(Duration::from_millis(60));
        assert_eq!(known.again(highest), soon, "twenty times as long");
        tokio::time::advance(Duration::from_millis(60)).await;
        assert_eq!(known.floor(), at(99_000));
        known.asked(at(99_000), at(150_000), QUICK);
        assert_eq!(known.floor(), at(149_750), "something was given back");
    }

    /// The lower floors go on alone for as long.
    #[tokio::test(start_paused = true)]
    async fn a_slow_look_from_the_beginning_is_made_less_often() {
        let mut known = Known::default();
        known.asked(None, at(100_000), Duration::from_millis(700));
        tokio::time::advance(Duration::from_millis(10_000)).await;
        assert_eq!(known.to_ask(), at(40_000), "the second one is over");
        known.asked(at(40_000), at(110_000), Duration::from_millis(20));
        assert_eq!(known.to_ask(), at(109_750));
        tokio::time::advance(Duration::from_millis(1_000)).await;
        assert_eq!((known.floor(), known.to_ask()), (at(109_000), at(40_000)));
        tokio::time::advance(Duration::from_millis(3_000)).await;
        assert_eq!(known.to_ask(), None);
        known.asked(None, at(110_000), Duration::from_mins(1));
        tokio::time::advance(Duration::from_mins(2)).await;
        assert_eq!(known.to_ask(), None);
    }
}
