//! What each rule is for: without it, this breaks.

use super::{
    Rule,
    explore::breaks,
    invariants::{CANCEL, EIGHT, FIVE, FOUR, ONE, SEVEN, SIX, TEN, THREE, TWO},
    worlds::*,
};

#[test]
fn without_rule_1_a_deadline_beats_an_earlier_signal() {
    breaks(deadline(), &[Rule::TimerLooksForSignals], ONE);
}

#[test]
fn without_rule_2_workers_wait_for_a_host() {
    breaks(held(), &[Rule::WorkersWaitForNoHost], TEN);
}

#[test]
fn without_rule_2_a_signal_is_routed_past_a_held_run() {
    breaks(beginning(), &[Rule::SkippedSignalStaysDue], TWO);
}

#[test]
fn without_rule_2_a_held_run_never_learns_its_result() {
    breaks(held(), &[Rule::SkippedRunIsOwedItsResult], FOUR);
}

#[test]
fn without_rule_3_a_wait_is_entered_past_a_signal() {
    breaks(beginning(), &[Rule::LockFirstLookLater], TWO);
}

#[test]
fn without_rule_4_a_signal_is_lost() {
    breaks(wait_first(), &[Rule::CreatorEntersNoWait], TWO);
}

#[test]
fn without_rule_5_a_signal_seems_older_than_its_run() {
    breaks(beginning(), &[Rule::TimeOfTheCall], TWO);
}

#[test]
fn without_rule_6_a_send_leaves_no_attempt() {
    breaks(workers(), &[Rule::ExpiredLeaseIsClosed], SEVEN);
    breaks(workers(), &[Rule::ExpiredLeaseIsClosed], EIGHT);
}

#[test]
fn without_rule_6_an_old_claim_decides() {
    breaks(workers(), &[Rule::RecordIsFenced], SIX);
}

#[test]
fn without_rule_6_what_was_delivered_is_sent_again() {
    // A claim that looks at its attempts would see the success, so that rule goes too.
    let without = [Rule::LateResultCounts, Rule::ClaimLooksAtItsAttempts];
    breaks(late(), &without, SEVEN);
}

#[test]
fn without_rule_7_the_fence_falls() {
    breaks(giving_back(), &[Rule::FenceOnlyGrows], SIX);
}

#[test]
fn without_rule_8_a_message_is_sent_after_the_end() {
    breaks(canceled_send(), &[Rule::ClaimLooksAtTheRun], SEVEN);
}

#[test]
fn without_rule_8_an_ended_run_keeps_its_messages() {
    breaks(early(), &[Rule::LeavingCancelsUnsent], FIVE);
}

#[test]
fn without_rule_8_an_ended_run_keeps_trying() {
    breaks(canceled_send(), &[Rule::RetryLooksAtTheRun], FIVE);
}

#[test]
fn a_signal_that_could_act_twice_would() {
    breaks(two_waits(), &[Rule::SignalActsOnce], THREE);
}

#[test]
fn a_cancel_that_only_the_timer_hears_is_lost() {
    breaks(canceled_send(), &[Rule::EveryoneHearsACancel], CANCEL);
}

#[test]
fn without_rule_6_a_closed_try_is_taken_back() {
    breaks(giving_back(), &[Rule::ClosedTryStaysCounted], EIGHT);
}

#[test]
fn without_rule_7_a_known_success_is_sent_again() {
    breaks(workers(), &[Rule::ClaimLooksAtItsAttempts], SEVEN);
}

#[test]
fn without_rule_8_an_ended_run_keeps_the_retry_it_is_owed() {
    breaks(early(), &[Rule::OwedEndsRetries], FIVE);
}
