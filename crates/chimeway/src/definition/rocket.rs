//! Rocket's shape: `name`, `trigger`, and steps of the type action, condition or approval, in both
//! spellings of its ports, read into the same plan. What is written back is never this one.
//!
//! Where its ports differ from what a reader would expect, the expectation counts: a `record_id` is a
//! path, an unknown key is a mistake, and whoever is asked is the only one who may decide.

mod export;

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    action::Action,
    approval::{Approval, Assignee},
    condition::Condition,
    error::Problem,
    graph::Places,
    read::{Kind, Reader},
    shape::{Node, Object, found, shown, suggest},
    step::{JsonPath, Outcome, Step, StepKind, Target, WorkflowPlan},
    trigger::Source,
};
use crate::ids::{StepKey, Version};

pub use export::{Inexpressible, export};

const ROOT_KEYS: [&str; 6] = ["name", "active", "version", "trigger", "context", "steps"];
const TYPES: [&str; 3] = ["action", "condition", "approval"];

/// A key of a step, in both spellings, and how the step ends when it goes there.
type Way = ([&'static str; 2], Outcome);

const ACTION_WAYS: [Way; 1] = [(["then", "next"], Outcome::Succeeded)];
const CONDITION_WAYS: [Way; 2] = [
    (["on_true", ""], Outcome::Met),
    (["on_false", ""], Outcome::Unmet),
];
const APPROVAL_WAYS: [Way; 3] = [
    (["on_approve", ""], Outcome::Approved),
    (["on_reject", ""], Outcome::Rejected),
    (["on_timeout", ""], Outcome::TimedOut),
];

impl<'a> Reader<'a> {
    /// The plan of a document in Rocket's shape, if nothing stood in the way of reading it.
    pub(super) fn rocket(&mut self, value: &'a Value) -> Option<(WorkflowPlan, Option<Version>)> {
        self.places = Places::Rocket;
        let root = Node::root(value).object(&mut self.mistakes)?;
        root.only(&ROOT_KEYS, |_| None, &mut self.mistakes);
        let key = root
            .need("name", &mut self.mistakes)
            .and_then(|name| self.name(&name));
        let version = root
            .get("version")
            .and_then(|version| self.version(&version));
        if let Some(active) = root.get("active")
            && active.boolean(&mut self.mistakes) == Some(false)
        {
            let hint = "take it out, apply it, then pause it with `chimeway workflows pause`";
            self.mistakes
                .add(&active.pointer, Problem::NotActive, Some(hint.to_owned()));
        }
        let trigger = root.need("trigger", &mut self.mistakes);
        let trigger = trigger.and_then(|trigger| self.trigger(&trigger));
        let context = match root.get("context") {
            Some(context) => self.context(&context, true),
            None => Some(BTreeMap::from([
                ("record_id".to_owned(), Source::RecordId),
                ("record".to_owned(), Source::Record),
            ])),
        };
        let steps = root.need("steps", &mut self.mistakes).and_then(|steps| {
            let listed = steps.value.as_array().map_or(&[][..], Vec::as_slice);
            for (place, step) in listed.iter().enumerate() {
                let id = step.get("id").or_else(|| step.get("name"));
                if step.get("id").is_none()
                    && let Some(id) = id.and_then(Value::as_str)
                {
                    self.take_id(id, format!("{}/{place}/name", steps.pointer));
                }
            }
            self.steps(&steps, Self::rocket_step)
        });
        let plan = WorkflowPlan {
            key: key?,
            trigger: Some(trigger?),
            context: context?,
            steps: steps?,
        };
        Some((plan, version))
    }

    fn rocket_step(&mut self, node: &Node<'a>) -> Option<Step> {
        let step = node.object(&mut self.mistakes)?;
        let key = match self.either(&step, ["id", "name"]) {
            Some(key) => self.name::<StepKey>(&key),
            None => {
                let problem = Problem::MissingKey { name: "id" };
                self.mistakes.add(&step.pointer, problem, None);
                None
            }
        };
        let kind = step.need("type", &mut self.mistakes)?;
        let (kind, ways): (_, &[Way]) = match kind.text(&mut self.mistakes)? {
            "action" => (self.rocket_actions(&step), &ACTION_WAYS),
            "condition" => (self.rocket_condition(&step), &CONDITION_WAYS),
            "approval" => (self.rocket_approval(&step), &APPROVAL_WAYS),
            other => {
                let hint = match Kind::named(other, self.known) {
                    Some(_) => {
                        "write the workflow with `key`, and the step with `action`".to_owned()
                    }
                    None => suggest(other, TYPES.into_iter()),
                };
                let problem = Problem::UnknownStepType {
                    found: shown(other),
                };
                self.mistakes.add(&kind.pointer, problem, Some(hint));
                return None;
            }
        };
        let mut on_outcome = BTreeMap::new();
        let mut whole = true;
        for (keys, outcome) in ways {
            let target = match self.either(&step, *keys) {
                Some(target) => self.rocket_target(&target),
                // With Rocket a run that nothing leads on is through; one that times out has failed.
                None if *outcome == Outcome::TimedOut => Some(Target::Stop),
                None => Some(Target::Complete),
            };
            match target {
                Some(target) if outcome.otherwise() == Some(&target) => {}
                Some(target) => {
                    on_outcome.insert(*outcome, target);
                }
                None => whole = false,
            }
        }
        Some(Step {
            key: key?,
            kind: kind?,
            on_outcome: whole.then_some(on_outcome)?,
        })
    }

    fn rocket_actions(&mut self, step: &Object<'a>) -> Option<StepKind> {
        let known = ["id", "name", "type", "actions", "then", "next"];
        step.only(&known, |_| None, &mut self.mistakes);
        let actions = step.need("actions", &mut self.mistakes)?;
        let actions: Vec<Action> = self.actions(&actions)?;
        Some(StepKind::Action(actions))
    }

    fn rocket_condition(&mut self, step: &Object<'a>) -> Option<StepKind> {
        let known = [
            "id",
            "name",
            "type",
            "expression",
            "condition",
            "on_true",
            "on_false",
        ];
        step.only(&known, |_| None, &mut self.mistakes);
        let Some(node) = self.either(step, ["expression", "condition"]) else {
            let problem = Problem::MissingKey { name: "expression" };
            self.mistakes.add(&step.pointer, problem, None);
            return None;
        };
        let text = node.text(&mut self.mistakes)?;
        let expression = self.expression(&node, &translated(text))?;
        Some(StepKind::Condition(Condition { expression }))
    }

    fn rocket_approval(&mut self, step: &Object<'a>) -> Option<StepKind> {
        let known = [
            "id",
            "name",
            "type",
            "assignee",
            "roles",
            "timeout",
            "deadline",
            "on_approve",
            "on_reject",
            "on_timeout",
        ];
        step.only(&known, |_| None, &mut self.mistakes);
        let assignee = match self.either(step, ["assignee", "roles"]) {
            Some(node) if node.pointer.ends_with("/roles") => self.rocket_roles(&node),
            Some(node) => self.rocket_assignee(&node),
            None => {
                let problem = Problem::MissingKey { name: "assignee" };
                self.mistakes.add(&step.pointer, problem, None);
                None
            }
        };
        let timeout = match self.either(step, ["timeout", "deadline"]) {
            Some(timeout) => self.duration(&timeout).map(Some),
            None => Some(None),
        };
        Some(StepKind::Approval(Approval {
            assignee: assignee?,
            timeout: timeout?,
        }))
    }

    /// `{type: relation|role|fixed, path|role|user|value: ..}`, or as our own documents have it.
    fn rocket_assignee(&mut self, node: &Node<'a>) -> Option<Assignee> {
        let object = node.object(&mut self.mistakes)?;
        let Some(kind) = object.get("type") else {
            return self.assignee(node);
        };
        let key = match kind.text(&mut self.mistakes)? {
            "relation" => "path",
            "role" => "role",
            "fixed" => "user",
            other => {
                let problem = Problem::BadAssignee {
                    found: format!("the type `{}`", shown(other)),
                };
                let hint = suggest(other, ["relation", "role", "fixed"].into_iter());
                self.mistakes.add(&kind.pointer, problem, Some(hint));
                return None;
            }
        };
        object.only(&["type", key, "value"], |_| None, &mut self.mistakes);
        let Some(who) = self.either(&object, [key, "value"]) else {
            self.mistakes
                .add(&object.pointer, Problem::MissingKey { name: key }, None);
            return None;
        };
        match key {
            "path" => {
                let text = who.text(&mut self.mistakes)?;
                let path = JsonPath::parse(text.strip_prefix("context.").unwrap_or(text));
                if path.is_none() {
                    let found = shown(text);
                    self.mistakes
                        .add(&who.pointer, Problem::BadContextPath { found }, None);
                }
                path.map(Assignee::Path)
            }
            "role" => self.name(&who).map(Assignee::Role),
            _ => self.name(&who).map(Assignee::User),
        }
    }

    fn rocket_roles(&mut self, node: &Node<'a>) -> Option<Assignee> {
        let roles = node.list(&mut self.mistakes)?;
        if let [role] = &roles[..] {
            return self.name(role).map(Assignee::Role);
        }
        let problem = Problem::BadAssignee {
            found: format!("{} roles", roles.len()),
        };
        let hint = "make one role of them: `chimeway roles add` gives it its members".to_owned();
        self.mistakes.add(&node.pointer, problem, Some(hint));
        None
    }

    /// `{goto: id}`, the bare id, or the end in one of its spellings.
    fn rocket_target(&mut self, node: &Node<'a>) -> Option<Target> {
        match node.value {
            Value::Null => Some(Target::Complete),
            Value::String(text) if text.is_empty() || text == "end" => Some(Target::Complete),
            Value::String(_) => {
                let key = self.name::<StepKey>(node)?;
                self.existing(key, &node.pointer).map(Target::Goto)
            }
            Value::Object(_) => self.goto(node),
            other => {
                let problem = Problem::UnknownTarget {
                    found: found(other),
                };
                let hint = "known: end, {goto: <step id>}".to_owned();
                self.mistakes.add(&node.pointer, problem, Some(hint));
                None
            }
        }
    }

    /// What stands under either spelling; both side by side are a mistake.
    fn either(&mut self, object: &Object<'a>, [one, other]: [&str; 2]) -> Option<Node<'a>> {
        let (first, second) = (object.get(one), object.get(other));
        if let (Some(_), Some(second)) = (&first, &second) {
            let problem = Problem::TwoSpellings {
                found: other.to_owned(),
                other: one.to_owned(),
            };
            let hint = Some(format!("keep `{one}`"));
            self.mistakes.add(&second.pointer, problem, hint);
        }
        first.or(second)
    }
}

/// An expression of Rocket's as CEL has it: other words for the same operators.
fn translated(text: &str) -> String {
    let mut cel = String::with_capacity(text.len());
    let mut chars = text.char_indices().peekable();
    while let Some((start, first)) = chars.next() {
        if first == '"' || first == '\'' {
            cel.push(first);
            let mut escaped = false;
            for (_, c) in chars.by_ref() {
                cel.push(c);
                if c == first && !escaped {
                    break;
                }
                escaped = c == '\\' && !escaped;
            }
        } else if first.is_ascii_alphabetic() || first == '_' {
            let mut end = start + first.len_utf8();
            while let Some((at, c)) = chars.next_if(|(_, c)| c.is_ascii_alphanumeric() || *c == '_')
            {
                end = at + c.len_utf8();
            }
            let word = &text[start..end];
            // A field may have any name.
            let is_field = cel.trim_end().ends_with('.');
            cel.push_str(match word {
                _ if is_field => word,
                "and" => "&&",
                "or" => "||",
                "not" => "!",
                "nil" => "null",
                "len" => "size",
                word => word,
            });
        } else {
            cel.push(first);
        }
    }
    cel
}

#[cfg(test)]
mod tests;
