//! The worlds: each small enough to be explored to its end, together all that meets at one run.

use super::{explore::holds, hosts::Host, invariants::Fact, states::Tried, *};
use crate::definition::To;

impl World {
    /// A world with nobody in it, in which time stands still.
    fn of(workflow: WorkflowBuilder) -> Self {
        Self {
            definition: born(workflow).definition,
            budget: Budget {
                attempts: 2,
                crashes: 2,
            },
            without: vec![],
            before: vec![],
            last_tick: 0,
            trigger: false,
            signals: 0,
            cancel: false,
            holder: false,
            router: false,
            timer: false,
            owed: false,
            closer: false,
            workers: 0,
            tries: &[Tried::Succeeded],
            crashes: false,
            hand_backs: 0,
            unheard: false,
            facts: &[],
        }
    }
}

const THREE_TRIES: Budget = Budget {
    attempts: 3,
    crashes: 3,
};

/// A message, a wait that a signal stops, another message.
fn journey(wait: &str) -> WorkflowBuilder {
    workflow("journey")
        .notify("in_app", "in_app", "hello")
        .wait("pause", wait, |wait| wait.stop_on("read"))
        .notify("email", "email", "hello")
}

/// Its first step is a wait.
fn patient() -> WorkflowBuilder {
    workflow("patient")
        .wait("pause", "PT1H", |wait| wait.stop_on("read"))
        .notify("email", "email", "hello")
}

/// The run is committed, and its first message is to be sent.
fn begun() -> Vec<Action> {
    [Host::Call, Host::Commit].map(Action::Trigger).to_vec()
}

/// The first message is delivered, and the run waits.
fn waiting() -> Vec<Action> {
    let worker = Actor::Worker(0);
    let told = [
        Action::Claim(0, 0),
        Action::Try(0, Tried::Succeeded),
        Action::Begin(worker),
        Action::Next(worker),
        Action::Next(worker),
        Action::Next(worker),
    ];
    begun().into_iter().chain(told).collect()
}

/// Signals before the start, beside it, and around the beginning of the wait.
pub(super) fn beginning() -> World {
    World {
        last_tick: 1,
        trigger: true,
        signals: 2,
        router: true,
        owed: true,
        workers: 1,
        facts: &[Fact::StoppedBySignal, Fact::StartRolledBack, Fact::Owed],
        ..World::of(journey("PT2H"))
    }
}

/// Signals before and after the end of the wait.
pub(super) fn deadline() -> World {
    World {
        before: waiting(),
        last_tick: 2,
        signals: 2,
        router: true,
        timer: true,
        owed: true,
        workers: 1,
        facts: &[
            Fact::StoppedBySignal,
            Fact::ElapsedAndEmailed,
            Fact::EmailedThoughSignaledLater,
            Fact::Completed,
        ],
        ..World::of(journey("PT1H"))
    }
}

/// A start whose first step is a wait.
pub(super) fn wait_first() -> World {
    World {
        last_tick: 2,
        trigger: true,
        signals: 2,
        router: true,
        timer: true,
        workers: 1,
        facts: &[
            Fact::StoppedBySignal,
            Fact::ElapsedAndEmailed,
            Fact::StartRolledBack,
        ],
        ..World::of(patient())
    }
}

/// Two waits for the same signal, of which the first one is released by it.
pub(super) fn two_waits() -> World {
    let twice = workflow("twice")
        .wait("first", "PT1H", |wait| wait.release_on("read", To::Next))
        .wait("second", "PT1H", |wait| wait.stop_on("read"))
        .notify("email", "email", "hello");
    World {
        before: begun(),
        last_tick: 2,
        signals: 2,
        router: true,
        timer: true,
        facts: &[Fact::StoppedBySignal],
        ..World::of(twice)
    }
}

/// Two workers with three tries: a late success may come before another try.
pub(super) fn workers() -> World {
    World {
        budget: THREE_TRIES,
        tries: &[Tried::Succeeded, Tried::Temporary],
        crashes: false,
        unheard: false,
        ..late()
    }
}

/// Two workers with two tries, which may not hear either that their record is there.
pub(super) fn late() -> World {
    World {
        before: begun(),
        owed: true,
        closer: true,
        workers: 2,
        tries: &[Tried::Succeeded, Tried::Temporary],
        crashes: true,
        unheard: true,
        facts: &[
            Fact::LeaseClosed,
            Fact::LateResult,
            Fact::SentTwice,
            Fact::GivenUp,
            Fact::Owed,
        ],
        ..World::of(journey("PT1H"))
    }
}

