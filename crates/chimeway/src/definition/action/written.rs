//! Writing the actions of a step down.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Action, METHODS, Operand};

/// As documents write it.
pub(in crate::definition) fn written(action: &Action) -> Value {
    let mut value = json!({ "type": action.name() });
    match action {
        Action::SetField {
            entity,
            record,
            field,
            value: new,
        } => {
            value["entity"] = json!(entity);
            value["record_id"] = operand(record);
            value["field"] = json!(field);
            value["value"] = operand(new);
        }
        Action::CreateRecord { entity, values } => {
            value["entity"] = json!(entity);
            let values = values
                .iter()
                .map(|(name, one)| (name.as_str().to_owned(), operand(one)));
            value["values"] = Value::Object(values.collect());
        }
        Action::Webhook(webhook) => {
            value["url"] = json!(webhook.url);
            if webhook.method != METHODS[0] {
                value["method"] = json!(webhook.method);
            }
            if !webhook.headers.is_empty() {
                value["headers"] = json!(webhook.headers);
            }
            if let Some(body) = &webhook.body {
                value["body"] = body.clone();
            }
        }
        Action::SendSignal {
            signal,
            actor,
            payload,
        } => {
            value["signal"] = json!(signal);
            perhaps(&mut value, "actor", actor.as_ref());
            operands(&mut value, "payload", payload);
        }
        Action::StartWorkflow {
            workflow,
            recipient,
            params,
        } => {
            value["workflow"] = json!(workflow);
            perhaps(&mut value, "recipient", recipient.as_ref());
            operands(&mut value, "params", params);
        }
        Action::Custom { settings, .. } => {
            for (name, setting) in settings {
                value[name] = setting.clone();
            }
        }
    }
    value
}

fn perhaps(value: &mut Value, key: &str, one: Option<&Operand>) {
    if let Some(one) = one {
        value[key] = operand(one);
    }
}

fn operands(value: &mut Value, key: &str, all: &BTreeMap<String, Operand>) {
    if !all.is_empty() {
        let all = all.iter().map(|(name, one)| (name.clone(), operand(one)));
        value[key] = Value::Object(all.collect());
    }
}

fn operand(operand: &Operand) -> Value {
    match operand {
        Operand::Context(path) => json!(format!("context.{path}")),
        Operand::Params(path) => json!(format!("params.{path}")),
        Operand::Now => json!("now"),
        Operand::Literal(value) => {
            let is_special = match value {
                Value::String(text) => {
                    text == "now" || text.starts_with("context.") || text.starts_with("params.")
                }
                Value::Object(fields) => fields.len() == 1 && fields.contains_key("value"),
                _ => false,
            };
            if is_special {
                json!({ "value": value })
            } else {
                value.clone()
            }
        }
    }
}
