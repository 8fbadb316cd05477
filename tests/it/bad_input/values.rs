//! Values that nobody means well with.

use proptest::{prelude::*, sample::select};
use serde_json::{Map, Value, json};

/// Texts that have broken something somewhere.
pub(super) const TEXTS: &[&str] = &[
    "",
    " ",
    "\t\r\n",
    "\u{a0}",
    "\u{3000}",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "\u{200b}",
    "\0",
    "a\0b",
    "\u{1}",
    "\u{7f}",
    "a\u{9f}",
    "\u{1b}[2J\u{1b}]0;owned\u{7}",
    "a\r\nBcc: eve@example.com",
    "\u{202e}gnp.exe",
    "\u{200f}\u{5d0}\u{5d1}",
    "e\u{301}\u{301}\u{301}\u{301}",
    "👩‍👩‍👧‍👦",
    "\u{10ffff}",
    "'; drop table chimeway.events; --",
    "$1",
    "%s%n%x",
    "\\",
    "\\u0000",
    "\"",
    "{{ 7 * 7 }}",
    "{% include '/etc/passwd' %}",
    "../../../etc/passwd",
    "null",
    "NaN",
    "-1",
    "1e400",
    "0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10",
    "0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f1",
    "{0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10}",
    "P1Y",
    "Europe/London",
    "europe/london",
    "en-GB",
    "email",
    "<script>alert(1)</script>",
];

/// Texts of these many bytes, about.
const LENGTHS: &[usize] = &[254, 255, 256, 300, 1_000, 1_001, 2_049, 3_000, 100_000];

pub(super) fn long(letter: &str, bytes: usize) -> String {
    letter.repeat(bytes / letter.len())
}

/// Any text at all.
pub(super) fn text() -> impl Strategy<Value = String> {
    let long_ones = (
        select(&["a", "ß", "\u{202e}", "😀", " ", "'"][..]),
        select(LENGTHS),
    );
    prop_oneof![
        4 => select(TEXTS).prop_map(ToOwned::to_owned),
        3 => any::<String>(),
        2 => "[ -~]{1,20}",
        2 => long_ones.prop_map(|(letter, bytes)| long(letter, bytes)),
    ]
}

/// So many lists and objects around a number.
pub(super) fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, level| match level % 2 {
        0 => json!([inner]),
        _ => json!({ "a": inner }),
    })
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(&[f64::MAX, f64::MIN_POSITIVE, -0.0, 5e-324][..]).prop_map(Value::from),
        text().prop_map(Value::from),
    ]
}

/// Any JSON value at all, up to what a program can hold.
pub(super) fn json() -> impl Strategy<Value = Value> {
    let any_shape = leaf().prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            fields(inner).prop_map(Value::from),
        ]
    });
    prop_oneof![
        2 => any_shape,
        3 => object(),
        1 => select(&[99_usize, 100, 101, 127, 128, 200, 500][..]).prop_map(nested),
    ]
}

fn fields(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    const NAMES: &[&str] = &[
        "actor_id",
        "category",
        "document_id",
        "notification_id",
        "delivery_id",
    ];
    let name = prop_oneof![
        1 => select(NAMES).prop_map(ToOwned::to_owned),
        2 => text(),
    ];
    let entries = prop::collection::vec((name, inner), 0..6);
    entries.prop_map(|entries| entries.into_iter().collect())
}

/// A JSON object, with anything in it.
pub(super) fn object() -> impl Strategy<Value = Value> {
    let deep = select(&[98_usize, 99, 100, 126, 127, 200][..]);
    prop_oneof![
        4 => fields(leaf()).prop_map(Value::from),
        1 => deep.prop_map(|levels| json!({ "deep": nested(levels) })),
    ]
}

/// Texts that are to be JSON, and what PostgreSQL or a parser makes of them is its own affair.
pub(super) const JSON_TEXTS: &[&str] = &[
    "",
    "{",
    "nul",
    "null",
    "[]",
    "[{}]",
    "{}",
    "\"text\"",
    "1",
    r#"{"a": 1e400}"#,
    r#"{"a": -1e400}"#,
    r#"{"a": [[{"b": 1e309}]]}"#,
    r#"{"a": 1e-400}"#,
    r#"{"a": 1e140000}"#,
    r#"{"a": 123456789012345678901234567890.123456789012345678901234567890}"#,
    r#"{"a": NaN}"#,
    r#"{"a": 01}"#,
    r#"{"a": "\ud800"}"#,
    r#"{"a": "\udc00\ud800"}"#,
    r#"{"a": "\u0000"}"#,
    r#"{"\u0000": 1}"#,
    r#"{"a": 1, "a": 2}"#,
    r#"{"actor_id": 1e400}"#,
    r#"{"actor_id": null}"#,
    r#"{"actor_id": {"a": 1}}"#,
    r#"{"category": [1]}"#,
    r#"{"notification_id": {"a": 1}}"#,
    r#"{"notification_id": "0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10\n"}"#,
    r#"{"delivery_id": "not an id"}"#,
    "{\"a\": \"\u{1}\"}",
    "{\"a\": \"\0\"}",
];

/// A text that is JSON, or nearly.
pub(super) fn json_text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => select(JSON_TEXTS).prop_map(ToOwned::to_owned),
        3 => json().prop_map(|value| value.to_string()),
        1 => text(),
    ]
}
