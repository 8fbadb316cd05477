//! Random workflows, and random things told to their runs.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};

use super::*;
use crate::{
    definition::To,
    engine::{Noop, Reason, StateName, Transition},
    ids::ChannelName,
};

/// One input, and what came of it.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) before: Run,
    pub(super) input: Input,
    pub(super) now: DateTime<Utc>,
    pub(super) verdict: Verdict,
    pub(super) after: Run,
}

impl Told {
    fn decisions(&self) -> &[Decision] {
        match &self.verdict {
            Verdict::Move(decisions) => decisions,
            Verdict::Noop(_) => &[],
        }
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &Transition> {
        self.decisions().iter().filter_map(|made| match made {
            Decision::Transition(line) => Some(line),
            _ => None,
        })
    }

    pub(super) fn plans(&self) -> impl Iterator<Item = (StepIndex, Visit, &ChannelName)> {
        self.decisions().iter().filter_map(|made| match made {
            Decision::Plan {
                step,
                visit,
                channel,
                ..
            } => Some((*step, *visit, channel)),
            _ => None,
        })
    }
}

/// A run and everything it was told.
#[derive(Debug, Clone)]
pub(super) struct Play {
    pub(super) born: Run,
    pub(super) told: Vec<Told>,
}

impl Play {
    pub(super) fn run(&self) -> &Run {
        self.told.last().map_or(&self.born, |told| &told.after)
    }

