//! How long a wait lasts: ISO 8601, and the short forms of Rocket (`72h`).

use std::{fmt, str::FromStr};

use chrono::TimeDelta;
use jiff::{Span, fmt::friendly, fmt::temporal};

/// The longest duration: ten years of 365 days, in milliseconds.
const MAX_MILLIS: i64 = 10 * 365 * DAY;
const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;

/// A positive span of time in whole milliseconds, ten years at most. A day is 24 hours.
///
/// Prints as canonical ISO 8601 (`P1DT2H`), which reads back as the same duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IsoDuration(i64);

impl IsoDuration {
    /// Ten years of 365 days.
    pub const MAX: Self = Self(MAX_MILLIS);

    /// The duration of so many milliseconds.
    ///
    /// # Errors
    ///
    /// [`BadDuration`] if it is not positive or longer than ten years.
    pub const fn from_millis(millis: i64) -> Result<Self, BadDuration> {
        match millis {
            ..0 => Err(BadDuration::Negative),
            0 => Err(BadDuration::Zero),
            1..=MAX_MILLIS => Ok(Self(millis)),
            _ => Err(BadDuration::TooLong),
        }
    }

    /// Whole milliseconds; never zero or less.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The same span for `chrono` arithmetic.
    #[must_use]
    pub const fn to_chrono(self) -> TimeDelta {
        // Ten years of milliseconds are far inside the range, so this never saturates.
        match TimeDelta::try_milliseconds(self.0) {
            Some(delta) => delta,
            None => TimeDelta::MAX,
        }
    }
}

/// Why a text is not the duration of a wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// Neither ISO 8601 nor a short form. `instead` is how to write what was probably meant.
    #[error("is not an ISO 8601 duration")]
    Unreadable {
        /// The canonical form of what a person would read in it.
        instead: Option<IsoDuration>,
    },
    /// Years and months have no fixed length.
    #[error("counts years or months, which differ in length")]
    Calendar,
    /// Nothing to wait for.
    #[error("is zero")]
    Zero,
    /// Time does not run backward.
    #[error("is negative")]
    Negative,
    /// Milliseconds are the finest unit.
    #[error("is finer than a millisecond")]
    TooFine,
    /// The limit keeps every due instant inside the range of a timestamp.
    #[error("is longer than ten years")]
    TooLong,
}

impl BadDuration {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable {
                instead: Some(instead),
            } => format!("write `{instead}`"),
            Self::Unreadable { instead: None } => "write it like `PT2H`, `P3D` or `72h`".into(),
            Self::Calendar => "count days or weeks: `P30D`, `P52W`".into(),
            Self::Zero | Self::Negative => "the shortest wait is `PT0.001S`".into(),
            Self::TooFine => "round it to milliseconds: `PT0.005S`".into(),
            Self::TooLong => "the longest wait is `P3650D`".into(),
        }
    }
}

impl FromStr for IsoDuration {
    type Err = BadDuration;

    fn from_str(text: &str) -> Result<Self, BadDuration> {
        if let Some(short) = parse_short(text) {
            return short;
        }
        if let Ok(span) = temporal::SpanParser::new().parse_span(text) {
            return from_span(&span);
        }
        let instead = friendly::SpanParser::new()
            .parse_span(text.trim())
            .or_else(|_| temporal::SpanParser::new().parse_span(text.trim()))
            .ok()
            .and_then(|span| from_span(&span).ok());
        Err(BadDuration::Unreadable { instead })
    }
}

/// `72h`, `30m`, `45s`, `2d`: a whole number and one unit, as Rocket writes time-outs.
fn parse_short(text: &str) -> Option<Result<IsoDuration, BadDuration>> {
    let unit = match text.chars().next_back()? {
        's' => SECOND,
        'm' => MINUTE,
        'h' => HOUR,
        'd' => DAY,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More digits than an i64 holds are also more than ten years.
    let millis = digits
        .parse::<i64>()
        .ok()
        .and_then(|count| count.checked_mul(unit));
    Some(millis.map_or(Err(BadDuration::TooLong), IsoDuration::from_millis))
}

fn from_span(span: &Span) -> Result<IsoDuration, BadDuration> {
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(BadDuration::Calendar);
    }
    let nanos = i128::from(span.get_nanoseconds()) + 1_000 * i128::from(span.get_microseconds());
    if nanos % 1_000_000 != 0 {
        return Err(BadDuration::TooFine);
    }
    let parts = [
        (i64::from(span.get_weeks()), WEEK),
        (i64::from(span.get_days()), DAY),
        (i64::from(span.get_hours()), HOUR),
        (span.get_minutes(), MINUTE),
        (span.get_seconds(), SECOND),
        (span.get_milliseconds(), 1),
    ];
    let whole: i128 = parts
        .iter()
        .map(|(n, unit)| i128::from(*n) * i128::from(*unit))
        .sum();
    i64::try_from(whole + nanos / 1_000_000)
        .map_or(Err(BadDuration::TooLong), IsoDuration::from_millis)
}

