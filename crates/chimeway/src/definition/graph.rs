//! The paths through a plan: is every step reached, and does every loop pass a wait or an approval?

use super::{
    error::Problem,
    shape::Mistakes,
    step::{Outcome, Step, StepKind, Target, WorkflowPlan},
};

/// Where the steps of a plan stand in their document, and how that one leads from step to step.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Places {
    /// Each at `/steps/<its place>`.
    #[default]
    Steps,
    /// Rocket's shape: there as well.
    Rocket,
    /// The rule dialect: where each was written. A wait is written in the step before it.
    Rules(Vec<String>),
}

impl Places {
    pub(super) fn pointer(&self, place: usize) -> String {
        match self {
            Self::Steps | Self::Rocket => format!("/steps/{place}"),
            Self::Rules(pointers) => pointers.get(place).cloned().unwrap_or_default(),
        }
    }

    fn way_in(&self, step: &Step) -> &'static str {
        match (self, &step.kind) {
            (Self::Steps | Self::Rocket, _) => "let another step `goto` it, or delete it",
            (Self::Rules(_), StepKind::Wait(_)) => {
                "each outcome of its step has another rule; delete one of those, or this one"
            }
            (Self::Rules(_), _) => "name it as `to_step` in a rule of another step, or delete it",
        }
    }

    const fn pause(&self) -> &'static str {
        match self {
            Self::Steps => "put a `wait` step into the loop",
            Self::Rocket => "put an approval into the loop",
            Self::Rules(_) => "let a `wait_until` rule lead back",
        }
    }

    /// Whether a step is a part of the one before it, and unreachable with it.
    const fn is_part(&self, step: &Step) -> bool {
        matches!((self, &step.kind), (Self::Rules(_), StepKind::Wait(_)))
    }
}

/// Reports unreachable steps and loops that neither a wait nor an approval interrupts.
pub(super) fn check(plan: &WorkflowPlan, places: &Places, mistakes: &mut Mistakes) {
    let edges: Vec<Vec<usize>> = (0..plan.steps.len())
        .map(|from| leads_to(plan, from))
        .collect();

    let mut reached = reachable(&edges, 0, |_| true);
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    let is_lost = |place: usize| !reached[place];
    for (place, step) in plan.steps.iter().enumerate() {
        if !is_lost(place) || place > 0 && is_lost(place - 1) && places.is_part(step) {
            continue;
        }
        let hint = places.way_in(step).to_owned();
        let problem = Problem::UnreachableStep {
            id: step.key.to_string(),
        };
        mistakes.add(&places.pointer(place), problem, Some(hint));
    }

    let at_once = |place: usize| match plan.steps[place].kind {
        StepKind::Wait(_) | StepKind::Approval(_) => false,
        StepKind::Notify(_)
        | StepKind::Condition(_)
        | StepKind::Action(_)
        | StepKind::Custom(_) => true,
    };
    let closures: Vec<Vec<bool>> = (0..plan.steps.len())
        .map(|from| {
            if at_once(from) {
                reachable(&edges, from, at_once)
            } else {
                vec![false; edges.len()]
            }
        })
        .collect();
    let mut reported = vec![false; plan.steps.len()];
    for place in 0..plan.steps.len() {
        if reported[place] || !closures[place][place] {
            continue;
        }
        let members =
            (0..edges.len()).filter(|other| closures[place][*other] && closures[*other][place]);
        let mut names = vec![];
        for member in members {
            reported[member] = true;
            names.push(format!("`{}`", plan.steps[member].key));
        }
        let hint = places.pause().to_owned();
        let problem = Problem::EndlessLoop {
            steps: names.join(", "),
        };
        mistakes.add(&places.pointer(place), problem, Some(hint));
    }
}

/// Which steps can be entered after leaving `from`, going on only through those that `passes` lets
/// through. `from` itself is among them only if a path leads back.
fn reachable(edges: &[Vec<usize>], from: usize, passes: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut seen = vec![false; edges.len()];
    let mut open = vec![from];
    while let Some(place) = open.pop() {
        for &next in &edges[place] {
            if !seen[next] && passes(next) {
                seen[next] = true;
                open.push(next);
            }
        }
    }
    seen
}

