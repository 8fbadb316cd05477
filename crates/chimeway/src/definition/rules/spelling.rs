//! Which of the ways a document is written in.

use serde_json::{Map, Value};

use crate::definition::{
    error::Problem,
    shape::{Mistakes, child},
};

/// A way of writing a workflow, known by its own keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::definition) enum Spelling {
    /// `key`, `id`, `action`: what the canonical form is written in, too.
    Steps,
    /// `workflow_key`, `step_key`, `step_order`: the rule dialect.
    Rules,
    /// `name` in place of a key, and steps with a `type` of their own: Rocket's shape.
    Rocket,
}

/// A key that only one spelling has, and what stands for it in the other one.
type Own = (&'static str, Spelling, &'static str);

const OF_THE_ROOT: [Own; 4] = [
    ("key", Spelling::Steps, "write `workflow_key`"),
    ("version", Spelling::Steps, "write `workflow_version`"),
    ("workflow_key", Spelling::Rules, "write `key`"),
    ("workflow_version", Spelling::Rules, "write `version`"),
];

const OF_A_STEP: [Own; 6] = [
    ("id", Spelling::Steps, "write `step_key`"),
    (
        "action",
        Spelling::Steps,
        "write `channel`, and a wait as a `wait_until` rule",
    ),
    ("on_outcome", Spelling::Steps, IN_PROGRESS),
    ("on", Spelling::Steps, IN_PROGRESS),
    ("step_key", Spelling::Rules, "write `id`"),
    (
        "step_order",
        Spelling::Rules,
        "delete it: the steps are in the order of the list",
    ),
];

const IN_PROGRESS: &str = "write it as rules in `config.progress`";

impl Spelling {
    /// The spelling of a document; none if it has keys of both. Then those of the rarer one are
    /// reported and nothing else, for what to expect in place of them is not known.
    pub(in crate::definition) fn of(document: &Value, mistakes: &mut Mistakes) -> Option<Self> {
        if is_rocket(document) {
            return Some(Self::Rocket);
        }
        let own = own_keys(document);
        let (rules, steps): (Vec<_>, Vec<_>) = own
            .iter()
            .partition(|(_, (_, spelling, _))| *spelling == Self::Rules);
        let (rule, step) = match (rules.first(), steps.first()) {
            (None, _) => return Some(Self::Steps),
            (_, None) => return Some(Self::Rules),
            (Some((_, rule)), Some((_, step))) => (rule.0, step.0),
        };
        let (strays, other) = if steps.len() <= rules.len() {
            (&steps, rule)
        } else {
            (&rules, step)
        };
        for (pointer, (found, _, instead)) in strays {
            let problem = Problem::MixedShapes { found, other };
            mistakes.add(pointer, problem, Some((*instead).to_owned()));
        }
        None
    }
}

/// Whether a document has Rocket's `name`, and nothing that only the others have.
fn is_rocket(document: &Value) -> bool {
    let has = |value: &Value, keys: &[&str]| keys.iter().any(|key| value.get(key).is_some());
    let steps = document.get("steps").and_then(Value::as_array);
    let is_other = |step: &Value| has(step, &["action", "step_key", "step_order"]);
    has(document, &["name"])
        && !has(document, &["key", "workflow_key", "workflow_version"])
        && !steps.is_some_and(|steps| steps.iter().any(is_other))
}

/// The keys that tell a spelling, with their places.
fn own_keys(document: &Value) -> Vec<(String, Own)> {
    let Value::Object(root) = document else {
        return vec![];
    };
    let mut found = own_keys_of(root, "", &OF_THE_ROOT);
    if let Some(Value::Array(steps)) = root.get("steps") {
        for (place, step) in steps.iter().enumerate() {
            if let Value::Object(step) = step {
                found.extend(own_keys_of(step, &format!("/steps/{place}"), &OF_A_STEP));
            }
        }
    }
    found
}

fn own_keys_of(object: &Map<String, Value>, pointer: &str, own: &[Own]) -> Vec<(String, Own)> {
    let here = own.iter().filter(|(key, ..)| object.contains_key(*key));
    here.map(|own| (child(pointer, own.0), *own)).collect()
}
