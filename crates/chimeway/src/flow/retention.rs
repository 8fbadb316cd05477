//! How long what is over is kept, by kind.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Serialize, Serializer};

use crate::definition::IsoDuration;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A kind of rows that retention takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// Runs that have ended, each with its history, deliveries, tries and approvals; counted from the end.
    Runs,
    /// Items of inboxes, counted from when they were made. An item stays at least as long as its run.
    Inbox,
    /// Triggers and their idempotency keys, counted from the trigger. An event stays at least as long as what
    /// came of it.
    Events,
    /// Signals, counted from when they were made. One that a live run may look for stays.
    Signals,
    /// Notes of what people did by hand.
    Interventions,
    /// Which duties of the fleet were done.
    Ticks,
}

impl Kept {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Runs,
        Self::Inbox,
        Self::Events,
        Self::Signals,
        Self::Interventions,
        Self::Ticks,
    ];

    /// As settings and metrics have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Inbox => "inbox",
            Self::Events => "events",
            Self::Signals => "signals",
            Self::Interventions => "interventions",
            Self::Ticks => "ticks",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// How long it is kept where nobody says otherwise.
    #[must_use]
    pub const fn default_age(self) -> Duration {
        match self {
            Self::Runs | Self::Events | Self::Signals => DAY.saturating_mul(30),
            Self::Inbox => DAY.saturating_mul(90),
            Self::Interventions => DAY.saturating_mul(365),
            Self::Ticks => DAY,
        }
    }

    /// The shortest age that may be set. A signal may be wanted by a run whose trigger is in a transaction
    /// that is still open; a tick, by a process whose clock is behind.
    #[must_use]
    pub const fn least_age(self) -> Duration {
        match self {
            Self::Signals => DAY,
            Self::Ticks => HOUR,
            _ => Duration::ZERO,
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long a kind is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// For ever.
    Off,
    /// At least so long.
    Of(Duration),
}

impl Age {
    /// How long; `None` for ever.
    #[must_use]
    pub const fn duration(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::Of(age) => Some(age),
        }
    }
}

/// Text that is no age.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no age; write it like 30d, 12h or P30D, or `off` to keep it for ever")]
pub struct BadAge(String);

impl FromStr for Age {
    type Err = BadAge;

    fn from_str(text: &str) -> Result<Self, BadAge> {
        match text {
            "off" => return Ok(Self::Off),
            // No wait is that short, but an age may be.
            "0" | "0s" | "PT0S" => return Ok(Self::Of(Duration::ZERO)),
            _ => {}
        }
        let age: Option<IsoDuration> = text.parse().ok();
        let millis = age.and_then(|age| u64::try_from(age.as_millis()).ok());
        let millis = millis.ok_or_else(|| BadAge(text.to_owned()))?;
        Ok(Self::Of(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Of(age) = self else {
            return f.write_str("off");
        };
        let units = [(DAY, 'd'), (HOUR, 'h'), (Duration::from_secs(60), 'm')];
        let whole = |unit: Duration| !age.is_zero() && age.as_millis() % unit.as_millis() == 0;
        if let Some((unit, letter)) = units.into_iter().find(|(unit, _)| whole(*unit)) {
            return write!(f, "{}{letter}", age.as_millis() / unit.as_millis());
        }
        match age.subsec_millis() {
            0 => write!(f, "{}s", age.as_secs()),
            _ => write!(f, "PT{}S", age.as_secs_f64()),
        }
    }
}

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How long each kind is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention(BTreeMap<Kept, Age>);

/// An age that is too short for its kind.
#[derive(Debug, thiserror::Error)]
#[error("{kind} are kept for {least} at least, and {given} is less; write `{kind} = \"{least}\"`")]
pub struct TooYoung {
    /// Of which kind.
    pub kind: Kept,
    /// The shortest age that may be set.
    pub least: Age,
    /// The age that was given.
    pub given: Age,
}

impl Default for Retention {
    fn default() -> Self {
        let age = |kind: Kept| (kind, Age::Of(kind.default_age()));
        Self(Kept::ALL.into_iter().map(age).collect())
    }
}

impl Retention {
    /// Everything is kept for ever.
    #[must_use]
    pub fn off() -> Self {
        Self(Kept::ALL.into_iter().map(|kind| (kind, Age::Off)).collect())
    }

    /// All kinds for so long, whatever may still be wanted of them: for benchmarks, where a day is too long.
    #[doc(hidden)]
    #[must_use]
    pub fn of_all(age: Age) -> Self {
        Self(Kept::ALL.into_iter().map(|kind| (kind, age)).collect())
    }

    /// With another age of one kind.
    ///
    /// # Errors
    ///
    /// [`TooYoung`] if it is below [`Kept::least_age`].
    pub fn with(mut self, kind: Kept, age: Age) -> Result<Self, TooYoung> {
        let least = kind.least_age();
        match age {
            Age::Of(given) if given < least => Err(TooYoung {
                kind,
                least: Age::Of(least),
                given: age,
            }),
            _ => {
                self.0.insert(kind, age);
                Ok(self)
            }
        }
    }

    /// How long a kind is kept.
    #[must_use]
    pub fn of(&self, kind: Kept) -> Age {
        self.0.get(&kind).copied().unwrap_or(Age::Off)
    }

    pub(super) fn age(&self, kind: Kept) -> Option<Duration> {
        self.of(kind).duration()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_and_told_in_the_same_words() {
        for (text, told) in [
            ("30d", "30d"),
            ("P30D", "30d"),
            ("PT36H", "36h"),
            ("90m", "90m"),
            ("90s", "90s"),
            ("0", "0s"),
            ("PT0.5S", "PT0.5S"),
            ("off", "off"),
        ] {
            let age: Age = text.parse().unwrap();
            assert_eq!(age.to_string(), told, "{text}");
            assert_eq!(told.parse::<Age>().unwrap(), age, "{text}");
        }
        for text in ["", "30", "never", "1 month", "P1M", "-1d"] {
            let refused = text.parse::<Age>().unwrap_err().to_string();
            assert!(refused.contains("30d"), "{refused}");
        }
    }

    #[test]
    fn what_may_still_be_wanted_cannot_be_set_too_young() {
        let hours = |hours| Age::Of(HOUR * hours);
        let retention = Retention::default();
        let refused = retention.clone().with(Kept::Signals, hours(23));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "signals are kept for 1d at least, and 23h is less; write `signals = \"1d\"`"
        );
        assert!(retention.clone().with(Kept::Ticks, hours(0)).is_err());
        let set = retention.with(Kept::Runs, hours(0)).unwrap();
        assert_eq!(set.of(Kept::Runs), hours(0));
        for kind in Kept::ALL {
            assert!(kind.default_age() >= kind.least_age());
            assert_eq!(Kept::parse(kind.as_str()), Some(kind));
        }
    }
}
