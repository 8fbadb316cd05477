//! When a failed try is repeated.

use std::time::Duration;

/// Delay after a first failure.
pub const FIRST: Duration = Duration::from_secs(15);
/// Where the delay stops growing.
pub const LONGEST: Duration = Duration::from_secs(60 * 60);
/// The longest `Retry-After` that is honored.
pub const LONGEST_WISH: Duration = Duration::from_secs(24 * 60 * 60);

/// Delay before the try after `failed` failed ones (1, 2, ...).
///
/// Doubles from 15 s and stops growing at 1 h. `jitter` in `0.0..1.0` takes off up to a fifth, so
/// that a burst of failures does not come back as a burst. If the receiver sent `Retry-After`
/// (RFC 9110, section 10.2.3), the longer of the two wins, up to a day.
#[must_use]
pub fn backoff(failed: u32, jitter: f64, retry_after: Option<Duration>) -> Duration {
    let doublings = failed.saturating_sub(1).min(16);
    let full = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    let delay = full.mul_f64(1.0 - 0.2 * jitter.clamp(0.0, 1.0));
    delay.max(retry_after.unwrap_or_default().min(LONGEST_WISH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_an_hour() {
        let seconds: Vec<u64> = [1, 2, 3, 4, 9, 10, u32::MAX]
            .map(|n| backoff(n, 0.0, None).as_secs())
            .to_vec();
        assert_eq!(seconds, [15, 30, 60, 120, 3600, 3600, 3600]);
    }

    #[test]
    fn jitter_takes_off_at_most_a_fifth() {
        assert_eq!(backoff(1, 1.0, None), Duration::from_secs(12));
        assert_eq!(backoff(1, 0.5, None), Duration::from_millis(13_500));
    }

    #[test]
    fn the_receivers_wish_counts_where_it_is_longer() {
        let wish = |seconds| backoff(1, 0.0, Some(Duration::from_secs(seconds))).as_secs();
        assert_eq!([wish(1), wish(40), wish(1_000_000)], [15, 40, 86_400]);
    }
}