impl fmt::Display for IsoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, in_day) = (self.0 / DAY, self.0 % DAY);
        f.write_str("P")?;
        if days > 0 {
            write!(f, "{days}D")?;
        }
        if in_day == 0 {
            return Ok(());
        }
        f.write_str("T")?;
        let (hours, minutes) = (in_day / HOUR, in_day % HOUR / MINUTE);
        let (seconds, millis) = (in_day % MINUTE / SECOND, in_day % SECOND);
        if hours > 0 {
            write!(f, "{hours}H")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}M")?;
        }
        if millis > 0 {
            let fraction = format!("{millis:03}");
            write!(f, "{seconds}.{}S", fraction.trim_end_matches('0'))?;
        } else if seconds > 0 {
            write!(f, "{seconds}S")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_a_duration_and_how_it_is_printed() {
        let table = [
            ("PT2H", 2 * HOUR, "PT2H"),
            ("P1DT30M", DAY + 30 * MINUTE, "P1DT30M"),
            ("P2W", 14 * DAY, "P14D"),
            ("P1W2D", 9 * DAY, "P9D"),
            ("PT0.5S", 500, "PT0.5S"),
            ("PT0,5S", 500, "PT0.5S"),
            ("PT0.001S", 1, "PT0.001S"),
            ("PT1M0.05S", MINUTE + 50, "PT1M0.05S"),
            ("PT1.5H", 90 * MINUTE, "PT1H30M"),
            ("PT90S", 90 * SECOND, "PT1M30S"),
            ("PT36H", 36 * HOUR, "P1DT12H"),
            ("P0DT1S", SECOND, "PT1S"),
            ("P3650D", MAX_MILLIS, "P3650D"),
            ("72h", 72 * HOUR, "P3D"),
            ("30m", 30 * MINUTE, "PT30M"),
            ("45s", 45 * SECOND, "PT45S"),
            ("2d", 2 * DAY, "P2D"),
        ];
        for (text, millis, printed) in table {
            let duration: IsoDuration = text.parse().expect(text);
            assert_eq!(duration.as_millis(), millis, "{text}");
            assert_eq!(duration.to_chrono().num_milliseconds(), millis, "{text}");
            assert_eq!(duration.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_and_what_to_write_instead() {
        let table = [
            ("3 days", "is not an ISO 8601 duration; write `P3D`"),
            (" PT2H ", "is not an ISO 8601 duration; write `PT2H`"),
            ("1h30m", "is not an ISO 8601 duration; write `PT1H30M`"),
            (
                "",
                "is not an ISO 8601 duration; write it like `PT2H`, `P3D` or `72h`",
            ),
            (
                "soon",
                "is not an ISO 8601 duration; write it like `PT2H`, `P3D` or `72h`",
            ),
            (
                "P",
                "is not an ISO 8601 duration; write it like `PT2H`, `P3D` or `72h`",
            ),
            (
                "PT",
                "is not an ISO 8601 duration; write it like `PT2H`, `P3D` or `72h`",
            ),
            (
                "h",
                "is not an ISO 8601 duration; write it like `PT2H`, `P3D` or `72h`",
            ),
            (
                "2µ",
                "is not an ISO 8601 duration; write it like `PT2H`, `P3D` or `72h`",
            ),
            (
                "P1Y",
                "counts years or months, which differ in length; count days or weeks: `P30D`, `P52W`",
            ),
            (
                "P1M",
                "counts years or months, which differ in length; count days or weeks: `P30D`, `P52W`",
            ),
            ("PT0S", "is zero; the shortest wait is `PT0.001S`"),
            ("0h", "is zero; the shortest wait is `PT0.001S`"),
            ("-PT1H", "is negative; the shortest wait is `PT0.001S`"),
            (
                "PT0.0005S",
                "is finer than a millisecond; round it to milliseconds: `PT0.005S`",
            ),
            (
                "P3650DT1S",
                "is longer than ten years; the longest wait is `P3650D`",
            ),
            (
                "3651d",
                "is longer than ten years; the longest wait is `P3650D`",
            ),
            (
                "99999999999999999999d",
                "is longer than ten years; the longest wait is `P3650D`",
            ),
        ];
        for (text, expected) in table {
            let bad = text.parse::<IsoDuration>().expect_err(text);
            assert_eq!(format!("{bad}; {}", bad.hint()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_printed_form_reads_back(millis in 1..=MAX_MILLIS) {
            let duration = IsoDuration::from_millis(millis).unwrap();
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[P0-9TDHMSWYhmsd.,µ -]{0,24}|\\PC*") {
            let _ = text.parse::<IsoDuration>();
        }
    }
}
