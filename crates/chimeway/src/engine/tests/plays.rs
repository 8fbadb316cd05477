//! Random workflows, and random things told to their runs.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use serde_json::json;

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
    pub(super) fn decisions(&self) -> &[Decision] {
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
    /// A decision about the approval of a visit, so far from the current one.
    Decided(i32, Outcome),
    /// That actions from the current one on were performed, or that this many could not be.
    Performed(i32, bool),
    Sending,
    Unasked,
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
        3 => (prop_oneof![6 => Just(0), 1 => -2..=2], select(&Outcome::APPROVAL))
            .prop_map(|(off, outcome)| Tell::Decided(off, outcome)),
        4 => (prop_oneof![6 => Just(0), 1 => -2..=2], proptest::bool::weighted(0.8))
            .prop_map(|(off, well)| Tell::Performed(off, well)),
        1 => Just(Tell::Sending),
        1 => Just(Tell::Unasked),
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
    Condition(&'static str, BTreeMap<Outcome, To>),
    Approval(&'static str, bool, BTreeMap<Outcome, To>),
    /// Which of its actions are deliveries.
    Action(Vec<bool>, BTreeMap<Outcome, To>),
    Custom(BTreeMap<Outcome, To>),
}

/// What the runs of plays know: `context.missing` is not there.
pub(super) fn facts() -> Facts {
    Facts {
        context: json!({ "yes": true, "no": false, "who": "ada" }),
        params: json!({}),
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let on = prop::collection::btree_map(select(&Outcome::NOTIFY), targets(), 0..3);
    let signals = prop::collection::btree_map(select(&["a", "b", "c"]), targets(), 0..3);
    let elapsed = proptest::option::of(targets());
    let ways = |outcomes| prop::collection::btree_map(select(outcomes), targets(), 0..3);
    let expressions = &[
        "context.yes",
        "context.no",
        "context.missing",
        "context.who > 3",
    ][..];
    prop_oneof![
        2 => on.prop_map(Shape::Notify),
        1 => (select(expressions), ways(&Outcome::CONDITION[..]))
            .prop_map(|(text, on)| Shape::Condition(text, on)),
        2 => (select(&["user", "role", "context.who", "context.missing"][..]), any::<bool>(),
            ways(&Outcome::APPROVAL[..])).prop_map(|(who, ends, on)| Shape::Approval(who, ends, on)),
        2 => (prop::collection::vec(any::<bool>(), 1..4), ways(&Outcome::WORK[..]))
            .prop_map(|(deliveries, on)| Shape::Action(deliveries, on)),
        1 => ways(&Outcome::WORK[..]).prop_map(Shape::Custom),
        2 => (1..100_000_000_u32, signals, elapsed)
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
            Shape::Condition(text, on) => leading(workflow.condition(&id, text), &id, on),
            Shape::Approval(who, ends, on) => {
                let workflow = workflow.approval(&id, |ask| {
                    let ask = match who {
                        "user" => ask.user("ada"),
                        "role" => ask.role("manager"),
                        path => ask.path(path),
                    };
                    if ends { ask.timeout("1h") } else { ask }
                });
                leading(workflow, &id, on)
            }
            Shape::Action(deliveries, on) => {
                let workflow = workflow.action(&id, |work| {
                    deliveries
                        .into_iter()
                        .fold(work, |work, delivery| match delivery {
                            true => work.webhook("https://a.example"),
                            false => work.send_signal("a", json!({})),
                        })
                });
                leading(workflow, &id, on)
            }
            Shape::Custom(on) => leading(workflow.step(&id, "scoring", json!({})), &id, on),
        };
    }
    workflow
}

fn leading(workflow: WorkflowBuilder, id: &str, on: BTreeMap<Outcome, To>) -> WorkflowBuilder {
    on.into_iter().fold(workflow, |workflow, (outcome, to)| {
        workflow.on(id, outcome, to)
    })
}

/// A run of a workflow that the checker takes, with loops where there is a wait in them.
fn runs() -> impl Strategy<Value = Run> {
    prop::collection::vec(shapes(), 1..6).prop_filter_map("not a workflow", |shapes| {
        let known = Known::default().with_steps(["scoring".parse().unwrap()]);
        let checked = built(shapes).build(&known).ok()?;
        let born = Run::born(RunId(Uuid::from_u128(2)), stored(checked.plan));
        Some(Run {
            facts: Some(Arc::new(facts())),
            ..born
        })
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
    /// The place of the last action of a visit that was planned as a message.
    pub(super) fn sent_action(&self, visit: Visit) -> Option<usize> {
        let plans = self.told.iter().flat_map(Told::decisions);
        let of_visit = plans.filter_map(|made| match made {
            Decision::Plan {
                visit: of, action, ..
            } if *of == visit => Some(*action),
            _ => None,
        });
        of_visit.max()
    }

    /// What performing the actions has come to, if that was decided last; else of another visit's.
    fn performed(&self, visit: Visit, well: bool) -> Input {
        let last = self.told.last().map(Told::decisions).unwrap_or_default();
        let (visit, actions) = match last.last() {
            Some(Decision::Execute { actions, .. }) => (visit, actions.clone()),
            _ => (Visit(visit.0 + 3), 0..1),
        };
        let result = if well {
            Ok(json!({ "more": 1 }).as_object().unwrap().clone())
        } else {
            Err(ActionFailure {
                action: actions.start,
                code: "no".to_owned(),
            })
        };
        Input::Executed(Executed {
            visit,
            actions,
            result,
        })
    }

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
            Tell::Result(off, outcome) => {
                let visit = Visit(before.visit.0 + off);
                match self.sent_action(visit) {
                    Some(action) => result_of((visit, action), *outcome),
                    // Of another visit: nothing was sent in this one.
                    None => result(Visit(before.visit.0 + 3), *outcome),
                }
            }
            Tell::Decided(off, outcome) => Input::Decided {
                approval: ApprovalId(Uuid::from_u128(3)),
                visit: Visit(before.visit.0 + off),
                outcome: *outcome,
            },
            Tell::Performed(off, well) => self.performed(Visit(before.visit.0 + off), *well),
            Tell::Sending => Input::Sending,
            Tell::Unasked => Input::ApprovalMissing,
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
    let words = StateName::ALL.iter().map(|word| word.as_str());
    assert_eq!(states, words.collect::<BTreeSet<_>>());
    assert!(most_visits >= 10 && cancels > 0, "{most_visits} {cancels}");
}
