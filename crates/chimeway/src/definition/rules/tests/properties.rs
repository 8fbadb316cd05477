//! What holds for every document in the rule dialect, and for every one that nearly is.

use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use crate::{
    definition::{
        Definition, Document, Known, Outcome, Resolved, StepKind, Target, read_stored, validate,
    },
    ids::{DefinitionId, StepId, StepKey, Version},
};

/// Words of the dialect, of ours, and some of neither.
const WORDS: &[&str] = &[
    "s1",
    "s2",
    " s1",
    "s1.wait",
    "log",
    "email",
    "wait_until",
    "on_outcome",
    "stop",
    "sleep",
    "prior_delivery_terminal_at",
    "delivered",
    "bounced",
    "temporary_failure",
    "elapsed",
    "",
    " ",
    "PT1H",
];

const KEYS: &[&str] = &[
    "workflow_key",
    "workflow_version",
    "steps",
    "step_key",
    "step_order",
    "channel",
    "render_key",
    "config",
    "progress",
    "kind",
    "anchor",
    "delay_seconds",
    "to_step",
    "cancel_signals",
    "outcome",
    "key",
    "version",
    "id",
    "action",
    "on",
    "~/",
];

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..4).prop_map(Value::from),
        select(WORDS).prop_map(Value::from),
        ".*".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        select(&[300_usize, 3_000, 100_000][..]).prop_map(|bytes| "x".repeat(bytes).into()),
    ]
}

/// The words are right, their places are random.
fn anything() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(6, 64, 8, |inner| {
        let entries = prop::collection::vec((select(KEYS), inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            entries.prop_map(|entries| {
                let entries = entries.into_iter();
                entries
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()
            }),
        ]
    })
}

/// Rules of one step: each outcome once at most, and perhaps a wait. They lead to `s1` .. `s4`.
fn rules() -> impl Strategy<Value = Value> {
    const OUTCOMES: &[&str] = &[
        "delivered",
        "suppressed",
        "temporary_failure",
        "retries_exhausted",
        "permanent_failure",
        "bounced",
    ];
    let to_step = || (1..=4_usize).prop_map(|n| format!("s{n}"));
    let leads =
        prop::collection::btree_map(select(OUTCOMES), proptest::option::of(to_step()), 0..4);
    let signals = prop::collection::vec("[a-c]|signal", 0..4);
    let wait = (1..315_360_001_i64, to_step(), proptest::option::of(signals));
    (leads, proptest::option::weighted(0.7, wait)).prop_map(|(leads, wait)| {
        let mut rules: Vec<Value> = leads
            .into_iter()
            .map(|(outcome, to)| match to {
                Some(to) => json!({ "kind": "on_outcome", "outcome": outcome, "to_step": to }),
                None => json!({ "kind": "stop", "outcome": outcome }),
            })
            .collect();
        if let Some((delay, to, signals)) = wait {
            let mut rule = json!({
                "kind": "wait_until", "anchor": "prior_delivery_terminal_at",
                "delay_seconds": delay, "to_step": to,
            });
            if let Some(signals) = signals {
                rule["cancel_signals"] = json!(signals);
            }
            rules.insert(0, rule);
        }
        json!(rules)
    })
}

/// Documents without a mistake but, in places, unreachable steps and loops without a wait.
fn sound() -> impl Strategy<Value = Value> {
    let orders = Just(vec![1, 2, 3, 4]).prop_shuffle();
    let steps = prop::collection::vec((rules(), any::<bool>()), 4);
    (orders, steps, 1..4).prop_map(|(orders, steps, version)| {
        let step = |(order, (rules, named)): (i32, (Value, bool))| {
            let mut step = json!({
                "step_key": format!("s{order}"), "step_order": order, "channel": "log",
                "config": { "progress": rules },
            });
            if named {
                step["render_key"] = step["step_key"].clone();
            }
            step
        };
        let steps: Vec<Value> = orders.into_iter().zip(steps).map(step).collect();
        json!({ "workflow_key": "k", "workflow_version": version, "steps": steps })
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![select(KEYS).prop_map(ToOwned::to_owned), any::<String>()]
}

/// How a sound document is spoiled: at the nth place, by replacing, deleting or adding.
#[derive(Debug, Clone)]
pub(in crate::definition) enum Spoil {
    Replace(Value),
    Delete,
    Add(String, Value),
}

pub(in crate::definition) fn spoil() -> impl Strategy<Value = (prop::sample::Index, Spoil)> {
    let spoil = prop_oneof![
        leaf().prop_map(Spoil::Replace),
        Just(Spoil::Delete),
        (key(), leaf()).prop_map(|(key, value)| Spoil::Add(key, value)),
    ];
    (any::<prop::sample::Index>(), spoil)
}

fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(n, item)| pointers(item, &format!("{at}/{n}"), all)),
        Value::Object(entries) => entries
            .iter()
            .filter(|(key, _)| !key.contains(['~', '/']))
            .for_each(|(key, value)| pointers(value, &format!("{at}/{key}"), all)),
        _ => {}
    }
}

