//! What holds of every run of every workflow, whatever it is told.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{plays::*, *};
use crate::{
    definition::StepKind,
    engine::{Reason, StateName, TerminalReason},
};

/// What a stored row keeps of a run, in the words of its columns.
struct Row {
    current_step_id: StepId,
    visit: i32,
    state: &'static str,
    status_reason: String,
    suspended_until: Option<DateTime<Utc>>,
    pending_signals: Vec<String>,
    terminal_reason: Option<String>,
    transition_count: i32,
    /// In a row: nothing is due although it is active.
    sent: bool,
}

impl Row {
    /// `None` while nothing is written.
    fn of(run: &Run) -> Option<Self> {
        let (suspended_until, pending_signals) = match &run.state {
            RunState::Waiting { until, stop_on } => (
                Some(*until),
                stop_on.iter().map(ToString::to_string).collect(),
            ),
            RunState::AwaitingApproval { until } => (*until, vec![]),
            _ => (None, vec![]),
        };
        Some(Self {
            sent: run.sent,
            current_step_id: run.definition.step_id(run.step),
            visit: run.visit.0,
            state: run.state.name()?.as_str(),
            status_reason: run.status_reason.clone().into_owned(),
            suspended_until,
            pending_signals,
            terminal_reason: run.state.terminal_reason().map(|reason| reason.to_string()),
            transition_count: run.sequence.0,
        })
    }

    fn asks(&self, like: &Run) -> bool {
        let step = like.definition.index_of(self.current_step_id).unwrap();
        matches!(run_kind(like, step), StepKind::Approval(_))
    }

    fn run(self, like: &Run) -> Run {
        let ended = || TerminalReason::parse(self.terminal_reason.as_deref().unwrap()).unwrap();
        let state = match StateName::parse(self.state).unwrap() {
            StateName::Active => RunState::Active,
            StateName::Waiting if self.asks(like) => RunState::AwaitingApproval {
                until: self.suspended_until,
            },
            StateName::Waiting => RunState::Waiting {
                until: self.suspended_until.unwrap(),
                stop_on: self
                    .pending_signals
                    .iter()
                    .map(|signal| signal.parse().unwrap())
                    .collect(),
            },
            StateName::Completed => RunState::Completed,
            StateName::Stopped => RunState::Stopped(ended()),
            StateName::Failed => RunState::Failed(ended()),
        };
        Run {
            id: like.id,
            step: like.definition.index_of(self.current_step_id).unwrap(),
            definition: like.definition.clone(),
            visit: Visit(self.visit),
            state,
            status_reason: self.status_reason.into(),
            sequence: crate::ids::Sequence(self.transition_count),
            facts: like.facts.clone(),
            sent: self.sent,
        }
    }
}

/// The visits of which a message may still be on its way after this play.
fn unsent(play: &Play) -> BTreeSet<i32> {
    let mut open = BTreeSet::new();
    for told in &play.told {
        if let Input::Delivered(result) = &told.input
            && result.outcome != Outcome::TemporaryFailure
        {
            open.remove(&result.visit.0);
        }
        let cancels = match &told.verdict {
            Verdict::Move(decisions) => decisions.contains(&Decision::CancelUnsent),
            Verdict::Noop(_) => false,
        };
        // A host has moved the run: what it still had to send is cancelled before the next is planned.
        if cancels && !told.after.state.is_terminal() {
            open.clear();
        }
        open.extend(told.plans().map(|(_, visit, _)| visit.0));
    }
    open
}

