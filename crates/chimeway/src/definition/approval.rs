//! A step that asks a person for a decision.

use serde_json::{Value, json};

use super::{
    duration::IsoDuration,
    error::Problem,
    read::Reader,
    shape::{Node, Object, found, suggest},
    step::JsonPath,
};
use crate::ids::{ActorId, RoleName};

/// Asks a person for a decision and waits for it: outcome `approved`, `rejected` or `timed_out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Who may decide.
    pub assignee: Assignee,
    /// From the moment of entering; `None`: it waits for as long as it takes.
    pub timeout: Option<IsoDuration>,
}

/// Who may decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignee {
    /// This one.
    User(ActorId),
    /// Whoever has this role at the time of the decision.
    Role(RoleName),
    /// Whoever stands at that place in the run's context when the step is entered.
    Path(JsonPath),
}

pub(super) const KEYS: [&str; 3] = ["type", "assignee", "timeout"];
const ASSIGNEES: [&str; 3] = ["user", "role", "path"];
const WRITE: &str = "write `{user: <id>}`, `{role: <name>}` or `{path: context.<name>}`";

impl<'a> Reader<'a> {
    pub(super) fn approval(&mut self, action: &Object<'a>) -> Option<Approval> {
        action.only(&KEYS, super::read::beside_action, &mut self.mistakes);
        let assignee = action.need("assignee", &mut self.mistakes);
        let assignee = assignee.and_then(|assignee| self.assignee(&assignee));
        let timeout = match action.get("timeout") {
            Some(timeout) => self.duration(&timeout).map(Some),
            None => Some(None),
        };
        Some(Approval {
            assignee: assignee?,
            timeout: timeout?,
        })
    }

    pub(super) fn assignee(&mut self, node: &Node<'a>) -> Option<Assignee> {
        let object = node.object(&mut self.mistakes)?;
        let mut entries = object.entries();
        let (Some((name, value)), None) = (entries.next(), entries.next()) else {
            let problem = Problem::BadAssignee {
                found: found(node.value),
            };
            self.mistakes
                .add(&node.pointer, problem, Some(WRITE.to_owned()));
            return None;
        };
        match name {
            "user" => self.name(&value).map(Assignee::User),
            "role" => self.name(&value).map(Assignee::Role),
            "path" => self.context_path(&value).map(Assignee::Path),
            _ => {
                let hint = suggest(name, ASSIGNEES.into_iter());
                let problem = Problem::UnknownKey {
                    name: super::shape::shown(name),
                };
                self.mistakes.add(&value.pointer, problem, Some(hint));
                None
            }
        }
    }

    /// `context.<name>`.
    pub(super) fn context_path(&mut self, node: &Node<'a>) -> Option<JsonPath> {
        let text = node.text(&mut self.mistakes)?;
        let path = text.strip_prefix("context.").and_then(JsonPath::parse);
        if path.is_none() {
            let problem = Problem::BadContextPath {
                found: super::shape::shown(text),
            };
            let hint = "write `context.<name>`".to_owned();
            self.mistakes.add(&node.pointer, problem, Some(hint));
        }
        path
    }
}

/// As documents write it.
pub(super) fn written(assignee: &Assignee) -> Value {
    match assignee {
        Assignee::User(user) => json!({ "user": user }),
        Assignee::Role(role) => json!({ "role": role }),
        Assignee::Path(path) => json!({ "path": format!("context.{path}") }),
    }
}
