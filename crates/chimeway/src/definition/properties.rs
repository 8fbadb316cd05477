//! What holds of the checker for every document there can be.

use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use super::{
    Document, Known, read_stored,
    rules::tests::properties::{apply, is_answered, spoil},
    validate,
};

fn names() -> impl Strategy<Value = Value> {
    const WORDS: &[&str] = &[
        "a",
        "b",
        "c",
        "key",
        "notify",
        "wait",
        "log",
        "email",
        "PT1H",
        "1d",
        "s",
        "t",
        "next",
        "complete",
        "end",
        "stop",
        "signal_received",
        "condition",
        "approval",
        "action",
        "set_field",
        "webhook",
        "context.a",
        "now",
        "",
    ];
    proptest::sample::select(WORDS).prop_map(Value::from)
}

/// JSON that looks like a workflow in places: the words are right, their places are random.
fn anything() -> impl Strategy<Value = Value> {
    const KEYS: &[&str] = &[
        "key",
        "version",
        "steps",
        "id",
        "action",
        "type",
        "channel",
        "render_key",
        "duration",
        "stop_conditions",
        "signal_type",
        "then",
        "on",
        "on_outcome",
        "goto",
        "delivered",
        "bounced",
        "elapsed",
        "name",
        "trigger",
        "context",
        "entity",
        "field",
        "to",
        "expression",
        "assignee",
        "role",
        "timeout",
        "actions",
        "record_id",
        "value",
        "url",
        "on_true",
        "on_approve",
        "approved",
        "~/",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        names(),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        let entries = (proptest::sample::select(KEYS), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            prop::collection::vec(entries, 0..6).prop_map(|entries| {
                entries
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()
            }),
        ]
    })
}

fn target() -> impl Strategy<Value = Value> {
    let goto = (0..3_usize).prop_map(|n| json!({ "goto": format!("s{n}") }));
    prop_oneof![
        goto,
        proptest::sample::select(&["next", "complete", "end", "stop"]).prop_map(Value::from)
    ]
}

/// Documents without a mistake but, in places, unreachable steps and loops without a wait.
fn workflow_like() -> impl Strategy<Value = Value> {
    let outcomes = proptest::sample::select(&["delivered", "bounced", "temporary_failure"]);
    let notify = (
        proptest::bool::ANY,
        prop::collection::btree_map(outcomes, target(), 0..3),
    )
        .prop_map(|(named, on)| {
            let mut action = json!({ "type": "notify", "channel": "log" });
            if named {
                action["render_key"] = json!("s1");
            }
            json!({ "action": action, "on": on })
        });
    let conditions = prop::collection::btree_map("[a-c]", target(), 0..3);
    let wait = (1..100_000_000_u32, conditions, proptest::option::of(target())).prop_map(
        |(millis, conditions, elapsed)| {
            let condition = |(signal, then): (String, Value)| {
                json!({ "type": "signal_received", "signal_type": signal, "then": then })
            };
            let conditions: Vec<_> = conditions.into_iter().map(condition).collect();
            let duration = format!("PT{}.{:03}S", millis / 1000, millis % 1000);
            let action =
                json!({ "type": "wait", "duration": duration, "stop_conditions": conditions });
            match elapsed {
                Some(to) => json!({ "action": action, "on_outcome": { "elapsed": to } }),
                None => json!({ "action": action }),
            }
        },
    );
    let context = prop::collection::btree_map("[a-c]", select(SOURCES), 0..3);
    let steps = prop_oneof![2 => notify, 2 => wait, 3 => business()];
    (context, prop::collection::vec(steps, 3..6)).prop_map(|(context, mut steps)| {
        for (place, step) in steps.iter_mut().enumerate() {
            step["id"] = json!(format!("s{place}"));
        }
        let trigger = json!({ "entity": "order", "field": "status", "to": "submitted" });
        json!({ "key": "k", "trigger": trigger, "context": context, "steps": steps })
    })
}

const SOURCES: &[&str] = &["trigger.record_id", "record", "record.a.b", "params.a"];

