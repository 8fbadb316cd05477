//! Workflows that were written by somebody who means harm, or by a program that has gone wrong.

use chimeway::{Document, FlowError, Recipient, Trigger};
use proptest::{prelude::*, sample::Index, sample::select};
use serde_json::{Value, json};
use sqlx::Connection as _;

use super::{
    Ground, JOURNEY, Verdict, for_all, runtime,
    values::{json, nested, text},
};
use crate::tools::{MENTION, actor, tenant};

/// One in the rule dialect.
const RULES: &str = r#"
workflow_key: rules
workflow_version: 1
steps:
  - step_key: first
    step_order: 1
    channel: in_app
    config:
      progress:
        - kind: wait_until
          anchor: prior_delivery_terminal_at
          delay_seconds: 60
          to_step: second
          cancel_signals: [go_on]
        - { kind: on_outcome, outcome: bounced, to_step: second }
  - { step_key: second, step_order: 2, channel: log }
"#;

const SOUND: [&str; 3] = [JOURNEY, MENTION, RULES];

/// How a document is spoiled: at the nth place.
#[derive(Debug, Clone)]
enum Spoil {
    Replace(Value),
    Drop,
    Add(String, Value),
    /// A text is put into the middle of the one that is there.
    Splice(String),
    /// What stands there stands there twice, or where something else stood.
    Copy(Index),
}

fn spoil() -> impl Strategy<Value = (Index, Spoil)> {
    let keys = prop_oneof![
        select(
            &[
                "on",
                "on_outcome",
                "goto",
                "match",
                "category",
                "version",
                "a/b~c"
            ][..]
        )
        .prop_map(ToOwned::to_owned),
        text(),
    ];
    let spoil = prop_oneof![
        json().prop_map(Spoil::Replace),
        Just(Spoil::Drop),
        (keys, json()).prop_map(|(key, value)| Spoil::Add(key, value)),
        text().prop_map(Spoil::Splice),
        any::<Index>().prop_map(Spoil::Copy),
    ];
    (any::<Index>(), spoil)
}

fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(n, item)| pointers(item, &format!("{at}/{n}"), all)),
        Value::Object(entries) => entries.iter().for_each(|(key, value)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            pointers(value, &format!("{at}/{key}"), all);
        }),
        _ => {}
    }
}

fn apply(document: &mut Value, place: Index, spoil: Spoil) {
    let mut all = vec![];
    pointers(document, "", &mut all);
    let pointer = place.get(&all).clone();
    match spoil {
        Spoil::Replace(value) => *document.pointer_mut(&pointer).unwrap() = value,
        Spoil::Copy(from) => {
            let value = document.pointer(from.get::<String>(&all)).unwrap().clone();
            match document.pointer_mut(&pointer).unwrap() {
                Value::Array(items) => items.push(value),
                other => *other = value,
            }
        }
        Spoil::Splice(text) => {
            if let Value::String(there) = document.pointer_mut(&pointer).unwrap() {
                let middle = there.len() / 2;
                let middle = (0..=middle).rev().find(|at| there.is_char_boundary(*at));
                there.insert_str(middle.unwrap_or(0), &text);
            }
        }
        Spoil::Drop => {
            let Some((parent, member)) = pointer.rsplit_once('/') else {
                return;
            };
            let member = member.replace("~1", "/").replace("~0", "~");
            match document.pointer_mut(parent).unwrap() {
                Value::Array(items) => drop(items.remove(member.parse().unwrap())),
                Value::Object(entries) => drop(entries.remove(&member)),
                _ => {}
            }
        }
        Spoil::Add(key, value) => match document.pointer_mut(&pointer).unwrap() {
            Value::Array(items) => items.push(value),
            Value::Object(entries) => drop(entries.insert(key, value)),
            _ => {}
        },
    }
}