pub(in crate::definition) fn apply(document: &mut Value, place: prop::sample::Index, spoil: Spoil) {
    let mut all = vec![];
    pointers(document, "", &mut all);
    let pointer = place.get(&all);
    match spoil {
        Spoil::Replace(value) => *document.pointer_mut(pointer).unwrap() = value,
        Spoil::Delete => {
            let Some((parent, member)) = pointer.rsplit_once('/') else {
                return;
            };
            match document.pointer_mut(parent).unwrap() {
                Value::Array(items) => drop(items.remove(member.parse().unwrap())),
                Value::Object(entries) => drop(entries.remove(member)),
                _ => {}
            }
        }
        Spoil::Add(key, value) => match document.pointer_mut(pointer).unwrap() {
            Value::Array(items) => items.push(value),
            Value::Object(entries) => drop(entries.insert(key, value)),
            _ => {}
        },
    }
}

/// Either it is valid, and what is stored reads back, or every mistake has a place in it.
pub(in crate::definition) fn is_answered(value: &Value) -> Result<(), TestCaseError> {
    match validate(&Document::from_value(value.clone()), &Known::default()) {
        Ok(checked) => {
            let again = validate(
                &Document::from_value(checked.document.clone()),
                &Known::default(),
            );
            let again = again.map_err(|mistakes| TestCaseError::fail(format!("{mistakes:?}")))?;
            prop_assert_eq!(&again.hash, &checked.hash);
            prop_assert_eq!(read_stored(&checked.document), Ok(checked.plan));
        }
        Err(mistakes) => {
            prop_assert!(!mistakes.is_empty());
            for mistake in mistakes {
                prop_assert!(value.pointer(&mistake.pointer).is_some(), "{mistake}");
                let line = mistake.to_string();
                prop_assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    }
    Ok(())
}

/// Where the original leads a run that leaves a step so.
fn by_the_rules(step: &Value, outcome: Outcome) -> String {
    let rules = step["config"]["progress"].as_array().unwrap();
    if let Some(rule) = rules
        .iter()
        .find(|rule| rule["outcome"] == outcome.as_str())
    {
        return rule["to_step"].as_str().unwrap_or("stop").to_owned();
    }
    if outcome == Outcome::TemporaryFailure {
        return "stay".to_owned();
    }
    match rules.iter().find(|rule| rule["kind"] == "wait_until") {
        Some(rule) => {
            let (delay, to) = (rule["delay_seconds"].as_i64(), rule["to_step"].as_str());
            format!("{} s, then {}", delay.unwrap(), to.unwrap())
        }
        None => "complete".to_owned(),
    }
}

/// Where the plan leads it.
fn by_the_plan(definition: &Definition, step: &Value, outcome: Outcome) -> String {
    let key: StepKey = step["step_key"].as_str().unwrap().parse().unwrap();
    let mut from = definition.index_of_key(&key).unwrap();
    let mut target = match definition.step(from).on_outcome.get(&outcome) {
        None if outcome == Outcome::TemporaryFailure => return "stay".to_owned(),
        target => target.unwrap_or(&Target::Next),
    };
    let mut waited = String::new();
    loop {
        let to = match definition.resolve(from, target) {
            Resolved::Complete => return waited + "complete",
            Resolved::Stop => return waited + "stop",
            Resolved::Step(to) => to,
        };
        let step = definition.step(to);
        let StepKind::Wait(wait) = &step.kind else {
            return waited + step.key.as_str();
        };
        waited = format!("{} s, then ", wait.duration.as_millis() / 1_000);
        target = step
            .on_outcome
            .get(&Outcome::Elapsed)
            .unwrap_or(&Target::Next);
        from = to;
    }
}

proptest! {
    // More than the default, so that a thorough run (`PROPTEST_CASES`) does not end early; a
    // generator that makes no workflows at all still fails.
    #![proptest_config(ProptestConfig { max_global_rejects: 1 << 20, ..ProptestConfig::default() })]

    #[test]
    fn no_value_makes_the_reader_panic(value in anything(), key in leaf(), spoils in prop::collection::vec(spoil(), 0..3)) {
        is_answered(&value)?;
        // Marked as a document of the dialect, so that this one is read.
        let mut value = json!({ "workflow_key": key, "workflow_version": 1, "steps": [value] });
        is_answered(&value)?;
        for (place, spoil) in spoils {
            apply(&mut value, place, spoil);
            is_answered(&value)?;
        }
    }

    #[test]
    fn a_run_goes_where_the_rules_say(value in sound()) {
        is_answered(&value)?;
        let checked = match validate(&Document::from_value(value.clone()), &Known::default()) {
            Ok(checked) => checked,
            Err(mistakes) => {
                for mistake in mistakes {
                    let of_a_path = ["unreachable_step", "endless_loop"];
                    prop_assert!(of_a_path.contains(&mistake.problem.code()), "{mistake}");
                }
                return Err(TestCaseError::reject("not a workflow"));
            }
        };
        let ids = checked.plan.steps.iter().map(|_| StepId::fresh()).collect();
        let definition = Definition::new(DefinitionId::fresh(), Version(1), checked.plan, ids).unwrap();
        for step in value["steps"].as_array().unwrap() {
            for outcome in Outcome::NOTIFY {
                let expected = by_the_rules(step, outcome);
                prop_assert_eq!(by_the_plan(&definition, step, outcome), expected, "{} {}", step, outcome);
            }
        }
    }

    #[test]
    fn a_spoiled_document_is_answered(value in sound(), spoils in prop::collection::vec(spoil(), 1..5)) {
        let mut value = value;
        for (place, spoil) in spoils {
            apply(&mut value, place, spoil);
            is_answered(&value)?;
        }
    }
}