    pub(super) fn lines(&self) -> Vec<&Transition> {
        self.told.iter().flat_map(Told::lines).collect()
    }
}

/// Something to tell a run, as seen from where it is.
#[derive(Debug, Clone)]
enum Tell {
    Started,
    /// A result of the delivery of a visit, so far from the current one.
    Result(i32, Outcome),
    Due,
    Signal(u8, &'static str),
    Cancelled,
    Moved(usize),
    /// The message of the current visit is gone.
    Missing,
}

/// When to tell it.
#[derive(Debug, Clone)]
enum When {
    /// So many microseconds after the last time, or before it.
    Later(i64),
    /// So many microseconds after the instant at which the run is to be woken, or before it.
    Woken(i64),
}

fn tellings() -> impl Strategy<Value = Tell> {
    let visits = prop_oneof![6 => Just(0), 1 => -2..=2];
    prop_oneof![
        1 => Just(Tell::Started),
        8 => (visits, select(&Outcome::NOTIFY)).prop_map(|(off, outcome)| Tell::Result(off, outcome)),
        6 => Just(Tell::Due),
        4 => (0..20_u8, select(&["a", "b", "c", "d"])).prop_map(|(id, name)| Tell::Signal(id, name)),
        1 => (0..6_usize).prop_map(Tell::Moved),
        1 => Just(Tell::Missing),
    ]
}

/// Ends nearly everything, and so is rare.
fn tellings_and_ends() -> impl Strategy<Value = Tell> {
    prop_oneof![
        60 => tellings(),
        1 => Just(Tell::Cancelled),
    ]
}

fn times() -> impl Strategy<Value = When> {
    prop_oneof![
        3 => (0..5_000_000_i64).prop_map(When::Later),
        1 => (-100_000_000_000..100_000_000_000_i64).prop_map(When::Later),
        4 => (-1..=1_i64).prop_map(When::Woken),
    ]
}

fn targets() -> impl Strategy<Value = To> {
    prop_oneof![
        4 => (0..5_usize).prop_map(|place| To::step(format!("s{place}"))),
        2 => Just(To::Next),
        1 => Just(To::Complete),
        1 => Just(To::Stop),
    ]
}

/// What a step says, beside its place.
#[derive(Debug, Clone)]
enum Shape {
    Notify(BTreeMap<Outcome, To>),
    Wait(u32, BTreeMap<&'static str, To>, Option<To>),
}

fn shapes() -> impl Strategy<Value = Shape> {
    let on = prop::collection::btree_map(select(&Outcome::NOTIFY), targets(), 0..3);
    let signals = prop::collection::btree_map(select(&["a", "b", "c"]), targets(), 0..3);
    let elapsed = proptest::option::of(targets());
    prop_oneof![
        on.prop_map(Shape::Notify),
        (1..100_000_000_u32, signals, elapsed)
            .prop_map(|(millis, signals, elapsed)| Shape::Wait(millis, signals, elapsed)),
    ]
}

fn built(shapes: Vec<Shape>) -> WorkflowBuilder {
    let mut workflow = workflow("k");
    for (place, shape) in shapes.into_iter().enumerate() {
        let id = format!("s{place}");
        workflow = match shape {
            Shape::Notify(on) => on.into_iter().fold(
                workflow.notify(&id, "log", "hello"),
                |workflow, (outcome, to)| workflow.on(&id, outcome, to),
            ),
            Shape::Wait(millis, signals, elapsed) => {
                let duration = format!("PT{}.{:03}S", millis / 1_000, millis % 1_000);
                let workflow = workflow.wait(&id, duration, |wait| {
                    signals
                        .into_iter()
                        .fold(wait, |wait, (signal, to)| wait.release_on(signal, to))
                });
                match elapsed {
                    Some(to) => workflow.on(&id, Outcome::Elapsed, to),
                    None => workflow,
                }
            }
        };
    }
    workflow
}

/// A run of a workflow that the checker takes, with loops where there is a wait in them.
fn runs() -> impl Strategy<Value = Run> {
    prop::collection::vec(shapes(), 1..6).prop_filter_map("not a workflow", |shapes| {
        let checked = built(shapes).build(&Known::default()).ok()?;
        Some(Run::born(RunId(Uuid::from_u128(2)), stored(checked.plan)))
    })
}

/// Runs of random workflows that were told random things: late, early, repeated, of wrong visits,
/// at times that go back. Most of what they are told is what moves them, so that they get far.
pub(super) fn plays() -> impl Strategy<Value = Play> {
    let before = prop::collection::vec((tellings_and_ends(), times()), 0..2);
    let after = prop::collection::vec((tellings_and_ends(), times()), 0..40);
    (runs(), before, after).prop_map(|(born, before, after)| {
        let start = (Tell::Started, When::Later(0));
        let mut play = Play { born, told: vec![] };
        let mut now = at("09:00");
        for (tell, when) in before.into_iter().chain([start]).chain(after) {
            now = play.tell(&tell, &when, now);
        }
        play
    })
}

impl Play {
    fn tell(&mut self, tell: &Tell, when: &When, now: DateTime<Utc>) -> DateTime<Utc> {
        let before = self.run().clone();
        let now = match when {
            When::Later(micros) => now + TimeDelta::microseconds(*micros),
            When::Woken(micros) => {
                before.wake_at(now).unwrap_or(now) + TimeDelta::microseconds(*micros)
            }
        };
        let input = match tell {
            Tell::Started => Input::Started,
            Tell::Due => Input::Due,
            Tell::Result(off, outcome) => result(Visit(before.visit.0 + off), *outcome),
            Tell::Signal(id, name) => Input::Signalled {
                signal: SignalId(Uuid::from_u128((*id).into())),
                name: name.parse().unwrap(),
                delivery: None,
            },
            Tell::Cancelled => Input::Cancelled,
            Tell::Moved(place) => Input::Moved {
                to: StepIndex(place % before.definition.plan.steps.len()),
            },
            Tell::Missing => Input::DeliveryMissing,
        };
        let verdict = decide(&before, &input, now);
        let after = match &verdict {
            Verdict::Move(decisions) => before.after(decisions),
            Verdict::Noop(_) => before.clone(),
        };
        self.told.push(Told {
            before,
            input,
            now,
            verdict,
            after,
        });
        now
    }
}

#[test]
fn random_plays_reach_everything_there_is() {
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let (mut reasons, mut noops, mut states) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut most_visits, mut cancels) = (0, 0);
    for _ in 0..1_000 {
        let play = plays().new_tree(&mut runner).unwrap().current();
        reasons.extend(play.lines().iter().map(|line| line.reason.as_str()));
        for told in &play.told {
            states.extend(told.after.state.name().map(StateName::as_str));
            match &told.verdict {
                Verdict::Noop(noop) => {
                    noops.insert(noop.as_str());
                }
                Verdict::Move(decisions) if decisions.contains(&Decision::CancelUnsent) => {
                    cancels += 1;
                }
                Verdict::Move(_) => {}
            }
        }
        most_visits = most_visits.max(play.run().visit.0);
    }
    let words = Reason::ALL.iter().map(|word| word.as_str());
    assert_eq!(reasons, words.collect::<BTreeSet<_>>());
    let words = Noop::ALL.iter().map(|word| word.as_str());
    assert_eq!(noops, words.collect::<BTreeSet<_>>());
    // No step of today makes a run fail.
    let words = StateName::ALL.iter().map(|word| word.as_str());
    let words: BTreeSet<_> = words.filter(|word| *word != "failed").collect();
    assert_eq!(states, words);
    assert!(most_visits >= 10 && cancels > 0, "{most_visits} {cancels}");
}