/// It is stored and a run of it goes on; or every mistake has its place in it, and nothing is stored.
async fn is_answered(ground: &Ground, document: &Document) -> Verdict {
    let (story, chimeway) = (&ground.story, ground.story.chimeway());
    let mut conn = story.pool().acquire().await.unwrap();
    let before = ground.everything(&mut conn).await;
    match chimeway.apply(story.pool(), document).await {
        Ok(applied) => {
            let trigger = Trigger::new(applied.key.clone(), tenant())
                .recipient(Recipient::new(actor("ada")))
                .params(json!({ "document_id": "doc" }));
            let mut tx = conn.begin().await.unwrap();
            let started = chimeway.trigger(&mut tx, trigger).await;
            prop_assert!(started.is_ok(), "{started:?}");
            tx.commit().await.unwrap();
            let found = chimeway
                .workflows()
                .fetch_definition(&mut conn, &applied.key, applied.version)
                .await;
            prop_assert!(matches!(found, Ok(Some(_))), "{found:?}");
        }
        Err(FlowError::InvalidDefinition(mistakes)) => {
            prop_assert!(!mistakes.is_empty());
            for mistake in mistakes {
                let there = document.value().pointer(&mistake.pointer).is_some();
                prop_assert!(there, "{mistake}");
                let line = mistake.to_string();
                prop_assert!(!line.contains(char::is_control), "{line:?}");
            }
            prop_assert_eq!(ground.everything(&mut conn).await, before);
        }
        Err(error) => {
            prop_assert_eq!(error.code(), "workflow_definition_version_conflict");
            prop_assert_eq!(ground.everything(&mut conn).await, before);
        }
    }
    Ok(())
}

fn sound() -> impl Strategy<Value = Value> {
    select(&SOUND[..]).prop_map(|yaml| Document::from_yaml("sound", yaml).unwrap().value().clone())
}

#[test]
fn a_spoiled_document_runs_or_its_mistakes_have_their_places() {
    let spoiled = (sound(), prop::collection::vec(spoil(), 1..3));
    for_all(64, &spoiled, &async |ground, (mut value, spoils)| {
        for (place, spoil) in spoils {
            apply(&mut value, place, spoil);
        }
        // The version that it names is stored already.
        if let Some(entries) = value.as_object_mut() {
            entries.shift_remove("workflow_version");
        }
        is_answered(ground, &Document::from_value(value)).await?;
        ground.goes_on().await;
        Ok(())
    });
}

#[test]
fn a_text_with_a_piece_cut_or_put_in_is_read_or_its_mistake_has_its_line() {
    let cuts = (
        select(&SOUND[..]),
        any::<Index>(),
        any::<Index>(),
        prop_oneof![text(), Just("\n".to_owned()), Just("*a".to_owned())],
    );
    for_all(96, &cuts, &async |ground, (yaml, from, to, piece)| {
        let places: Vec<usize> = yaml.char_indices().map(|(at, _)| at).collect();
        let (from, to) = (*from.get(&places), *to.get(&places));
        let (from, to) = (from.min(to), from.max(to).min(from.min(to) + 40));
        let to = (to..=yaml.len()).find(|at| yaml.is_char_boundary(*at));
        let text = format!("{}{piece}{}", &yaml[..from], &yaml[to.unwrap()..]);
        match Document::from_yaml("cut", &text) {
            Ok(document) => is_answered(ground, &document).await?,
            Err(mistake) => {
                let line = mistake.to_string();
                prop_assert!(line.starts_with("line "), "{line}");
                prop_assert!(!line.contains(char::is_control), "{line:?}");
                prop_assert!(line.len() < 1_000, "{line}");
            }
        }
        Ok(())
    });
}

/// YAML that grows when it is read, and documents that are deeper than any is.
#[test]
fn bombs_are_refused() {
    let nines = |n: usize| vec![format!("*a{n}"); 9].join(", ");
    let mut bomb = "a0: &a0 [x]\n".to_owned();
    for n in 1..30 {
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", nines(n - 1)));
    }
    let itself = "a: &a [*a]".to_owned();
    let many = format!("key: [{}]", "a, ".repeat(400_000));
    let deep = format!("key: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    let flow = format!("key: {}", "{a: ".repeat(5_000));
    let anchors: String = (0..50_000).map(|n| format!("a{n}: &a{n} 1\n")).collect();
    for (name, text) in [
        ("aliases of aliases", bomb),
        ("an alias of itself", itself),
        ("a list without end", many),
        ("lists in lists", deep),
        ("objects in objects", flow),
        ("very many anchors", anchors),
    ] {
        let read = Document::from_yaml("bomb", &text).and_then(|document| {
            let known = chimeway::definition::Known::default();
            let checked = chimeway::definition::validate(&document, &known);
            checked.map_err(|mut mistakes| mistakes.remove(0))
        });
        let mistake = read.expect_err(name).to_string();
        assert!(mistake.len() < 1_000, "{name}: {mistake}");
    }
    runtime().block_on(async {
        let ground = Ground::new().await;
        for at in ["key", "steps", "version", "else"] {
            let mut value = json!({ "key": "deep", "steps": [] });
            value[at] = nested(1_000);
            let document = Document::from_value(value);
            is_answered(&ground, &document).await.unwrap();
        }
    });
}