proptest! {
    #[test]
    fn the_same_question_has_the_same_answer(play in plays()) {
        for told in &play.told {
            prop_assert_eq!(&decide(&told.before, &told.input, told.now), &told.verdict);
            if let Verdict::Move(decisions) = &told.verdict {
                let first = decisions.first();
                let acts = matches!(first, Some(Decision::Execute { .. } | Decision::Remember(_)));
                prop_assert!(acts || matches!(first, Some(Decision::Transition(_))));
            } else {
                prop_assert_eq!(&told.before, &told.after);
            }
        }
    }

    #[test]
    fn a_run_that_has_ended_stays_as_it_is(play in plays()) {
        let ended = play.told.iter().skip_while(|told| !told.before.state.is_terminal());
        for told in ended {
            prop_assert_eq!(&told.verdict, &Verdict::Noop(crate::engine::Noop::RunNotActive));
            prop_assert_eq!(&told.before, &told.after);
        }
        let run = play.run();
        prop_assert_eq!(run.state.is_terminal(), run.state.terminal_reason().is_some());
    }

    #[test]
    fn a_visit_is_one_entering_of_a_step(play in plays()) {
        for told in &play.told {
            let (mut step, mut visit) = (told.before.step, told.before.visit);
            for line in told.lines() {
                if line.visit == visit {
                    prop_assert_eq!(line.step, step, "a step changes with its visit only");
                } else {
                    prop_assert_eq!(line.visit, visit.next());
                    let enters = [
                        Reason::StepActivated,
                        Reason::WaitingForStepProgression,
                        Reason::WaitingForApproval,
                        // There is nobody to ask.
                        Reason::WorkflowFailed,
                    ];
                    prop_assert!(enters.contains(&line.reason), "{}", line.reason);
                    // A condition is left at once; one decision enters but one of the others.
                    let left = told.before.visit == visit
                        || matches!(run_kind(&told.before, step), StepKind::Condition(_));
                    prop_assert!(left, "{:?}", told.verdict);
                }
                (step, visit) = (line.step, line.visit);
            }
        }
    }

    #[test]
    fn the_history_is_one_chain(play in plays()) {
        let lines = play.lines();
        let mut state = None;
        for line in &lines {
            prop_assert_eq!(line.from, state);
            state = line.to.name();
            prop_assert!(state.is_some());
        }
        prop_assert_eq!(play.run().state.name(), state);
        let mut count = 0;
        for told in &play.told {
            count += i32::try_from(told.lines().count()).unwrap();
            prop_assert_eq!(told.after.sequence.0, count);
        }
    }

    #[test]
    fn the_history_alone_makes_the_same_run(play in plays()) {
        let mut replayed = play.born.clone();
        for told in &play.told {
            told.lines().for_each(|line| replayed.apply(line));
            prop_assert_eq!(&replayed, &told.after);
        }
    }

    #[test]
    fn a_run_read_back_from_its_row_is_the_same_run(play in plays()) {
        let mut run = play.born.clone();
        for told in &play.told {
            if let Verdict::Move(decisions) = decide(&run, &told.input, told.now) {
                run = run.after(&decisions);
            }
            if let Some(row) = Row::of(&run) {
                run = row.run(&play.born);
            }
            prop_assert_eq!(&run, &told.after);
        }
    }

    #[test]
    fn a_message_is_planned_once_a_visit(play in plays()) {
        let (mut planned, mut actions) = (BTreeSet::new(), BTreeSet::new());
        for told in &play.told {
            for made in told.decisions() {
                let Decision::Plan { step, visit, action, channel } = made else { continue };
                prop_assert_eq!((*step, *visit), (told.after.step, told.after.visit));
                let again = told.input == Input::DeliveryMissing;
                let name = match run_kind(&told.after, *step) {
                    StepKind::Notify(notify) => notify.channel.as_str(),
                    StepKind::Custom(custom) => custom.kind.as_str(),
                    StepKind::Action(all) => {
                        prop_assert!(all[*action].is_delivery());
                        prop_assert!(actions.insert((visit.0, *action)), "{:?} {}", visit, action);
                        prop_assert_eq!(channel.as_str(), "webhook");
                        continue;
                    }
                    _ => panic!("it sends nothing"),
                };
                prop_assert!(planned.insert(visit.0) != again, "{:?}", visit);
                prop_assert_eq!(channel.as_str(), name);
            }
        }
        let entered = play.lines().into_iter().filter(|line| line.visit.0 > 0);
        let sending = entered.filter(|line| {
            let kind = run_kind(&play.born, line.step);
            matches!(kind, StepKind::Notify(_) | StepKind::Custom(_))
        });
        let visits: BTreeSet<_> = sending.map(|line| line.visit.0).collect();
        prop_assert_eq!(planned, visits);
    }

    #[test]
    fn a_live_run_always_has_something_that_will_move_it(play in plays()) {
        let mut planned = BTreeSet::new();
        for (place, told) in play.told.iter().enumerate() {
            planned.extend(told.plans().map(|(_, visit, _)| visit.0));
            let run = &told.after;
            let wake = run.wake_at(told.now);
            match &run.state {
                RunState::AwaitingApproval { until } => prop_assert_eq!(wake, *until),
                RunState::Waiting { until, .. } => prop_assert_eq!(wake, Some(*until)),
                RunState::Active => {
                    prop_assert!(wake.is_some() != planned.contains(&run.visit.0));
                    prop_assert!(wake.is_none_or(|wake| wake == told.now));
                }
                _ => prop_assert_eq!(wake, None),
            }
            // What moves it does: the end of its wait, or the result of its message.
            let moved = match (&run.state, wake) {
                (RunState::Waiting { .. } | RunState::Active, Some(wake)) => {
                    decide(run, &Input::Due, wake)
                }
                (RunState::Active, None) => {
                    let so_far = Play { told: play.told[..=place].to_vec(), ..play.clone() };
                    let action = so_far.sent_action(run.visit).unwrap();
                    decide(run, &result_of((run.visit, action), Outcome::Delivered), told.now)
                }
                (RunState::AwaitingApproval { .. }, _) => {
                    let decided = Input::Decided {
                        approval: ApprovalId(Uuid::from_u128(3)),
                        visit: run.visit,
                        outcome: Outcome::Approved,
                    };
                    decide(run, &decided, told.now)
                }
                _ => continue,
            };
            prop_assert!(matches!(moved, Verdict::Move(_)), "{moved:?}");
        }
    }

    #[test]
    fn a_wait_lasts_as_long_as_its_step_says(play in plays()) {
        for told in &play.told {
            let RunState::Waiting { until, stop_on } = &told.after.state else { continue };
            if told.lines().next().is_none() {
                continue;
            }
            let StepKind::Wait(wait) = &told.after.definition.step(told.after.step).kind else {
                panic!("only a wait waits");
            };
            prop_assert_eq!(*until, told.now + wait.duration.to_chrono());
            let listed = wait.stop_conditions.iter().map(|condition| &condition.signal);
            prop_assert!(listed.eq(stop_on));

            // What the line says reads back as what it means.
            let context = &told.lines().last().unwrap().context;
            let said = context["suspended_until"].as_str().unwrap();
            prop_assert_eq!(said.parse::<DateTime<Utc>>().unwrap(), *until);
            prop_assert_eq!(context["pending_signals"].as_array().unwrap().len(), stop_on.len());
        }
    }

    #[test]
    fn a_line_names_what_moved_the_run_and_nothing_more(play in plays()) {
        for told in &play.told {
            for line in told.lines() {
                let by_signal = line.reason == Reason::SignalReceived;
                prop_assert_eq!(line.signal.is_some(), by_signal);
                if by_signal {
                    prop_assert_eq!(line.context.keys().collect::<Vec<_>>(), ["event_name"]);
                }
                let first = told.lines().next() == Some(line);
                let delivery = match &told.input {
                    // What follows is no delivery's doing: the line before says what was.
                    Input::Delivered(result) if first => {
                        prop_assert_eq!(result.visit, told.before.visit);
                        Some(result.delivery)
                    }
                    _ => None,
                };
                prop_assert_eq!(line.delivery, delivery);
                prop_assert_eq!(line.approval.is_some(), line.reason == Reason::ApprovalDecided);
                for fact in line.context.keys() {
                    prop_assert!(FACTS.contains(&fact.as_str()), "{fact}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_left_to_send_when_a_run_ends(play in plays()) {
        let cancels = |told: &Told| match &told.verdict {
            Verdict::Move(decisions) => decisions.contains(&Decision::CancelUnsent),
            Verdict::Noop(_) => false,
        };
        for (place, told) in play.told.iter().enumerate() {
            let ends = told.after.state.is_terminal() && !told.before.state.is_terminal();
            // What a host moves away from is not sent either.
            let moved = matches!(told.input, Input::Moved { .. });
            prop_assert!(ends || moved || !cancels(told));
            let so_far = Play { told: play.told[..=place].to_vec(), ..play.clone() };
            if ends && !unsent(&so_far).is_empty() {
                prop_assert!(cancels(told), "{:?}", unsent(&so_far));
            }
        }
    }

    #[test]
    fn any_terminal_reason_reads_back(code in ".*", signal in "[^\\p{C}]{1,20}") {
        let failed = TerminalReason::Failed(code);
        prop_assert_eq!(TerminalReason::parse(&failed.to_string()), Some(failed));
        if let Ok(signal) = signal.parse() {
            let stopped = TerminalReason::StopCondition(signal);
            prop_assert_eq!(TerminalReason::parse(&stopped.to_string()), Some(stopped));
        }
    }

    #[test]
    fn no_text_makes_the_reader_of_terminal_reasons_panic(text in ".*") {
        if let Some(reason) = TerminalReason::parse(&text) {
            prop_assert_eq!(reason.to_string(), text);
        }
    }
}

/// Everything a line of history may say.
const FACTS: [&str; 15] = [
    "workflow",
    "step_key",
    "workflow_outcome",
    "delivery_status",
    "from_step",
    "to_step",
    "suspended_until",
    "pending_signals",
    "event_name",
    "error",
    "name",
    "operator",
    "action",
    "action_index",
    "actions",
];

fn run_kind(run: &Run, step: StepIndex) -> &StepKind {
    &run.definition.step(step).kind
}