/// Two workers that give back what they have claimed, or find no address.
pub(super) fn giving_back() -> World {
    World {
        before: begun(),
        owed: true,
        closer: true,
        workers: 2,
        tries: &[Tried::Succeeded, Tried::NoAddress],
        hand_backs: 2,
        facts: &[Fact::LeaseClosed],
        ..World::of(journey("PT1H"))
    }
}

/// A host that holds the run's row for as long as it likes.
pub(super) fn held() -> World {
    World {
        before: begun(),
        last_tick: 2,
        signals: 1,
        holder: true,
        router: true,
        timer: true,
        owed: true,
        workers: 1,
        tries: &[Tried::Succeeded, Tried::Temporary],
        facts: &[Fact::Owed, Fact::StoppedBySignal, Fact::ElapsedAndEmailed],
        ..World::of(journey("PT1H"))
    }
}

/// A host that cancels while a message is sent.
pub(super) fn canceled_send() -> World {
    World {
        before: begun(),
        cancel: true,
        timer: true,
        owed: true,
        closer: true,
        workers: 1,
        tries: &[Tried::Succeeded, Tried::Temporary],
        crashes: true,
        facts: &[Fact::Canceled, Fact::CanceledWhileSending, Fact::Owed],
        ..World::of(journey("PT1H"))
    }
}

/// A host that cancels around the end of the wait.
pub(super) fn canceled_wait() -> World {
    World {
        before: waiting(),
        last_tick: 1,
        signals: 1,
        cancel: true,
        router: true,
        timer: true,
        owed: true,
        workers: 1,
        facts: &[
            Fact::Canceled,
            Fact::StoppedBySignal,
            Fact::ElapsedAndEmailed,
        ],
        ..World::of(journey("PT1H"))
    }
}

/// The journey goes on while its first message is being tried again, and a signal stops it.
pub(super) fn early() -> World {
    let early = journey("PT1H").on("in_app", Outcome::TemporaryFailure, To::Next);
    World {
        budget: THREE_TRIES,
        before: begun(),
        signals: 1,
        router: true,
        owed: true,
        closer: true,
        workers: 1,
        tries: &[Tried::Succeeded, Tried::Temporary],
        facts: &[Fact::StoppedBySignal, Fact::Owed],
        ..World::of(early)
    }
}

/// A journey from its trigger to its end, and a host that cancels it.
pub(super) fn whole() -> World {
    World {
        last_tick: 1,
        trigger: true,
        signals: 1,
        cancel: true,
        router: true,
        timer: true,
        owed: true,
        workers: 1,
        tries: &[Tried::Succeeded, Tried::Temporary],
        facts: &[
            Fact::Canceled,
            Fact::StoppedBySignal,
            Fact::ElapsedAndEmailed,
        ],
        ..World::of(journey("PT1H"))
    }
}

#[test]
fn a_whole_journey() {
    holds("whole", &whole());
}

#[test]
fn a_signal_may_come_at_any_moment_around_the_start() {
    holds("beginning", &beginning());
}

#[test]
fn a_signal_may_come_at_any_moment_around_the_deadline() {
    holds("deadline", &deadline());
}

#[test]
fn a_journey_may_begin_with_a_wait() {
    holds("wait_first", &wait_first());
}

#[test]
fn a_signal_may_release_one_wait_and_meet_another() {
    holds("two_waits", &two_waits());
}

#[test]
fn two_workers_may_try_three_times() {
    holds("workers", &workers());
}

#[test]
fn workers_may_vanish_and_come_late() {
    holds("late", &late());
}

#[test]
fn workers_may_give_claims_back() {
    holds("giving_back", &giving_back());
}

#[test]
fn a_host_may_hold_a_run_for_as_long_as_it_likes() {
    holds("held", &held());
}

#[test]
fn a_run_may_be_canceled_while_its_message_is_sent() {
    holds("canceled_send", &canceled_send());
}

#[test]
fn a_run_may_be_canceled_around_the_end_of_its_wait() {
    holds("canceled_wait", &canceled_wait());
}

#[test]
fn a_journey_may_go_on_while_its_message_is_tried_again() {
    holds("early", &early());
}
