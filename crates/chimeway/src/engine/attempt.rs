//! What one try means for its delivery: pure, so that recording, closing an expired lease and tests
//! agree.

use std::time::Duration;

use super::{backoff::backoff, decision::define_words};
use crate::definition::step::Outcome;

define_words! {
    /// The status of a delivery, as rows keep it.
    DeliveryStatus {
        /// Planned; due at its next attempt instant.
        Pending = "pending",
        /// Claimed by a worker.
        Dispatched = "dispatched",
        /// The channel took it.
        Succeeded = "succeeded",
        /// A try failed; due again at its next attempt instant.
        Failed = "failed",
        /// Not sent, on purpose.
        Suppressed = "suppressed",
        /// Given up.
        Cancelled = "cancelled",
    }
}

/// The reasons a delivery has beside its status.
pub mod status_reason {
    /// Every try failed.
    pub const RETRIES_EXHAUSTED: &str = "retries_exhausted";
    /// The message or the address will never work.
    pub const PERMANENT_FAILURE: &str = "permanent_failure";
    /// The address sent it back.
    pub const BOUNCED: &str = "bounced";
    /// The run had moved on.
    pub const SUPERSEDED: &str = "superseded";
    /// No address of the recipient's is known for the channel.
    pub const NO_ADDRESS: &str = "no_address";
    /// Its run was ended by hand.
    pub const CANCELLED: &str = "cancelled";
    /// The recipient does not want messages over that channel.
    pub const CHANNEL_DISABLED: &str = "channel_disabled";
    /// The recipient does not want messages of that category.
    pub const CATEGORY_DISABLED: &str = "category_disabled";
    /// A fallback, and the recipient has read the notification.
    pub const ALREADY_READ: &str = "already_read";
    /// Workers died while they held it, too often.
    pub const QUARANTINED: &str = "quarantined";
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// The channel took the message.
    Succeeded,
    /// Worth another try; the receiver may have said when.
    Temporary {
        /// The receiver's own wish.
        retry_after: Option<Duration>,
    },
    /// Will never work.
    Permanent,
    /// Came back.
    Bounced,
    /// Its worker vanished while it held the claim: it may have been sent. Counts as a crash.
    Unknown,
}

impl AttemptResult {
    /// The attempt's outcome and error class, as rows keep them.
    #[must_use]
    pub const fn as_row(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Succeeded => ("succeeded", None),
            Self::Temporary { .. } => ("failed", Some("temporary")),
            Self::Permanent => ("failed", Some("permanent")),
            Self::Bounced => ("failed", Some("bounced")),
            Self::Unknown => ("unknown", Some("unknown")),
        }
    }
}

/// How often a delivery may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Tries in all; 5.
    pub attempts: i32,
    /// Crashes in all, before the row is set aside; 5: two in company, three alone.
    pub crashes: i32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            attempts: 5,
            crashes: CRASHES_BEFORE_QUARANTINE,
        }
    }
}

/// After this many crashes in a row a delivery, an event, a signal or a run is set aside.
pub const CRASHES_BEFORE_QUARANTINE: i32 = 5;

/// From this many crashes on a delivery is claimed alone, one at a time per process.
pub const CRASHES_BEFORE_ISOLATION: i32 = 2;

/// What a delivery becomes after a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Its status.
    pub status: DeliveryStatus,
    /// Why.
    pub reason: Option<&'static str>,
    /// How long until the next try, if there is one.
    pub retry_in: Option<Duration>,
    /// What it means for the workflow.
    pub outcome: Outcome,
}

/// What a delivery becomes after its `attempts`-th try, having crashed `crashes` times (this try
/// included). `jitter` in `0.0..1.0` spreads the next try.
#[must_use]
pub fn settle(
    result: AttemptResult,
    attempts: i32,
    crashes: i32,
    budget: Budget,
    jitter: f64,
) -> Settled {
    use status_reason as reason;
    let ended = |status, reason, outcome| Settled {
        status,
        reason,
        retry_in: None,
        outcome,
    };
    let cancelled = |reason, outcome| ended(DeliveryStatus::Cancelled, Some(reason), outcome);
    let retry_after = match result {
        AttemptResult::Succeeded => {
            return ended(DeliveryStatus::Succeeded, None, Outcome::Delivered);
        }
        AttemptResult::Permanent => {
            return cancelled(reason::PERMANENT_FAILURE, Outcome::PermanentFailure);
        }
        AttemptResult::Bounced => return cancelled(reason::BOUNCED, Outcome::Bounced),
        AttemptResult::Unknown if crashes >= budget.crashes => {
            return cancelled(reason::QUARANTINED, Outcome::PermanentFailure);
        }
        AttemptResult::Unknown => None,
        AttemptResult::Temporary { retry_after } => retry_after,
    };
    if attempts >= budget.attempts {
        return cancelled(reason::RETRIES_EXHAUSTED, Outcome::RetriesExhausted);
    }
    // A whole lease has passed since a worker vanished, and it was not the channel that failed: no need to wait ever
    // longer.
    let failed = match result {
        AttemptResult::Unknown => 1,
        _ => u32::try_from(attempts).unwrap_or(1),
    };
    Settled {
        status: DeliveryStatus::Failed,
        reason: None,
        retry_in: Some(backoff(failed, jitter, retry_after)),
        outcome: Outcome::TemporaryFailure,
    }
}

