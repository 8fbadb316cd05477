//! `chimeway workflows show`: one version.

use chimeway::{
    FlowError,
    definition::{self, rocket},
    ids::WorkflowKey,
    store::workflows::{self, DefinitionRow},
};
use serde_json::{Value, json};

use crate::{
    commands::{Context, suggest},
    error::CliError,
    output::{self, Table},
};

/// How a document is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// YAML, in our own way of writing it
    Yaml,
    /// JSON, in Rocket's shape
    Rocket,
}

pub(super) async fn run(
    key: &WorkflowKey,
    version: Option<i32>,
    format: Option<Format>,
    context: &Context,
) -> Result<(), CliError> {
    let mut conn = context.open().await?;
    let latest = workflows::latest(&mut conn, &[key.as_str()]).await?.pop();
    let Some(latest) = latest else {
        return Err(suggest::no_workflow(&mut conn, key, CliError::no_workflow(key)).await);
    };
    let row = match workflows::find(&mut conn, key.as_str(), version).await? {
        Some(id) => workflows::load(&mut conn, &[id]).await?.pop(),
        None => None,
    };
    let row = row.ok_or_else(|| {
        let version = version.unwrap_or(latest.version);
        CliError::NotFound(format!(
            "`{key}` has no version {version}; its latest is {}",
            latest.version
        ))
    })?;
    if let Some(format) = format {
        return document(&row, format);
    }
    if context.json {
        return output::print_json(&json!({
            "key": row.key,
            "version": row.version,
            "latest": latest.version,
            "active": latest.active,
            "applied_at": row.created_at,
            "content_hash": row.hash,
            "document": row.document,
        }));
    }
    output::print(format!(
        "{} v{}  {}  applied {}\n\n{}",
        row.key,
        row.version,
        super::state(latest.active),
        output::instant(row.created_at),
        steps(&row),
    ))
}

fn document(row: &DefinitionRow, format: Format) -> Result<(), CliError> {
    match format {
        Format::Yaml => {
            let text = serde_saphyr::to_string(&row.document);
            output::print(text.map_err(|error| CliError::Refused(error.to_string()))?)
        }
        Format::Rocket => {
            let plan = definition::read_stored(&row.document);
            let plan = plan.map_err(FlowError::InvalidDefinition)?;
            match rocket::export(&plan) {
                Ok(document) => output::print_json(&document),
                Err(error) => Err(CliError::Refused(format!(
                    "{error}; `--format yaml` can say everything"
                ))),
            }
        }
    }
}

fn steps(row: &DefinitionRow) -> Table {
    let mut table = Table::new(["#", "STEP", "KIND", "WHAT", "THEN"]);
    let steps = row
        .document
        .get("steps")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for (place, step) in steps.enumerate() {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("-").to_owned();
        let action = step.get("action");
        table.row([
            (place + 1).to_string(),
            text(step.get("id")),
            text(action.and_then(|action| action.get("type"))),
            fields(action, |name| name != "type"),
            fields(step.get("on_outcome"), |_| true),
        ]);
    }
    table
}

/// `channel=in_app render_key=mention`.
fn fields(object: Option<&Value>, keep: impl Fn(&str) -> bool) -> String {
    let fields = object.and_then(Value::as_object).into_iter().flatten();
    let fields = fields
        .filter(|(name, _)| keep(name))
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={text}"),
            Value::Array(conditions) if name == "stop_conditions" => conditions
                .iter()
                .map(stop_condition)
                .collect::<Vec<_>>()
                .join(" "),
            other => format!("{name}={other}"),
        });
    fields.collect::<Vec<_>>().join(" ")
}

/// `stops_on=notification_read`, or `on=notification_read:{"goto":"thanks"}` for another target.
fn stop_condition(condition: &Value) -> String {
    let signal = condition
        .get("signal_type")
        .and_then(Value::as_str)
        .unwrap_or("-");
    match condition.get("then") {
        None => format!("stops_on={signal}"),
        Some(Value::String(target)) => format!("on={signal}:{target}"),
        Some(target) => format!("on={signal}:{target}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_fits_on_a_line() {
        let action = json!({
            "type": "wait",
            "duration": "PT2H",
            "stop_conditions": [
                { "type": "signal_received", "signal_type": "read" },
                { "type": "signal_received", "signal_type": "opened", "then": "next" },
                { "type": "signal_received", "signal_type": "left", "then": { "goto": "bye" } },
            ],
        });
        assert_eq!(
            fields(Some(&action), |name| name != "type"),
            r#"duration=PT2H stops_on=read on=opened:next on=left:{"goto":"bye"}"#
        );
        assert_eq!(fields(None, |_| true), "");
    }
}
