//! Where a step leads: its outcomes and their targets.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    error::Problem,
    read::{Kind, Reader},
    shape::{Node, Object, closest, shown, suggest},
    step::{Outcome, Target},
};
use crate::ids::StepKey;

const TARGETS: [&str; 3] = ["next", "complete", "stop"];

impl<'a> Reader<'a> {
    /// Where the step leads for the outcomes that it names.
    pub(super) fn on_outcome(
        &mut self,
        step: &Object<'a>,
        kind: Option<Kind>,
    ) -> Option<BTreeMap<Outcome, Target>> {
        if let (Some(_), Some(alias)) = (step.get("on_outcome"), step.get("on")) {
            let hint = Some("keep `on_outcome`".to_owned());
            self.mistakes
                .add(&alias.pointer, Problem::BothSpellings, hint);
        }
        let mut whole = true;
        let mut targets = BTreeMap::new();
        for node in ["on_outcome", "on"]
            .into_iter()
            .filter_map(|key| step.get(key))
        {
            let Some(entries) = node.object(&mut self.mistakes) else {
                whole = false;
                continue;
            };
            for (name, target) in entries.entries() {
                let outcome = self.outcome(name, &target.pointer, kind);
                let target = self.target(&target);
                match (outcome, target) {
                    // What happens anyway need not be said.
                    (Some(outcome), Some(target)) if outcome.otherwise() == Some(&target) => {}
                    (Some(outcome), Some(target)) => {
                        targets.insert(outcome, target);
                    }
                    _ => whole = false,
                }
            }
        }
        whole.then_some(targets)
    }

    fn outcome(&mut self, name: &str, pointer: &str, kind: Option<Kind>) -> Option<Outcome> {
        let possible = kind.map_or(&[][..], |kind| kind.outcomes);
        let names = possible.iter().map(|outcome| outcome.as_str());
        let (problem, hint) = match (Outcome::parse(name), kind) {
            (Some(outcome), Some(kind)) if !possible.contains(&outcome) => {
                let problem = Problem::ImpossibleOutcome {
                    outcome,
                    kind: kind.name,
                };
                (
                    problem,
                    Some(format!("known: {}", names.collect::<Vec<_>>().join(", "))),
                )
            }
            (Some(outcome), _) => return Some(outcome),
            (None, Some(kind)) if kind.name == "wait" && name == "signalled" => {
                let hint = "a signal goes where `then` of its stop condition says".to_owned();
                (Problem::UnknownOutcome { found: shown(name) }, Some(hint))
            }
            (None, kind) => {
                let hint = kind.map(|_| suggest(name, names));
                (Problem::UnknownOutcome { found: shown(name) }, hint)
            }
        };
        self.mistakes.add(pointer, problem, hint);
        None
    }

    /// A target; the step it names may stand anywhere in the document.
    pub(super) fn target(&mut self, node: &Node<'a>) -> Option<Target> {
        let name = match node.value {
            Value::Object(_) => return self.goto(node),
            Value::String(name) => name.as_str(),
            _ => {
                node.wrong_type("a target", &mut self.mistakes);
                return None;
            }
        };
        match name {
            "next" => Some(Target::Next),
            "complete" | "end" => Some(Target::Complete),
            "stop" => Some(Target::Stop),
            _ => {
                let hint = if self.ids.contains_key(name) {
                    format!("to go to that step write `{{goto: {}}}`", shown(name))
                } else {
                    match closest(name, TARGETS.into_iter()) {
                        Some(target) => format!("did you mean `{target}`?"),
                        None => "known: next, complete, stop, {goto: <step id>}".to_owned(),
                    }
                };
                let problem = Problem::UnknownTarget { found: shown(name) };
                self.mistakes.add(&node.pointer, problem, Some(hint));
                None
            }
        }
    }

    pub(super) fn goto(&mut self, node: &Node<'a>) -> Option<Target> {
        let object = node.object(&mut self.mistakes)?;
        object.only(&["goto"], |_| None, &mut self.mistakes);
        let goto = object.need("goto", &mut self.mistakes)?;
        let key = self.name::<StepKey>(&goto)?;
        self.existing(key, &goto.pointer).map(Target::Goto)
    }

    /// The key, if a step of the document has it.
    pub(super) fn existing(&mut self, key: StepKey, pointer: &str) -> Option<StepKey> {
        if self.ids.contains_key(key.as_str()) {
            return Some(key);
        }
        let hint = closest(key.as_str(), self.ids.keys().copied());
        let hint = hint.map(|id| format!("did you mean `{}`?", shown(id)));
        let problem = Problem::UnknownStep {
            found: shown(key.as_str()),
        };
        self.mistakes.add(pointer, problem, hint);
        None
    }
}