/// What a delivery's row means for its workflow; `None` while it has no result, and for a reason
/// that no workflow may branch on (superseded).
#[must_use]
pub fn outcome_of(status: DeliveryStatus, status_reason: Option<&str>) -> Option<Outcome> {
    match (status, status_reason) {
        (DeliveryStatus::Succeeded, _) => Some(Outcome::Delivered),
        (DeliveryStatus::Suppressed, _) => Some(Outcome::Suppressed),
        (DeliveryStatus::Failed, _) => Some(Outcome::TemporaryFailure),
        (DeliveryStatus::Cancelled, Some(status_reason::RETRIES_EXHAUSTED)) => {
            Some(Outcome::RetriesExhausted)
        }
        (
            DeliveryStatus::Cancelled,
            Some(status_reason::PERMANENT_FAILURE | status_reason::QUARANTINED),
        ) => Some(Outcome::PermanentFailure),
        (DeliveryStatus::Cancelled, Some(status_reason::BOUNCED)) => Some(Outcome::Bounced),
        (DeliveryStatus::Cancelled, Some(status_reason::SUPERSEDED))
        | (DeliveryStatus::Pending | DeliveryStatus::Dispatched, _) => None,
        // By hand, for whatever reason, or with its run: nothing was sent, on purpose.
        (DeliveryStatus::Cancelled, _) => Some(Outcome::Suppressed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(result: AttemptResult, attempts: i32, crashes: i32) -> String {
        let Settled {
            status,
            reason,
            retry_in,
            outcome,
        } = settle(result, attempts, crashes, Budget::default(), 0.0);
        let retry = retry_in.map_or_else(String::new, |delay| format!(" in {}s", delay.as_secs()));
        format!("{status} {} {outcome}{retry}", reason.unwrap_or("-"))
    }

    #[test]
    fn a_try_settles_its_delivery() {
        let temporary = AttemptResult::Temporary { retry_after: None };
        let told = AttemptResult::Temporary {
            retry_after: Some(Duration::from_secs(90)),
        };
        for (result, attempts, crashes, expected) in [
            (AttemptResult::Succeeded, 1, 0, "succeeded - delivered"),
            (
                AttemptResult::Permanent,
                1,
                0,
                "cancelled permanent_failure permanent_failure",
            ),
            (AttemptResult::Bounced, 4, 0, "cancelled bounced bounced"),
            (temporary, 1, 0, "failed - temporary_failure in 15s"),
            (temporary, 4, 0, "failed - temporary_failure in 120s"),
            (
                temporary,
                5,
                0,
                "cancelled retries_exhausted retries_exhausted",
            ),
            (told, 1, 0, "failed - temporary_failure in 90s"),
            (
                AttemptResult::Unknown,
                1,
                1,
                "failed - temporary_failure in 15s",
            ),
            (
                AttemptResult::Unknown,
                4,
                4,
                "failed - temporary_failure in 15s",
            ),
            (
                AttemptResult::Unknown,
                5,
                1,
                "cancelled retries_exhausted retries_exhausted",
            ),
            (
                AttemptResult::Unknown,
                5,
                5,
                "cancelled quarantined permanent_failure",
            ),
        ] {
            assert_eq!(
                settled(result, attempts, crashes),
                expected,
                "{result:?} {attempts}"
            );
        }
    }

    #[test]
    fn what_a_row_says_agrees_with_what_the_try_said() {
        for result in [
            AttemptResult::Succeeded,
            AttemptResult::Permanent,
            AttemptResult::Bounced,
            AttemptResult::Unknown,
            AttemptResult::Temporary { retry_after: None },
        ] {
            for attempts in 1..=5 {
                let settled = settle(result, attempts, attempts, Budget::default(), 0.3);
                assert_eq!(
                    outcome_of(settled.status, settled.reason),
                    Some(settled.outcome)
                );
            }
        }
        assert_eq!(
            outcome_of(DeliveryStatus::Suppressed, Some(status_reason::NO_ADDRESS)),
            Some(Outcome::Suppressed)
        );
        assert_eq!(outcome_of(DeliveryStatus::Pending, None), None);
        assert_eq!(outcome_of(DeliveryStatus::Dispatched, None), None);
        assert_eq!(
            outcome_of(DeliveryStatus::Cancelled, Some("superseded")),
            None
        );
        // Cancelled by hand: the journey goes on.
        assert_eq!(
            outcome_of(DeliveryStatus::Cancelled, None),
            Some(Outcome::Suppressed)
        );
    }
}
