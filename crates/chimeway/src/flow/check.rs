//! Values of a caller's, refused before a statement is sent where PostgreSQL would refuse them: that would
//! abort the caller's transaction.

use std::io;

use serde_json::Value;

use super::FlowError;
use crate::definition::is_huge;

/// Refuses a key that cannot make a trigger unique.
pub(super) fn check_key(key: &str) -> Result<(), FlowError> {
    if key.trim().is_empty() || key.len() > crate::ids::MAX_NAME || key.contains('\0') {
        return Err(FlowError::BadJson {
            what: "the idempotency key",
            problem: "is blank or longer than 255 bytes; leave it out, or give what makes this \
                      trigger unique",
        });
    }
    Ok(())
}

/// Refuses before a statement is sent what PostgreSQL would refuse, for that would abort the caller's
/// transaction.
pub(super) fn check_json(what: &'static str, value: &Value) -> Result<(), FlowError> {
    if !value.is_object() {
        return Err(FlowError::BadJson {
            what,
            problem: "is not a JSON object; write {} for nothing",
        });
    }
    if is_longer_than(value, LONGEST) {
        return Err(FlowError::BadJson {
            what,
            problem: "is longer than 1 MiB; keep what is large in a table of your own, and its id here",
        });
    }
    match unkept(value, DEEPEST) {
        Some(problem) => Err(FlowError::BadJson { what, problem }),
        None => Ok(()),
    }
}

/// How many levels deep a value may be nested: workers read it with a parser that has a limit.
const DEEPEST: usize = 100;

/// How long a value may be as text: it is read for every try of every message.
const LONGEST: usize = 1024 * 1024;

fn is_longer_than(value: &Value, longest: usize) -> bool {
    struct Room(usize);
    impl io::Write for Room {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Room(longest), value).is_err()
}

const NUL: &str = "holds a NUL character, which PostgreSQL cannot keep; take it out";

/// The same for texts.
pub(super) fn check_text<'a>(
    what: &'static str,
    mut texts: impl Iterator<Item = &'a String>,
) -> Result<(), FlowError> {
    if texts.any(|text| text.contains('\0')) {
        return Err(FlowError::BadJson { what, problem: NUL });
    }
    Ok(())
}

/// Why a value cannot be kept.
fn unkept(value: &Value, levels: usize) -> Option<&'static str> {
    let below = |value| match levels.checked_sub(1) {
        Some(levels) => unkept(value, levels),
        None => Some(
            "is nested deeper than 100 levels; keep what is deeper in a table of your own, and its id here",
        ),
    };
    match value {
        Value::String(text) => text.contains('\0').then_some(NUL),
        Value::Array(items) => items.iter().find_map(below),
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, value)| name.contains('\0').then_some(NUL).or_else(|| below(value))),
        Value::Number(number) => {
            is_huge(number).then_some("holds a number beyond 1e308; write it as a text")
        }
        Value::Null | Value::Bool(_) => None,
    }
}