/// Steps of the kinds of business workflows.
fn business() -> impl Strategy<Value = Value> {
    let ways = |outcomes| prop::collection::btree_map(select(outcomes), target(), 0..3);
    let condition = (
        select(&["context.a > 1", "params.b", "has(context.c) || true"][..]),
        ways(&["met", "unmet"][..]),
    )
        .prop_map(
            |(text, on)| json!({ "action": { "type": "condition", "expression": text }, "on": on }),
        );
    let assignees = [
        json!({ "user": "ada" }),
        json!({ "role": "r" }),
        json!({ "path": "context.a.b" }),
    ];
    let approval = (
        select(assignees.to_vec()),
        proptest::option::of(select(&["72h", "P3D"][..])),
        ways(&["approved", "rejected", "timed_out"][..]),
    )
        .prop_map(|(assignee, timeout, on)| {
            let mut action = json!({ "type": "approval", "assignee": assignee });
            if let Some(timeout) = timeout {
                action["timeout"] = json!(timeout);
            }
            json!({ "action": action, "on": on })
        });
    let operands = prop_oneof![
        Just(json!("now")),
        Just(json!("context.a")),
        Just(json!("params.a.b")),
        Just(json!({ "value": "context.a" })),
        Just(json!({ "value": { "value": 1 } })),
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,3}".prop_map(Value::from),
    ];
    let one = (0..6_u8, operands).prop_map(|(kind, operand)| match kind {
        0 => json!({
            "type": "set_field", "entity": "order", "record_id": operand, "field": "f", "value": operand,
        }),
        1 => json!({ "type": "create_record", "entity": "order", "values": { "a": operand } }),
        2 => json!({ "type": "webhook", "url": "https://a.example", "headers": { "X-A": "b" }, "body": operand }),
        3 => json!({ "type": "send_event", "event": "e", "payload": { "a": operand } }),
        4 => json!({ "type": "send_signal", "signal": "e", "actor": operand }),
        _ => json!({ "type": "start_workflow", "workflow": "w", "params": { "a": operand } }),
    });
    let actions = (
        prop::collection::vec(one, 1..4),
        ways(&["succeeded", "failed"][..]),
    )
        .prop_map(
            |(actions, on)| json!({ "action": { "type": "action", "actions": actions }, "on": on }),
        );
    prop_oneof![condition, approval, actions]
}

proptest! {
    // More than the default, so that a thorough run (`PROPTEST_CASES`) does not end early; a
    // generator that makes no workflows at all still fails.
    #![proptest_config(ProptestConfig { max_global_rejects: 1 << 20, ..ProptestConfig::default() })]

    #[test]
    fn no_value_makes_the_checker_panic(value in anything()) {
        let document = Document::from_value(value.clone());
        if let Err(mistakes) = validate(&document, &Known::default()) {
            prop_assert!(!mistakes.is_empty());
            for mistake in mistakes {
                prop_assert!(value.pointer(&mistake.pointer).is_some(), "{mistake}");
            }
        }
    }

    #[test]
    fn the_canonical_form_is_its_own_canonical_form(value in workflow_like()) {
        let first = match validate(&Document::from_value(value), &Known::default()) {
            Ok(first) => first,
            Err(mistakes) => {
                for mistake in &mistakes {
                    let of_a_path = ["unreachable_step", "endless_loop"];
                    prop_assert!(of_a_path.contains(&mistake.problem.code()), "{mistake}");
                }
                return Err(TestCaseError::reject("not a workflow"));
            }
        };
        let again = Document::from_value(first.document.clone());
        prop_assert_eq!(read_stored(&first.document), Ok(first.plan.clone()));
        prop_assert_eq!(validate(&again, &Known::default()), Ok(first));
    }

    #[test]
    fn a_spoiled_workflow_is_answered(value in workflow_like(), spoils in prop::collection::vec(spoil(), 1..4)) {
        let mut value = value;
        for (place, spoil) in spoils {
            apply(&mut value, place, spoil);
            is_answered(&value)?;
        }
    }
}
