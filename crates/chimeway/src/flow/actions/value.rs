//! What actions are given: values of the document, and what they point to.

use std::collections::BTreeMap;

use chrono::SecondsFormat;
use serde_json::{Map, Value};

use super::{ActionError, perform::Doing};
use crate::{definition::Operand, flow::context::at, ids::ActorId};

/// The value that an operand stands for. What is missing is named, never taken for nothing.
pub(super) fn resolved(operand: &Operand, doing: &Doing<'_>) -> Result<Value, ActionError> {
    let (found, path) = match operand {
        Operand::Literal(value) => return Ok(value.clone()),
        Operand::Now => {
            let now = doing.now.to_rfc3339_opts(SecondsFormat::Micros, true);
            return Ok(Value::from(now));
        }
        Operand::Context(path) => (at(&doing.facts.context, path), format!("context.{path}")),
        Operand::Params(path) => (at(&doing.facts.params, path), format!("params.{path}")),
    };
    found.cloned().ok_or(ActionError::Missing(path))
}

/// All of these.
pub(super) fn object<K: ToString>(
    operands: &BTreeMap<K, Operand>,
    doing: &Doing<'_>,
) -> Result<Map<String, Value>, ActionError> {
    let values = operands.iter();
    let values = values.map(|(name, one)| Ok((name.to_string(), resolved(one, doing)?)));
    values.collect()
}

/// A key or a name: a text, or a whole number as keys often are. `code` says what is wrong otherwise.
pub(super) fn name(
    operand: &Operand,
    doing: &Doing<'_>,
    code: &str,
) -> Result<String, ActionError> {
    match resolved(operand, doing)? {
        Value::String(text) => Ok(text),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(number.to_string()),
        _ => Err(ActionError::Refused(code.to_owned())),
    }
}

/// Who an operand names.
pub(super) fn actor(
    operand: &Operand,
    doing: &Doing<'_>,
    code: &str,
) -> Result<ActorId, ActionError> {
    let text = name(operand, doing, code)?;
    ActorId::new(text).map_err(|_| ActionError::Refused(code.to_owned()))
}