/// The steps a run may enter when it leaves this one.
fn leads_to(plan: &WorkflowPlan, from: usize) -> Vec<usize> {
    let step = &plan.steps[from];
    let silent = |outcome: &Outcome| {
        outcome.otherwise() == Some(&Target::Next) && !step.on_outcome.contains_key(outcome)
    };
    let goes_on = step.kind.outcomes().iter().any(silent);
    let targets = Step::targets(step).chain(goes_on.then_some(&Target::Next));
    targets
        .filter_map(|target| match target {
            Target::Next => Some(from + 1).filter(|next| *next < plan.steps.len()),
            Target::Goto(key) => plan.position(key),
            Target::Complete | Target::Stop => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::definition::{Document, Known, validate};

    /// Steps as lines `id: kind outcome->target ..`; the mistakes as lines.
    fn mistakes(lines: &str) -> String {
        let steps: Vec<Value> = lines.lines().map(step).collect();
        let document = Document::from_value(json!({ "key": "k", "steps": steps }));
        match validate(&document, &Known::default()) {
            Ok(_) => String::new(),
            Err(mistakes) => mistakes
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n"),
        }
    }

    fn step(line: &str) -> Value {
        let (id, rest) = line.split_once(": ").unwrap();
        let mut words = rest.split(' ');
        let mut step = json!({ "id": id, "action": match words.next().unwrap() {
            "notify" => json!({ "type": "notify", "channel": "log" }),
            _ => json!({ "type": "wait", "duration": "PT1H", "stop_conditions": [] }),
        }});
        for (name, to) in words.map(|word| word.split_once("->").unwrap()) {
            let target = match to {
                "next" | "complete" | "stop" => json!(to),
                id => json!({ "goto": id }),
            };
            match name.strip_prefix('!') {
                Some(signal) => {
                    let conditions = step["action"]["stop_conditions"].as_array_mut().unwrap();
                    conditions.push(json!({
                        "type": "signal_received", "signal_type": signal, "then": target,
                    }));
                }
                None => step["on_outcome"][name] = target,
            }
        }
        step
    }

    #[test]
    fn sound_paths() {
        let table = [
            "a: notify",
            "a: notify\nb: wait\nc: notify",
            "a: wait\nb: notify delivered->a",
            "a: wait elapsed->a",
            "a: notify bounced->c\nb: wait !s->c elapsed->complete\nc: notify",
            // Two loops, each with a wait of its own.
            "a: notify\nb: wait\nc: notify bounced->a delivered->d\nd: wait elapsed->c",
            // Only a signal leads on.
            "a: wait elapsed->complete !s->b\nb: notify",
            // A temporary failure leads on where it is named.
            "a: notify temporary_failure->b\nb: wait",
        ];
        for lines in table {
            assert_eq!(mistakes(lines), "", "{lines}");
        }
    }

    #[test]
    fn steps_that_nothing_leads_to() {
        insta::assert_snapshot!(
            mistakes("a: wait elapsed->d\nb: notify\nc: wait\nd: notify"), @r#"
    /steps/1: nothing leads to the step `b`; let another step `goto` it, or delete it
    /steps/2: nothing leads to the step `c`; let another step `goto` it, or delete it
"#);
        // Its own loop does not make a step reached.
        insta::assert_snapshot!(mistakes("a: wait elapsed->complete\nb: wait elapsed->b"), @"/steps/1: nothing leads to the step `b`; let another step `goto` it, or delete it");
        insta::assert_snapshot!(mistakes("a: wait elapsed->stop !s->complete\nb: wait"), @"/steps/1: nothing leads to the step `b`; let another step `goto` it, or delete it");
    }

    #[test]
    fn loops_without_a_wait() {
        insta::assert_snapshot!(mistakes("a: notify bounced->a"), @"/steps/0: `a` can repeat forever with no wait between; put a `wait` step into the loop");
        insta::assert_snapshot!(
            mistakes("a: wait\nb: notify\nc: notify bounced->b\nd: notify temporary_failure->d"),
            @r#"
    /steps/1: `b`, `c` can repeat forever with no wait between; put a `wait` step into the loop
    /steps/3: `d` can repeat forever with no wait between; put a `wait` step into the loop
"#);
    }
}
